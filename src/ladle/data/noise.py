"""Noise without a state: random bits as a pure function of a key and two counters.

The bits of element ``j`` of item ``i`` depend on ``(key, i, j)`` alone, so an item's noise never depends on
its neighbours, on the size of the batch or on what was drawn before. The same numbers come out on every
machine and with every version of NumPy, which the splits and the binarised test sets rely on.

Reference:
    Guy Steele, Doug Lea, Christine Flood: Fast splittable pseudorandom number generators, 2014 (SplitMix64).
"""

from __future__ import annotations

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64, in place on a uint64 array that the caller gives up."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def key(*words: int) -> int:
    """One 64-bit key from several integers, in which every word and its position count.

    >>> key(0, 1) != key(1, 0)
    True
    """
    state = np.array([len(words)], np.uint64)
    for word in words:
        state = _mix(state + np.uint64((int(word) * _GOLDEN + _GOLDEN) & _MASK))
    return int(state[0])


def bits(key: int, items: np.ndarray, size: int) -> np.ndarray:
    """Random 32-bit integers, a row for each item.

    Args:
        key: from :func:`key`.
        items: ``(B,)`` integers, the items' own numbers.
        size: how many numbers each item wants.

    Returns:
        ``(B, size)`` uint32, uniform.

        >>> a, b = bits(7, np.array([3, 9]), 5), bits(7, np.array([9]), 4)
        >>> bool((a[1, :4] == b[0]).all())
        True
    """
    streams = _mix(np.uint64(key) + np.asarray(items).astype(np.uint64) * np.uint64(_GOLDEN))
    steps = np.arange(1, (size + 1) // 2 + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    words = _mix(streams[:, None] + steps)
    return words.astype("<u8", copy=False).view("<u4")[:, :size]


def shuffle(n: int, *words: int) -> np.ndarray:
    """A permutation of ``0..n-1`` keyed by ``words``: ``(n,)`` int64.

    >>> sorted(shuffle(4, 1).tolist())
    [0, 1, 2, 3]
    """
    rank = _mix(np.uint64(key(*words)) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN))
    return np.argsort(rank, kind="stable").astype(np.int64, copy=False)


def binarise(grey: np.ndarray, key: int, items: np.ndarray) -> np.ndarray:
    """Draw each pixel as a Bernoulli variable with probability ``grey / 255``.

    Args:
        grey: ``(B, *event)`` uint8.
        key: from :func:`key`.
        items: ``(B,)`` integers, the items' own numbers.

    Returns:
        ``(B, *event)`` bool; 0 is never drawn as one and 255 always is.
    """
    flat = grey.reshape(len(grey), -1)
    drawn = bits(key, items, flat.shape[1]) < flat * _STEP
    drawn |= flat == 255
    return drawn.reshape(grey.shape)


# (2^32 - 1) / 255: for a uniform 32-bit u, P(u < grey * step) is grey / 255 to within 2^-32; 255 is made exact.
_STEP = np.uint32(0x01010101)
