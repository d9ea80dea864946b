"""Distributions to code with, made of what an integer program says: one *coder* for each kind of them.

A coder is described by plain JSON and tables of whole numbers, both made once from a family of the model and stored
with it; from them and from raw whole numbers it makes :class:`Coded` distributions, which push and pop.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import numpy as np

from ladle.coding.ans.bins import Bins
from ladle.coding.ans.fixed_point import FRACTION, PRECISION, RAW, REACH, Curve, logistic, normal, rising
from ladle.coding.ans.stack import Stack
from ladle.coding.ans.streams import Streams
from ladle.coding.errors import CodingError
from ladle.coding.integer.program import LIMIT, Range

ENTRIES = 2048
RATE = 8  # bits of a pixel's rate beyond the curve's places
EXPONENTIALS = 20  # bits of an exponential
REACHES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], int]] = {"normal": (normal, 8), "logistic": (logistic, 16)}
RAW_NUMBERS = 2 * (REACH << RAW) + 1
SLOTS = 1 << PRECISION
TABLES: Mapping[str, tuple[int, int, int | None]] = {  # rows: the least and largest of their numbers, and how many
    "curve": (0, SLOTS, None), "rows": (0, SLOTS, None), "edges": (-LIMIT, LIMIT, None),
    "middles": (-LIMIT, LIMIT, None), "offset": (-LIMIT, LIMIT, None), "places": (-LIMIT, LIMIT, None),
    "steps": (-64, 64, None), "exponentials": (0, 1 << EXPONENTIALS, None),
    "rates": (0, 1 << 62, RAW_NUMBERS), "scales": (0, 1 << 40, RAW_NUMBERS),
    "logarithms": (0, 1 << 20, 512), "octaves": (0, 1 << 20, PRECISION + 2),
}  # fmt: skip

C = TypeVar("C", bound="Coder")


def sound(tables: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Tables, when they are as their readers need them: the inner loops check nothing.

    Raises:
        CodingError: naming one that is not.
    """
    for name, table in tables.items():
        low, high, length = TABLES.get(name, (0, 0, None))
        if name not in TABLES or (name == "edges" and table.shape == (0,)):  # around one place alone there are none
            continue
        must = f"table '{name}' must"
        if table.ndim != 1 or len(table) != (length or max(1, len(table))):
            raise CodingError(f"{must} be {length or 'some'} numbers in a row, got the shape {table.shape}")
        if table.min() < low or table.max() > high:
            raise CodingError(f"{must} lie in {low}..{high}, got {table.min()}..{table.max()}")
        if name in ("curve", "rows") and (table[0], table[-1]) != (0, SLOTS):
            raise CodingError(f"{must} go from 0 to {SLOTS}, got {table[0]} to {table[-1]}")
        if name in ("rows", "edges") and (table[1:] <= table[:-1]).any():
            raise CodingError(f"{must} rise")
        if name == "curve" and (table[1:] < table[:-1]).any():
            raise CodingError(f"{must} not fall")
        if name == "exponentials" and not table[0]:
            raise CodingError(f"{must} begin above 0")
    return tables


def alike(*parts: np.ndarray) -> None:
    """Check that parameters have one shape: the inner loops do not.

    Raises:
        CodingError: when they do not.
    """
    if any(part.shape != parts[0].shape for part in parts):
        raise CodingError(f"parameters must have one shape, got {', '.join(str(part.shape) for part in parts)}")


def put(stack: Stack | Streams, symbols: np.ndarray, bins: Bins) -> None:
    """Push bins, when there are such: the inner loops do not check.

    Raises:
        CodingError: when there are not.
    """
    n = len(bins.edges) + 1
    if symbols.shape != bins.shape or (symbols.size and not 0 <= symbols.min() <= symbols.max() < n):
        told = f"{symbols.min()}..{symbols.max()}" if symbols.size else "none"
        raise CodingError(f"what is coded must be 0..{n - 1} of the shape {bins.shape}, got {told} of {symbols.shape}")
    stack.push_bins(symbols, bins)


class Coded(ABC):
    """A distribution over arrays of whole numbers, or several, that can be pushed and popped."""

    @abstractmethod
    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """Put the symbols on the stack."""

    @abstractmethod
    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """Take symbols from the stack: the inverse of :meth:`push`."""


class Independent(Coded):
    """Elements by themselves."""

    def __init__(self, bins: Bins) -> None:
        self.bins = bins

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the symbols."""
        return self.bins.shape

    def nearest(self) -> np.ndarray:
        """The places of the centres."""
        return np.searchsorted(self.bins.edges, self.bins.loc[..., 0])

    def stepped(self, step: int, sharpest: int) -> Stepped:
        """The distribution of ``symbols // step``, see :meth:`Bins.blunted`."""
        return Stepped(self.bins.blunted(sharpest), step)

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`Coded.push`."""
        put(stack, symbols, self.bins)

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`Coded.pop`."""
        return stack.pop_bins(self.bins)


class Stepped(Coded):
    """Elements by themselves, some neighbouring levels gathered into one symbol."""

    def __init__(self, bins: Bins, step: int) -> None:
        self.bins, self.step, self.gathered = bins, step, bins.gathered(step)

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`Coded.push`."""
        put(stack, symbols, self.gathered)

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`Coded.pop`."""
        return stack.pop_bins(self.gathered)

    def restored(self, symbols: np.ndarray) -> np.ndarray:
        """The median level of each symbol."""
        return self.bins.middle(symbols * self.step, (symbols + 1) * self.step)


