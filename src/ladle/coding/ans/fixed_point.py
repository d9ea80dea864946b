"""Numbers in fixed point, and the curves that take the place of transcendental functions.

A curve is a table of integers with straight lines between them. It is computed once, when a model is rewritten, and
stored with it: another machine's ``exp`` might differ in the last bit, and one wrong count loses everything after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

PRECISION = 24  # probabilities are counts of 2 ** PRECISION slots
FRACTION = 8  # bits between two entries of a curve
RAW = 8  # bits after the point of what a net says: raw numbers are multiples of 2 ** -RAW
FINE = 12  # the same of what says a location
UNIT = 6  # the same of a place between two bins, of pixels and of latents
GUESS = 14  # bits of a slot that a guess at its bin does not look at
REACH = 16  # raw numbers are held within -REACH .. REACH where a table is read


@dataclass(frozen=True, eq=False)
class Curve:
    """A distribution function that rises from 0 to ``2 ** PRECISION``.

    Args:
        values: (n,) int64, not falling.
        shift: bits by which ``(edge - loc) * rate`` is finer than ``FRACTION`` bits of an entry.
    """

    values: np.ndarray
    shift: int

    @property
    def middle(self) -> int:
        """The place of zero."""
        return (len(self.values) - 1) << (FRACTION - 1)

    @property
    def last(self) -> int:
        """The last place between two entries."""
        return ((len(self.values) - 1) << FRACTION) - 1

    @cached_property
    def inverse(self) -> np.ndarray:
        """About the place that every ``2 ** GUESS``-th slot is reached at, ``(2 ** (PRECISION - GUESS),)`` int64."""
        slots = (np.arange(1 << (PRECISION - GUESS), dtype=np.int64) << GUESS) + (1 << (GUESS - 1))
        return np.searchsorted(self.values, slots) << FRACTION


def rising(function: Callable[[np.ndarray], np.ndarray], reach: float, entries: int) -> np.ndarray:
    """The values of a distribution function at ``entries + 1`` places from ``-reach`` to ``reach``: (n,) int64."""
    places = np.linspace(-reach, reach, entries + 1)
    values = np.floor(function(places) * (1 << PRECISION) + 0.5).astype(np.int64)
    values[0], values[-1] = 0, 1 << PRECISION
    return values


def raw_table(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A function of a raw number at all that it can be, rounded: ``(2 * REACH << RAW) + 1`` of int64."""
    raw = np.arange(-REACH << RAW, (REACH << RAW) + 1) / (1 << RAW)
    return np.floor(function(raw) + 0.5).astype(np.int64)


def at(table: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """What a table of :func:`raw_table` says of raw integers."""
    return table[np.clip(raw, -REACH << RAW, REACH << RAW) + (REACH << RAW)]


def normal(places: np.ndarray) -> np.ndarray:
    """The standard normal distribution function."""
    return np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in places])


def logistic(places: np.ndarray) -> np.ndarray:
    """The standard logistic distribution function."""
    return 1 / (1 + np.exp(-np.clip(places, -700, 700)))
