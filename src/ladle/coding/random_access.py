"""Random access and lossy coding: every item in its own stream, without bits back.

z is not drawn: it is the point of a coarser grid nearest to the centre of q(z|x). The stream holds z
under the prior and x under p(x|z). An item therefore costs -log p(z) - log p(x|z), more than with bits back, but it can
be decoded alone, with the decoding half of the model.

With loss, neighbouring levels of x are merged into steps, the step that contains a level is coded, and it is decoded as
the median of p(x|z) within the step. Where pixels depend on other pixels, the loss in those makes their distributions
less accurate, so these are widened. All of this is computed in whole numbers, so every machine decodes the same pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ladle.coding.ans.streams import Streams
from ladle.coding.errors import Damaged, Desynchronised
from ladle.coding.model import IntegerModel

NUMBERS = 256 * 784  # the most numbers in a batch of items, about
COARSER = (0, 1, 2, 3, 4, 5, 6)  # bits by which places of z are coarser
SHARPEST = 1 << 31  # exclusive upper limit of `sharpest`
# Numbers of levels that can be merged into one symbol.
STEPS = (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 19, 22, 26, 30, 35, 40, 48, 56, 64, 80, 96, 128)


class Quantisation(NamedTuple):
    """The precision of latents and pixels.

    Attributes:
        coarser: the number of bits by which places of z are coarser.
        step: the number of neighbouring levels that are merged into one symbol; 1 is lossless.
        sharpest: the rate by which the distributions of levels are widened, see :meth:`Bins.widened`; 0 for none.
    """

    coarser: int
    step: int
    sharpest: int = 0


class RandomAccess:
    """Codes every item independently.

    Args:
        model: the model.
        settings: the precision of latents and pixels.

    Raises:
        Damaged: for a step that merges all levels into one.
    """

    def __init__(self, model: IntegerModel, settings: Quantisation) -> None:
        levels = model.likelihood.levels
        if not 1 <= settings.step < levels:
            raise Damaged(f"a step must be at least 1 and below {levels}, the number of levels, got {settings.step}")
        self.model, self.step, self.sharpest = model.coarser(settings.coarser), settings.step, settings.sharpest

    def encode(self, x: np.ndarray) -> bytes:
        """Encode ``(N, *shape)`` of whole numbers as the lengths of the items' streams, and the streams."""
        parts = [self._streams(x[batch]) for batch in self._batches(len(x))]
        streams = [stream for part in parts for stream in part]
        return b"".join([*(_write_length(len(stream)) for stream in streams), *streams])

    def decode(self, data: bytes, n: int, selection: slice = slice(None)) -> np.ndarray:
        """Decode a selection of n items, ``(N, *shape)`` of int64; the others are skipped.

        Raises:
            Desynchronised: when :meth:`encode` of this model cannot have written the bytes.
        """
        lengths, at = _read_lengths(data, n)
        ends = at + np.cumsum(lengths)
        if ends[-1:].sum() != len(data):
            raise Desynchronised("the streams do not have their stated lengths")
        places = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))[selection]
        parts = [self._items([data[a:b] for a, b in places[batch]]) for batch in self._batches(len(places))]
        return np.concatenate([np.zeros((0, *self.model.shape), np.int64), *parts])

    def _batches(self, n: int) -> list[slice]:
        """Batches of items for the networks."""
        most = max(1, NUMBERS // math.prod(self.model.shape))
        return [slice(start, min(start + most, n)) for start in range(0, n, most)]

    def _streams(self, x: np.ndarray) -> list[bytes]:
        levels, h = self.model.walk(lambda _, q, p: q.nearest(), len(x), x)
        streams = Streams(len(x))
        self.model.explain(h, self.step, self.sharpest).push(streams, x // self.step)
        for level in reversed(levels):
            level.p.push(streams, level.k)
        return streams.to_bytes()

    def _items(self, streams: Sequence[bytes]) -> np.ndarray:
        most = math.prod(self.model.shape) + self.model.latents + 1  # the last one is a component of the prior
        opened = Streams.from_bytes(streams, most)
        _, h = self.model.walk(lambda _, q, p: p.pop(opened), len(streams))
        p = self.model.explain(h, self.step, self.sharpest)
        symbols = p.pop(opened)
        opened.finish()
        return symbols if self.step == 1 else p.reconstruct(symbols)

    def reconstruct(self, x: np.ndarray) -> np.ndarray:
        """The items that decoding will return, ``(N, *shape)`` of int64."""
        if self.step == 1:
            return x
        decoded = np.empty_like(x)
        for batch in self._batches(len(x)):
            _, h = self.model.walk(lambda _, q, p: q.nearest(), batch.stop - batch.start, x[batch])
            decoded[batch] = self.model.explain(h, self.step, self.sharpest).reconstruct(x[batch] // self.step)
        return decoded


def _write_length(n: int) -> bytes:
    """A whole number in as few bytes as possible, seven bits in each, the lowest first."""
    found = bytearray()
    while n > 127:
        found.append(n & 127 | 128)
        n >>= 7
    return bytes([*found, n])


def _read_lengths(data: bytes, n: int) -> tuple[np.ndarray, int]:
    """The first n numbers that :func:`_write_length` wrote, and the offset of their end."""
    found, at = np.zeros(n, np.int64), 0
    for i in range(n):
        for shift in range(0, 28, 7):
            if at >= len(data):
                raise Desynchronised("the lengths of the streams are truncated")
            byte, at = data[at], at + 1
            found[i] |= (byte & 127) << shift
            if byte < 128:
                break
        else:
            raise Desynchronised("the length of a stream must have at most 28 bits")
    return found, at


def psnr(x: np.ndarray, decoded: np.ndarray, top: int) -> float:
    """The peak signal-to-noise ratio of decoded items in dB, from the mean squared error over all items."""
    error = float(np.square(x.astype(np.float64) - decoded).mean())
    return math.inf if error == 0 else 10 * math.log10(top * top / error)


def choose_quantisation(model: IntegerModel, x: np.ndarray, quality: float | None, top: int) -> Quantisation:
    """The settings that compress items ``(N, *shape)`` best, losslessly or to at least ``quality`` dB."""

    def coarsest_steps(coarser: int) -> Quantisation:
        if quality is None:
            return Quantisation(coarser, 1)
        good = (s for s in reversed(STEPS) if s <= top)
        return next(
            settings for settings in (Quantisation(coarser, step, model.likelihood.sharpest(step)) for step in good)
            if psnr(x, RandomAccess(model, settings).reconstruct(x), top) >= quality
        )  # fmt: skip

    candidates = [coarsest_steps(coarser) for coarser in COARSER]
    sizes = [len(RandomAccess(model, settings).encode(x)) for settings in candidates]
    return candidates[int(np.argmin(sizes))]
