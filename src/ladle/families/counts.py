"""A family of counts 0, 1, 2, ..."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families.family import Family, centre, checked_floor, mean, positive
from ladle.shapes import Size
from ladle.spec import part


@part("family", "negative_binomial")
class NegativeBinomialFamily(Family):
    """The negative binomial distribution, of counts with a variance above their mean, ``m + m^2 / r``::

        p(x) = C(x + r - 1, x) (1 - q)^r q^x        mean m = r q / (1 - q), dispersion r

    As r grows, the distribution tends to a Poisson. Raw zeros give mean ``unit`` and dispersion 1. There is no
    gradient estimator, so the family is for likelihoods
    only.

    Args:
        unit: the mean at raw 0, in counts, such as the mean of the training data: a number, or one for each element of
            the last dimension.
        floor: the smallest mean, in units, and the smallest dispersion.

    Raises:
        ValueError: if ``unit`` is not positive.

    Reference:
        Hilbe: "Negative Binomial Regression", 2011.

    >>> d = NegativeBinomialFamily(unit=4.0)(torch.zeros(1), torch.zeros(1))
    >>> d.mean, d.variance, round(float(d.log_prob(torch.arange(1000.0)).exp().sum()), 4)
    (tensor([4.]), tensor([20.]), 1.0)
    """

    support = constraints.nonnegative_integer

    unit: Tensor

    def __init__(self, unit: float | list[float] = 1.0, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = checked_floor(floor)
        self.register_buffer("unit", torch.as_tensor(unit, dtype=torch.float32))
        if not (np.asarray(unit) > 0).all():
            raise ValueError(f"unit must be positive, got {unit}; the mean of the counts is usual")

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The raw mean and the raw dispersion, one of each for every element."""
        return event, event

    def forward(self, *raw: Tensor) -> td.NegativeBinomial:
        """The element-wise distribution over ``(*lead, *event)``."""
        average, dispersion = self.unit * positive(raw[0], self.floor), positive(raw[1], self.floor)
        return td.NegativeBinomial(dispersion, logits=average.log() - dispersion.log(), validate_args=False)


@centre.register
def _(d: td.NegativeBinomial) -> Tensor:
    """The mean, rounded to a whole number."""
    return d.mean.round()


@mean.register
def _(d: td.NegativeBinomial) -> Tensor:
    return d.mean
