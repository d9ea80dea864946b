"""Joint families on the simplex: vectors of positive numbers that sum to 1.

Densities are with respect to the first D - 1 numbers, which determine the last one.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.nn import functional as F

from ladle.families.family import (
    Family,
    centre,
    checked_floor,
    checked_several,
    checked_temperature,
    mean,
    positive,
    tempered,
)
from ladle.shapes import Size
from ladle.spec import part


class _OpenSimplex(constraints.Constraint):
    """Vectors of positive numbers that sum to 1, up to rounding."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """Whether vectors are in the support: ``(*, D) -> (*)``."""
        rounding = value.shape[-1] * torch.finfo(value.dtype).eps
        return (value > 0).all(-1) & ((value.sum(-1) - 1).abs() <= rounding)


open_simplex = _OpenSimplex()


def inside(x: Tensor) -> Tensor:
    """Clamp ``x`` to the smallest normal float, away from the boundary, where a density may be zero or infinite."""
    return x.clamp_min(torch.finfo(x.dtype).tiny)


class Dirichlet(td.Dirichlet):
    """torch's Dirichlet with samples clamped away from the boundary."""

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Samples with torch's implicit reparameterisation gradients, ``(*sample_shape, *lead, D)``."""
        return inside(super().rsample(sample_shape))


@part("family", "dirichlet")
class DirichletFamily(Family):
    """The Dirichlet distribution, ``p(x) ~ prod_i x_i^(a_i - 1)``, over the last dimension of the event.

    Raw zeros give a = 1, the uniform distribution on the simplex. Draws have implicit reparameterisation gradients.

    Args:
        floor: the smallest concentration. Below 0.1, much of the mass lies closer to the boundary than float32 can
            resolve.

    Reference:
        Figurnov, Mohamed, Mnih: "Implicit Reparameterization Gradients", 2018.

    >>> DirichletFamily()(torch.zeros(3)).log_prob(torch.tensor([0.2, 0.3, 0.5])).exp()
    tensor(2.)
    """

    support = open_simplex

    def __init__(self, floor: float = 0.1) -> None:
        super().__init__()
        self.floor = checked_floor(floor)

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The raw concentrations: ``*event``."""
        return (checked_several(event, "shares that sum to 1"),)

    def forward(self, *raw: Tensor) -> Dirichlet:
        """The distribution over ``(*lead, *event)``, joint in the last dimension, from raw concentrations."""
        return Dirichlet(positive(raw[0], self.floor), validate_args=False)


class LogisticNormal(td.Distribution):
    """``x = softmax(y_1, ..., y_(D-1), 0)`` with independent normal log-ratios y to the last number.

    ``log p(x) = sum_i log N(y_i; loc_i, scale_i^2) - sum_j log x_j`` with ``y_i = log(x_i / x_D)``: the Jacobian of
    the softmax is the product of all D numbers.

    Args:
        loc: the means of the log-ratios, ``(*lead, D - 1)``.
        scale: their standard deviations, positive, ``(*lead, D - 1)``.

    >>> LogisticNormal(torch.zeros(7, 2), torch.ones(7, 2)).sample().shape
    torch.Size([7, 3])
    """

    arg_constraints = {"loc": constraints.real_vector, "scale": constraints.independent(constraints.positive, 1)}
    support = open_simplex
    has_rsample = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        self.loc, self.scale = loc, scale
        super().__init__(loc.shape[:-1], torch.Size([loc.shape[-1] + 1]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogisticNormal:
        """See :meth:`torch.distributions.Distribution.expand`."""
        size = (*batch_shape, self.loc.shape[-1])
        return LogisticNormal(self.loc.expand(size), self.scale.expand(size))

    @property
    def base(self) -> td.Normal:
        """The distribution of the log-ratios, element-wise over ``(*lead, D - 1)``."""
        return td.Normal(self.loc, self.scale, validate_args=False)

    @property
    def median(self) -> Tensor:
        """The point whose log-ratios are the medians, ``(*lead, D)``."""
        return shares(self.loc)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density, ``(*, D) -> (*)``."""
        log_x = inside(value).log()
        return self.base.log_prob(log_x[..., :-1] - log_x[..., -1:]).sum(-1) - log_x.sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Reparameterised samples, ``(*sample_shape, *lead, D)``."""
        return shares(self.base.rsample(sample_shape))


def shares(log_ratios: Tensor) -> Tensor:
    """``softmax(y, 0)``: ``(*, D - 1) -> (*, D)``."""
    return inside(F.pad(log_ratios, (0, 1)).softmax(-1))


@td.register_kl(LogisticNormal, LogisticNormal)
def _(q: LogisticNormal, p: LogisticNormal) -> Tensor:
    """The KL between the distributions of the log-ratios."""
    return td.kl_divergence(q.base, p.base).sum(-1)


@td.register_kl(Dirichlet, LogisticNormal)
def _(q: Dirichlet, p: LogisticNormal) -> Tensor:
    """Under a Dirichlet, ``log x_j`` has mean ``psi(a_j) - psi(sum a)``, and ``log(x_i / x_D)`` the variance
    ``psi'(a_i) + psi'(a_D)``."""
    digamma, trigamma = (torch.special.polygamma(n, q.concentration) for n in (0, 1))
    log_x = digamma - torch.digamma(q.concentration.sum(-1, keepdim=True))
    distance = digamma[..., :-1] - digamma[..., -1:] - p.loc
    square = (distance.square() + trigamma[..., :-1] + trigamma[..., -1:]) / p.scale.square()
    log_p = -(0.5 * square + p.scale.log() + 0.5 * math.log(2 * math.pi)).sum(-1) - log_x.sum(-1)
    return -q.entropy() - log_p


@part("family", "logistic_normal")
class LogisticNormalFamily(Family):
    """The logistic-normal distribution over the last dimension of the event, ``x = softmax(y, 0)`` with normal y.

    Raw zeros give standard normal log-ratios to the last number. The expectation has no closed form; ``mean`` returns
    the centre, ``softmax(loc, 0)``.

    Args:
        floor: the smallest standard deviation of a log-ratio.

    Reference:
        Aitchison, Shen: "Logistic-Normal Distributions: Some Properties and Uses", 1980.

    >>> LogisticNormalFamily().raw((4,))
    ((3,), (3,))
    """

    support = open_simplex

    def __init__(self, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = checked_floor(floor)

    def raw(self, event: Size) -> tuple[Size, ...]:
        """Raw location and scale of the log-ratios: ``(..., D - 1)`` each."""
        *rest, size = checked_several(event, "shares that sum to 1")
        return ((*rest, size - 1),) * 2

    def forward(self, *raw: Tensor) -> LogisticNormal:
        """The distribution over ``(*lead, ..., D)``, joint in the last dimension, from ``(*lead, ..., D - 1)`` each."""
        return LogisticNormal(raw[0], positive(raw[1], self.floor))


@centre.register
def _(d: Dirichlet) -> Tensor:
    return inside(d.mean)


@mean.register
def _(d: Dirichlet) -> Tensor:
    return d.mean


@centre.register
def _(d: LogisticNormal) -> Tensor:
    return d.median


@tempered.register
def _(d: Dirichlet, t: float) -> Dirichlet:
    """Keep the mean and multiply the concentrations by 1/t."""
    return Dirichlet(d.concentration / checked_temperature(t), validate_args=False)


@tempered.register
def _(d: LogisticNormal, t: float) -> LogisticNormal:
    return LogisticNormal(d.loc, d.scale * checked_temperature(t))
