"""Joint families of real vectors."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families.family import (
    Family,
    centre,
    chain,
    checked_floor,
    checked_temperature,
    mean,
    positive,
    tempered,
)
from ladle.shapes import Size
from ladle.spec import part


class FullNormal(td.Distribution):
    """The normal distribution ``N(loc, L L')`` of vectors.

    ``log p(x) = -|e|^2 / 2 - sum_i log L_ii - D log(2 pi) / 2`` with ``e = L^-1 (x - loc)``.

    Args:
        loc: ``(*lead, D)``.
        scale_tril: L, lower triangular with a positive diagonal, ``(*lead, D, D)``.

    >>> FullNormal(torch.zeros(5, 2), torch.eye(2).expand(5, 2, 2)).log_prob(torch.ones(2)).shape
    torch.Size([5])
    """

    arg_constraints = {"loc": constraints.real_vector, "scale_tril": constraints.lower_cholesky}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, loc: Tensor, scale_tril: Tensor) -> None:
        self.loc, self.scale_tril = loc, scale_tril
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> FullNormal:
        """See :meth:`torch.distributions.Distribution.expand`."""
        size = self.loc.shape[-1]
        return FullNormal(self.loc.expand(*batch_shape, size), self.scale_tril.expand(*batch_shape, size, size))

    @property
    def mean(self) -> Tensor:
        """``loc``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The diagonal of ``L L'``, ``(*lead, D)``."""
        return self.scale_tril.square().sum(-1)

    @property
    def log_scales(self) -> Tensor:
        """``log L_ii``, ``(*lead, D)``."""
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log()

    def conditionals_log_prob(self, value: Tensor) -> Tensor:
        """``log p(x_i | x_1 .. x_(i-1)) = -e_i^2 / 2 - log L_ii - log(2 pi) / 2``: ``(*, D) -> (*, D)``."""
        e = torch.linalg.solve_triangular(self.scale_tril, (value - self.loc).unsqueeze(-1), upper=False).squeeze(-1)
        return -0.5 * e.square() - self.log_scales - 0.5 * math.log(2 * math.pi)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density, ``(*, D) -> (*)``."""
        return self.conditionals_log_prob(value).sum(-1)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Reparameterised samples ``loc + L e``, ``(*sample_shape, *lead, D)``."""
        e = torch.randn(self._extended_shape(sample_shape), dtype=self.loc.dtype, device=self.loc.device)
        return self.loc + (self.scale_tril @ e.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """The entropy in nats, ``(*lead,)``."""
        return self.log_scales.sum(-1) + 0.5 * self.loc.shape[-1] * (1 + math.log(2 * math.pi))


def joint(d: td.Normal) -> FullNormal:
    """An element-wise normal distribution as a joint one over its last dimension."""
    return FullNormal(d.loc, torch.diag_embed(d.scale))


@td.register_kl(FullNormal, FullNormal)
def _kl(q: FullNormal, p: FullNormal) -> Tensor:
    """``(|L_p^-1 L_q|^2 + |L_p^-1 (m_q - m_p)|^2 - D) / 2 + sum_i log L_p,ii - log L_q,ii``, ``(*lead,)``."""
    both = torch.cat([q.scale_tril, (q.loc - p.loc).unsqueeze(-1)], dim=-1)
    squares = torch.linalg.solve_triangular(p.scale_tril, both, upper=False).square().sum((-2, -1))
    return 0.5 * (squares - q.loc.shape[-1]) + (p.log_scales - q.log_scales).sum(-1)


@td.register_kl(FullNormal, td.Normal)
def _(q: FullNormal, p: td.Normal) -> Tensor:
    return _kl(q, joint(p))


@td.register_kl(td.Normal, FullNormal)
def _(q: td.Normal, p: FullNormal) -> Tensor:
    return _kl(joint(q), p)


@part("family", "full_normal")
class FullNormalFamily(Family):
    """The normal distribution with a full covariance over the last dimension of the event, ``x = loc + L e``.

    ::

        raw[0] (*lead, ..., D) ------------------> loc
        raw[1] (*lead, ..., D) ------positive----> diagonal of L
        raw[2] (*lead, ..., D (D - 1) / 2) --/ sqrt D--> L below its diagonal, row by row   (where D > 1)

    Raw zeros give N(0, I), and raw parameters of order 1 give variances of order 1 in any dimension. The support is
    that of ``normal``, so either family can be the prior of the other, and the KL has a closed form in both directions.

    Args:
        floor: the smallest diagonal element of L.

    >>> family = FullNormalFamily()
    >>> family.raw((3,))
    ((3,), (3,), (3,))
    >>> family(torch.zeros(2, 3), torch.zeros(2, 3), torch.ones(2, 3)).scale_tril[0]
    tensor([[1.0000, 0.0000, 0.0000],
            [0.5774, 1.0000, 0.0000],
            [0.5774, 0.5774, 1.0000]])
    """

    support = constraints.real

    def __init__(self, floor: float = 1e-3) -> None:
        super().__init__()
        self.floor = checked_floor(floor)

    def raw(self, event: Size) -> tuple[Size, ...]:
        """Raw location, diagonal, and elements below the diagonal (if D > 1)."""
        if not event:
            raise ValueError(
                "a full covariance is over the last dimension of the event, but this event has none; use an event (D,)"
            )
        *rest, size = event
        below = (*rest, size * (size - 1) // 2)
        return (event, event, below) if size > 1 else (event, event)

    def forward(self, *raw: Tensor) -> FullNormal:
        """The distribution over ``(*lead, *event)``, joint in the last dimension."""
        loc, diagonal, *below = raw
        scale_tril = torch.diag_embed(positive(diagonal, self.floor))
        if below:
            rows, columns = torch.tril_indices(loc.shape[-1], loc.shape[-1], -1, device=loc.device)
            scale_tril[..., rows, columns] = below[0] / math.sqrt(loc.shape[-1])
        return FullNormal(loc, scale_tril)


@centre.register
def _(d: FullNormal) -> Tensor:
    return d.loc


@mean.register
def _(d: FullNormal) -> Tensor:
    return d.loc


@tempered.register
def _(d: FullNormal, t: float) -> FullNormal:
    return FullNormal(d.loc, d.scale_tril * checked_temperature(t))


@chain.register
def _(d: FullNormal, z: Tensor) -> Tensor:
    return d.conditionals_log_prob(z)
