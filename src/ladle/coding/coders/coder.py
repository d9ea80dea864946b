"""The protocol of coders: a *coder* turns the outputs of an integer program into distributions for coding.

A coder is described by plain JSON and tables of whole numbers. Both are made once from a family of the model, and
stored with the model. From these and raw whole numbers a coder makes a :class:`CodedDistribution`, which pushes and
pops symbols.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np

from ladle.coding.ans.bins import Bins
from ladle.coding.ans.fixed_point import FRACTION, PRECISION, RAW, REACH, Curve, curve_values, logistic, normal
from ladle.coding.ans.stack import Stack
from ladle.coding.ans.streams import Streams
from ladle.coding.errors import CodingError
from ladle.coding.integer.program import LIMIT, Range

ENTRIES = 2048
RATE = 8  # fractional bits of a pixel's rate beyond the positions of the curve
EXPONENTIALS = 20  # fractional bits of an exponential
REACHES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {"normal": (normal, 8), "logistic": (logistic, 16)}
RAW_NUMBERS = 2 * (REACH << RAW) + 1
SLOTS = 1 << PRECISION
TABLES: Mapping[str, tuple[int, int, int | None]] = {  # the smallest and the largest entry, and the length if fixed
    "curve": (0, SLOTS, None), "rows": (0, SLOTS, None), "edges": (-LIMIT, LIMIT, None),
    "middles": (-LIMIT, LIMIT, None), "offset": (-LIMIT, LIMIT, None), "places": (-LIMIT, LIMIT, None),
    "steps": (-64, 64, None), "exponentials": (0, 1 << EXPONENTIALS, None),
    "rates": (0, 1 << 62, RAW_NUMBERS), "scales": (0, 1 << 40, RAW_NUMBERS),
    "logarithms": (0, 1 << 20, 512), "octaves": (0, 1 << 20, PRECISION + 2),
}  # fmt: skip

C = TypeVar("C", bound="Coder")


def check_tables(tables: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Check tables, because the inner loops do not.

    Returns:
        The same tables.

    Raises:
        CodingError: naming a table that is not valid.
    """
    for name, table in tables.items():
        low, high, length = TABLES.get(name, (0, 0, None))
        if name not in TABLES or (name == "edges" and table.shape == (0,)):  # a single bin has no edges
            continue
        must = f"table '{name}' must"
        if table.ndim != 1 or len(table) != (length or max(1, len(table))):
            raise CodingError(f"{must} have {length or 'some'} numbers in one dimension, got the shape {table.shape}")
        if table.min() < low or table.max() > high:
            raise CodingError(f"{must} lie in {low}..{high}, got {table.min()}..{table.max()}")
        if name in ("curve", "rows") and (table[0], table[-1]) != (0, SLOTS):
            raise CodingError(f"{must} go from 0 to {SLOTS}, got {table[0]} to {table[-1]}")
        if name in ("rows", "edges") and (table[1:] <= table[:-1]).any():
            raise CodingError(f"{must} increase strictly")
        if name == "curve" and (table[1:] < table[:-1]).any():
            raise CodingError(f"{must} not decrease")
        if name == "exponentials" and not table[0]:
            raise CodingError(f"{must} start above 0")
    return tables


def check_shapes(*parts: np.ndarray) -> None:
    """Check that parameters have the same shape, because the inner loops do not.

    Raises:
        CodingError: when the shapes differ.
    """
    if any(part.shape != parts[0].shape for part in parts):
        raise CodingError(f"parameters must have the same shape, got {', '.join(str(part.shape) for part in parts)}")


def push_checked(stack: Stack | Streams, symbols: np.ndarray, bins: Bins) -> None:
    """Push symbols after a check of their range and shape, because the inner loops do not check them.

    Raises:
        CodingError: when there are no such bins.
    """
    n = len(bins.edges) + 1
    if symbols.shape != bins.shape or (symbols.size and not 0 <= symbols.min() <= symbols.max() < n):
        found = f"{symbols.min()}..{symbols.max()}" if symbols.size else "none"
        raise CodingError(f"symbols must be in 0..{n - 1}, of the shape {bins.shape}; got {found} of {symbols.shape}")
    stack.push_bins(symbols, bins)


class CodedDistribution(ABC):
    """A distribution over arrays of whole numbers, which pushes and pops symbols."""

    @abstractmethod
    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """Push symbols on the stack."""

    @abstractmethod
    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """Pop symbols from the stack: the inverse of :meth:`push`."""


class IndependentElements(CodedDistribution):
    """A distribution of independent elements."""

    def __init__(self, bins: Bins) -> None:
        self.bins = bins

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the symbols."""
        return self.bins.shape

    def nearest(self) -> np.ndarray:
        """The bins that contain the centres."""
        return np.searchsorted(self.bins.edges, self.bins.loc[..., 0])

    def stepped(self, step: int, sharpest: int) -> MergedLevels:
        """The distribution of ``symbols // step``, see :meth:`Bins.widened`."""
        return MergedLevels(self.bins.widened(sharpest), step)

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`CodedDistribution.push`."""
        push_checked(stack, symbols, self.bins)

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`CodedDistribution.pop`."""
        return stack.pop_bins(self.bins)


class MergedLevels(CodedDistribution):
    """A distribution of independent elements, of which ``step`` neighbouring levels are one symbol."""

    def __init__(self, bins: Bins, step: int) -> None:
        self.bins, self.step, self.merged = bins, step, bins.merged(step)

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`CodedDistribution.push`."""
        push_checked(stack, symbols, self.merged)

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`CodedDistribution.pop`."""
        return stack.pop_bins(self.merged)

    def reconstruct(self, symbols: np.ndarray) -> np.ndarray:
        """The median level of every symbol."""
        return self.bins.median(symbols * self.step, (symbols + 1) * self.step)


