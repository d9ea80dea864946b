"""The coder of images whose pixels depend on their neighbours, see :mod:`ladle.families.local`.

Waves of pixels are visited in the order of a sampler. The kernel is applied to neighbours by products of matrices of
whole numbers in float64. All partial sums are far below 2 ** 53, so they are exact in any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ladle.coding.ans.bins import Bins
from ladle.coding.ans.fixed_point import FINE, REACH
from ladle.coding.coders.coder import Coder, DependentElements, kind, to_int64
from ladle.coding.coders.likelihoods import PIXEL_LIKELIHOODS, Bits, Grey, rate_of
from ladle.families import Family
from ladle.families.discrete import BernoulliFamily
from ladle.families.local import LocalFamily, waves
from ladle.families.pixels import DiscretisedLogisticMixtureFamily

KERNEL = 16  # fractional bits of the kernel
BASES: Mapping[str, type[Coder]] = {Bits.name: Bits, Grey.name: Grey}
MOST_NEIGHBOURS = 512  # a location has at most 24 bits and a weight 20, so that 2 ** 9 products stay below 2 ** 53


@kind("local")
class Local(Coder):
    """Pixels that depend on their neighbours, over the coder of a base family."""

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        self.base = BASES[about["base"]](about, tables)
        self.exponents = self.base.exponents
        kernel, levels = tables["kernel"], tables["places"]
        if kernel.ndim != 4 or kernel.shape[3] != 2 * kernel.shape[2] - 1:
            raise ValueError(f"the kernel must have the shape (rows, C, R + 1, 2 R + 1), got {kernel.shape}")
        if kernel[0].size > MOST_NEIGHBOURS or np.abs(kernel).max() > REACH << KERNEL:
            raise ValueError(f"the kernel must have at most {MOST_NEIGHBOURS} weights for an output, all bounded")
        if len(levels) != self.levels or np.abs(levels).max() > 1 << FINE:
            raise ValueError(f"a local model of {self.levels} levels must have as many places, within {1 << FINE}")

    @classmethod
    def of(cls, family: LocalFamily) -> Local:
        """The coder of a family."""
        base = PIXEL_LIKELIHOODS[type(family.base)].of(family.base)
        kernel = family.masked().detach().double().numpy()
        bits = isinstance(family.base, BernoulliFamily)
        levels, end = (2, 0.5) if bits else (int(base.about["levels"]), 1.0)  # places lie in -end .. end
        tables = {
            "kernel": np.round(kernel.clip(-REACH, REACH) * (1 << KERNEL)).astype(np.int64),
            "places": np.round(np.linspace(-end, end, levels) * (1 << FINE)).astype(np.int64),
        }
        located = {} if bits else {"loc": int(isinstance(family.base, DiscretisedLogisticMixtureFamily))}
        return cls({"base": base.name, **base.about, **located}, {**base.tables, **tables})

    def read(self, raw: Sequence[np.ndarray]) -> _LocalImages:
        """The distribution for the base's raw whole numbers, ``(N, C, H, W, *extra)``."""
        return _LocalImages(self, [to_int64(r) for r in raw])

    def sharpest(self, step: int) -> int:
        """The rate of a scale of an eighth of a step, as loss in pixels makes the predictions of later pixels worse."""
        return 0 if step == 1 else round(rate_of(step / 8))

    def neighbours(self, extras: Sequence[int], channels: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """For every channel the T neighbours that its pixels depend on, by channel and by place in a window, and their
        weights ``(outputs, T)``; ``extras`` are the numbers of values of each raw number at a pixel."""
        kernel = self.tables["kernel"]
        parts = np.split(kernel, np.cumsum([channels * extra for extra in extras])[:-1])
        for c in range(channels):
            weights = np.concatenate([part.reshape(channels, -1, channels, kernel[0, 0].size)[c] for part in parts])
            other, place = np.nonzero(weights.any(0))
            yield other, place, weights[:, other, place].astype(np.float64)

    def members(self, raw: Sequence[np.ndarray], moved: np.ndarray) -> Bins:
        """The distributions of P pixels of N images, given raw numbers ``(N, P, *extra)`` and the contributions of
        neighbours, ``(N, outputs, P)``."""
        found, first = [], 0
        for r, exponent in zip(raw, self.exponents, strict=True):
            more = moved[:, first] if r.ndim == 2 else moved[:, first : first + r.shape[2]].swapaxes(1, 2)
            first += 1 if r.ndim == 2 else r.shape[2]
            most = REACH << exponent
            found.append((r + (more >> (KERNEL + FINE - exponent))).clip(-most, most).astype(np.float32))
        return self.base.read(found).bins  # type: ignore[attr-defined]

    def apart(self, levels: np.ndarray, raw: Sequence[np.ndarray]) -> np.ndarray:
        """The distances of levels from their raw locations, ``(N, P)``, with ``FINE`` fractional bits."""
        place = self.tables["places"][levels]
        if "loc" not in self.about:
            return place
        loc = raw[self.about["loc"]]
        return place - (loc if loc.ndim == 2 else loc.sum(2) // loc.shape[2])


class _LocalImages(DependentElements):
    """The distribution of N images, coded wave by wave."""

    def __init__(self, coder: Local, raw: Sequence[np.ndarray]) -> None:
        super().__init__(raw[0].shape[:4])
        self.coder, self.raw = coder, raw

    def walk(self, choose: Callable[[Any, Bins], np.ndarray]) -> np.ndarray:
        """See :meth:`DependentElements.walk`."""
        n, channels, height, width = self.shape
        side = self.coder.tables["kernel"].shape[-1]
        reach, wide = side // 2, width + side - 1
        extras = [int(np.prod(r.shape[4:])) for r in self.raw]
        neighbours = list(self.coder.neighbours(extras, channels))
        levels = np.zeros(self.shape, np.int64)
        apart = np.zeros((n, channels, (height + reach) * wide))  # whole numbers, with a margin of zeros
        for wave in map(Tensor.numpy, waves(height, width, reach)):
            rows, columns = wave // width, wave % width
            corner = rows * wide + columns
            for c, (other, place, weights) in enumerate(neighbours):
                where = (slice(None), c, rows, columns)
                here = [r[where] for r in self.raw]
                window = corner + (place // side * wide + place % side)[:, None]
                moved = np.matmul(weights, apart[:, other[:, None], window]).astype(np.int64)
                levels[where] = found = self.choose_levels(choose, where, self.coder.members(here, moved))
                apart[:, c, corner + reach * wide + reach] = self.coder.apart(found, here)
        return levels


LIKELIHOODS: Mapping[type[Family], Any] = {**PIXEL_LIKELIHOODS, LocalFamily: Local}
