"""Stateless noise: random bits as a pure function of a key and two counters.

The bits of element ``j`` of item ``i`` depend only on ``(key, i, j)``, so the noise of an item does not depend on the
other items of a batch, on the batch size or on earlier draws. The numbers are the same on every machine and with every
version of NumPy; the splits and the binarised test sets rely on this.

Reference:
    Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", 2014 (SplitMix64).
"""

from __future__ import annotations

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def _mix(z: np.ndarray) -> np.ndarray:
    """Apply the finaliser of SplitMix64 to a uint64 array, in place."""
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def key(*words: int) -> int:
    """A 64-bit key from several integers, which depends on each word and its position.

    >>> key(0, 1) != key(1, 0)
    True
    """
    state = np.array([len(words)], np.uint64)
    for word in words:
        state = _mix(state + np.uint64((int(word) * _GOLDEN + _GOLDEN) & _MASK))
    return int(state[0])


def bits(key: int, items: np.ndarray, size: int) -> np.ndarray:
    """Random 32-bit integers, one row for each item.

    Args:
        key: from :func:`key`.
        items: ``(B,)`` integers, the indices of the items.
        size: the number of integers for each item.

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
        items: ``(B,)`` integers, the indices of the items.

    Returns:
        ``(B, *event)`` bool; 0 always gives False and 255 always True.
    """
    flat = grey.reshape(len(grey), -1)
    drawn = bits(key, items, flat.shape[1]) < flat * _STEP
    drawn |= flat == 255
    return drawn.reshape(grey.shape)


# (2^32 - 1) / 255: for a uniform 32-bit u, P(u < grey * step) is grey / 255 to within 2^-32; 255 is handled exactly.
_STEP = np.uint32(0x01010101)
