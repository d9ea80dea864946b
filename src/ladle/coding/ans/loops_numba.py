"""The inner loops of the coder in machine code: the functions of :mod:`ladle.coding.ans.loops_numpy`, symbol by symbol.

This module needs numba, an optional dependency. Results depend on whole-number arithmetic only, so they are the same.
"""

from __future__ import annotations

import numpy as np
from numba import njit  # type: ignore[import-untyped]

from ladle.coding.ans.fixed_point import FINE, FRACTION, GUESS, PRECISION, UNIT, Curve

SLOTS = (1 << PRECISION) - 1
DOWN = FINE + 1 - UNIT
FULL = np.uint64(63 - PRECISION)
LOW = 1 << 31
WORD = (1 << 32) - 1
PART = (1 << FRACTION) - 1


@njit(cache=True, nogil=True)
def push(heads, words, top, start, count):  # type: ignore[no-untyped-def]
    """See :func:`ladle.coding.ans.loops_numpy.push`."""
    lanes, n = len(heads), top[0]
    for i in range(len(start) - 1, -1, -1):
        lane = i % lanes
        x = np.int64(heads[lane])
        c = np.int64(count[i])
        if np.uint64(x) >= np.uint64(c) << FULL:  # 2 ** 63 for a symbol with all slots
            words[n] = np.uint32(x & WORD)
            n += 1
            x >>= 32
        heads[lane] = np.uint64(((x // c) << PRECISION) + x % c + start[i])
    top[0] = n


@njit(cache=True, nogil=True, inline="always")
def _refilled(x, words, n):  # type: ignore[no-untyped-def]
    """Refill a head that became too small from the n words; returns the head and the new n, -1 if there was none."""
    if x >= LOW:
        return x, n
    return ((x << 32) | np.int64(words[n - 1]) if n > 0 else x), n - 1


@njit(cache=True, nogil=True, inline="always")
def _slots_below(k, i, edges, loc, rate, weight, values, shift, middle, last):  # type: ignore[no-untyped-def]
    edge, total = edges[k - 1], np.int64(0)
    for c in range(loc.shape[1]):
        t = ((edge - np.int64(loc[i, c])) * np.int64(rate[i, c]) >> shift) + middle
        t = min(max(t, 0), last)
        j = t >> FRACTION
        low = values[j]
        total += (low + ((values[j + 1] - low) * (t & PART) >> FRACTION)) * weight[i, c]
    return k + (total >> PRECISION)


@njit(cache=True, nogil=True)
def _masses(symbols, edges, loc, rate, weight, values, shift, middle, last, start, count):  # type: ignore[no-untyped-def]
    bins = len(edges) + 1
    for i in range(len(symbols)):
        s = symbols[i]
        low, high = np.int64(0), np.int64(1 << PRECISION)
        if s > 0:
            low = _slots_below(s, i, edges, loc, rate, weight, values, shift, middle, last)
        if s + 1 < bins:
            high = _slots_below(s + 1, i, edges, loc, rate, weight, values, shift, middle, last)
        start[i], count[i] = low, high - low


def masses(symbols, edges, loc, rate, weight, curve: Curve) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    """See :func:`ladle.coding.ans.loops_numpy.masses`."""
    start, count = np.empty(len(symbols), np.int64), np.empty(len(symbols), np.int64)
    table = curve.values, curve.shift, curve.middle, curve.last
    _masses(symbols, edges, loc, rate, weight, *table, start, count)
    return start, count


@njit(cache=True, nogil=True, inline="always")
def _guess(slot, i, edges, loc, rate, weight, inverse, shift, middle):  # type: ignore[no-untyped-def]
    """A bin near the one that contains a slot, by the most probable component and even edges.

    The guess affects the duration of the search, not its result.
    """
    best, n = 0, len(edges)
    for c in range(1, loc.shape[1]):
        if weight[i, c] > weight[i, best]:
            best = c
    place = np.float64((inverse[slot >> GUESS] - middle) << shift) / np.float64(max(rate[i, best], 1))
    apart = np.float64(edges[n - 1] - edges[0]) / np.float64(max(n - 1, 1))
    k = 1 + (np.float64(loc[i, best]) + place - edges[0]) / max(apart, 1.0)
    return np.int64(min(max(k, 1.0), np.float64(n)))


@njit(cache=True, nogil=True, inline="always")
def _found(slot, i, edges, loc, rate, weight, values, inverse, shift, middle, last):  # type: ignore[no-untyped-def]
    """The last bin that does not start above a slot, its start and its end: a search in doubling steps from a guess,
    then by bisection."""
    low, high, start, end = np.int64(0), np.int64(len(edges) + 1), np.int64(0), np.int64(1 << PRECISION)
    k, step = _guess(slot, i, edges, loc, rate, weight, inverse, shift, middle), np.int64(1)
    way = np.int64(0)
    while high - low > 1:
        at = _slots_below(k, i, edges, loc, rate, weight, values, shift, middle, last)
        if at <= slot:
            low, start, here = k, at, np.int64(1)
        else:
            high, end, here = k, at, np.int64(-1)
        if way == 0 or way == here:
            way = here
            k += here * step
            step *= 2
            if low < k < high:
                continue
        way = np.int64(2)
        k = (low + high) >> 1
    return low, start, end


@njit(cache=True, nogil=True)
def _find(slots, symbols, edges, loc, rate, weight, values, inverse, shift, middle, last):  # type: ignore[no-untyped-def]
    for i in range(len(slots)):
        slot = np.int64(slots[i])
        symbols[i], _, _ = _found(slot, i, edges, loc, rate, weight, values, inverse, shift, middle, last)


def find(slots, edges, loc, rate, weight, curve: Curve) -> np.ndarray:  # type: ignore[no-untyped-def]
    """See :func:`ladle.coding.ans.loops_numpy.find`."""
    symbols = np.zeros(len(slots), np.int64)
    if not len(edges):  # a single bin
        return symbols
    table = curve.values, curve.inverse, curve.shift, curve.middle, curve.last
    _find(slots, symbols, edges, loc, rate, weight, *table)
    return symbols


@njit(cache=True, nogil=True)
def _pop_bins(heads, words, top, symbols, edges, loc, rate, weight, values, inverse, shift, middle, last):  # type: ignore[no-untyped-def]
    lanes, n = len(heads), top[0]
    for i in range(len(symbols)):
        lane = i % lanes
        x = np.int64(heads[lane])
        slot = x & SLOTS
        low, start, end = _found(slot, i, edges, loc, rate, weight, values, inverse, shift, middle, last)
        symbols[i] = low
        x = (end - start) * (x >> PRECISION) + slot - start
        x, n = _refilled(x, words, n)
        if n < 0:
            return False
        heads[lane] = np.uint64(x)
    top[0] = n
    return True


def pop_bins(heads, words, top, symbols, edges, loc, rate, weight, curve: Curve) -> bool:  # type: ignore[no-untyped-def]
    """See :func:`ladle.coding.ans.loops_numpy.pop_bins`."""
    if not len(edges):  # a single bin has all slots, so nothing is popped
        symbols[:] = 0
        return True
    table = curve.values, curve.inverse, curve.shift, curve.middle, curve.last
    return bool(_pop_bins(heads, words, top, symbols, edges, loc, rate, weight, *table))


@njit(cache=True, nogil=True)
def _pop_rows(heads, words, top, symbols, rows):  # type: ignore[no-untyped-def]
    lanes, n = len(heads), top[0]
    for i in range(len(symbols)):
        lane = i % lanes
        x = np.int64(heads[lane])
        slot = x & SLOTS
        s = 0
        while rows[i, s + 1] <= slot:
            s += 1
        symbols[i] = s
        x = (rows[i, s + 1] - rows[i, s]) * (x >> PRECISION) + slot - rows[i, s]
        x, n = _refilled(x, words, n)
        if n < 0:
            return False
        heads[lane] = np.uint64(x)
    top[0] = n
    return True


def pop_rows(heads, words, top, symbols, rows) -> bool:  # type: ignore[no-untyped-def]
    """See :func:`ladle.coding.ans.loops_numpy.pop_rows`."""
    return bool(_pop_rows(heads, words, top, symbols, rows))


@njit(cache=True, nogil=True)
def _pop_uniform(heads, words, top, symbols, size):  # type: ignore[no-untyped-def]
    lanes, n = len(heads), top[0]
    for i in range(len(symbols)):
        lane = i % lanes
        x = np.int64(heads[lane])
        slot = x & SLOTS
        symbols[i] = slot >> size
        x = (x >> PRECISION << size) + (slot & ((1 << size) - 1))
        x, n = _refilled(x, words, n)
        if n < 0:
            return False
        heads[lane] = np.uint64(x)
    top[0] = n
    return True


def pop_uniform(heads, words, top, symbols, bits: int) -> bool:  # type: ignore[no-untyped-def]
    """See :func:`ladle.coding.ans.loops_numpy.pop_uniform`."""
    return bool(_pop_uniform(heads, words, top, symbols, PRECISION - bits))


@njit(cache=True, nogil=True)
def _mixture(logits, loc, scale, offset, gain, exponentials, rates, room, to_loc, to_rate, to_weight):  # type: ignore[no-untyped-def]
    components, middle, most = loc.shape[1], len(rates) // 2, len(exponentials) - 1
    for i in range(len(loc)):
        top = np.int64(logits[i, 0])
        for c in range(1, components):
            top = max(top, np.int64(logits[i, c]))
        total = np.int64(0)
        for c in range(components):
            each = exponentials[min(top - np.int64(logits[i, c]), most)]
            to_weight[i, c] = each
            total += each
            to_loc[i, c] = (np.int64(loc[i, c]) + offset[c]) * gain >> DOWN
            place: int = min(max(np.int64(scale[i, c]), -middle), middle)  # type: ignore[assignment]
            to_rate[i, c] = rates[place + middle]
        factor, left = (room << 20) // total, room
        for c in range(components):
            to_weight[i, c] = np.int64(to_weight[i, c]) * factor >> 20
            left -= to_weight[i, c]
        to_weight[i, 0] += left


def mixture(logits, loc, scale, offset, gain: int, exponentials, rates, room: int):  # type: ignore[no-untyped-def]
    """See :func:`ladle.coding.ans.loops_numpy.mixture`."""
    parameters = tuple(np.empty(loc.shape, np.int32) for _ in range(3))
    _mixture(logits, loc, scale, offset, gain, exponentials, rates, room, *parameters)
    return parameters
