"""Location-scale families on the real line."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all, clamp_probs
from torch.nn import functional as F

from ladle.families.family import (
    Family,
    centre,
    checked_floor,
    checked_temperature,
    mean,
    positive,
    quantile,
    tempered,
)
from ladle.shapes import Size
from ladle.spec import part


class LocationScale(Family):
    """``x = loc + scale * e``, with noise e of a fixed distribution.

    ::

        raw[0] (*lead, *event) -----------------> loc
        raw[1] (*lead, *event) --positive-------> scale      (or one learned number for all elements)

    Args:
        floor: the smallest scale.
        shared_scale: learn one scale for all elements and items, a parameter of the family, instead of taking one for
            each element from a second raw parameter.
        ceiling: the upper limit of the scale, above 1; ``None`` for an unbounded scale. A limit is advisable for
            posteriors: an outlier, for which the network gives large outputs, could otherwise get a posterior so wide
            that no sample of it decodes to that item.

    Raises:
        ValueError: if ``floor`` is outside (0, 1), or ``ceiling`` is not above 1.
    """

    support = constraints.real

    def __init__(self, floor: float = 1e-3, shared_scale: bool = False, ceiling: float | None = None) -> None:
        super().__init__()
        if ceiling is not None and not 1 < ceiling < math.inf:
            raise ValueError(f"ceiling must be above 1 and finite, got {ceiling}; 3 is usual for a posterior")
        self.floor, self.shared_scale, self.ceiling = checked_floor(floor), shared_scale, ceiling
        if shared_scale:
            self.raw_scale = nn.Parameter(torch.zeros(()))

    def raw(self, event: Size) -> tuple[Size, ...]:
        """Raw location, and raw scale unless it is shared: ``*event`` each."""
        return (event,) if self.shared_scale else (event, event)

    def forward(self, *raw: Tensor) -> td.Distribution:
        """The element-wise distribution over ``(*lead, *event)``, from raw parameters of the same shape."""
        loc, raw_scale = (raw[0], self.raw_scale) if self.shared_scale else raw
        return self.member(loc, self.scale(raw_scale).expand_as(loc))

    def scale(self, raw: Tensor) -> Tensor:
        """The scale of a raw scale of any shape: :func:`positive` or, with a ceiling, a harmonic mean of that and the
        ceiling that leaves raw 0 at 1."""
        scale = positive(raw, self.floor)
        return scale if self.ceiling is None else scale * (self.ceiling / (self.ceiling - 1 + scale))

    @abstractmethod
    def member(self, loc: Tensor, scale: Tensor) -> td.Distribution:
        """The member with this location and scale."""


@part("family", "normal")
class NormalFamily(LocationScale):
    """The normal distribution, ``log p(x) = -(x - loc)^2 / (2 scale^2) - log scale - log(2 pi) / 2``.

    With ``shared_scale=True`` this is the likelihood of the sigma-VAE: one learned noise level replaces the
    hand-tuned weight between reconstruction and KL.

    Args:
        floor: the smallest standard deviation.
        shared_scale: one learned standard deviation for all elements.
        ceiling: the upper limit of the standard deviation, or ``None``.

    Reference:
        Rybkin, Daniilidis, Levine: "Simple and Effective VAE Training with Calibrated Decoders", 2021
        (the shared scale).

    >>> d = NormalFamily()(torch.zeros(2, 3), torch.zeros(2, 3))
    >>> d.log_prob(torch.zeros(3)).shape, float(d.stddev[0, 0])
    (torch.Size([2, 3]), 1.0)
    """

    def member(self, loc: Tensor, scale: Tensor) -> td.Normal:
        """``N(loc, scale^2)``."""
        return td.Normal(loc, scale, validate_args=False)


@part("family", "laplace")
class LaplaceFamily(LocationScale):
    """The Laplace distribution, ``log p(x) = -|x - loc| / scale - log(2 scale)``.

    Args:
        floor: the smallest scale.
        shared_scale: one learned scale for all elements.
        ceiling: the upper limit of the scale, or ``None``.

    >>> LaplaceFamily()(torch.zeros(1), torch.zeros(1)).log_prob(torch.tensor([2.0]))
    tensor([-2.6931])
    """

    def member(self, loc: Tensor, scale: Tensor) -> td.Laplace:
        """``Laplace(loc, scale)``."""
        return td.Laplace(loc, scale, validate_args=False)


class Logistic(td.Distribution):
    """The logistic distribution: ``F(x) = 1 / (1 + e^-y)`` with ``y = (x - loc) / scale``.

    Args:
        loc: the median, ``(*lead, *event)``.
        scale: positive, ``(*lead, *event)``.

    >>> Logistic(torch.zeros(1), torch.ones(1)).log_prob(torch.zeros(1)).exp()
    tensor([0.2500])
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        super().__init__(self.loc.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Logistic:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return Logistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape))

    @property
    def mean(self) -> Tensor:
        """``loc``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """``(pi scale)^2 / 3``."""
        return (math.pi * self.scale) ** 2 / 3

    def log_prob(self, value: Tensor) -> Tensor:
        """``log F(x) + log(1 - F(x)) - log scale``, in a form that cannot underflow."""
        y = (value - self.loc) / self.scale
        return 2 * F.logsigmoid(y) - y - self.scale.log()

    def cdf(self, value: Tensor) -> Tensor:
        """``F(x)``."""
        return torch.sigmoid((value - self.loc) / self.scale)

    def icdf(self, value: Tensor) -> Tensor:
        """``loc + scale * log(u / (1 - u))``."""
        return self.loc + self.scale * torch.logit(value)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Reparameterised samples, by the quantile function of uniform numbers: ``(*sample_shape, *lead, *event)``."""
        shape = self._extended_shape(sample_shape)
        return self.icdf(clamp_probs(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)))

    def entropy(self) -> Tensor:
        """The entropy, ``log scale + 2``, in nats."""
        return self.scale.log() + 2


