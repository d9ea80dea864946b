"""A stack of bits that symbols are pushed on and popped from: asymmetric numeral systems.

The stack is one large whole number. Pushing a symbol whose distribution gives it ``count`` of ``2 ** PRECISION`` slots,
from ``start`` on, makes it larger by log2(2 ** PRECISION / count) bits; popping is the exact inverse. To pop from a
stack by a distribution that the data on it does not have is to draw a sample with its bits, and pushing that sample
back returns them: so the choice of z costs nothing but what it tells ("bits back").

The number is kept as several *heads* of 63 bits, which take turns, and below them 32-bit words::

    heads  [ . . . . ]        symbol i of a call belongs to head i mod L
    words  w_n ... w_2 w_1    what did not fit a head any more; the last one in is the first one out

A new stack is not empty: it begins with heads and words that everyone knows (:func:`known`). When everything has been
popped again they must be there, and nothing else, which shows that both sides computed with the same distributions.
Words that were never reached are not written down.

Reference:
    Duda: "Asymmetric Numeral Systems: Entropy Coding Combining Speed of Huffman Coding with Compression Rate of
    Arithmetic Coding", 2014.
    Townsend, Bird, Barber: "Practical Lossless Compression with Latent Variables Using Bits Back Coding", 2019.
"""

from __future__ import annotations

import struct

import numpy as np

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.bins import Bins, loops
from ladle.coding.ans.fixed_point import PRECISION
from ladle.coding.errors import Desynchronised

LOW = 1 << 31
MOST_LANES = 4096


def known(n: int, salt: int) -> np.ndarray:
    """Words that everyone knows, (n,) uint64: the first outputs of SplitMix64, whose seed is ``salt``.

    Reference:
        Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014.
    """
    with np.errstate(over="ignore"):
        x = (np.arange(1, n + 1, dtype=np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def above(lanes: int) -> np.ndarray:
    """The heads of a new stack, (L,) uint64."""
    return known(lanes, 0) >> np.uint64(2) | np.uint64(1 << 62)


def below(n: int) -> np.ndarray:
    """The first n words below them, (n,) uint32; the last one is the first to be reached."""
    return known(n, 1 << 32)[::-1].astype(np.uint32)


class Stack:
    """A stack, new or read from bytes.

    Args:
        lanes: L, the number of heads.
        reserve: the number of known words below the first push.
        numpy: use the loops in NumPy, even where there are faster ones.

    >>> stack, coin = Stack(lanes=2, reserve=5), np.array([[0, 1 << 23, 1 << 24]] * 5)
    >>> flips = stack.pop_rows(coin)
    >>> stack.push_rows(flips, coin)
    >>> stack.finish()
    """

    def __init__(self, lanes: int, reserve: int, numpy: bool = False) -> None:
        self.loops = loops_numpy if numpy else loops()
        self.heads = above(lanes)
        self.words = below(reserve)
        self.top = np.array([reserve], np.int64)
        self.reserve = self.lowest = reserve

    # ------------------------------------------------------------------------------------------- symbols

    def push(self, start: np.ndarray, count: np.ndarray) -> None:
        """Push symbols by their slots, (M,) int64 each."""
        needed = int(self.top[0]) + len(start)
        if needed > len(self.words):
            self.words = np.concatenate([self.words, np.zeros(max(needed, 2 * len(self.words)), np.uint32)])
        self.loops.push(self.heads, self.words, self.top, start, count)

    def push_bins(self, symbols: np.ndarray, bins: Bins) -> None:
        """Push bins: the symbols have the shape of the distributions."""
        self.push(*self.loops.masses(symbols.reshape(-1), *bins.flat))

    def pop_bins(self, bins: Bins) -> np.ndarray:
        """Pop bins, ``bins.shape`` of int64."""
        symbols = np.empty(bins.shape, np.int64)
        self._check(self.loops.pop_bins(self.heads, self.words, self.top, symbols.reshape(-1), *bins.flat))
        return symbols

    def push_rows(self, symbols: np.ndarray, rows: np.ndarray) -> None:
        """Push symbols (M,) by the starts of all symbols: ``rows`` (M, n + 1), zero first and all slots last."""
        start, end = (np.take_along_axis(rows, symbols[:, None] + i, 1)[:, 0] for i in (0, 1))
        self.push(start, end - start)

    def pop_rows(self, rows: np.ndarray) -> np.ndarray:
        """Pop symbols, (M,) int64."""
        symbols = np.empty(len(rows), np.int64)
        self._check(self.loops.pop_rows(self.heads, self.words, self.top, symbols, rows))
        return symbols

    def push_uniform(self, symbols: np.ndarray, bits: int) -> None:
        """Push whole numbers below ``2 ** bits``, all as likely as each other."""
        size = PRECISION - bits
        self.push(symbols.reshape(-1) << size, np.full(symbols.size, 1 << size))

    def pop_uniform(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        """Pop whole numbers below ``2 ** bits``."""
        symbols = np.empty(shape, np.int64)
        self._check(self.loops.pop_uniform(self.heads, self.words, self.top, symbols.reshape(-1), bits))
        return symbols

    def _check(self, fine: bool) -> None:
        if not fine:
            raise Desynchronised("the stack is exhausted before everything has been popped")
        self.lowest = min(self.lowest, int(self.top[0]))

    # --------------------------------------------------------------------------------------------- bytes

    def to_bytes(self) -> bytes:
        """Heads and words, and how many of the known words were used: little-endian."""
        used = self.reserve - self.lowest
        head = struct.pack("<HI", len(self.heads), used)
        return head + self.heads.astype("<u8").tobytes() + self.words[self.lowest : self.top[0]].astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, numpy: bool = False) -> Stack:
        """The stack that was written.

        Raises:
            Desynchronised: for bytes that cannot be one.
        """
        if len(data) < 6:
            raise Desynchronised(f"a stack has at least 6 bytes, this one has {len(data)}")
        lanes, used = struct.unpack_from("<HI", data)
        if not 1 <= lanes <= MOST_LANES or len(data) < 6 + 8 * lanes or (len(data) - 6) % 4:
            raise Desynchronised(f"a stack of {lanes} heads does not have {len(data)} bytes")
        stack = cls(lanes, 0, numpy)
        stack.heads = np.frombuffer(data, "<u8", lanes, 6).astype(np.uint64)
        if ((stack.heads < LOW) | (stack.heads >= 1 << 63)).any():
            raise Desynchronised("a head of the stack is out of its range")
        stack.words = np.frombuffer(data, "<u4", offset=6 + 8 * lanes).astype(np.uint32)
        stack.top = np.array([len(stack.words)], np.int64)
        stack.reserve, stack.lowest = used, 0
        return stack

    def finish(self) -> None:
        """Check that a stack from which everything was popped is a new one again.

        Raises:
            Desynchronised: when it is not.
        """
        left = self.words[: self.top[0]]
        whole = len(left) == self.reserve and (left == below(len(left))).all()
        if not whole or (self.heads != above(len(self.heads))).any():
            raise Desynchronised("what is left when everything has been popped is not what the coder began with")
