"""Coders of continuous latents: on a grid of even steps, or between the quantiles of their prior.

The top level is discretised on a grid, ``z = (k - n/2) 2 ** -j``, with a step for every dimension that is smaller than
the width of the posteriors. Below the top, posteriors are relative to their priors, and the bins follow the prior: n
bins of equal prior probability, so that the prior's code of a place k is its plain bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle.coding.ans.bins import Bins
from ladle.coding.ans.fixed_point import FINE, PRECISION, RAW, UNIT, look_up, raw_table
from ladle.coding.coders.coder import (
    CodedDistribution,
    Coder,
    IndependentElements,
    LatentCoder,
    Uniform,
    check_shapes,
    kind,
    make_curve,
    places_per_unit,
    to_int64,
)
from ladle.coding.errors import CodingError, NotCodable
from ladle.coding.integer.program import Range
from ladle.families import Family
from ladle.families.real import LocationScale, LogisticFamily, NormalFamily

STEP = 16  # fractional bits of a rate beyond the positions of the curve
BITS = 12  # bits of a place between the quantiles of a prior
EVEN = 8  # reach of even steps, in scales of the prior
MOST_BITS = 14  # the most bits of a place on a grid
FARTHEST = 1 << 18  # the largest magnitude of z below the top
CURVES: dict[type[Family], str] = {NormalFamily: "normal", LogisticFamily: "logistic"}


def curve_name(family: Family) -> str:
    """The name of the curve of a location-scale family.

    Raises:
        NotCodable: for a family without a curve.
    """
    if type(family) not in CURVES:
        supported = ", ".join(f"family/{t.__name__.removesuffix('Family').lower()}" for t in CURVES)
        raise NotCodable(f"latents of {type(family).__name__} have no coder; families that fit: {supported}")
    return CURVES[type(family)]


def rate_table(name: str, scale: Callable[[Tensor], Tensor]) -> np.ndarray:
    """The table from raw scales to rates for a unit of ``2 ** -UNIT``; ``scale`` is the function of a raw scale."""
    per = places_per_unit(name) * (1 << STEP) / (1 << UNIT)
    return raw_table(lambda raw: per / scale(torch.from_numpy(raw)).numpy())


@kind("grid")
class Grid(LatentCoder):
    """Location-scale posteriors and priors on a grid, and mixtures of K of them for each dimension."""

    exponents = (FINE, RAW)

    @classmethod
    def of(cls, family: LocationScale, loc: Tensor, scale: Tensor) -> Grid:
        """A grid for posteriors ``(N, D)``, with steps of a quarter to half of the smaller scales."""
        name = curve_name(family)
        narrow = torch.quantile(scale.double(), 0.1, dim=0)
        steps = (torch.ceil(-torch.log2(narrow)).long() + 1).clamp(min=0)
        reach = ((loc.abs() + 6 * scale).double().amax(0) * torch.exp2(steps.double())).max()
        bits = min(MOST_BITS, int(torch.log2(reach).ceil()) + 1)
        wide = torch.log2((loc.abs() + 6 * scale).double().amax(0)).ceil().long()
        steps = torch.minimum(steps, bits - 1 - wide)  # coarser steps if the range needs too many places
        steps = torch.minimum(steps, steps.min() + 8).clamp(min=0)
        about = {"bits": bits, "finest": int(steps.max())}
        tables = {"curve": make_curve(name, 0).values, "rates": rate_table(name, family.scale), "steps": steps.numpy()}
        return cls(about, tables)

    def coarser(self, bits: int) -> Grid:
        """The same grid with ``bits`` bits less for a place."""
        about = {**self.about, "bits": max(1, self.about["bits"] - bits)}
        return Grid(about, {**self.tables, "steps": self.tables["steps"] - (self.about["bits"] - about["bits"])})

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        self.exponent = int(about["finest"])
        steps = tables["steps"]
        if about["bits"] < 1 or steps.max() > self.exponent:
            found = f"{about['bits']} and {steps.max()}"
            raise CodingError(f"a grid must have bits for a place, and steps up to {self.exponent}, got {found}")
        self.most = (1 << (about["bits"] - 1)) << int(self.exponent - steps.min())

    @property
    def latents(self) -> int:
        """See :attr:`LatentCoder.latents`."""
        return len(self.tables["steps"])

    @property
    def values_range(self) -> Range:
        """See :attr:`LatentCoder.values_range`."""
        return Range(-self.most, self.most, (self.latents,))

    def values(self, k: np.ndarray, dimensions: slice = slice(None)) -> np.ndarray:
        """z of the places k, ``(N, D)``, as whole numbers with ``exponent`` fractional bits."""
        shift = self.exponent - self.tables["steps"][dimensions]
        return (k - (1 << (self.about["bits"] - 1))) << shift

    def bins(self, loc: np.ndarray, scale: np.ndarray, weight: np.ndarray | None, fine: int,
             dimensions: slice = slice(None), rates: np.ndarray | None = None) -> Bins:  # fmt: skip
        """The bins of the grid for locations with ``fine`` fractional bits, and raw scales, ``(N, D, K)``."""
        steps = self.tables["steps"][dimensions][:, None]
        up = steps + UNIT - fine
        loc = (loc << np.maximum(up, 0)) >> np.maximum(-up, 0)
        rate = look_up(self.tables["rates"] if rates is None else rates, scale)
        rate = (rate << np.maximum(-steps, 0)) >> np.maximum(steps, 0)
        if weight is None:
            weight = np.full(loc.shape, self.room)
        check_shapes(loc, rate, weight)
        return Bins(self.edges, loc, rate, weight, self.curve(STEP))

    @property
    def room(self) -> int:
        """The sum of weights."""
        return (1 << PRECISION) - (1 << self.about["bits"])

    @property
    def edges(self) -> np.ndarray:
        """The edges between places, with ``UNIT`` fractional bits of a step."""
        half = 1 << (self.about["bits"] - 1)
        return (np.arange(1 - half, half, dtype=np.int64) << UNIT) - (1 << (UNIT - 1))

    def read(self, raw: Sequence[np.ndarray]) -> CodedDistribution:
        """The distribution for locations with ``FINE`` fractional bits, and raw scales, ``(N, D)``."""
        loc, scale = (to_int64(r)[..., None] for r in raw)
        check_shapes(loc, scale)
        if loc.shape[1:-1] != (self.latents,):
            raise CodingError(f"there must be {self.latents} latents, got {loc.shape[1:-1]}")
        return IndependentElements(self.bins(loc, scale, None, FINE))


@kind("quantiles")
class Quantiles(Coder):
    """Latents below the top: places are positions of z relative to its prior, in units of the prior's scale."""

    exponents = (FINE, RAW)

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        found = len(tables["middles"])
        if found != len(tables["edges"]) + 1 or ("even" not in about and found != 1 << about["bits"]):
            raise CodingError(f"there must be 2 ** {about['bits']} middles, one more than edges, got {found} middles")

    @classmethod
    def of(cls, family: LocationScale) -> Quantiles:
        """The coder of a family."""
        name = curve_name(family)
        at_share = NormalDist().inv_cdf if name == "normal" else (lambda u: float(np.log(u) - np.log1p(-u)))
        n = 1 << BITS

        def fine(u: float) -> int:
            return round(at_share(u) * (1 << FINE))

        per = places_per_unit(name) * (1 << STEP) / (1 << FINE)
        scales = raw_table(lambda raw: family.scale(torch.from_numpy(raw)).numpy() * (1 << FINE))
        tables = {
            "curve": make_curve(name, 0).values,
            "edges": np.array([fine(k / n) for k in range(1, n)], np.int64),
            "middles": np.array([fine((k + 0.5) / n) for k in range(n)], np.int64),
            "rates": raw_table(lambda raw: per / family.scale(torch.from_numpy(raw)).numpy()),
            "scales": scales,
        }
        return cls({"bits": BITS}, tables)

    def coarser(self, bits: int) -> Quantiles:
        """Even steps of a quarter of the prior's scale, or 2, 4, ... times that, for random access, where z is not
        drawn: most z are zero steps from the prior's location, and cost almost nothing."""
        step = 1 << (FINE - 2 + bits)
        most = EVEN * (1 << FINE) // step
        middles = np.arange(-most, most + 1, dtype=np.int64) * step
        tables = {**self.tables, "middles": middles, "edges": middles[1:] - step // 2}
        return Quantiles({**self.about, "even": True}, tables)

    def prior(self, shape: tuple[int, ...]) -> CodedDistribution:
        """The prior of places, which is uniform between quantiles."""
        if "even" not in self.about:
            return Uniform(shape, self.about["bits"])
        zeros = np.zeros(shape, np.int64)
        return self.read([zeros, zeros])

    def read(self, raw: Sequence[np.ndarray]) -> CodedDistribution:
        """The posterior for relative locations with ``FINE`` fractional bits, and raw scales."""
        loc, scale = (to_int64(r)[..., None] for r in raw)
        check_shapes(loc, scale)
        weight = np.full(loc.shape, (1 << PRECISION) - len(self.tables["middles"]))
        rate = look_up(self.tables["rates"], scale)
        return IndependentElements(Bins(self.tables["edges"], loc, rate, weight, self.curve(STEP)))

    def values(self, k: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """z of the places k, with ``FINE`` fractional bits, given such locations and raw scales of the prior."""
        step = self.tables["middles"][k] * look_up(self.tables["scales"], to_int64(scale)) >> FINE
        return np.clip(to_int64(loc) + step, -FARTHEST, FARTHEST)
