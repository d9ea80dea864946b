"""A family on the real line, shifted and scaled to the units of the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families.family import Family, centre, chain, draw, mean, quantile, tempered
from ladle.shapes import Size, sum_event
from ladle.spec import part


class Affine(td.Distribution):
    """The distribution of ``y = loc + scale * u`` with u from ``base``.

    ``log p(y) = log p_base((y - loc) / scale) - log scale``; for a joint base, ``log scale`` is summed over the event.

    Args:
        base: a distribution over ``(*lead, *event)``, element-wise or joint.
        loc: broadcasts to ``(*lead, *event)``.
        scale: positive; broadcasts to ``(*lead, *event)``.

    >>> Affine(td.Normal(torch.zeros(1), torch.ones(1)), torch.tensor(3.0), torch.tensor(2.0)).mean
    tensor([3.])
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real

    def __init__(self, base: td.Distribution, loc: Tensor, scale: Tensor) -> None:
        size = base.batch_shape + base.event_shape
        self.base, self.loc, self.scale = base, loc.expand(size), scale.expand(size)
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the base is reparameterised."""
        return self.base.has_rsample

    def expand(self, batch_shape: Any, _instance: Any = None) -> Affine:
        """See :meth:`torch.distributions.Distribution.expand`."""
        size = (*batch_shape, *self.event_shape)
        return Affine(self.base.expand(batch_shape), self.loc.expand(size), self.scale.expand(size))

    @property
    def mean(self) -> Tensor:
        """``loc + scale * E[u]``."""
        return self.outwards(self.base.mean)

    @property
    def variance(self) -> Tensor:
        """``scale^2 Var[u]``."""
        return self.scale.square() * self.base.variance

    @property
    def log_volume(self) -> Tensor:
        """``log scale``, summed over the event of a joint base: ``batch_shape``."""
        return sum_event(self.scale.log(), len(self.batch_shape))

    def outwards(self, u: Tensor) -> Tensor:
        """Convert from the units of the base to those of the data."""
        return self.loc + self.scale * u

    def inwards(self, y: Tensor) -> Tensor:
        """Convert from the units of the data to those of the base."""
        return (y - self.loc) / self.scale

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density with respect to the units of the data."""
        return self.base.log_prob(self.inwards(value)) - self.log_volume

    def cdf(self, value: Tensor) -> Tensor:
        """The cumulative distribution function, if the base has one."""
        return self.base.cdf(self.inwards(value))

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Samples, ``(*sample_shape, *lead, *event)``."""
        return self.outwards(self.base.sample(sample_shape)).detach()

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Reparameterised samples, ``(*sample_shape, *lead, *event)``, if the base has them."""
        return self.outwards(self.base.rsample(sample_shape))

    def entropy(self) -> Tensor:
        """The entropy in nats."""
        return self.base.entropy() + self.log_volume


@part("family", "affine")
class AffineFamily(Family):
    """A family on the real line in the units of the data, ``y = loc + scale * u``.

    ::

        raw --family--> p(u) --(loc, scale)--> p(y) = p(u) / scale

    A network's outputs are of order 1, whereas data may have any order of magnitude. ``loc`` and ``scale`` are
    constants, such as the mean and the standard deviation of the training data. They enter the density, so
    log-probabilities stay comparable between models.

    Args:
        family: the family of u; its support must be the real line.
        loc: the origin, in the units of the data: a number, or lists that broadcast to the event.
        scale: the unit, positive, in the same form as ``loc``.

    Raises:
        ValueError: if the support of ``family`` is not the real line, or ``scale`` is not positive.

    >>> from ladle.spec import build
    >>> d = AffineFamily(build({"part": "family/normal"}), loc=[1e6, 0.0], scale=[1e5, 1e-3])(*torch.zeros(2, 4, 2))
    >>> d.mean[0], d.variance.sqrt()[0]
    (tensor([1000000.,       0.]), tensor([1.0000e+05, 1.0000e-03]))
    """

    support = constraints.real

    def __init__(self, family: Family, loc: float | list[float], scale: float | list[float]) -> None:
        super().__init__()
        if family.support is not constraints.real:
            raise ValueError(
                f"affine needs a family whose support is the real line, but the support of {type(family).__name__} is "
                f"{family.support}; families that fit: normal, full_normal, laplace, logistic, student_t"
            )
        self.family = family
        if not np.all(np.asarray(scale) > 0):
            raise ValueError(f"scale must be positive, got {scale}")
        self.register_buffer("loc", torch.as_tensor(loc, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The sizes of the raw parameters of the inner family."""
        for name in ("loc", "scale"):
            size = tuple(getattr(self, name).shape)
            if len(size) > len(event) or any(s not in (1, e) for s, e in zip(size[::-1], event[::-1], strict=False)):
                raise ValueError(f"{name} of size {size} must broadcast to an event of size {event}")
        return self.family.raw(event)

    def forward(self, *raw: Tensor) -> Affine:
        """The distribution of the inner family, in the units of the data."""
        return Affine(self.family(*raw), self.loc, self.scale)  # type: ignore[arg-type]


@centre.register
def _(d: Affine) -> Tensor:
    return d.outwards(centre(d.base))


@mean.register
def _(d: Affine) -> Tensor:
    return d.outwards(mean(d.base))


@tempered.register
def _(d: Affine, t: float) -> Affine:
    return Affine(tempered(d.base, t), d.loc, d.scale)


@quantile.register
def _(d: Affine, u: Tensor) -> Tensor:
    return d.outwards(quantile(d.base, u))


@draw.register
def _(d: Affine) -> Tensor:
    return d.outwards(draw(d.base))


@chain.register
def _(d: Affine, z: Tensor) -> Tensor:
    return chain(d.base, d.inwards(z)) - d.scale.log()
