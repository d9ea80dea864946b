"""What ``ladle fit`` fits when nobody says otherwise: a recipe and a size for the data, the time and the machine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ladle.data import Dataset, blank
from ladle.machine import Machine, choose
from ladle.recipes import SIZES
from ladle.recipes.assemble import Assembly, assemble

RATES = {"cuda": 20e12, "bf16-mixed": 90e9, "32-true": 35e9}  # floating-point operations a second; a CPU's per thread
PASSES = 10  # over the data: a larger net that sees it less often learns less in the same time (docs/benchmarks.md)
BACKWARD = 2  # times the operations of the forward pass


class Choice(NamedTuple):
    """A recipe and a size, and why in words."""

    recipe: str
    size: str
    why: str


def best(data: Dataset, minutes: float | None = None, device: str = "auto") -> Choice:
    """The recipe and the size that should reach the best likelihood in this time with latents that tell the item.

    A learned prior over one level of latents; for images in colour, and on a GPU for all images, several levels on
    maps. The size is the largest that has no more parameters than the training data has numbers, and that the machine
    can take over the data often enough. Every recipe that is chosen can be coded with. Where likelihoods or small files
    are all that is wanted, recipe ``pixelvae`` is better; its latents leave to neighbouring pixels what those can tell.

    Args:
        data: what is to be learned.
        minutes: the budget; without one, as much time as size ``s`` takes.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MachineError: for a device that is not there.
    """
    machine = choose(device)
    image, colour = data.schema.kind == "image", data.schema.shape[0] > 1
    recipe = "vdvae" if image and (colour or machine.device == "cuda") else "learned_prior"
    numbers = len(data.train) * data.schema.size
    chosen, why = SIZES[0], "the data is small"
    for size in SIZES if minutes is not None else SIZES[:2]:
        with torch.device("meta"):
            assembly = assemble(data.schema, recipe, size)
        if sum(p.numel() for p in assembly.model.parameters()) > numbers:
            why = "a larger one has more parameters than the data has numbers"
            break
        if minutes is not None:
            passes = 60 * minutes * rate(machine) / (cost(assembly) * len(data.train))
            if passes < PASSES and size != SIZES[0]:
                why = f"a larger one would see the data {passes:.0f} times in {minutes:g} minutes"
                break
        chosen, why = size, "the largest" if size == SIZES[-1] else "no budget in minutes"
    return Choice(recipe, chosen, why)


def rate(machine: Machine) -> float:
    """Floating-point operations a second in training, about."""
    return RATES["cuda"] if machine.device == "cuda" else RATES[machine.precision] * machine.threads


def cost(assembly: Assembly) -> float:
    """Floating-point operations of a training step for each item, counted on a model without memory."""
    with FlopCounterMode(display=False) as counter:
        assembly.model(blank(assembly.schema, 1, device="meta"))
    return (1 + BACKWARD) * counter.get_total_flops()
