"""Many small stacks, one for each item, for random access.

Each stack has one head and no initial words, so an item's stream is a few bytes longer than its information: the head
starts at its smallest value, and its trailing zero bytes are not written, which leaves four to seven bytes. If there
are no words below the head, a pop leaves a smaller head. The head is then the whole number, and pushing the same symbol
restores it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ladle.coding.ans.bins import Bins, loops
from ladle.coding.ans.fixed_point import PRECISION
from ladle.coding.ans.loops_numpy import LOW, MASK, SLOTS, WORD
from ladle.coding.errors import Desynchronised


class Streams:
    """N stacks. Symbols are arrays whose first dimension is N: a call pushes one row on every stack.

    Args:
        n: the number N of stacks.

    >>> streams, coin = Streams(2), np.array([[0, 1 << 23, 1 << 24]] * 2)
    >>> streams.push(coin[:, :1], coin[:, 1:2])
    >>> [len(data) for data in streams.to_bytes()]
    [5, 5]
    """

    def __init__(self, n: int) -> None:
        self.heads = np.full(n, LOW, np.uint64)
        self.words = np.zeros((n, 64), np.uint32)
        self.tops = np.zeros(n, np.int64)

    def push(self, start: np.ndarray, count: np.ndarray) -> None:
        """Push rows of symbols, given the start and the number of their slots, ``(N, M)``, the last symbol first."""
        wide = int(self.tops.max(initial=0)) + start.shape[1]
        if wide > self.words.shape[1]:
            self.words = np.pad(self.words, ((0, 0), (0, wide)))
        x, start, count = self.heads, start.astype(np.uint64), count.astype(np.uint64)
        for i in reversed(range(start.shape[1])):
            c = count[:, i]
            full = np.flatnonzero(x >= c << np.uint64(63 - PRECISION))
            self.words[full, self.tops[full]] = (x[full] & MASK).astype(np.uint32)
            self.tops[full] += 1
            x[full] >>= WORD
            x[:] = ((x // c) << np.uint64(PRECISION)) + x % c + start[:, i]

    def _pop(self, slot: np.ndarray, start: np.ndarray, count: np.ndarray) -> None:
        """Pop a symbol from every stack, given its slots."""
        x = self.heads
        x[:] = count.astype(np.uint64) * (x >> np.uint64(PRECISION)) + slot - start.astype(np.uint64)
        short = np.flatnonzero((x < LOW) & (self.tops > 0))
        self.tops[short] -= 1
        x[short] = (x[short] << WORD) | self.words[short, self.tops[short]].astype(np.uint64)

    def push_bins(self, symbols: np.ndarray, bins: Bins) -> None:
        """See :meth:`ladle.coding.ans.stack.Stack.push_bins`."""
        start, count = loops().masses(symbols.reshape(-1), *bins.flat)
        n = len(self.heads)
        self.push(start.reshape(n, -1), count.reshape(n, -1))

    def pop_bins(self, bins: Bins) -> np.ndarray:
        """See :meth:`ladle.coding.ans.stack.Stack.pop_bins`."""
        n, k = len(self.heads), bins.loc.shape[-1]
        edges, *parameters, curve = bins.flat
        rows = [p.reshape(n, -1, k) for p in parameters]
        symbols = np.empty((n, rows[0].shape[1]), np.int64)
        for i in range(symbols.shape[1]):
            given = (edges, *(np.ascontiguousarray(r[:, i]) for r in rows), curve)
            slot = self.heads & SLOTS
            symbols[:, i] = loops().find(slot.astype(np.int64), *given)
            self._pop(slot, *loops().masses(symbols[:, i], *given))
        return symbols.reshape(bins.shape)

    def push_uniform(self, symbols: np.ndarray, bits: int) -> None:
        """See :meth:`ladle.coding.ans.stack.Stack.push_uniform`."""
        start = symbols.reshape(len(self.heads), -1) << (PRECISION - bits)
        self.push(start, np.full_like(start, 1 << (PRECISION - bits)))

    def pop_uniform(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        """See :meth:`ladle.coding.ans.stack.Stack.pop_uniform`."""
        n, size = len(self.heads), PRECISION - bits
        symbols = np.empty((n, int(np.prod(shape[1:]))), np.int64)
        for i in range(symbols.shape[1]):
            slot = self.heads & SLOTS
            symbols[:, i] = slot >> np.uint64(size)
            self._pop(slot, symbols[:, i] << size, np.full(n, 1 << size))
        return symbols.reshape(shape)

    def push_rows(self, symbols: np.ndarray, rows: np.ndarray) -> None:
        """See :meth:`ladle.coding.ans.stack.Stack.push_rows`."""
        start, end = (np.take_along_axis(rows, symbols[:, None] + i, 1) for i in (0, 1))
        self.push(start, end - start)

    def pop_rows(self, rows: np.ndarray) -> np.ndarray:
        """See :meth:`ladle.coding.ans.stack.Stack.pop_rows`."""
        slot = self.heads & SLOTS
        symbols = (rows <= slot.astype(np.int64)[:, None]).sum(1) - 1
        start, end = (np.take_along_axis(rows, symbols[:, None] + i, 1)[:, 0] for i in (0, 1))
        self._pop(slot, start, end - start)
        return symbols

    def to_bytes(self) -> list[bytes]:
        """The stream of every item: its head without trailing zero bytes, and its words, the last one first."""
        found = []
        for head, words, top in zip(self.heads.tolist(), self.words, self.tops.tolist(), strict=True):
            tail = words[:top][::-1].astype("<u4").tobytes()
            if head >= 1 << 56:  # 8 bytes would be read as 4, so the lower half becomes a word
                head, tail = head >> 32, (head & (1 << 32) - 1).to_bytes(4, "little") + tail
            found.append(head.to_bytes(max(4, -(-head.bit_length() // 8)), "little") + tail)
        return found

    @classmethod
    def from_bytes(cls, streams: Sequence[bytes], symbols: int) -> Streams:
        """Read stacks from the bytes of :meth:`to_bytes`.

        Args:
            streams: the streams of the items.
            symbols: the most symbols of an item, which limit the length of a stream.

        Raises:
            Desynchronised: for bytes that are not valid.
        """
        longest, most = max(map(len, streams), default=0), 12 + -(-symbols * PRECISION // 8)
        if longest > most:
            raise Desynchronised(f"the stream of {symbols} symbols has at most {most} bytes, got {longest}")
        result = cls(len(streams))
        result.words = np.zeros((len(streams), longest // 4 + 1), np.uint32)
        for i, data in enumerate(streams):
            size = 4 + len(data) % 4
            if len(data) < size:
                raise Desynchronised(f"an item's stream must have at least {size} bytes, got {len(data)}")
            head = int.from_bytes(data[:size], "little")
            words = np.frombuffer(data, "<u4", (len(data) - size) // 4, size)
            if head < 1 << 31 and len(words):
                head, words = head << 32 | int(words[0]), words[1:]
            if head >= 1 << 63 or (head < 1 << 31 and len(data) > 4):
                raise Desynchronised("the head of an item's stream is out of range")
            result.heads[i], result.tops[i] = head, len(words)
            result.words[i, : len(words)] = words[::-1]
        return result

    def finish(self) -> None:
        """Check that every stack is in its initial state, as it must be after everything has been popped.

        Raises:
            Desynchronised: when one is not.
        """
        if (self.heads != LOW).any() or self.tops.any():
            raise Desynchronised("an item's stream does not end in its initial state after everything has been popped")