@part("family", "logistic")
class LogisticFamily(LocationScale):
    """The logistic distribution, with tails like those of the Laplace and a smooth mode like that of the normal.

    ``log p(x) = -y - 2 log(1 + e^-y) - log scale`` with ``y = (x - loc) / scale``.

    Args:
        floor: the smallest scale (the standard deviation is 1.81 times the scale).
        shared_scale: one learned scale for all elements.
        ceiling: the upper limit of the scale, or ``None``.

    >>> LogisticFamily()(torch.zeros(1), torch.zeros(1)).cdf(torch.zeros(1))
    tensor([0.5000])
    """

    def member(self, loc: Tensor, scale: Tensor) -> Logistic:
        """``Logistic(loc, scale)``."""
        return Logistic(loc, scale)


@part("family", "student_t")
class StudentTFamily(LocationScale):
    """Student's t, for data with outliers: ``p(x) ~ (1 + y^2 / df)^(-(df + 1) / 2)``, ``y = (x - loc) / scale``.

    Its quantile function is not available, since torch has no reliable incomplete beta function.

    Args:
        df: the degrees of freedom; smaller values give heavier tails, and at 1 or below the mean does not exist.
        floor: the smallest scale.
        shared_scale: one learned scale for all elements.
        ceiling: the upper limit of the scale, or ``None``.

    Reference:
        Takahashi, Iwata, Yamanaka, Yamada, Yagi: "Student-t Variational Autoencoder for Robust Density
        Estimation", 2018.

    >>> d = StudentTFamily(df=3.0)(torch.zeros(4, 2), torch.zeros(4, 2))
    >>> d.df.shape
    torch.Size([4, 2])
    """

    def __init__(
        self, df: float = 5.0, floor: float = 1e-3, shared_scale: bool = False, ceiling: float | None = None
    ) -> None:
        super().__init__(floor, shared_scale, ceiling)
        if not df > 0:
            raise ValueError(f"df must be positive, got {df}; 5 is usual")
        self.df = df

    def member(self, loc: Tensor, scale: Tensor) -> td.StudentT:
        """``loc + scale * t_df``."""
        df = torch.full((), self.df, dtype=loc.dtype, device=loc.device).expand_as(loc)
        return td.StudentT(df, loc, scale, validate_args=False)


@centre.register(td.Normal)
@centre.register(td.Laplace)
@centre.register(Logistic)
@centre.register(td.StudentT)
def _(d: Any) -> Tensor:
    return d.loc


@mean.register(td.Normal)
@mean.register(td.Laplace)
@mean.register(Logistic)
@mean.register(td.StudentT)
def _(d: Any) -> Tensor:
    return d.loc


@tempered.register(td.Normal)
@tempered.register(td.Laplace)
def _(d: Any, t: float) -> td.Distribution:
    return type(d)(d.loc, d.scale * checked_temperature(t), validate_args=False)


@tempered.register
def _(d: Logistic, t: float) -> Logistic:
    return Logistic(d.loc, d.scale * checked_temperature(t))


@tempered.register
def _(d: td.StudentT, t: float) -> td.StudentT:
    return td.StudentT(d.df, d.loc, d.scale * checked_temperature(t), validate_args=False)


@quantile.register
def _(d: td.Normal, u: Tensor) -> Tensor:
    return d.loc + d.scale * torch.special.ndtri(u)  # torch's icdf is inaccurate for small u


@quantile.register
def _(d: td.Laplace, u: Tensor) -> Tensor:
    near = torch.minimum(u, 1 - u)
    return d.loc + d.scale * torch.sign(u - 0.5) * -torch.log(2 * near)


@quantile.register
def _(d: Logistic, u: Tensor) -> Tensor:
    return d.icdf(u)
