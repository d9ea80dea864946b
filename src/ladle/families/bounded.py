"""Families on the unit interval."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import clamp_probs

from ladle.families.family import (
    Family,
    centre,
    checked_floor,
    checked_temperature,
    draw,
    mean,
    positive,
    quantile,
    tempered,
)
from ladle.shapes import Size
from ladle.spec import part


class _OpenUnitInterval(constraints.interval):
    """The open interval (0, 1)."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)


open_unit_interval = _OpenUnitInterval()


@part("family", "beta")
class BetaFamily(Family):
    """The beta distribution, ``p(x) ~ x^(a - 1) (1 - x)^(b - 1)``; raw zeros give a = b = 1, the
    uniform distribution.

    The density is zero or infinite at the ends of the interval, so the support is the open interval. For data with
    exact zeros or ones, use ``continuous_bernoulli`` or a pixel family.

    Args:
        floor: the smallest a and b. Below 0.1, much of the mass lies closer to the ends than float32 can resolve.

    >>> BetaFamily()(torch.zeros(1), torch.zeros(1)).log_prob(torch.tensor([0.3]))
    tensor([0.])
    """

    support = open_unit_interval

    def __init__(self, floor: float = 0.1) -> None:
        super().__init__()
        self.floor = checked_floor(floor)

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The two raw concentrations: ``*event`` each."""
        return (event, event)

    def forward(self, *raw: Tensor) -> td.Beta:
        """The element-wise distribution over ``(*lead, *event)``, from raw concentrations of the same shape."""
        a, b = (positive(r, self.floor) for r in raw)
        return td.Beta(a, b, validate_args=False)


SMALL = 0.1  # for smaller logits, the functions of the logit are evaluated by their series: error < 1e-11


class ContinuousBernoulli(td.Distribution):
    """The density ``p(x) = e^(l x - A(l))`` on [0, 1], with ``A(l) = log((e^l - 1) / l)``.

    All functions are computed from the logit ``l``. (torch's class uses p = sigmoid(l): it loses digits to
    cancellation near p = 1/2, and is NaN where p rounds to 0 or 1.)

    Args:
        logits: ``l``, ``(*lead, *event)``.

    >>> d = ContinuousBernoulli(torch.tensor([0.0, 1e-4, 200.0]))
    >>> d.mean
    tensor([0.5000, 0.5000, 0.9950])
    """

    arg_constraints = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> ContinuousBernoulli:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return ContinuousBernoulli(self.logits.expand(batch_shape))

    @property
    def log_partition(self) -> Tensor:
        """``A(l) = l/2 + log(sinh(l/2) / (l/2))``."""
        l = self.logits
        small = l.abs() < SMALL
        big = torch.where(small, 1.0, l).abs()  # a safe value where it is unused, so that the gradient is finite
        series = l.square() / 24 - l.square().square() / 2880
        return l / 2 + torch.where(small, series, big / 2 + torch.log(-torch.expm1(-big) / big))

    @property
    def mean(self) -> Tensor:
        """``A'(l) = 1/2 + (coth(l/2) - 2/l) / 2``."""
        l = self.logits
        small = l.abs() < SMALL
        big = torch.where(small, 1.0, l)
        series = l / 12 - l**3 / 720 + l**5 / 30240
        return 0.5 + torch.where(small, series, 0.5 / torch.tanh(big / 2) - 1 / big)

    def log_prob(self, value: Tensor) -> Tensor:
        """``l x - A(l)``."""
        return self.logits * value - self.log_partition

    def cdf(self, value: Tensor) -> Tensor:
        """``(e^(l x) - 1) / (e^l - 1)``, evaluated by reflection for l > 0 and by its series near l = 0."""
        l, x = self.logits, value.clamp(0, 1)
        flat, reflected, negative = self._regimes()
        series = x - l * x * (1 - x) / 2 * (1 + l * (2 * x - 1) / 6)
        below = torch.expm1(negative * torch.where(reflected, 1 - x, x)) / torch.expm1(negative)
        return torch.where(flat, series, torch.where(reflected, 1 - below, below))

    def icdf(self, value: Tensor) -> Tensor:
        """``log(1 + u (e^l - 1)) / l``, evaluated by reflection for l > 0 and by its series near l = 0."""
        l, u = self.logits, value
        flat, reflected, negative = self._regimes()
        series = u + l * u * (1 - u) / 2 * (1 + l * (1 - 2 * u) / 3)
        x = torch.log1p(torch.where(reflected, 1 - u, u) * torch.expm1(negative)) / negative
        return torch.where(flat, series, torch.where(reflected, 1 - x, x)).clamp(0, 1)

    def _regimes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Masks for l near 0 and for positive l, and -abs(l) (-1 where l is near 0)."""
        flat = self.logits.abs() < 1e-3
        return flat, self.logits > 0, torch.where(flat, -1.0, -self.logits.abs())

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Reparameterised samples, by the quantile function of uniform numbers: ``(*sample_shape, *lead, *event)``."""
        shape = self._extended_shape(sample_shape)
        return self.icdf(clamp_probs(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)))

    def entropy(self) -> Tensor:
        """The entropy, ``A(l) - l A'(l)``, in nats."""
        return self.log_partition - self.logits * self.mean


@td.register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _(q: ContinuousBernoulli, p: ContinuousBernoulli) -> Tensor:
    return (q.logits - p.logits) * q.mean - q.log_partition + p.log_partition


@part("family", "continuous_bernoulli")
class ContinuousBernoulliFamily(Family):
    """The continuous Bernoulli distribution, ``p(x) ~ e^(l x)`` on [0, 1].

    It is binary cross-entropy on grey pixels with the normaliser that makes it a density. Raw zeros give the uniform
    distribution.

    Reference:
        Loaiza-Ganem, Cunningham: "The Continuous Bernoulli: Fixing a Pervasive Error in Variational
        Autoencoders", 2019.

    >>> d = ContinuousBernoulliFamily()(torch.tensor([2.0]))
    >>> float(d.log_prob(torch.linspace(0, 1, 1001)).exp().mean())  # doctest: +ELLIPSIS
    1.00...
    """

    support = constraints.unit_interval

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The logits: ``*event``."""
        return (event,)

    def forward(self, *raw: Tensor) -> ContinuousBernoulli:
        """The element-wise distribution over ``(*lead, *event)``, from logits of the same shape."""
        return ContinuousBernoulli(raw[0])


@centre.register(td.Beta)
@centre.register(ContinuousBernoulli)
def _(d: Any) -> Tensor:
    return d.mean


@mean.register(td.Beta)
@mean.register(ContinuousBernoulli)
def _(d: Any) -> Tensor:
    return d.mean


@tempered.register
def _(d: td.Beta, t: float) -> td.Beta:
    """Keep the mean and multiply the concentrations by 1/t."""
    t = checked_temperature(t)
    return td.Beta(d.concentration1 / t, d.concentration0 / t, validate_args=False)


@tempered.register
def _(d: ContinuousBernoulli, t: float) -> ContinuousBernoulli:
    return ContinuousBernoulli(d.logits / checked_temperature(t))


@quantile.register
def _(d: ContinuousBernoulli, u: Tensor) -> Tensor:
    return d.icdf(u)


@draw.register
def _(d: td.Beta) -> Tensor:
    """Implicit reparameterisation by torch, clamped so that rounding cannot reach the ends of the interval."""
    eps = torch.finfo(d.concentration0.dtype).eps
    return d.rsample().clamp(eps, 1 - eps)
