"""The inner loops of the coder in NumPy. :mod:`ladle.coding.ans.loops_numba` has the same functions in machine code,
with the same results. :mod:`ladle.coding.ans.stack` and :mod:`ladle.coding.ans.bins` explain the arithmetic.

Arrays: ``heads`` (L,) uint64; ``words`` (capacity,) uint32; ``top`` (1,) int64, the number of words in use. ``M`` is
the number of symbols in one call; symbol ``i`` is coded with the head ``i mod L``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ladle.coding.ans.fixed_point import FINE, FRACTION, PRECISION, UNIT, Curve

DOWN = FINE + 1 - UNIT  # bits from a raw location, in halves of the range, to a level with UNIT fractional bits
LOW = np.uint64(1 << 31)  # a head lies in [LOW, LOW << 32)
WORD, MASK = np.uint64(32), np.uint64((1 << 32) - 1)
SLOTS = np.uint64((1 << PRECISION) - 1)


def push(heads: np.ndarray, words: np.ndarray, top: np.ndarray, start: np.ndarray, count: np.ndarray) -> None:
    """Push M symbols, the last one first, given their ``start`` and ``count`` (M,) of ``2 ** PRECISION`` slots."""
    lanes, precision = len(heads), np.uint64(PRECISION)
    for first in reversed(range(0, len(start), lanes)):
        c = count[first : first + lanes].astype(np.uint64)
        x = heads[: len(c)]
        full = np.flatnonzero(x >= c << np.uint64(63 - PRECISION))[::-1]
        words[top[0] : top[0] + len(full)] = (x[full] & MASK).astype(np.uint32)
        top[0] += len(full)
        x[full] >>= WORD
        x[:] = ((x // c) << precision) + x % c + start[first : first + lanes].astype(np.uint64)


Find = Callable[[np.ndarray, slice], tuple[np.ndarray, np.ndarray, np.ndarray]]


def _pop(heads: np.ndarray, words: np.ndarray, top: np.ndarray, symbols: np.ndarray, find: Find) -> bool:
    """Pop symbols, the first one first: ``find`` returns the symbols, starts and counts of slots."""
    lanes, precision = len(heads), np.uint64(PRECISION)
    for first in range(0, len(symbols), lanes):
        here = slice(first, min(first + lanes, len(symbols)))
        x = heads[: here.stop - first]
        slot = x & SLOTS
        symbols[here], start, count = find(slot.astype(np.int64), here)
        x[:] = count.astype(np.uint64) * (x >> precision) + slot - start.astype(np.uint64)
        short = np.flatnonzero(x < LOW)
        if len(short) > top[0]:
            return False
        popped = words[top[0] - len(short) : top[0]][::-1]
        x[short] = (x[short] << WORD) | popped.astype(np.uint64)
        top[0] -= len(short)
    return True


def slots_below(k, edges, loc, rate, weight, curve: Curve) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The number of slots below bin k: ``k`` (M,), the parameters (M, K)."""
    bins = len(edges) + 1
    if bins == 1:
        return np.where(k <= 0, 0, 1 << PRECISION)
    inner = np.clip(k, 1, bins - 1)
    t = ((edges[inner - 1][:, None] - loc) * rate >> curve.shift) + curve.middle
    t = np.clip(t, 0, curve.last)
    i = t >> FRACTION
    low = curve.values[i]
    share = low + ((curve.values[i + 1] - low) * (t & ((1 << FRACTION) - 1)) >> FRACTION)
    inside = k + ((share * weight).sum(1) >> PRECISION)
    return np.where(k <= 0, 0, np.where(k >= bins, 1 << PRECISION, inside))


def masses(symbols, edges, loc, rate, weight, curve: Curve) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    """``start`` and ``count`` (M,) of the bins ``symbols``."""
    start = slots_below(symbols, edges, loc, rate, weight, curve)
    return start, slots_below(symbols + 1, edges, loc, rate, weight, curve) - start


def find(slots, edges, loc, rate, weight, curve: Curve) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The bins that contain slots, (M,): the last bins that do not start above them."""
    low, high = np.zeros(len(slots), np.int64), np.full(len(slots), len(edges), np.int64)
    for _ in range(len(edges).bit_length()):
        middle = (low + high + 1) >> 1
        over = slots_below(middle, edges, loc, rate, weight, curve) > slots
        low, high = np.where(over, low, middle), np.where(over, middle - 1, high)
    return low


def pop_bins(heads, words, top, symbols, edges, loc, rate, weight, curve: Curve) -> bool:  # type: ignore[no-untyped-def]
    """Pop M symbols under bins into ``symbols``; False if the stack is exhausted."""

    def found(slot: np.ndarray, here: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given = (edges, loc[here], rate[here], weight[here], curve)
        symbol = find(slot, *given)
        return symbol, *masses(symbol, *given)

    return _pop(heads, words, top, symbols, found)


def pop_rows(heads, words, top, symbols, rows) -> bool:  # type: ignore[no-untyped-def]
    """Pop M symbols, given a row of starts for each: ``(M, n + 1)``, from zero to the number of slots."""

    def find(slot: np.ndarray, here: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        s = (rows[here] <= slot[:, None]).sum(1) - 1
        start = np.take_along_axis(rows[here], s[:, None], 1)[:, 0]
        return s, start, np.take_along_axis(rows[here], s[:, None] + 1, 1)[:, 0] - start

    return _pop(heads, words, top, symbols, find)


def pop_uniform(heads, words, top, symbols, bits: int) -> bool:  # type: ignore[no-untyped-def]
    """Pop M whole numbers below ``2 ** bits``, which are equally probable."""
    size = PRECISION - bits

    def find(slot: np.ndarray, here: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return slot >> size, slot >> size << size, np.full(len(slot), 1 << size)

    return _pop(heads, words, top, symbols, find)


def shares(logits: np.ndarray, table: np.ndarray, room: int) -> np.ndarray:
    """The softmax by a table of exponentials: ``(M, K)`` raw logits to weights that sum to ``room``."""
    apart = logits.max(1, keepdims=True) - logits
    each = table[np.minimum(apart, len(table) - 1)]
    weight = each * ((room << 20) // each.sum(1, keepdims=True)) >> 20
    weight[:, 0] += room - weight.sum(1)
    return weight


def starts(logits: np.ndarray, table: np.ndarray) -> np.ndarray:
    """The starts of classes, ``(M, K)`` raw logits to ``(M, K + 1)``: each class has at least one slot."""
    share = shares(logits, table, (1 << PRECISION) - logits.shape[1]) + 1
    return np.concatenate([np.zeros((len(share), 1), np.int64), share.cumsum(1)], 1)


def mixture(logits, loc, scale, offset, gain: int, exponentials, rates, room: int):  # type: ignore[no-untyped-def]
    """The parameters of :class:`~ladle.coding.ans.bins.Bins` from the outputs of a network, ``(M, K)`` whole numbers in
    float32: locations ``(loc + offset) gain >> DOWN``, rates by a table, and weights by the softmax."""
    logits, loc, scale = (a.astype(np.int64) for a in (logits, loc, scale))
    middle = len(rates) // 2
    place = np.clip(scale, -middle, middle) + middle
    return (loc + offset) * gain >> DOWN, rates[place], shares(logits, exponentials, room)
