"""The family of the posterior of a plain autoencoder: all probability mass at one point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families.family import Family, NotAvailable, centre, checked_temperature, mean, tempered
from ladle.shapes import Size
from ladle.spec import part


class PointMass(td.Distribution):
    """A distribution with all probability mass at ``loc``: it can be sampled, but has no density.

    Args:
        loc: the point, ``(*lead, *event)``.

    >>> PointMass(torch.ones(2)).rsample((3,)).shape
    torch.Size([3, 2])
    """

    arg_constraints = {"loc": constraints.real}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        super().__init__(loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PointMass:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return PointMass(self.loc.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        """``loc``."""
        return self.loc

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """``loc``, repeated: ``(*sample_shape, *lead, *event)``."""
        return self.loc.expand(self._extended_shape(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """Not available: a point mass has no density.

        Raises:
            NotAvailable: always.
        """
        raise NotAvailable(
            "the posterior of a plain autoencoder is a single point, which has no density, so there is no "
            "log p(x), KL or compression; use a posterior such as family/normal"
        )


@part("family", "point_mass")
class PointMassFamily(Family):
    """A point mass at ``z = raw``: with this posterior and without a prior, a VAE is a plain autoencoder.

    >>> PointMassFamily()(torch.ones(2)).sample()
    tensor([1., 1.])
    """

    support = constraints.real

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The point: ``*event``."""
        return (event,)

    def forward(self, *raw: Tensor) -> PointMass:
        """The point mass at the raw parameters ``(*lead, *event)``."""
        return PointMass(raw[0])


@centre.register
def _(d: PointMass) -> Tensor:
    return d.loc


@mean.register
def _(d: PointMass) -> Tensor:
    return d.loc


@tempered.register
def _(d: PointMass, t: float) -> PointMass:
    checked_temperature(t)
    return d
