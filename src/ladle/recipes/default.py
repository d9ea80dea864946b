"""The default of ``ladle fit``: a recipe and a size for the data, the time and the machine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from ladle.data import Dataset, zeros
from ladle.machine import Machine, choose
from ladle.recipes import SIZES
from ladle.recipes.assemble import Assembly, assemble

RATES = {"cuda": 20e12, "bf16-mixed": 90e9, "32-true": 35e9}  # floating-point operations a second, on a CPU per thread
PASSES = 10  # over the data: with fewer, a larger network is worse in the same time (docs/benchmarks.md)
BACKWARD = 2  # times the operations of the forward pass


class Choice(NamedTuple):
    """A recipe and a size, with the reason in words."""

    recipe: str
    size: str
    why: str


def best(data: Dataset, minutes: float | None = None, device: str = "auto") -> Choice:
    """The recipe and size expected to reach the best likelihood in this time with informative latents.

    The recipe has a learned prior over one level of latents; for colour images, and on a GPU for all images, it has
    several levels on maps. The size is the largest that has no more parameters than the training data have numbers and
    for which the machine can make enough passes over the data. The chosen recipe can always be used for compression. If
    only likelihood or file size matters, the recipe ``pixelvae`` is better, but its latents carry less information,
    because its pixels are also predicted from neighbouring pixels.

    Args:
        data: the training data.
        minutes: the time budget; by default, as much time as size ``s`` takes.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MachineError: if the device is not available.
    """
    machine = choose(device)
    image, colour = data.schema.rank == 2, data.schema.channels > 1
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
    """The approximate number of floating-point operations per second in training."""
    return RATES["cuda"] if machine.device == "cuda" else RATES[machine.precision] * machine.threads


def cost(assembly: Assembly) -> float:
    """Floating-point operations per item of a training step, counted on a model without allocated weights."""
    with FlopCounterMode(display=False) as counter:
        assembly.model(zeros(assembly.schema, 1, device="meta"))
    return (1 + BACKWARD) * counter.get_total_flops()
