"""Fixed-point numbers, and the curves that replace transcendental functions.

A curve is a table of integers with linear interpolation. It is computed once, when a model is converted, and stored
with the model: the ``exp`` of another machine may differ in the last bit, and one wrong count corrupts all later data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PRECISION = 24  # probabilities are counts out of 2 ** PRECISION slots
FRACTION = 8  # bits of interpolation between two entries of a curve
RAW = 8  # fractional bits of the outputs of networks: raw numbers are multiples of 2 ** -RAW
FINE = 12  # fractional bits of locations
UNIT = 6  # fractional bits of positions between bins, of pixels and of latents
GUESS = 14  # low bits of a slot that the first guess of its bin ignores
REACH = 16  # raw numbers are clamped to -REACH .. REACH where a table is read


@dataclass(frozen=True, eq=False)
class Curve:
    """A distribution function that rises from 0 to ``2 ** PRECISION``.

    Args:
        values: (n,) int64, non-decreasing.
        shift: the number of fractional bits of ``(edge - loc) * rate`` beyond the ``FRACTION`` bits of an entry.
    """

    values: np.ndarray
    shift: int

    @property
    def middle(self) -> int:
        """The position of zero."""
        return (len(self.values) - 1) << (FRACTION - 1)

    @property
    def last(self) -> int:
        """The last position between two entries."""
        return ((len(self.values) - 1) << FRACTION) - 1

    @cached_property
    def inverse(self) -> np.ndarray:
        """The approximate position of every ``2 ** GUESS``-th slot, ``(2 ** (PRECISION - GUESS),)`` int64."""
        slots = (np.arange(1 << (PRECISION - GUESS), dtype=np.int64) << GUESS) + (1 << (GUESS - 1))
        return np.searchsorted(self.values, slots) << FRACTION


def curve_values(function: Callable[[np.ndarray], np.ndarray], reach: float, entries: int) -> np.ndarray:
    """The values of a distribution function at ``entries + 1`` points from ``-reach`` to ``reach``: (n,) int64."""
    places = np.linspace(-reach, reach, entries + 1)
    values = np.floor(function(places) * (1 << PRECISION) + 0.5).astype(np.int64)
    values[0], values[-1] = 0, 1 << PRECISION
    return values


def raw_table(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A function of all raw numbers, rounded: ``(2 * REACH << RAW) + 1`` of int64."""
    raw = np.arange(-REACH << RAW, (REACH << RAW) + 1) / (1 << RAW)
    return np.floor(function(raw) + 0.5).astype(np.int64)


def look_up(table: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """The entries of a table of :func:`raw_table` for raw integers."""
    return table[np.clip(raw, -REACH << RAW, REACH << RAW) + (REACH << RAW)]


def normal(places: np.ndarray) -> np.ndarray:
    """The standard normal distribution function."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in places])


def logistic(places: np.ndarray) -> np.ndarray:
    """The standard logistic distribution function."""
    return 1 / (1 + np.exp(-np.clip(places, -700, 700)))
