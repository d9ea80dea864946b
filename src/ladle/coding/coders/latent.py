"""Coders of latents: on a grid of even steps, or between the quantiles of their prior.

The top level lives on a grid, ``z = (k - n/2) 2 ** -j``, with a step of its own for every dimension, finer than any
posterior is wide. Below the top every posterior is a step from its prior, so the grid follows the prior: n bins as
likely as each other, which makes the prior's bits the plain bits of k.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle.coding.ans.bins import Bins
from ladle.coding.ans.fixed_point import FINE, PRECISION, RAW, UNIT, at, raw_table
from ladle.coding.coders.coder import Coded, Coder, Independent, LatentCoder, Uniform, alike, curve, kind, places, whole
from ladle.coding.errors import CodingError, NotCodable
from ladle.coding.integer.program import Range
from ladle.families import Family
from ladle.families.real import LocationScale, LogisticFamily, NormalFamily

STEP = 16  # bits of a rate beyond the curve's places
BITS = 12  # of a place between the quantiles of a prior
EVEN = 8  # scales of the prior that even steps reach
MOST_BITS = 14  # of a place on a grid
FARTHEST = 1 << 18  # that a z below the top can be
CURVES: dict[type[Family], str] = {NormalFamily: "normal", LogisticFamily: "logistic"}


def curve_of(family: Family) -> str:
    """The name of the curve of a family of locations and scales.

    Raises:
        NotCodable: where there is none.
    """
    if type(family) not in CURVES:
        known = ", ".join(f"family/{t.__name__.removesuffix('Family').lower()}" for t in CURVES)
        raise NotCodable(f"latents of {type(family).__name__} have no coder; families that fit: {known}")
    return CURVES[type(family)]


def rates(name: str, scale: Callable[[Tensor], Tensor]) -> np.ndarray:
    """The table from raw scales to rates, for a unit of ``2 ** -UNIT``; ``scale`` makes a scale of a raw one."""
    per = places(name) * (1 << STEP) / (1 << UNIT)
    return raw_table(lambda raw: per / scale(torch.from_numpy(raw)).numpy())


@kind("grid")
class Grid(LatentCoder):
    """Posteriors and priors of a location and a scale, on a grid; also mixtures of K of them for each dimension."""

    exponents = (FINE, RAW)

    @classmethod
    def of(cls, family: LocationScale, loc: Tensor, scale: Tensor) -> Grid:
        """A grid for posteriors like these, ``(N, D)``: steps of a quarter to half of the narrower ones' scales."""
        name = curve_of(family)
        narrow = torch.quantile(scale.double(), 0.1, dim=0)
        steps = (torch.ceil(-torch.log2(narrow)).long() + 1).clamp(min=0)
        reach = ((loc.abs() + 6 * scale).double().amax(0) * torch.exp2(steps.double())).max()
        bits = min(MOST_BITS, int(torch.log2(reach).ceil()) + 1)
        wide = torch.log2((loc.abs() + 6 * scale).double().amax(0)).ceil().long()
        steps = torch.minimum(steps, bits - 1 - wide)  # where not all fits, steps are coarser
        steps = torch.minimum(steps, steps.min() + 8).clamp(min=0)
        about = {"bits": bits, "finest": int(steps.max())}
        tables = {"curve": curve(name, 0).values, "rates": rates(name, family.scale), "steps": steps.numpy()}
        return cls(about, tables)

    def coarser(self, bits: int) -> Grid:
        """The same grid with so many bits less for a place."""
        about = {**self.about, "bits": max(1, self.about["bits"] - bits)}
        return Grid(about, {**self.tables, "steps": self.tables["steps"] - (self.about["bits"] - about["bits"])})

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        self.exponent = int(about["finest"])
        steps = tables["steps"]
        if about["bits"] < 1 or steps.max() > self.exponent:
            told = f"{about['bits']} and {steps.max()}"
            raise CodingError(f"a grid must have bits for a place, and steps up to {self.exponent}, got {told}")
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
        """z of the places k, ``(N, D)``, as whole numbers of ``exponent`` bits after the point."""
        shift = self.exponent - self.tables["steps"][dimensions]
        return (k - (1 << (self.about["bits"] - 1))) << shift

    def bins(self, loc: np.ndarray, scale: np.ndarray, weight: np.ndarray | None, fine: int,
             dimensions: slice = slice(None), rates: np.ndarray | None = None) -> Bins:  # fmt: skip
        """Locations of ``fine`` bits after the point and raw scales, ``(N, D, K)``, as bins of the grid."""
        steps = self.tables["steps"][dimensions][:, None]
        up = steps + UNIT - fine
        loc = (loc << np.maximum(up, 0)) >> np.maximum(-up, 0)
        rate = at(self.tables["rates"] if rates is None else rates, scale)
        rate = (rate << np.maximum(-steps, 0)) >> np.maximum(steps, 0)
        if weight is None:
            weight = np.full(loc.shape, self.room)
        alike(loc, rate, weight)
        return Bins(self.edges, loc, rate, weight, self.curve(STEP))

    @property
    def room(self) -> int:
        """What weights sum to."""
        return (1 << PRECISION) - (1 << self.about["bits"])

    @property
    def edges(self) -> np.ndarray:
        """Between the places, in ``UNIT`` bits of a step."""
        half = 1 << (self.about["bits"] - 1)
        return (np.arange(1 - half, half, dtype=np.int64) << UNIT) - (1 << (UNIT - 1))

    def read(self, raw: Sequence[np.ndarray]) -> Coded:
        """From locations of ``FINE`` bits and raw scales, ``(N, D)``."""
        loc, scale = (whole(r)[..., None] for r in raw)
        alike(loc, scale)
        if loc.shape[1:-1] != (self.latents,):
            raise CodingError(f"there must be {self.latents} latents, got {loc.shape[1:-1]}")
        return Independent(self.bins(loc, scale, None, FINE))


