"""Estimates of the memory that training needs, and the advice given when there is too little of it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from ladle.data import zeros
from ladle.machine import MachineError
from ladle.recipes import SIZES
from ladle.recipes.assemble import Assembly, assemble
from ladle.spec import SpecError

COPIES = 6  # of every weight: the weight, its gradient, two moments, the average and the best value
BACKWARD = 1.5  # peak memory of the backward pass relative to the tensors that the forward pass saves

Record = TypeVar("Record")


class MemoryNeed(NamedTuple):
    """The memory of a training step in bytes: a fixed part, and a part per item of the batch."""

    fixed: int
    item: int

    def total(self, batch: int) -> int:
        """The number of bytes of a step on ``batch`` items."""
        return self.fixed + self.item * batch


def memory_need(assembly: Assembly) -> MemoryNeed:
    """Estimate the memory of a training step: the weights, and the float32 tensors that autograd saves.

    Args:
        assembly: assembled on the meta device, so that nothing is allocated.
    """
    weights = {p.untyped_storage()._cdata: p.untyped_storage().nbytes() for p in assembly.model.parameters()}
    one, two = (_saved_bytes(assembly, items, set(weights)) for items in (1, 2))
    return MemoryNeed(COPIES * sum(weights.values()) + max(0, 2 * one - two), int(BACKWARD * (two - one)))


def _saved_bytes(assembly: Assembly, items: int, weights: set[int]) -> int:
    """The number of bytes that autograd saves in a forward pass, with every storage counted once."""
    saved: dict[int, Tensor] = {}

    def record(x: Tensor) -> Tensor:
        storage = x.untyped_storage()._cdata
        if storage not in weights:
            saved[storage] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(record, lambda x: x):
        assembly.model(zeros(assembly.schema, items, device="meta"), assembly.objective.samples)
    return sum(x.untyped_storage().nbytes() for x in saved.values())


def translate_out_of_memory(
    assembly: Assembly, batch: int, settings: Mapping[str, Any], records: Iterator[Record]
) -> Generator[Record, None, None]:
    """Yield the records of a training run, and turn out-of-memory errors into errors that say what would fit.

    Args:
        assembly: the model that is trained.
        batch: the number of items per step on one device.
        settings: may hold the recipe's name and the size.
        records: the records of the run.

    Raises:
        MachineError: instead of the out-of-memory errors of torch and Python.
    """
    try:
        yield from records
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise MachineError(f"out of memory: {advice(assembly, batch, settings)}") from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error reports that memory could not be allocated."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)


def advice(assembly: Assembly, batch: int, settings: Mapping[str, Any]) -> str:
    """The memory that a step needs, and the sizes that need at most half of it."""
    with torch.device("meta"):
        needed = memory_need(assemble(assembly.schema, assembly.recipe)).total(batch)
    text = f"a step of training on {batch} items takes about {format_bytes(needed)}"
    size, smaller = settings.get("size"), []
    for name in reversed(SIZES[: SIZES.index(size)]) if size in SIZES else ():
        try:
            with torch.device("meta"):
                other = assemble(assembly.schema, settings["recipe"], name)
        except (KeyError, SpecError):  # the model was trained by a custom plan
            break
        other_needed = memory_need(other).total(min(batch, other.training.batch))
        if other_needed <= needed / 2:
            smaller.append(f"size {name} takes about {format_bytes(other_needed)}")
    if smaller:
        return f"{text}; {', '.join(smaller)}"
    return f"{text}; use smaller items, or a smaller 'batch' in the plan's 'training'"


def format_bytes(count: float) -> str:
    """
    >>> format_bytes(2.34e9), format_bytes(5.1e7)
    ('2.3 GB', '51 MB')
    """
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
