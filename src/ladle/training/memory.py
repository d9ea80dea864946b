"""What training needs of a device's memory, and what would fit where it was not enough."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ladle.data import blank
from ladle.machine import MachineError
from ladle.recipes import SIZES
from ladle.recipes.assemble import Assembly, assemble
from ladle.spec import SpecError

COPIES = 6  # of every weight: itself, its gradient, two moments, the average and the best
FLOWING = 1.5  # what the backward pass holds beside what the forward pass has kept

Record = TypeVar("Record")


class Need(NamedTuple):
    """Bytes: whatever the batch is, and for every item in it."""

    fixed: int
    item: int

    def of(self, batch: int) -> int:
        """Bytes of a step on so many items."""
        return self.fixed + self.item * batch


def need(assembly: Assembly) -> Need:
    """About what a step of training takes, counted on a model that was assembled without memory (on the meta device):
    the tensors that autograd keeps for the backward pass, in float32."""
    weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in assembly.model.parameters()}
    one, two = (_kept(assembly, items, set(weights)) for items in (1, 2))
    return Need(COPIES * sum(weights.values()) + max(0, 2 * one - two), int(FLOWING * (two - one)))


def _kept(assembly: Assembly, items: int, weights: set[int]) -> int:
    """Bytes that autograd keeps of a forward pass, every storage once."""
    kept: dict[int, Tensor] = {}

    def remember(x: Tensor) -> Tensor:
        where = x.untyped_storage()._cdata
        if where not in weights:
            kept[where] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda x: x):
        assembly.model(blank(assembly.schema, items, device="meta"), assembly.objective.samples)
    return sum(x.untyped_storage().nbytes() for x in kept.values())


def explained(
    assembly: Assembly, batch: int, settings: Mapping[str, Any], records: Iterator[Record]
) -> Generator[Record, None, None]:
    """The records of a training, whose lack of memory becomes an error that says what would fit.

    Args:
        assembly: what is trained.
        batch: items of a step on one device.
        settings: the recipe's name and the size, where it has them.
        records: of the training.

    Raises:
        MachineError: instead of torch's and Python's own errors.
    """
    try:
        yield from records
    except (RuntimeError, MemoryError) as error:
        if not lacking(error):
            raise
        raise MachineError(f"out of memory: {advice(assembly, batch, settings)}") from error


def lacking(error: Exception) -> bool:
    """Whether it is memory that an error complains of."""
    told = str(error)
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in told


def advice(assembly: Assembly, batch: int, settings: Mapping[str, Any]) -> str:
    """What a step needs, and what would need half of it or less."""
    with torch.device("meta"):
        here = need(assemble(assembly.schema, assembly.recipe)).of(batch)
    told = f"a step of training on {batch} items takes about {amount(here)}"
    size, smaller = settings.get("size"), []
    for name in reversed(SIZES[: SIZES.index(size)]) if size in SIZES else ():
        try:
            with torch.device("meta"):
                other = assemble(assembly.schema, settings["recipe"], name)
        except (KeyError, SpecError):  # trained by a plan of one's own
            break
        takes = need(other).of(min(batch, other.training.batch))
        if takes <= here / 2:
            smaller.append(f"size {name} about {amount(takes)}")
    if smaller:
        return f"{told}; {', '.join(smaller)}"
    return f"{told}; smaller items, or a smaller batch in the recipe's 'training', take less"


def amount(count: float) -> str:
    """
    >>> amount(2.34e9), amount(5.1e7)
    ('2.3 GB', '51 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
