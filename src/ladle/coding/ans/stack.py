"""A stack of bits for symbols: asymmetric numeral systems.

The stack is one large whole number. If a symbol's distribution gives it ``count`` of ``2 ** PRECISION`` slots, from
``start`` on, pushing the symbol adds log2(2 ** PRECISION / count) bits, and popping is the exact inverse. To pop under
a distribution that does not belong to the data on the stack is to draw a sample with the bits of the stack, and pushing
that sample under the same distribution returns them: this is how z is drawn at no cost ("bits back").

The number is stored as several *heads* of 63 bits, used in turn, and 32-bit words below them::

    heads  [ . . . . ]        symbol i of a call belongs to head i mod L
    words  w_n ... w_2 w_1    low halves of heads that became too large; last in, first out

A new stack is not empty: it starts with fixed heads and words (:func:`splitmix64`). After everything has been popped,
exactly these must be left, which shows that both sides used the same distributions. Initial words that were never
reached are not written.

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


def splitmix64(n: int, salt: int) -> np.ndarray:
    """The first n outputs of the generator SplitMix64 with the seed ``salt``, (n,) uint64.

    Reference:
        Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014.
    """
    with np.errstate(over="ignore"):
        x = (np.arange(1, n + 1, dtype=np.uint64) + np.uint64(salt)) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def initial_heads(lanes: int) -> np.ndarray:
    """The heads of a new stack, (L,) uint64."""
    return splitmix64(lanes, 0) >> np.uint64(2) | np.uint64(1 << 62)


def initial_words(n: int) -> np.ndarray:
    """The n words below the heads of a new stack, (n,) uint32; the last one is reached first."""
    return splitmix64(n, 1 << 32)[::-1].astype(np.uint32)


class Stack:
    """A stack of bits.

    Args:
        lanes: the number L of heads.
        reserve: the number of initial words.
        numpy: use the loops in NumPy even if numba is installed.

    >>> stack, coin = Stack(lanes=2, reserve=5), np.array([[0, 1 << 23, 1 << 24]] * 5)
    >>> flips = stack.pop_rows(coin)
    >>> stack.push_rows(flips, coin)
    >>> stack.finish()
    """

    def __init__(self, lanes: int, reserve: int, numpy: bool = False) -> None:
        self.loops = loops_numpy if numpy else loops()
        self.heads = initial_heads(lanes)
        self.words = initial_words(reserve)
        self.top = np.array([reserve], np.int64)
        self.reserve = self.lowest = reserve

    # ------------------------------------------------------------------------------------------- symbols

    def push(self, start: np.ndarray, count: np.ndarray) -> None:
        """Push symbols, given the start and the number of their slots, (M,) int64 each."""
        needed = int(self.top[0]) + len(start)
        if needed > len(self.words):
            self.words = np.concatenate([self.words, np.zeros(max(needed, 2 * len(self.words)), np.uint32)])
        self.loops.push(self.heads, self.words, self.top, start, count)

    def push_bins(self, symbols: np.ndarray, bins: Bins) -> None:
        """Push symbols under bins of the same shape."""
        self.push(*self.loops.masses(symbols.reshape(-1), *bins.flat))

    def pop_bins(self, bins: Bins) -> np.ndarray:
        """Pop symbols under bins, ``bins.shape`` of int64."""
        symbols = np.empty(bins.shape, np.int64)
        self._check(self.loops.pop_bins(self.heads, self.words, self.top, symbols.reshape(-1), *bins.flat))
        return symbols

    def push_rows(self, symbols: np.ndarray, rows: np.ndarray) -> None:
        """Push symbols (M,), given the starts of all symbols: ``rows`` (M, n + 1), from zero to the number of slots."""
        start, end = (np.take_along_axis(rows, symbols[:, None] + i, 1)[:, 0] for i in (0, 1))
        self.push(start, end - start)

    def pop_rows(self, rows: np.ndarray) -> np.ndarray:
        """Pop symbols, (M,) int64, given the starts of all symbols."""
        symbols = np.empty(len(rows), np.int64)
        self._check(self.loops.pop_rows(self.heads, self.words, self.top, symbols, rows))
        return symbols

    def push_uniform(self, symbols: np.ndarray, bits: int) -> None:
        """Push whole numbers below ``2 ** bits``, which are equally probable."""
        size = PRECISION - bits
        self.push(symbols.reshape(-1) << size, np.full(symbols.size, 1 << size))

    def pop_uniform(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        """Pop whole numbers below ``2 ** bits``, which are equally probable."""
        symbols = np.empty(shape, np.int64)
        self._check(self.loops.pop_uniform(self.heads, self.words, self.top, symbols.reshape(-1), bits))
        return symbols

    def _check(self, complete: bool) -> None:
        if not complete:
            raise Desynchronised("the stack is exhausted before all symbols have been popped")
        self.lowest = min(self.lowest, int(self.top[0]))

    # --------------------------------------------------------------------------------------------- bytes

    def to_bytes(self) -> bytes:
        """The heads, the words and the number of initial words used, little-endian."""
        used = self.reserve - self.lowest
        head = struct.pack("<HI", len(self.heads), used)
        return head + self.heads.astype("<u8").tobytes() + self.words[self.lowest : self.top[0]].astype("<u4").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, numpy: bool = False) -> Stack:
        """Read a stack from the bytes of :meth:`to_bytes`.

        Raises:
            Desynchronised: for bytes that are not valid.
        """
        if len(data) < 6:
            raise Desynchronised(f"a stack must have at least 6 bytes, got {len(data)}")
        lanes, used = struct.unpack_from("<HI", data)
        if not 1 <= lanes <= MOST_LANES or len(data) < 6 + 8 * lanes or (len(data) - 6) % 4:
            raise Desynchronised(f"a stack of {lanes} heads cannot have {len(data)} bytes")
        stack = cls(lanes, 0, numpy)
        stack.heads = np.frombuffer(data, "<u8", lanes, 6).astype(np.uint64)
        if ((stack.heads < LOW) | (stack.heads >= 1 << 63)).any():
            raise Desynchronised("a head of the stack is out of range")
        stack.words = np.frombuffer(data, "<u4", offset=6 + 8 * lanes).astype(np.uint32)
        stack.top = np.array([len(stack.words)], np.int64)
        stack.reserve, stack.lowest = used, 0
        return stack

    def finish(self) -> None:
        """Check that the stack is in its initial state, as it must be after everything has been popped.

        Raises:
            Desynchronised: when it is not.
        """
        left = self.words[: self.top[0]]
        same = len(left) == self.reserve and (left == initial_words(len(left))).all()
        if not same or (self.heads != initial_heads(len(self.heads))).any():
            raise Desynchronised("the stack does not end in its initial state after everything has been popped")
