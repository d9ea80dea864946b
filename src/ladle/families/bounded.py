"""Families over the unit interval."""

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
    """(0, 1) without its ends."""

    def __init__(self) -> None:
        super().__init__(0.0, 1.0)

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)


open_unit_interval = _OpenUnitInterval()


@part("family", "beta")
class BetaFamily(Family):
    """The beta distribution, ``p(x) ~ x^(a - 1) (1 - x)^(b - 1)``; raw zeros give a = b = 1, the uniform one.

    Its density is zero or infinite at the ends of the interval, so the support is the open one: data that
    hold exact zeros or ones want ``continuous_bernoulli`` or a pixel family.

    Args:
        floor: the smallest a and b. Below 0.1, much of the mass lies closer to the ends than float32 can tell.

    >>> BetaFamily()(torch.zeros(1), torch.zeros(1)).log_prob(torch.tensor([0.3]))
    tensor([0.])
    """

    support = open_unit_interval

    def __init__(self, floor: float = 0.1) -> None:
        super().__init__()
        self.floor = checked_floor(floor)

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The two concentrations: ``*event`` each."""
        return (event, event)

    def forward(self, *raw: Tensor) -> td.Beta:
        """``(*lead, *event)`` each to an element-wise distribution over ``(*lead, *event)``."""
        a, b = (positive(r, self.floor) for r in raw)
        return td.Beta(a, b, validate_args=False)


SMALL = 0.1  # below it, the functions of a logit are taken from their series: error < 1e-11


class ContinuousBernoulli(td.Distribution):
    """The density ``p(x) = e^(l x - A(l))`` on [0, 1], with ``A(l) = log((e^l - 1) / l)``.

    Everything is computed from the logit ``l``. (torch's class goes by p = sigmoid(l): it cancels digits near
    p = 1/2, and is NaN where p rounds to 0 or 1.)

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
        big = torch.where(small, 1.0, l).abs()  # a safe stand-in, for the gradient's sake
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
        """``(e^(l x) - 1) / (e^l - 1)``, by the mirror image for l > 0, by its series near l = 0."""
        l, x = self.logits, value.clamp(0, 1)
        flat, mirror, down = self._regimes()
        series = x - l * x * (1 - x) / 2 * (1 + l * (2 * x - 1) / 6)
        below = torch.expm1(down * torch.where(mirror, 1 - x, x)) / torch.expm1(down)
        return torch.where(flat, series, torch.where(mirror, 1 - below, below))

    def icdf(self, value: Tensor) -> Tensor:
        """``log(1 + u (e^l - 1)) / l``, by the mirror image for l > 0, by its series near l = 0."""
        l, u = self.logits, value
        flat, mirror, down = self._regimes()
        series = u + l * u * (1 - u) / 2 * (1 + l * (1 - 2 * u) / 3)
        x = torch.log1p(torch.where(mirror, 1 - u, u) * torch.expm1(down)) / down
        return torch.where(flat, series, torch.where(mirror, 1 - x, x)).clamp(0, 1)

    def _regimes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where l is nearly 0, where it is positive, and -abs(l) with a stand-in where it is nearly 0."""
        flat = self.logits.abs() < 1e-3
        return flat, self.logits > 0, torch.where(flat, -1.0, -self.logits.abs())

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """By the inverse distribution function of a uniform number."""
        shape = self._extended_shape(sample_shape)
        return self.icdf(clamp_probs(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)))

    def entropy(self) -> Tensor:
        """``A(l) - l A'(l)``, in nats."""
        return self.log_partition - self.logits * self.mean


@td.register_kl(ContinuousBernoulli, ContinuousBernoulli)
def _(q: ContinuousBernoulli, p: ContinuousBernoulli) -> Tensor:
    return (q.logits - p.logits) * q.mean - q.log_partition + p.log_partition


@part("family", "continuous_bernoulli")
class ContinuousBernoulliFamily(Family):
    """The continuous Bernoulli, ``p(x) ~ e^(l x)`` on [0, 1]: what "binary cross-entropy on grey pixels" lacks
    is its normaliser.

    Raw zeros give the uniform distribution.

    Reference:
        Loaiza-Ganem, Cunningham: "The Continuous Bernoulli: Fixing a Pervasive Error in Variational
        Autoencoders", 2019.

    >>> d = ContinuousBernoulliFamily()(torch.tensor([2.0]))
    >>> float(d.log_prob(torch.linspace(0, 1, 1001)).exp().mean())  # doctest: +ELLIPSIS
    1.00...
    """

    support = constraints.unit_interval

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The logit: ``*event``."""
        return (event,)

    def forward(self, *raw: Tensor) -> ContinuousBernoulli:
        """``(*lead, *event)`` to an element-wise distribution over ``(*lead, *event)``."""
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
    """The same mean with 1/t times the concentration."""
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
    """torch's implicit reparameterisation, kept off the ends where a float would round onto them."""
    eps = torch.finfo(d.concentration0.dtype).eps
    return d.rsample().clamp(eps, 1 - eps)
