"""Items to bytes and back with a model in whole numbers."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ladle.coding.ans.fixed_point import PRECISION
from ladle.coding.ans.stack import Stack
from ladle.coding.errors import Desynchronised
from ladle.coding.model import Draw, Exact, Placed

LANE = 8192  # bytes of a stack for each head
MOST_LANES = 256
TOGETHER = 512 * 784  # numbers that are computed with at a time, about
_HEAD = struct.Struct("<H")  # how fast groups grow
RESERVE = 1 << 22  # words, the most that a first item may borrow


def lanes(n: int, bits_per_item: float) -> int:
    """How many heads a stack of so many items has: few, as each costs 8 bytes."""
    return 1 << max(2, min(MOST_LANES, int(n * bits_per_item / 8 / LANE) or 1).bit_length() - 1)


def groups(n: int, growth: int, shape: tuple[int, ...]) -> Iterator[slice]:
    """Which items are coded together: a part of this format. Each group is at most ``growth / 256`` of the items before
    it, so that what they have left on the stack serves."""
    most = max(1, TOGETHER // math.prod(shape))
    start = 0
    while start < n:
        size = min(max(1, start * growth >> 8), most, n - start)
        yield slice(start, start + size)
        start += size


def measured(exact: Exact, x: np.ndarray) -> tuple[float, int]:
    """The bits that an item takes, and how fast groups may grow, in 1/256: from some items ``(N, *shape)``."""
    stack = Stack(1, RESERVE)
    levels, h = exact.walk(lambda _, q, p: q.pop(stack), len(x), x)
    popped = RESERVE - int(stack.top[0])
    exact.explain(h).push(stack, x)
    for level in reversed(levels):
        level.p.push(stack, level.k)
    left = int(stack.top[0]) - RESERVE
    return max(1.0, 32 * left / len(x)), max(1, min((1 << 16) - 1, int(0.8 * 256 * left / max(popped, 1))))


def _replay(levels: list[Placed]) -> Draw:
    """The draw that chooses what another walk has chosen."""
    return lambda level, q, p: levels[level].k


class Codec(Protocol):
    """Items to bytes and back."""

    def encode(self, x: np.ndarray) -> bytes:
        """``(N, *shape)`` of whole numbers to bytes."""
        ...

    def decode(self, data: bytes, n: int, wanted: slice = slice(None)) -> np.ndarray:
        """Some of n items, of int64."""
        ...

    def kept(self, x: np.ndarray) -> np.ndarray:
        """What comes back of items."""
        ...


class BitsBack:
    """Codes items in one stack with bits back: pop z by q, push x by p(x|z), push z by p.

    The first item borrows known bits to pop its z; the second pops what the first has pushed, and so on. Items are
    taken in groups, for the nets' sake: each no larger than what is on the stack already can serve, so that no more
    than one item's bits are ever borrowed.

    Args:
        exact: the model.
        numpy: code without machine code.
    """

    def __init__(self, exact: Exact, numpy: bool = False) -> None:
        self.exact, self.numpy = exact, numpy

    def encode(self, x: np.ndarray) -> bytes:
        """``(N, *shape)`` of whole numbers to bytes."""
        growth, reserve = self.exact.growth, self.exact.latents * PRECISION // 32 + 64
        while True:
            try:
                return _HEAD.pack(growth) + self._encoded(x, growth, reserve)
            except Desynchronised:  # groups were too large for what was on the stack
                if reserve > RESERVE:
                    raise
                growth, reserve = growth // 2, reserve if growth else 2 * reserve

    def _encoded(self, x: np.ndarray, growth: int, reserve: int) -> bytes:
        exact = self.exact
        stack = Stack(lanes(len(x), exact.bits_per_item), reserve, self.numpy)
        for group in groups(len(x), growth, exact.shape):
            levels, h = exact.walk(lambda _, q, p: q.pop(stack), len(x[group]), x[group])
            exact.explain(h).push(stack, x[group])
            for level in reversed(levels):
                level.p.push(stack, level.k)
        return stack.to_bytes()

    def decode(self, data: bytes, n: int, wanted: slice = slice(None)) -> np.ndarray:
        """Bytes to ``(n, *shape)`` of int64; some of them are given back, after all are decoded.

        Raises:
            Desynchronised: when they are not what :meth:`encode` of this model made.
        """
        if len(data) < _HEAD.size:
            raise Desynchronised("it is too short to be a stack")
        (growth,) = _HEAD.unpack_from(data)
        stack, exact = Stack.from_bytes(data[_HEAD.size :], self.numpy), self.exact
        x = np.empty((n, *exact.shape), np.int64)
        for group in reversed(list(groups(n, growth, exact.shape))):
            size = group.stop - group.start
            levels, h = exact.walk(lambda _, q, p: p.pop(stack), size)
            x[group] = exact.explain(h).pop(stack)
            again, _ = exact.walk(_replay(levels), size, x[group])
            for level in reversed(again):
                level.q.push(stack, level.k)
        stack.finish()
        return x[wanted]

    def kept(self, x: np.ndarray) -> np.ndarray:
        """What comes back of items: they themselves."""
        return x