class Visited(Coded):
    """Elements that are visited some at a time, each given the ones before; of every one, ``step`` neighbouring levels
    may be gathered into one symbol.

    Args:
        shape: of the symbols.
    """

    step = 1
    sharpest = 0

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def stepped(self, step: int, sharpest: int) -> Self:
        """The distribution of ``symbols // step``, each element given what comes back of those before; see
        :meth:`Bins.blunted`."""
        changed = copy.copy(self)
        changed.step, changed.sharpest = step, sharpest
        return changed

    @abstractmethod
    def walk(self, choose: Callable[[Any, Bins], np.ndarray]) -> np.ndarray:
        """Visit all: ``choose(where, bins)`` says the symbols at an index of the array, from their distributions.
        Returns the levels."""

    def chosen(self, choose: Callable[[Any, Bins], np.ndarray], where: Any, bins: Bins) -> np.ndarray:
        """The levels of the symbols that are chosen somewhere."""
        bins = bins.blunted(self.sharpest)
        symbols = choose(where, bins.gathered(self.step))
        return symbols if self.step == 1 else bins.middle(symbols * self.step, (symbols + 1) * self.step)

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`Coded.push`."""
        given, made = symbols.astype(np.int64), list[tuple[np.ndarray, Bins]]()

        def known(where: Any, bins: Bins) -> np.ndarray:
            made.append((given[where], bins))
            return made[-1][0]

        self.walk(known)
        for some, bins in reversed(made):
            put(stack, some, bins)

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`Coded.pop`."""
        popped = np.empty(self.shape, np.int64)

        def one(where: Any, bins: Bins) -> np.ndarray:
            popped[where] = found = stack.pop_bins(bins)
            return found

        self.walk(one)
        return popped

    def restored(self, symbols: np.ndarray) -> np.ndarray:
        """The levels that symbols stand for."""
        return self.walk(lambda where, bins: symbols[where])


class Uniform(Coded):
    """Whole numbers below ``2 ** bits``."""

    def __init__(self, shape: tuple[int, ...], bits: int) -> None:
        self.shape, self.bits = shape, bits

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`Coded.push`."""
        stack.push_uniform(symbols, self.bits)

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`Coded.pop`."""
        return stack.pop_uniform(self.shape, self.bits)


KINDS: dict[str, type[Coder]] = {}


class Coder:
    """Makes coded distributions from raw whole numbers.

    Args:
        about: plain JSON.
        tables: whole numbers, int64.

    Raises:
        CodingError: for a table that no coder writes.
    """

    name: str
    exponents: tuple[int, ...]  # bits after the point of each raw number

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        self.about, self.tables = about, sound(tables)
        self.curves: dict[int, Curve] = {}

    @property
    def levels(self) -> int:
        """How many levels a number of an item has."""
        return int(self.about.get("levels", 2))

    def sharpest(self, step: int) -> int:
        """The rate to blunt distributions by where ``step`` levels are not told apart, see :meth:`Bins.blunted`."""
        return 0

    def curve(self, shift: int) -> Curve:
        """The curve that was stored, always the same one, as it remembers what it has been asked."""
        return self.curves.setdefault(shift, Curve(self.tables["curve"], shift))

    @abstractmethod
    def read(self, raw: Sequence[np.ndarray]) -> Coded:
        """The distribution, from whole numbers of ``exponents`` bits after the point."""


class LatentCoder(Coder):
    """A coder of latents: their places are whole numbers, and so are the values that nets read."""

    exponent: int  # bits after the point of values
    most: int  # the largest magnitude of a value

    @property
    @abstractmethod
    def latents(self) -> int:
        """The number of places of an item."""

    @property
    def values_range(self) -> Range:
        """What values can be, and their shape after N."""
        return Range(0, self.most, (self.latents,))

    @abstractmethod
    def values(self, k: np.ndarray) -> np.ndarray:
        """What nets read of places."""

    def coarser(self, bits: int) -> LatentCoder:
        """The same with fewer places, where there are places between."""
        return self


def kind(name: str) -> Callable[[type[C]], type[C]]:
    """Give a kind of coder the name that it is stored by."""

    def named(coder: type[C]) -> type[C]:
        coder.name = name
        KINDS[name] = coder
        return coder

    return named


def whole(raw: np.ndarray) -> np.ndarray:
    """What a program says, as int64."""
    return raw.astype(np.int64)


def curve(name: str, shift: int) -> Curve:
    """The curve of a family's distribution function."""
    function, reach = REACHES[name]
    return Curve(rising(function, reach, ENTRIES), shift)


def places(name: str) -> float:
    """The places of a curve in one standard unit."""
    return ENTRIES / (2 * REACHES[name][1]) * (1 << FRACTION)


def exponentials() -> np.ndarray:
    """e^-d for d of raw numbers, down to where nothing is left."""
    d = np.arange(REACH << RAW) / (1 << RAW)
    return np.floor(np.exp(-d) * (1 << EXPONENTIALS) + 0.5).astype(np.int64)
