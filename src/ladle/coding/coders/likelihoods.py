"""Coders of p(x|z): bits, grey levels, colours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.bins import Bins, loops
from ladle.coding.ans.fixed_point import FINE, PRECISION, RAW, UNIT, at, raw_table
from ladle.coding.coders.coder import (
    RATE,
    Coded,
    Coder,
    Independent,
    Visited,
    alike,
    curve,
    exponentials,
    kind,
    places,
    whole,
)
from ladle.coding.errors import CodingError
from ladle.families import Family
from ladle.families.colour import ColourMixtureFamily
from ladle.families.discrete import BernoulliFamily
from ladle.families.pixels import DiscretisedLogisticFamily, DiscretisedLogisticMixtureFamily


@kind("bits")
class Bits(Coder):
    """Zero or one, by a logit: ``P(0) = S(-logit)``."""

    exponents = (RAW,)

    @classmethod
    def of(cls, family: BernoulliFamily) -> Bits:
        """The coder of a family."""
        return cls({}, {"curve": curve("logistic", 0).values})

    def read(self, raw: Sequence[np.ndarray]) -> Coded:
        """From the logits, ``(N, *event)``."""
        loc = whole(raw[0])[..., None]
        one = np.ones_like(loc)
        rate = int(places("logistic")) >> RAW
        return Independent(Bins(np.array([0]), loc, rate * one, ((1 << PRECISION) - 2) * one, self.curve(0)))


class Mixed(Coder):
    """Levels of mixtures of K discretised logistic distributions."""

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        if self.levels < 2:
            raise CodingError(f"there must be at least 2 levels, got {self.levels}")

    def check(self, *raw: np.ndarray) -> None:
        """Check that raw numbers ``(..., K)`` have one shape, and as many components as the tables.

        Raises:
            CodingError: when they do not.
        """
        alike(*raw)
        if raw[0].shape[-1] != len(self.tables["offset"]):
            raise CodingError(f"there must be {len(self.tables['offset'])} components, got {raw[0].shape[-1]}")


@kind("grey")
class Grey(Mixed):
    """Levels of a mixture of K discretised logistic distributions: K rows of edges between levels, in ``UNIT`` bits."""

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        one = "scale" in about  # for all
        self.exponents = (RAW, FINE, RAW) if about["mixed"] else (FINE,) if one else (FINE, RAW)

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

    def read(self, raw: Sequence[np.ndarray]) -> Coded:
        """From logits, locations and scales, ``(N, *event, K)``; or the last two alone, ``(N, *event)``."""
        levels = self.about["levels"]
        given = list(raw) if self.about["mixed"] else [np.zeros_like(raw[0][..., None]), *(r[..., None] for r in raw)]
        if len(given) == 2:
            given.append(np.full_like(given[1], self.about["scale"]))
        shape = given[1].shape
        t = self.tables
        self.check(*given)
        made = loops().mixture(
            *(np.ascontiguousarray(g).reshape(-1, shape[-1]) for g in given), t["offset"], levels - 1,
            t["exponentials"], t["rates"], (1 << PRECISION) - levels,
        )  # fmt: skip
        loc, rate, weight = (m.reshape(shape) for m in made)
        return Independent(Bins(between(levels), loc, rate, weight, self.curve(RATE)))


def pixel_tables(family: Any, components: int) -> dict[str, np.ndarray]:
    """What coders of discretised logistic distributions look up."""
    return {
        "curve": curve("logistic", RATE).values,
        "exponentials": exponentials(),
        "offset": offsets(components),
        "rates": rates(family),
    }


def offsets(components: int) -> np.ndarray:
    """What is added to raw locations, so that 0 is the lowest level: the spread of the components."""
    spread = (2 * np.arange(components) + 1) / components - 1
    return np.floor((spread + 1) * (1 << FINE) + 0.5).astype(np.int64)


def rates(family: Any) -> np.ndarray:
    """The table from raw scales to rates."""
    return raw_table(lambda raw: rate_of(family.units.scale(torch.from_numpy(raw)).numpy()))


def rate_of(scale: Any) -> Any:
    """The rate of a scale of so many levels."""
    return places("logistic") * (1 << RATE) / (1 << UNIT) / scale


def between(levels: int) -> np.ndarray:
    """The edges between levels."""
    return (2 * np.arange(1, levels, dtype=np.int64) - 1) << (UNIT - 1)


@kind("colours")
class Colours(Mixed):
    """Pixels whose channels move together: one channel after the other, the weights of the components multiplied by
    what the channels so far are worth under each."""

    exponents = (RAW, FINE, RAW, RAW)

    @classmethod
    def of(cls, family: ColourMixtureFamily) -> Colours:
        """The coder of a family."""
        return cls({"levels": family.levels}, pixel_tables(family, family.components))

    def read(self, raw: Sequence[np.ndarray]) -> Coded:
        """From logits ``(N, 1, H, W, K)``, locations and scales ``(N, C, H, W, K)``, and slopes."""
        logits, loc, scale, slopes = map(whole, raw)
        self.check(loc, scale)
        self.check(*(r[:, :0] for r in (logits, loc, slopes)))
        loc = (loc + self.tables["offset"]) * (self.about["levels"] - 1) >> loops_numpy.DOWN
        one_before = [int(j == c - 1) << RAW for c in range(loc.shape[1]) for j in range(c)]
        slopes = slopes + np.array(one_before, np.int64)[:, None, None, None]
        room, components = (1 << PRECISION) - self.about["levels"], logits.shape[-1]
        weight = loops_numpy.shares(logits.reshape(-1, components), self.tables["exponentials"], room)
        weight = weight.reshape(logits[:, 0].shape)
        return _Channels(self, weight, loc, at(self.tables["rates"], scale), slopes)


class _Channels(Visited):
    """The colours of N images, one channel after the other."""

    def __init__(
        self, coder: Colours, weight: np.ndarray, loc: np.ndarray, rate: np.ndarray, slopes: np.ndarray
    ) -> None:
        super().__init__(loc.shape[:-1])
        self.weight, self.loc, self.rate, self.slopes = weight, loc, rate, slopes
        self.levels, self.curve = coder.about["levels"], coder.curve(RATE)
        self.edges = between(self.levels)

    def _channel(self, c: int, before: list[np.ndarray], weight: np.ndarray) -> Bins:
        """The distribution of a channel, given the ones before it."""
        loc, first = self.loc[:, c], c * (c - 1) // 2
        for j, x in enumerate(before):
            apart = (x.astype(np.int64)[..., None] << UNIT) - self.loc[:, j]
            loc = loc + (self.slopes[:, first + j] * apart >> RAW)
        return Bins(self.edges, loc, self.rate[:, c], weight, self.curve)

    def _weighed(self, bins: Bins, x: np.ndarray) -> np.ndarray:
        """The weights when this channel is known."""
        components = bins.weight.shape[-1]
        if components == 1:
            return bins.weight
        room = (1 << PRECISION) - self.levels
        whole = np.full((*x.shape, 1), room)
        alone = [
            loops_numpy.masses(x.reshape(-1), *bins.component(k)._replace(weight=whole).flat)[1].reshape(x.shape)
            for k in range(components)
        ]
        each = bins.weight * np.stack(alone, -1) + 1  # below 2 ** 49
        _, size = np.frexp(each.sum(-1, keepdims=True).astype(np.float64))
        each >>= np.maximum(size.astype(np.int64) - 30, 0)
        weight = each * ((room << 20) // each.sum(-1, keepdims=True)) >> 20
        weight[..., 0] += room - weight.sum(-1)
        return weight

    def walk(self, choose: Callable[[Any, Bins], np.ndarray]) -> np.ndarray:
        """See :meth:`Visited.walk`."""
        weight = self.weight
        channels: list[np.ndarray] = []
        for c in range(self.loc.shape[1]):
            bins = self._channel(c, channels, weight)
            channels.append(self.chosen(choose, (slice(None), c), bins))
            weight = self._weighed(bins, channels[c])
        return np.stack(channels, 1)


ALONE: Mapping[type[Family], Any] = {  # of pixels that do not follow each other
    BernoulliFamily: Bits,
    DiscretisedLogisticFamily: Grey,
    DiscretisedLogisticMixtureFamily: Grey,
    ColourMixtureFamily: Colours,
}
