"""Coders of p(x|z): bits, grey levels, colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.bins import Bins, loops
from ladle.coding.ans.fixed_point import FINE, PRECISION, RAW, UNIT, look_up, raw_table
from ladle.coding.coders.coder import (
    RATE,
    CodedDistribution,
    Coder,
    DependentElements,
    IndependentElements,
    check_shapes,
    exponential_table,
    kind,
    make_curve,
    places_per_unit,
    to_int64,
)
from ladle.coding.errors import CodingError
from ladle.families import Family
from ladle.families.colour import ColourMixtureFamily
from ladle.families.discrete import BernoulliFamily
from ladle.families.pixels import DiscretisedLogisticFamily, DiscretisedLogisticMixtureFamily


@kind("bits")
class Bits(Coder):
    """Zero or one, given a logit: ``P(0) = S(-logit)``."""

    exponents = (RAW,)

    @classmethod
    def of(cls, family: BernoulliFamily) -> Bits:
        """The coder of a family."""
        return cls({}, {"curve": make_curve("logistic", 0).values})

    def read(self, raw: Sequence[np.ndarray]) -> CodedDistribution:
        """The distribution for logits, ``(N, *event)``."""
        loc = to_int64(raw[0])[..., None]
        one = np.ones_like(loc)
        rate = int(places_per_unit("logistic")) >> RAW
        return IndependentElements(Bins(np.array([0]), loc, rate * one, ((1 << PRECISION) - 2) * one, self.curve(0)))


class MixtureCoder(Coder):
    """Levels of mixtures of K discretised logistic distributions."""

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        if self.levels < 2:
            raise CodingError(f"there must be at least 2 levels, got {self.levels}")

    def check(self, *raw: np.ndarray) -> None:
        """Check that raw numbers ``(..., K)`` have the same shape, and as many components as the tables.

        Raises:
            CodingError: when they do not.
        """
        check_shapes(*raw)
        if raw[0].shape[-1] != len(self.tables["offset"]):
            raise CodingError(f"there must be {len(self.tables['offset'])} components, got {raw[0].shape[-1]}")


@kind("grey")
class Grey(MixtureCoder):
    """Levels of a mixture of K discretised logistic distributions; edges have ``UNIT`` fractional bits of a level."""

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        shared = "scale" in about  # one scale for all pixels
        self.exponents = (RAW, FINE, RAW) if about["mixed"] else (FINE,) if shared else (FINE, RAW)

    @classmethod
    def of(cls, family: DiscretisedLogisticFamily | DiscretisedLogisticMixtureFamily) -> Grey:
        """The coder of a family."""
        mixed = isinstance(family, DiscretisedLogisticMixtureFamily)
        components = family.components if isinstance(family, DiscretisedLogisticMixtureFamily) else 1
        shared = getattr(family, "raw_scale", None)
        about = {"levels": family.levels, "mixed": mixed}
        if shared is not None:
            about["scale"] = round(float(shared) * (1 << RAW))
        return cls(about, pixel_tables(family, components))

    def read(self, raw: Sequence[np.ndarray]) -> CodedDistribution:
        """The distribution for logits, locations and scales, ``(N, *event, K)``; or without logits, ``(N, *event)``."""
        levels = self.about["levels"]
        given = list(raw) if self.about["mixed"] else [np.zeros_like(raw[0][..., None]), *(r[..., None] for r in raw)]
        if len(given) == 2:
            given.append(np.full_like(given[1], self.about["scale"]))
        shape = given[1].shape
        t = self.tables
        self.check(*given)
        parameters = loops().mixture(
            *(np.ascontiguousarray(g).reshape(-1, shape[-1]) for g in given), t["offset"], levels - 1,
            t["exponentials"], t["rates"], (1 << PRECISION) - levels,
        )  # fmt: skip
        loc, rate, weight = (m.reshape(shape) for m in parameters)
        return IndependentElements(Bins(level_edges(levels), loc, rate, weight, self.curve(RATE)))


def pixel_tables(family: Any, components: int) -> dict[str, np.ndarray]:
    """The tables of coders of discretised logistic distributions."""
    return {
        "curve": make_curve("logistic", RATE).values,
        "exponentials": exponential_table(),
        "offset": offsets(components),
        "rates": rate_table(family),
    }


def offsets(components: int) -> np.ndarray:
    """The offsets of raw locations, by which 0 is the lowest level and the components are spread over the range."""
    spread = (2 * np.arange(components) + 1) / components - 1
    return np.floor((spread + 1) * (1 << FINE) + 0.5).astype(np.int64)


def rate_table(family: Any) -> np.ndarray:
    """The table from raw scales to rates."""
    return raw_table(lambda raw: rate_of(family.units.scale(torch.from_numpy(raw)).numpy()))


def rate_of(scale: Any) -> Any:
    """The rate of a scale in levels."""
    return places_per_unit("logistic") * (1 << RATE) / (1 << UNIT) / scale


def level_edges(levels: int) -> np.ndarray:
    """The edges between levels."""
    return (2 * np.arange(1, levels, dtype=np.int64) - 1) << (UNIT - 1)


@kind("colours")
class Colours(MixtureCoder):
    """Pixels with dependent channels: the weights of the components for a channel are multiplied by the probability of
    the earlier channels under each component."""

    exponents = (RAW, FINE, RAW, RAW)

    @classmethod
    def of(cls, family: ColourMixtureFamily) -> Colours:
        """The coder of a family."""
        return cls({"levels": family.levels}, pixel_tables(family, family.components))

    def read(self, raw: Sequence[np.ndarray]) -> CodedDistribution:
        """The distribution for logits ``(N, 1, H, W, K)``, locations and scales ``(N, C, H, W, K)``, and slopes."""
        logits, loc, scale, slopes = map(to_int64, raw)
        self.check(loc, scale)
        self.check(*(r[:, :0] for r in (logits, loc, slopes)))
        loc = (loc + self.tables["offset"]) * (self.about["levels"] - 1) >> loops_numpy.DOWN
        one_before = [int(j == c - 1) << RAW for c in range(loc.shape[1]) for j in range(c)]
        slopes = slopes + np.array(one_before, np.int64)[:, None, None, None]
        room, components = (1 << PRECISION) - self.about["levels"], logits.shape[-1]
        weight = loops_numpy.shares(logits.reshape(-1, components), self.tables["exponentials"], room)
        weight = weight.reshape(logits[:, 0].shape)
        return _Channels(self, weight, loc, look_up(self.tables["rates"], scale), slopes)


class _Channels(DependentElements):
    """The colours of N images, one channel after the other."""

    def __init__(
        self, coder: Colours, weight: np.ndarray, loc: np.ndarray, rate: np.ndarray, slopes: np.ndarray
    ) -> None:
        super().__init__(loc.shape[:-1])
        self.weight, self.loc, self.rate, self.slopes = weight, loc, rate, slopes
        self.levels, self.curve = coder.about["levels"], coder.curve(RATE)
        self.edges = level_edges(self.levels)

    def _channel(self, c: int, before: list[np.ndarray], weight: np.ndarray) -> Bins:
        """The distribution of a channel, given the channels before it."""
        loc, first = self.loc[:, c], c * (c - 1) // 2
        for j, x in enumerate(before):
            apart = (x.astype(np.int64)[..., None] << UNIT) - self.loc[:, j]
            loc = loc + (self.slopes[:, first + j] * apart >> RAW)
        return Bins(self.edges, loc, self.rate[:, c], weight, self.curve)

    def _weighed(self, bins: Bins, x: np.ndarray) -> np.ndarray:
        """The weights for the next channel, given this channel."""
        components = bins.weight.shape[-1]
        if components == 1:
            return bins.weight
        room = (1 << PRECISION) - self.levels
        full_weight = np.full((*x.shape, 1), room)
        alone = [
            loops_numpy.masses(x.reshape(-1), *bins.component(k)._replace(weight=full_weight).flat)[1].reshape(x.shape)
            for k in range(components)
        ]
        each = bins.weight * np.stack(alone, -1) + 1  # below 2 ** 49
        _, size = np.frexp(each.sum(-1, keepdims=True).astype(np.float64))
        each >>= np.maximum(size.astype(np.int64) - 30, 0)
        weight = each * ((room << 20) // each.sum(-1, keepdims=True)) >> 20
        weight[..., 0] += room - weight.sum(-1)
        return weight

    def walk(self, choose: Callable[[Any, Bins], np.ndarray]) -> np.ndarray:
        """See :meth:`DependentElements.walk`."""
        weight = self.weight
        channels: list[np.ndarray] = []
        for c in range(self.loc.shape[1]):
            bins = self._channel(c, channels, weight)
            channels.append(self.choose_levels(choose, (slice(None), c), bins))
            weight = self._weighed(bins, channels[c])
        return np.stack(channels, 1)


PIXEL_LIKELIHOODS: Mapping[type[Family], Any] = {  # coders of pixels that do not depend on their neighbours
    BernoulliFamily: Bits,
    DiscretisedLogisticFamily: Grey,
    DiscretisedLogisticMixtureFamily: Grey,
    ColourMixtureFamily: Colours,
}
