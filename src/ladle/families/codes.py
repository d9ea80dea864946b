"""Families of quantised latents: few values, which can be stored directly, without bits-back coding.

Both are quantisers turned into distributions, so a model that uses them is an ordinary VAE with a normalised density, a
KL and an evidence. The code of an item is not the nearest one but is drawn near it; the spread is learned, and shrinks
to nothing where that improves the bound.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ladle.families.discrete import OneHot, OneHotBlocks
from ladle.families.family import Family, draw
from ladle.families.pixels import DiscretisedLogistic, Levels, Units
from ladle.shapes import Size
from ladle.spec import part


class Scalar(DiscretisedLogistic):
    """A discretised logistic with a straight-through gradient estimator: see :class:`FSQ`."""

    def expand(self, batch_shape: Any, _instance: Any = None) -> Scalar:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return Scalar(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.levels)


@part("family", "fsq")
class FSQ(Family):
    """Finite scalar quantisation: each latent takes one of L levels, around a location within their range.

    ``p(z) = F(z + 1/2) - F(z - 1/2)`` with a logistic F at ``loc = (L - 1) (1 + tanh(raw)) / 2``. As a posterior it
    is trained with the straight-through estimator: :func:`draw` returns a level, and its gradient is that of the value
    before rounding. Networks read the levels scaled to -1 .. 1. A learned prior on the same levels can use
    ``family/discretised_logistic_mixture``.

    Args:
        levels: L.
        floor: the smallest scale, in levels.

    Reference:
        Mentzer, Minnen, Agustsson, Tschannen: "Finite Scalar Quantization: VQ-VAE Made Simple", 2023 (without noise
        in that paper).

    >>> family = FSQ(levels=5)
    >>> family.read(family(torch.zeros(2), torch.full((2,), -9.0)).sample())
    tensor([0., 0.])
    """

    def __init__(self, levels: int = 8, floor: float = 0.05) -> None:
        super().__init__()
        self.levels, self.units, self.support = levels, Units(levels, floor), Levels(levels)

    def raw(self, event: Size) -> tuple[Size, ...]:
        """Raw location and scale: ``*event`` each."""
        return (event, event)

    def forward(self, *raw: Tensor) -> Scalar:
        """The element-wise distribution over ``(*lead, *event)``, from raw parameters of the same shape."""
        return Scalar(self.units.loc(raw[0].tanh()), self.units.scale(raw[1]), self.levels)

    def read(self, z: Tensor) -> Tensor:
        """The levels scaled to -1 .. 1."""
        return z * (2 / (self.levels - 1)) - 1


@draw.register
def _(d: Scalar) -> Tensor:
    """Straight-through: the value of a sample, with the gradient of the value before rounding."""
    noise = torch.rand_like(d.loc).clamp(1e-6, 1 - 1e-6)
    unrounded = d.loc + d.scale * torch.logit(noise)
    return unrounded + (unrounded.clamp(0, d.levels - 1).round() - unrounded).detach()


@part("family", "vq")
class VectorQuantised(Family):
    """Vector quantisation: G independent choices among K codes, each a learned direction in d dimensions.

    ``p(k) = softmax_k(e . c_k)`` for a network's output e and unit vectors c. Up to a constant the logit is
    ``-|e - c_k|^2 / 2``, so the nearest code is the most probable one, and the longer e is, the more certain the
    choice. A value consists of G concatenated one-hot vectors, ``G K`` numbers, as in ``family/one_hot``, which is the
    family to use for a learned prior; networks read the codes. As a posterior it is trained with the straight-through
    estimator.

    Args:
        classes: K.
        size: d.

    Reference:
        van den Oord, Vinyals, Kavukcuoglu: "Neural Discrete Representation Learning", 2017.
        Takida et al.: "SQ-VAE: Variational Bayes on Discrete Representation with Self-annealed Stochastic
        Quantization", 2022 (a distribution whose most probable code is the nearest one).

    >>> family = VectorQuantised(classes=4, size=3)
    >>> family.raw((8,)), family.read_size((8,)), family(torch.zeros(5, 6)).sample().shape
    (((6,),), (6,), torch.Size([5, 8]))
    """

    def __init__(self, classes: int = 64, size: int = 8) -> None:
        super().__init__()
        if classes < 2 or size < 1:
            raise ValueError(f"classes must be at least 2 and size at least 1, got classes={classes} and size={size}")
        self.classes, self.size, self.support = classes, size, OneHotBlocks(classes)
        self.codes = nn.Parameter(torch.randn(classes, size))

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The vectors that are compared with the codes: ``(..., G d)`` for an event ``(..., G K)``."""
        return (self.read_size(event),)

    def forward(self, *raw: Tensor) -> OneHot:
        """The distribution over ``(*lead, ..., G K)``, joint in the last dimension, from ``(*lead, ..., G d)``."""
        return OneHot(self.likenesses(raw[0]).unflatten(-1, (-1, self.classes)))

    def likenesses(self, vectors: Tensor) -> Tensor:
        """The logits ``e . c_k`` of all codes: ``(*lead, ..., G d) -> (*lead, ..., G K)``."""
        vectors = vectors.unflatten(-1, (-1, self.size))
        return (vectors @ self._directions(vectors).t()).flatten(-2)

    def read(self, z: Tensor) -> Tensor:
        """The codes that ``z`` selects: ``(*lead, ..., G K) -> (*lead, ..., G d)``."""
        return (z.unflatten(-1, (-1, self.classes)) @ self._directions(z)).flatten(-2)

    def _directions(self, like: Tensor) -> Tensor:
        return F.normalize(self.codes, dim=-1).to(like.dtype)

    def read_size(self, event: Size) -> Size:
        """``(..., G K) -> (..., G d)``."""
        if not event or event[-1] % self.classes:
            raise ValueError(
                f"the last size of the event must be a multiple of the number of classes, "
                f"{self.classes}, got an event of size {event}"
            )
        return (*event[:-1], event[-1] // self.classes * self.size)
