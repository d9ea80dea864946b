"""Distributions over whole numbers, computed in whole numbers: bins of a mixture of curves.

The bins ``0 .. n-1`` are separated by ``n - 1`` edges. The number of the ``2 ** PRECISION`` slots below bin k is::

    F(0) = 0      F(k) = k + (sum_c weight_c S((edge_k - loc_c) rate_c) >> PRECISION)      F(n) = 2 ** PRECISION

where the curve S rises from 0 to ``2 ** PRECISION``. The weights sum to ``2 ** PRECISION - n``, so every bin has at
least one slot, and F increases for all parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.fixed_point import Curve


def loops() -> Any:
    """The inner loops: in machine code if numba is installed, else in NumPy, with the same results."""
    try:
        from ladle.coding.ans import loops_numba
    except ImportError:
        return loops_numpy
    return loops_numba


class Bins(NamedTuple):
    """Distributions over bins, one for each element.

    Args:
        edges: (n - 1,) int64, increasing; the same for all elements.
        loc: ``(*shape, K)`` int64, in the units of the edges.
        rate: ``(*shape, K)`` int64, positions of the curve per unit, in ``2 ** -curve.shift``.
        weight: ``(*shape, K)`` int64, not negative; the K weights of an element sum to ``2 ** PRECISION - n``.
        curve: the curve S.

    >>> from ladle.coding.ans.fixed_point import PRECISION, curve_values, logistic
    >>> curve, one = Curve(curve_values(logistic, 16, 2048), shift=0), np.ones((3, 1), np.int64)
    >>> Bins(np.array([0]), 0 * one, one, ((1 << PRECISION) - 2) * one, curve).counts().tolist()
    [[8388608, 8388608], [8388608, 8388608], [8388608, 8388608]]
    """

    edges: np.ndarray
    loc: np.ndarray
    rate: np.ndarray
    weight: np.ndarray
    curve: Curve

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the elements."""
        return self.loc.shape[:-1]

    @property
    def flat(self) -> tuple[Any, ...]:
        """The arguments of the inner loops: the elements in one row."""
        k = self.loc.shape[-1]
        return (self.edges, *(np.ascontiguousarray(a).reshape(-1, k) for a in self[1:4]), self.curve)

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> Bins:
        """The distributions with a function applied to every parameter."""
        return self._replace(loc=change(self.loc), rate=change(self.rate), weight=change(self.weight))

    def component(self, c: int) -> Bins:
        """The distributions of one of the K curves alone."""
        return self.mapped(lambda a: a[..., c : c + 1])

    def dimension(self, i: int) -> Bins:
        """One of D columns of elements ``(N, D)``."""
        return self.mapped(lambda a: a[:, i])

    def merged(self, step: int) -> Bins:
        """The distributions with every ``step`` neighbouring bins merged into one."""
        edges = self.edges[step - 1 :: step]
        weight = self.weight.copy()
        weight[..., 0] += len(self.edges) - len(edges)
        return self._replace(edges=edges, weight=weight)

    def widened(self, sharpest: int) -> Bins:
        """The distributions with the scale of rate ``sharpest`` added to every scale; with 0, the same ones."""
        if not sharpest:
            return self
        rate = self.rate.astype(np.int64)
        return self._replace(rate=(rate * sharpest // (rate + sharpest)).astype(self.rate.dtype))

    def median(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """The median among the bins from ``low`` to before ``high``."""
        inner = loops()
        edges, *parameters = self.flat
        high = np.minimum(high, len(edges) + 1).reshape(-1)
        first, _ = inner.masses(low.reshape(-1), edges, *parameters)
        start, count = inner.masses(high - 1, edges, *parameters)
        return inner.find((first + start + count) >> 1, edges, *parameters).reshape(self.shape)

    def counts(self) -> np.ndarray:
        """The slots of every bin, ``(*shape, n)``, for tests."""
        n = len(self.edges) + 1
        edges, *parameters = self.flat
        rows = [loops_numpy.masses(np.full(parameters[0].shape[0], s), edges, *parameters)[1] for s in range(n)]
        return np.stack(rows, -1).reshape(*self.shape, n)
