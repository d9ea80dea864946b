"""Bits-back coding: items to bytes and back with a model in whole numbers."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ladle.coding.ans.fixed_point import PRECISION
from ladle.coding.ans.stack import Stack
from ladle.coding.errors import Desynchronised
from ladle.coding.model import CodedLevel, Draw, IntegerModel

LANE = 8192  # bytes of a stack for each head
MOST_LANES = 256
NUMBERS = 512 * 784  # the most numbers in a group of items, about; part of the format
_HEAD = struct.Struct("<H")  # growth of the groups
RESERVE = 1 << 22  # the most words that the first item may borrow


def number_of_lanes(n: int, bits_per_item: float) -> int:
    """The number of heads of a stack for n items: few, because each costs 8 bytes."""
    return 1 << max(2, min(MOST_LANES, int(n * bits_per_item / 8 / LANE) or 1).bit_length() - 1)


def groups(n: int, growth: int, shape: tuple[int, ...]) -> Iterator[slice]:
    """The groups of items that are coded together, which are part of the format.

    A group has at most ``growth / 256`` times as many items as come before it, so that the bits on the stack suffice.
    """
    most = max(1, NUMBERS // math.prod(shape))
    start = 0
    while start < n:
        size = min(max(1, start * growth >> 8), most, n - start)
        yield slice(start, start + size)
        start += size


def estimate_rate(model: IntegerModel, x: np.ndarray) -> tuple[float, int]:
    """Estimate the bits of an item, and the growth of groups in 1/256, from items ``(N, *shape)``."""
    stack = Stack(1, RESERVE)
    levels, h = model.walk(lambda _, q, p: q.pop(stack), len(x), x)
    popped = RESERVE - int(stack.top[0])
    model.explain(h).push(stack, x)
    for level in reversed(levels):
        level.p.push(stack, level.k)
    left = int(stack.top[0]) - RESERVE
    return max(1.0, 32 * left / len(x)), max(1, min((1 << 16) - 1, int(0.8 * 256 * left / max(popped, 1))))


def _replay(levels: list[CodedLevel]) -> Draw:
    """The draw that repeats the places of another walk."""
    return lambda level, q, p: levels[level].k


class Codec(Protocol):
    """Encodes items as bytes, and decodes them."""

    def encode(self, x: np.ndarray) -> bytes:
        """Encode ``(N, *shape)`` of whole numbers."""
        ...

    def decode(self, data: bytes, n: int, selection: slice = slice(None)) -> np.ndarray:
        """Decode n items and return a selection of them, of int64."""
        ...

    def reconstruct(self, x: np.ndarray) -> np.ndarray:
        """The items that decoding will return."""
        ...


class BitsBack:
    """Codes items in one stack with bits back: pop z under q, push x under p(x|z), push z under p.

    The first item borrows fixed initial bits to pop its z; the second pops bits that the first has pushed, and so on.
    Items are coded in groups, because networks are faster on batches. A group is so small that the bits on the stack
    suffice for it, so only the first item borrows bits.

    Args:
        model: the model.
        numpy: use the loops in NumPy instead of machine code.
    """

    def __init__(self, model: IntegerModel, numpy: bool = False) -> None:
        self.model, self.numpy = model, numpy

    def encode(self, x: np.ndarray) -> bytes:
        """Encode ``(N, *shape)`` of whole numbers."""
        growth, reserve = self.model.growth, self.model.latents * PRECISION // 32 + 64
        while True:
            try:
                return _HEAD.pack(growth) + self._encoded(x, growth, reserve)
            except Desynchronised:  # groups were too large for the bits on the stack
                if reserve > RESERVE:
                    raise
                growth, reserve = growth // 2, reserve if growth else 2 * reserve

    def _encoded(self, x: np.ndarray, growth: int, reserve: int) -> bytes:
        model = self.model
        stack = Stack(number_of_lanes(len(x), model.bits_per_item), reserve, self.numpy)
        for group in groups(len(x), growth, model.shape):
            levels, h = model.walk(lambda _, q, p: q.pop(stack), len(x[group]), x[group])
            model.explain(h).push(stack, x[group])
            for level in reversed(levels):
                level.p.push(stack, level.k)
        return stack.to_bytes()

    def decode(self, data: bytes, n: int, selection: slice = slice(None)) -> np.ndarray:
        """Decode all n items, and return a selection of them, ``(n, *shape)`` of int64.

        Raises:
            Desynchronised: when :meth:`encode` of this model cannot have written the bytes.
        """
        if len(data) < _HEAD.size:
            raise Desynchronised(f"a payload must have at least {_HEAD.size} bytes, got {len(data)}")
        (growth,) = _HEAD.unpack_from(data)
        stack, model = Stack.from_bytes(data[_HEAD.size :], self.numpy), self.model
        x = np.empty((n, *model.shape), np.int64)
        for group in reversed(list(groups(n, growth, model.shape))):
            size = group.stop - group.start
            levels, h = model.walk(lambda _, q, p: p.pop(stack), size)
            x[group] = model.explain(h).pop(stack)
            replayed, _ = model.walk(_replay(levels), size, x[group])
            for level in reversed(replayed):
                level.q.push(stack, level.k)
        stack.finish()
        return x[selection]

    def reconstruct(self, x: np.ndarray) -> np.ndarray:
        """The items themselves, as nothing is lost."""
        return x