class DependentElements(CodedDistribution):
    """A distribution of elements that depend on earlier elements, coded in several calls.

    Args:
        shape: the shape of the symbols.

    Attributes:
        step: the number of neighbouring levels that are one symbol.
        sharpest: the rate by which distributions are widened, see :meth:`Bins.widened`.
    """

    step = 1
    sharpest = 0

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def stepped(self, step: int, sharpest: int) -> Self:
        """The distribution of ``symbols // step``, each element given what comes back of those before; see
        :meth:`Bins.widened`."""
        changed = copy.copy(self)
        changed.step, changed.sharpest = step, sharpest
        return changed

    @abstractmethod
    def walk(self, choose: Callable[[Any, Bins], np.ndarray]) -> np.ndarray:
        """Visit all elements, and return their levels.

        Args:
            choose: ``choose(where, bins)`` returns the symbols at an index of the array, given their distributions.
        """

    def choose_levels(self, choose: Callable[[Any, Bins], np.ndarray], where: Any, bins: Bins) -> np.ndarray:
        """Choose the symbols at an index, and return their levels."""
        bins = bins.widened(self.sharpest)
        symbols = choose(where, bins.merged(self.step))
        return symbols if self.step == 1 else bins.median(symbols * self.step, (symbols + 1) * self.step)

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`CodedDistribution.push`."""
        symbols, calls = symbols.astype(np.int64), list[tuple[np.ndarray, Bins]]()

        def record(where: Any, bins: Bins) -> np.ndarray:
            calls.append((symbols[where], bins))
            return calls[-1][0]

        self.walk(record)
        for part, bins in reversed(calls):
            push_checked(stack, part, bins)

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`CodedDistribution.pop`."""
        popped = np.empty(self.shape, np.int64)

        def pop(where: Any, bins: Bins) -> np.ndarray:
            popped[where] = part = stack.pop_bins(bins)
            return part

        self.walk(pop)
        return popped

    def reconstruct(self, symbols: np.ndarray) -> np.ndarray:
        """The levels that symbols decode to."""
        return self.walk(lambda where, bins: symbols[where])


class Uniform(CodedDistribution):
    """The uniform distribution of whole numbers below ``2 ** bits``."""

    def __init__(self, shape: tuple[int, ...], bits: int) -> None:
        self.shape, self.bits = shape, bits

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`CodedDistribution.push`."""
        stack.push_uniform(symbols, self.bits)

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`CodedDistribution.pop`."""
        return stack.pop_uniform(self.shape, self.bits)


KINDS: dict[str, type[Coder]] = {}


class Coder:
    """Makes distributions from raw whole numbers.

    Args:
        about: the settings, plain JSON.
        tables: the tables, int64.

    Raises:
        CodingError: for a table that is not valid.
    """

    name: str
    exponents: tuple[int, ...]  # the fractional bits of each raw number

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        self.about, self.tables = about, check_tables(tables)
        self.curves: dict[int, Curve] = {}

    @property
    def levels(self) -> int:
        """The number of levels of a pixel."""
        return int(self.about.get("levels", 2))

    def sharpest(self, step: int) -> int:
        """The rate by which distributions are widened if ``step`` levels are merged, see :meth:`Bins.widened`."""
        return 0

    def curve(self, shift: int) -> Curve:
        """The stored curve; always the same object for a shift, as it caches its inverse."""
        return self.curves.setdefault(shift, Curve(self.tables["curve"], shift))

    @abstractmethod
    def read(self, raw: Sequence[np.ndarray]) -> CodedDistribution:
        """The distribution for whole numbers with ``exponents`` fractional bits."""


class LatentCoder(Coder):
    """A coder of latents. Their places, and the values that networks read, are whole numbers."""

    exponent: int  # the fractional bits of values
    most: int  # the largest magnitude of a value

    @property
    @abstractmethod
    def latents(self) -> int:
        """The number of latents of an item."""

    @property
    def values_range(self) -> Range:
        """The range of values, and their shape after N."""
        return Range(0, self.most, (self.latents,))

    @abstractmethod
    def values(self, k: np.ndarray) -> np.ndarray:
        """The values of places, which networks read."""

    def coarser(self, bits: int) -> LatentCoder:
        """The same coder with fewer places, if its places are points of a grid."""
        return self


def kind(name: str) -> Callable[[type[C]], type[C]]:
    """Register a coder by the name under which it is stored."""

    def register(coder: type[C]) -> type[C]:
        coder.name = name
        KINDS[name] = coder
        return coder

    return register


def to_int64(raw: np.ndarray) -> np.ndarray:
    """The outputs of a program as int64."""
    return raw.astype(np.int64)


def make_curve(name: str, shift: int) -> Curve:
    """The curve of a family's distribution function."""
    function, reach = REACHES[name]
    return Curve(curve_values(function, reach, ENTRIES), shift)


def places_per_unit(name: str) -> float:
    """The number of positions of a curve in one standard unit."""
    return ENTRIES / (2 * REACHES[name][1]) * (1 << FRACTION)


def exponential_table() -> np.ndarray:
    """The table of e^-d for raw numbers d, down to where it vanishes."""
    d = np.arange(REACH << RAW) / (1 << RAW)
    return np.floor(np.exp(-d) * (1 << EXPONENTIALS) + 0.5).astype(np.int64)
