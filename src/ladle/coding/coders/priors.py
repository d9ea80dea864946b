"""Coders of p(z) at the top: one member of a family, a mixture of them, an autoregressive mixture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.bins import Bins
from ladle.coding.ans.fixed_point import FINE, PRECISION
from ladle.coding.ans.stack import Stack
from ladle.coding.ans.streams import Streams
from ladle.coding.coders.autoregressive import Chained, Conditionals
from ladle.coding.coders.coder import KINDS, Coded, Independent, LatentCoder, put, sound
from ladle.coding.coders.latent import Grid
from ladle.coding.errors import CodingError
from ladle.coding.integer.program import Program


class CodedPrior(ABC):
    """p(z) of any number of items."""

    name: str

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        self.about, self.tables = about, sound(tables)

    @abstractmethod
    def read(self, n: int, grid: Any) -> Coded:
        """The prior of n items, over places ``(n, D)``."""


class One(CodedPrior):
    """A member of the posterior's family: ``loc`` of ``FINE`` bits and raw ``scale``, ``(D,)`` each."""

    name = "one"

    def read(self, n: int, grid: Grid) -> Coded:
        """See :meth:`CodedPrior.read`."""
        loc, scale = _members(self.tables, (grid.latents,))
        return Independent(spread(grid.bins(loc[None, :, None], scale[None, :, None], None, FINE), n))


def _members(tables: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Locations and scales, when they have this shape."""
    loc, scale = tables["loc"], tables["scale"]
    if loc.shape != shape or scale.shape != shape:
        raise CodingError(f"a prior's parameters must be of shape {shape}, got {loc.shape} and {scale.shape}")
    return loc, scale


def spread(bins: Bins, n: int) -> Bins:
    """The same distributions for n items: the parameters ``(1, D, K)`` repeated."""
    return bins.changed(lambda a: np.repeat(a, n, 0))


class Codes(CodedPrior):
    """A member of a family of codes: ``about`` names its coder, whose tables are there, and the raw numbers as
    ``raw 0``, ``raw 1`` ..."""

    name = "codes"

    def read(self, n: int, grid: LatentCoder) -> Coded:
        """See :meth:`CodedPrior.read`."""
        raw = [self.tables[f"raw {i}"] for i in range(sum(key.startswith("raw ") for key in self.tables))]
        coder = KINDS[self.about["kind"]](self.about, self.tables)
        if not isinstance(coder, LatentCoder) or any(
            getattr(coder, what) != getattr(grid, what) for what in ("name", "latents", "values_range")
        ):
            raise CodingError(f"a prior over codes must be of the posterior's codes, '{grid.name}', got '{coder.name}'")
        return coder.read([np.repeat(r[None], n, 0) for r in raw])


class Several(CodedPrior):
    """A mixture of K members over the whole z: ``loc`` and ``scale`` ``(K, D)``, ``rows`` the starts of the
    components. Which one a z comes from is drawn from its exact responsibilities, with bits of the stack."""

    name = "several"

    def read(self, n: int, grid: Grid) -> Coded:
        """See :meth:`CodedPrior.read`."""
        loc, scale = _members(self.tables, (len(self.tables["rows"]) - 1, grid.latents))
        bins = grid.bins(loc[..., None], scale[..., None], None, FINE)
        return _Components(bins, self.tables, n)


class _Components(Coded):
    """z of n items, each from one of K components."""

    def __init__(self, bins: Bins, tables: Mapping[str, np.ndarray], n: int) -> None:
        self.bins, self.tables, self.n = bins, tables, n

    def _of(self, component: np.ndarray) -> Bins:
        """The distributions of items of these components, ``(n,)``."""
        return self.bins.changed(lambda a: a[component])

    def _responsibilities(self, k: np.ndarray) -> np.ndarray:
        """p(component | z) as starts, ``(n, K + 1)``."""
        rows = self.tables["rows"]
        logs = np.empty((len(k), len(self.bins.loc)), np.int64)
        for c in range(logs.shape[1]):
            _, count = loops_numpy.masses(k.reshape(-1), *self._of(np.full(len(k), c)).flat)
            prior = rows[c + 1] - rows[c]
            logs[:, c] = self._log(count).reshape(k.shape).sum(1) + self._log(prior)
        return loops_numpy.starts(logs, self.tables["exponentials"])

    def _log(self, count: np.ndarray) -> np.ndarray:
        """The natural logarithm of whole numbers up to ``2 ** PRECISION``, in raw numbers, by a table."""
        _, size = np.frexp(np.asarray(count, np.float64))  # exact
        size = size.astype(np.int64)
        mantissa = (np.asarray(count) << (PRECISION + 1 - size)) >> (PRECISION - 8)
        return self.tables["logarithms"][mantissa] + self.tables["octaves"][size]

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`Coded.push`."""
        component = stack.pop_rows(self._responsibilities(symbols))
        put(stack, symbols, self._of(component))
        stack.push_rows(component, np.repeat(self.tables["rows"][None], self.n, 0))

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`Coded.pop`."""
        component = stack.pop_rows(np.repeat(self.tables["rows"][None], self.n, 0))
        k = stack.pop_bins(self._of(component))
        stack.push_rows(component, self._responsibilities(k))
        return k


class Sequential(CodedPrior):
    """An autoregressive mixture: a program, and ``about`` the number of ``components``."""

    name = "sequential"

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray], program: Program) -> None:
        super().__init__(about, tables)
        self.program = program
        self._made: dict[int, Conditionals] = {}  # by the bits of a place

    def read(self, n: int, grid: Grid) -> Coded:
        """See :meth:`CodedPrior.read`."""
        bits = grid.about["bits"]
        if bits not in self._made:
            self._made[bits] = Conditionals(self.program, grid, self.about["components"], dict(self.tables))
        return Chained(self._made[bits], n)
