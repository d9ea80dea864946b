"""Random access, and loss: every item in a stream of its own, without bits back.

z is not drawn but chosen, as near to the centre of q(z|x) as a coarser grid allows, and pushed under the prior; then x
under p(x|z). So an item costs -log p(z) - log p(x|z), more than with bits back, and can be read alone, by the decoder's
half of the model.

With loss, the levels of x are gathered into steps, and the step that holds a level is pushed; what comes back is the
median of p(x|z) within it. Where pixels follow others, what is lost of those misleads their distributions, which are
made wider for it. All of that is in whole numbers too, so the pixels that come back are the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ladle.coding.ans.streams import Streams
from ladle.coding.errors import Damaged, Desynchronised
from ladle.coding.model import Exact

TOGETHER = 256 * 784  # numbers that are computed with at a time, about
COARSER = (0, 1, 2, 3, 4, 5, 6)  # bits that places are coarser by
SHARPEST = 1 << 31  # what `sharpest` must be below
STEPS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 19, 22, 26, 30, 35, 40, 48, 56, 64, 80, 96, 128)  # of levels


class Settings(NamedTuple):
    """How items are coded.

    Attributes:
        coarser: how many bits the places of z are coarser by.
        step: levels that are not told apart; 1 is without loss.
        sharpest: the rate to blunt what levels are coded with by, see :meth:`Bins.blunted`; 0 is none.
    """

    coarser: int
    step: int
    sharpest: int = 0


class Direct:
    """Codes items each by itself.

    Args:
        exact: the model.
        settings: how.

    Raises:
        Damaged: for a step that gathers all levels into one.
    """

    def __init__(self, exact: Exact, settings: Settings) -> None:
        levels = exact.likelihood.levels
        if not 1 <= settings.step < levels:
            raise Damaged(f"a step must be below {levels}, the number of levels, got {settings.step}")
        self.exact, self.step, self.sharpest = exact.coarser(settings.coarser), settings.step, settings.sharpest

    def encode(self, x: np.ndarray) -> bytes:
        """``(N, *shape)`` of whole numbers to bytes: the lengths of the items' streams, and the streams."""
        parts = [self._streams(x[some]) for some in self._some(len(x))]
        streams = [stream for part in parts for stream in part]
        return b"".join([*(_length(len(stream)) for stream in streams), *streams])

    def decode(self, data: bytes, n: int, wanted: slice = slice(None)) -> np.ndarray:
        """Some of n items, ``(N, *shape)`` of int64: nothing is computed for the others.

        Raises:
            Desynchronised: when the bytes are not what :meth:`encode` of this model made.
        """
        lengths, at = _lengths(data, n)
        ends = at + np.cumsum(lengths)
        if ends[-1:].sum() != len(data):
            raise Desynchronised("the streams are longer or shorter than their lengths say")
        places = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))[wanted]
        parts = [self._items([data[a:b] for a, b in places[some]]) for some in self._some(len(places))]
        return np.concatenate([np.zeros((0, *self.exact.shape), np.int64), *parts])

    def _some(self, n: int) -> list[slice]:
        """The items in parts that are computed with at a time."""
        most = max(1, TOGETHER // math.prod(self.exact.shape))
        return [slice(start, min(start + most, n)) for start in range(0, n, most)]

    def _streams(self, x: np.ndarray) -> list[bytes]:
        levels, h = self.exact.walk(lambda _, q, p: q.nearest(), len(x), x)
        streams = Streams(len(x))
        self.exact.explain(h, self.step, self.sharpest).push(streams, x // self.step)
        for level in reversed(levels):
            level.p.push(streams, level.k)
        return streams.to_bytes()

    def _items(self, streams: Sequence[bytes]) -> np.ndarray:
        most = math.prod(self.exact.shape) + self.exact.latents + 1  # a component of the prior
        opened = Streams.from_bytes(streams, most)
        _, h = self.exact.walk(lambda _, q, p: p.pop(opened), len(streams))
        p = self.exact.explain(h, self.step, self.sharpest)
        symbols = p.pop(opened)
        opened.finish()
        return symbols if self.step == 1 else p.restored(symbols)

    def kept(self, x: np.ndarray) -> np.ndarray:
        """What comes back of items, ``(N, *shape)`` of int64."""
        if self.step == 1:
            return x
        kept = np.empty_like(x)
        for some in self._some(len(x)):
            _, h = self.exact.walk(lambda _, q, p: q.nearest(), some.stop - some.start, x[some])
            kept[some] = self.exact.explain(h, self.step, self.sharpest).restored(x[some] // self.step)
        return kept


def _length(n: int) -> bytes:
    """A whole number in as few bytes as it needs, seven bits each, the lowest first."""
    found = bytearray()
    while n > 127:
        found.append(n & 127 | 128)
        n >>= 7
    return bytes([*found, n])


def _lengths(data: bytes, n: int) -> tuple[np.ndarray, int]:
    """The first n numbers that :func:`_length` wrote, and where they end."""
    found, at = np.zeros(n, np.int64), 0
    for i in range(n):
        for shift in range(0, 28, 7):
            if at >= len(data):
                raise Desynchronised("the lengths of the streams are cut")
            byte, at = data[at], at + 1
            found[i] |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise Desynchronised("the length of a stream is longer than any")
    return found, at


def decibels(x: np.ndarray, kept: np.ndarray, top: int) -> float:
    """The peak signal-to-noise ratio of ``kept`` for ``x``, in dB: of the mean squared error over all items."""
    error = float(np.square(x.astype(np.float64) - kept).mean())
    return math.inf if error == 0 else 10 * math.log10(top * top / error)


def chosen(exact: Exact, x: np.ndarray, quality: float | None, top: int) -> Settings:
    """The settings that make some items, ``(N, *shape)``, smallest: without loss, or at so many dB or more."""

    def found(coarser: int) -> Settings:
        if quality is None:
            return Settings(coarser, 1)
        good = (s for s in reversed(STEPS) if s <= top)
        return next(
            settings for settings in (Settings(coarser, step, exact.likelihood.sharpest(step)) for step in good)
            if decibels(x, Direct(exact, settings).kept(x), top) >= quality
        )  # fmt: skip

    candidates = [found(coarser) for coarser in COARSER]
    sizes = [len(Direct(exact, settings).encode(x)) for settings in candidates]
    return candidates[int(np.argmin(sizes))]
