"""Coders of the prior p(z) of the top level: a single distribution, a mixture, or an autoregressive mixture."""

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
from ladle.coding.coders.autoregressive import AutoregressiveDistribution, Conditionals
from ladle.coding.coders.coder import (
    KINDS,
    CodedDistribution,
    IndependentElements,
    LatentCoder,
    check_tables,
    push_checked,
)
from ladle.coding.coders.latent import Grid
from ladle.coding.errors import CodingError
from ladle.coding.integer.program import Program


class CodedPrior(ABC):
    """The prior p(z) of any number of items."""

    name: str

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        self.about, self.tables = about, check_tables(tables)

    @abstractmethod
    def read(self, n: int, grid: Any) -> CodedDistribution:
        """The distribution of the places of n items, ``(n, D)``."""


class SinglePrior(CodedPrior):
    """A distribution of the posterior's family: ``loc`` with ``FINE`` fractional bits and raw ``scale``, ``(D,)``."""

    name = "one"

    def read(self, n: int, grid: Grid) -> CodedDistribution:
        """See :meth:`CodedPrior.read`."""
        loc, scale = _parameters(self.tables, (grid.latents,))
        return IndependentElements(repeat_items(grid.bins(loc[None, :, None], scale[None, :, None], None, FINE), n))


def _parameters(tables: Mapping[str, np.ndarray], shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The locations and scales, after a check of their shape."""
    loc, scale = tables["loc"], tables["scale"]
    if loc.shape != shape or scale.shape != shape:
        raise CodingError(f"a prior's parameters must be of shape {shape}, got {loc.shape} and {scale.shape}")
    return loc, scale


def repeat_items(bins: Bins, n: int) -> Bins:
    """The same distributions for n items: the parameters ``(1, D, K)`` repeated."""
    return bins.mapped(lambda a: np.repeat(a, n, 0))


class CodesPrior(CodedPrior):
    """A distribution of codes: ``about`` names its coder; the tables are the coder's tables and the raw numbers
    ``raw 0``, ``raw 1``, ..."""

    name = "codes"

    def read(self, n: int, grid: LatentCoder) -> CodedDistribution:
        """See :meth:`CodedPrior.read`."""
        raw = [self.tables[f"raw {i}"] for i in range(sum(key.startswith("raw ") for key in self.tables))]
        coder = KINDS[self.about["kind"]](self.about, self.tables)
        if not isinstance(coder, LatentCoder) or any(
            getattr(coder, key) != getattr(grid, key) for key in ("name", "latents", "values_range")
        ):
            raise CodingError(f"the prior must be over the posterior's codes, '{grid.name}', got '{coder.name}'")
        return coder.read([np.repeat(r[None], n, 0) for r in raw])


class MixturePrior(CodedPrior):
    """A mixture of K distributions of z: ``loc`` and ``scale`` ``(K, D)``, and ``rows``, the starts of the components.

    The component of a z is drawn from its responsibilities with bits of the stack.
    """

    name = "several"

    def read(self, n: int, grid: Grid) -> CodedDistribution:
        """See :meth:`CodedPrior.read`."""
        loc, scale = _parameters(self.tables, (len(self.tables["rows"]) - 1, grid.latents))
        bins = grid.bins(loc[..., None], scale[..., None], None, FINE)
        return _MixtureDistribution(bins, self.tables, n)


class _MixtureDistribution(CodedDistribution):
    """The distribution of z of n items, each from one of K components."""

    def __init__(self, bins: Bins, tables: Mapping[str, np.ndarray], n: int) -> None:
        self.bins, self.tables, self.n = bins, tables, n

    def _given(self, component: np.ndarray) -> Bins:
        """The distributions of items, given their components ``(n,)``."""
        return self.bins.mapped(lambda a: a[component])

    def _responsibilities(self, k: np.ndarray) -> np.ndarray:
        """The probabilities p(component | z) as starts, ``(n, K + 1)``."""
        rows = self.tables["rows"]
        logs = np.empty((len(k), len(self.bins.loc)), np.int64)
        for c in range(logs.shape[1]):
            _, count = loops_numpy.masses(k.reshape(-1), *self._given(np.full(len(k), c)).flat)
            prior = rows[c + 1] - rows[c]
            logs[:, c] = self._log(count).reshape(k.shape).sum(1) + self._log(prior)
        return loops_numpy.starts(logs, self.tables["exponentials"])

    def _log(self, count: np.ndarray) -> np.ndarray:
        """The natural logarithm of whole numbers up to ``2 ** PRECISION``, as raw numbers from a table."""
        _, size = np.frexp(np.asarray(count, np.float64))  # exact
        size = size.astype(np.int64)
        mantissa = (np.asarray(count) << (PRECISION + 1 - size)) >> (PRECISION - 8)
        return self.tables["logarithms"][mantissa] + self.tables["octaves"][size]

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`CodedDistribution.push`."""
        component = stack.pop_rows(self._responsibilities(symbols))
        push_checked(stack, symbols, self._given(component))
        stack.push_rows(component, np.repeat(self.tables["rows"][None], self.n, 0))

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`CodedDistribution.pop`."""
        component = stack.pop_rows(np.repeat(self.tables["rows"][None], self.n, 0))
        k = stack.pop_bins(self._given(component))
        stack.push_rows(component, self._responsibilities(k))
        return k


class AutoregressivePrior(CodedPrior):
    """An autoregressive mixture: a program, and in ``about`` the number of ``components``."""

    name = "sequential"

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray], program: Program) -> None:
        super().__init__(about, tables)
        self.program = program
        self._conditionals: dict[int, Conditionals] = {}  # by the bits of a place

    def read(self, n: int, grid: Grid) -> CodedDistribution:
        """See :meth:`CodedPrior.read`."""
        bits = grid.about["bits"]
        if bits not in self._conditionals:
            self._conditionals[bits] = Conditionals(self.program, grid, self.about["components"], dict(self.tables))
        return AutoregressiveDistribution(self._conditionals[bits], n)