@kind("quantiles")
class Quantiles(Coder):
    """A level below the top: z is a step from its prior, in units of its scale."""

    exponents = (FINE, RAW)

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        found = len(tables["middles"])
        if found != len(tables["edges"]) + 1 or ("even" not in about and found != 1 << about["bits"]):
            raise CodingError(f"there must be 2 ** {about['bits']} middles, one more than edges, got {found}")

    @classmethod
    def of(cls, family: LocationScale) -> Quantiles:
        """The coder of a family."""
        name = curve_of(family)
        at_share = NormalDist().inv_cdf if name == "normal" else (lambda u: float(np.log(u) - np.log1p(-u)))
        n = 1 << BITS

        def fine(u: float) -> int:
            return round(at_share(u) * (1 << FINE))

        per = places(name) * (1 << STEP) / (1 << FINE)
        scales = raw_table(lambda raw: family.scale(torch.from_numpy(raw)).numpy() * (1 << FINE))
        tables = {
            "curve": curve(name, 0).values,
            "edges": np.array([fine(k / n) for k in range(1, n)], np.int64),
            "middles": np.array([fine((k + 0.5) / n) for k in range(n)], np.int64),
            "rates": raw_table(lambda raw: per / family.scale(torch.from_numpy(raw)).numpy()),
            "scales": scales,
        }
        return cls({"bits": BITS}, tables)

    def coarser(self, bits: int) -> Quantiles:
        """Even steps of a quarter of the prior's scale, or 2, 4, ... times that, for z that is chosen, not drawn: most
        are zero steps off, and cost next to nothing."""
        step = 1 << (FINE - 2 + bits)
        most = EVEN * (1 << FINE) // step
        middles = np.arange(-most, most + 1, dtype=np.int64) * step
        tables = {**self.tables, "middles": middles, "edges": middles[1:] - step // 2}
        return Quantiles({**self.about, "even": True}, tables)

    def prior(self, shape: tuple[int, ...]) -> Coded:
        """p(place): all are as likely, between quantiles."""
        if "even" not in self.about:
            return Uniform(shape, self.about["bits"])
        zeros = np.zeros(shape, np.int64)
        return self.read([zeros, zeros])

    def read(self, raw: Sequence[np.ndarray]) -> Coded:
        """The posterior, from steps of ``FINE`` bits and raw scales."""
        loc, scale = (whole(r)[..., None] for r in raw)
        alike(loc, scale)
        weight = np.full(loc.shape, (1 << PRECISION) - len(self.tables["middles"]))
        return Independent(Bins(self.tables["edges"], loc, at(self.tables["rates"], scale), weight, self.curve(STEP)))

    def values(self, k: np.ndarray, loc: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """z of the places k under a prior of these locations, of ``FINE`` bits, and raw scales: ``FINE`` bits."""
        step = self.tables["middles"][k] * at(self.tables["scales"], whole(scale)) >> FINE
        return np.clip(whole(loc) + step, -FARTHEST, FARTHEST)
