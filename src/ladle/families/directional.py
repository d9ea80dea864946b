"""Families of directions: angles on the circle, unit vectors on the sphere.

Both take one natural parameter vector v for each direction: its length is the concentration, its direction the
location. So v = 0 is the uniform distribution, where the gradient of a likelihood does not vanish. (A separate
non-negative concentration could reach zero inside its range only with zero gradient there, and a separate location
would have a singularity elsewhere.) At v = 0 the location is arbitrary. Of the unbiased gradients of a draw, the
estimators below are chosen so that their variance stays bounded there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.nn import functional as F

from ladle.families.family import Family, centre, checked_several, checked_temperature, mean, quantile, tempered
from ladle.shapes import Size
from ladle.spec import part

TINY = 1e-9  # used in place of a concentration of 0 where a direction is needed


class _Circle(constraints.interval):
    """Angles from -pi to pi, with a tolerance because float32 rounds pi upwards."""

    def __init__(self) -> None:
        super().__init__(-math.pi, math.pi)

    def check(self, value: Tensor) -> Tensor:
        return value.abs() <= math.pi + 1e-6


class _Sphere(constraints.Constraint):
    """Vectors of length 1, up to rounding."""

    event_dim = 1

    def check(self, value: Tensor) -> Tensor:
        """``(*, D) -> (*)``."""
        return (value.square().sum(-1) - 1).abs() <= value.shape[-1] * torch.finfo(value.dtype).eps


circle, sphere = _Circle(), _Sphere()

# ---------------------------------------------------------------------------------------------------- the circle

_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(48))
_NODES, _WEIGHTS = (1 + _NODES) / 2, _WEIGHTS / 2  # of Gauss-Legendre quadrature on [0, 1]
FAR = 12.0  # in standard deviations: the mass beyond is negligible
STEEP = 20.0  # in nats below the maximum of the log-density: 1e-9 of the mass lies beyond, where digits cancel


class VonMises(td.Distribution):
    """The von Mises distribution of an angle, ``log p(x) = v_1 cos x + v_2 sin x - log(2 pi I_0(|v|))``.

    Computed in float64, so that the cancellation of large terms is harmless.

    Args:
        natural: the natural parameters v, ``(*lead, *event, 2)``.

    >>> VonMises(torch.tensor([[0.0, 3.0]])).loc
    tensor([1.5708])
    """

    arg_constraints = {"natural": constraints.real_vector}
    support = circle
    has_rsample = True

    def __init__(self, natural: Tensor) -> None:
        self.natural = natural
        super().__init__(natural.shape[:-1], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> VonMises:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return VonMises(self.natural.expand(*batch_shape, 2))

    @property
    def concentration(self) -> Tensor:
        """``|v|``, ``(*lead, *event)``, float64."""
        return torch.linalg.vector_norm(self.natural.double(), dim=-1)

    @property
    def loc(self) -> Tensor:
        """The angle of v, ``(*lead, *event)``; 0 where v = 0."""
        v = self.natural + 0.0  # turns -0.0 into 0.0
        return torch.atan2(v[..., 1], v[..., 0])

    @property
    def log_normaliser(self) -> Tensor:
        """``log I_0(|v|)``, float64."""
        kappa = self.concentration
        return torch.special.i0e(kappa).log() + kappa

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density per radian."""
        v, x = self.natural.double(), value.double()
        found = v[..., 0] * x.cos() + v[..., 1] * x.sin() - self.log_normaliser - math.log(2 * math.pi)
        return found.to(self.natural.dtype)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Angles, ``(*sample_shape, *lead, *event)``."""
        with torch.no_grad():
            d = td.VonMises(self.loc.double(), self.concentration.clamp_min(TINY), validate_args=False)
            return d.sample(sample_shape).to(self.natural.dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Samples with the gradient that :meth:`velocity` gives, ``(*sample_shape, *lead, *event)``."""
        x = self.sample(sample_shape)
        return x + (self.velocity(x) * (self.natural - self.natural.detach())).sum(-1)

    @torch.no_grad()
    def velocity(self, x: Tensor) -> Tensor:
        """The derivative of an angle with respect to v, ``dx/dv``: ``(*, *event) -> (*, *event, 2)``.

        With t the angle from the location, k = |v| and A = I_1(k) / I_0(k):

        * along v, by implicit reparameterisation,
          ``dt/dk = -(dF/dk) / p = -int_0^t (cos s - A) exp(k (cos s - cos t)) ds``, by quadrature;
        * across v, where the location rotates at the rate 1 / k, ``(1 - exp(-k cos t) / I_0(k)) / k``. Any constant
          probability flow around the circle may be subtracted from the rotation; this choice minimises the variance.
          It tends to ``cos t`` as k goes to 0, where the rotation alone has no limit.

        Reference:
            Figurnov, Mohamed, Mnih: "Implicit Reparameterization Gradients", 2018.
        """
        kappa, loc = self.concentration, self.loc.double()
        ratio = torch.special.i1e(kappa) / torch.special.i0e(kappa)
        t = (x.double() - loc + math.pi).remainder(2 * math.pi) - math.pi
        k = kappa.clamp_min(TINY)
        across = -torch.expm1(-k * (1 + t.cos()) - torch.special.i0e(k).log()) / k
        reach = torch.acos((1 - STEEP / k).clamp_min(-1.0))
        t = torch.minimum(torch.maximum(t, -reach), reach)
        s = t.unsqueeze(-1) * _NODES.to(t.device)
        rise = (kappa.unsqueeze(-1) * (s.cos() - t.cos().unsqueeze(-1))).exp()
        along = -t * (((s.cos() - ratio.unsqueeze(-1)) * rise) @ _WEIGHTS.to(t.device))
        cos, sin = loc.cos(), loc.sin()
        return torch.stack([along * cos - across * sin, along * sin + across * cos], -1).to(self.natural.dtype)

    def _unrolled(self, t: Tensor) -> Tensor:
        """The distribution function of the angle t from the location: 1/2 at t = 0, plus 1 for each full turn."""
        kappa = self.concentration
        turns = torch.floor((t + math.pi) / (2 * math.pi))
        far = (FAR / kappa.clamp_min(TINY).sqrt()).clamp_max(math.pi)
        t = torch.minimum(torch.maximum(t - 2 * math.pi * turns, -far), far)
        density = (kappa.unsqueeze(-1) * ((t.unsqueeze(-1) * _NODES.to(t.device)).cos() - 1)).exp()
        return turns + 0.5 + t * (density @ _WEIGHTS.to(t.device)) / (2 * math.pi * torch.special.i0e(kappa))

    def cdf(self, value: Tensor) -> Tensor:
        """The probability between -pi and an angle."""
        loc = self.loc.double()
        return (self._unrolled(value.double() - loc) - self._unrolled(-math.pi - loc)).to(self.natural.dtype)

    @torch.no_grad()
    def icdf(self, value: Tensor) -> Tensor:
        """The inverse of :meth:`cdf`, by bisection."""
        loc = self.loc.double()
        mass = value.double() + self._unrolled(-math.pi - loc)
        turns = mass.floor()
        low, high = torch.full_like(mass, -math.pi), torch.full_like(mass, math.pi)
        for _ in range(50):
            middle = (low + high) / 2
            too_high = self._unrolled(middle) > mass - turns
            low, high = torch.where(too_high, low, middle), torch.where(too_high, middle, high)
        return (low + 2 * math.pi * turns + loc).clamp(-math.pi, math.pi).to(self.natural.dtype)

    def entropy(self) -> Tensor:
        """The entropy in nats, ``(*lead, *event)``."""
        v = self.natural.double()
        return (self.log_normaliser + math.log(2 * math.pi) - (self.expectation * v).sum(-1)).to(self.natural.dtype)

    @property
    def expectation(self) -> Tensor:
        """``E[(cos x, sin x)] = v A(k) / k``, ``(*lead, *event, 2)``, float64."""
        kappa = self.concentration.unsqueeze(-1)
        small = kappa < 1e-4
        safe = torch.where(small, 1.0, kappa)
        ratio = torch.special.i1e(safe) / torch.special.i0e(safe) / safe
        return self.natural.double() * torch.where(small, 0.5 - kappa.square() / 16, ratio)


@td.register_kl(VonMises, VonMises)
def _(q: VonMises, p: VonMises) -> Tensor:
    gap = q.natural.double() - p.natural.double()
    kl = (q.expectation * gap).sum(-1) - q.log_normaliser + p.log_normaliser
    return kl.to(q.natural.dtype)


@part("family", "von_mises")
class VonMisesFamily(Family):
    """The von Mises distribution of an angle in [-pi, pi] for each element, ``p(x) ~ exp(k cos(x - loc))``.

    ::

        raw (*lead, *event, 2) = v ----> k = |v|, loc = the angle of v
        z (*lead, ..., D) --read--> (cos z, sin z)  (*lead, ..., 2 D): continuous at pi for a network

    Raw zeros give the uniform distribution on the circle. Draws have implicit reparameterisation gradients.

    >>> family = VonMisesFamily()
    >>> family.raw((5,)), family.read_size((5,))
    (((5, 2),), (10,))
    """

    support = circle

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The natural parameters: ``(*event, 2)``."""
        return ((*event, 2),)

    def forward(self, *raw: Tensor) -> VonMises:
        """The element-wise distribution over ``(*lead, *event)``, from ``(*lead, *event, 2)``."""
        return VonMises(raw[0])

    def read(self, z: Tensor) -> Tensor:
        """The cosines followed by the sines, along the last dimension: ``(*, D) -> (*, 2 D)``."""
        return torch.cat([z.cos(), z.sin()], dim=-1)

    def read_size(self, event: Size) -> Size:
        """``(..., D) -> (..., 2 D)``."""
        if not event:
            raise ValueError("angles are read along the last dimension of the event, but this event has none; use (1,)")
        return (*event[:-1], 2 * event[-1])


# ---------------------------------------------------------------------------------------------------- the sphere


class PowerSpherical(td.Distribution):
    """The power spherical distribution of a unit vector, ``p(x) ~ (1 + m'x)^k`` with k = |v| and m = v / k.

    With ``b = (D - 1) / 2`` and ``a = b + k``:
    ``log p(x) = k log(1 + m'x) - (a + b) log 2 - b log pi - log Gamma(a) + log Gamma(a + b)``, computed in float64.

    Args:
        natural: the natural parameters v, ``(*lead, D)``.

    >>> d = PowerSpherical(torch.zeros(3))
    >>> round(float(d.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp() * 4 * torch.pi), 4)
    1.0
    """

    arg_constraints = {"natural": constraints.real_vector}
    support = sphere
    has_rsample = True

    def __init__(self, natural: Tensor) -> None:
        self.natural = natural
        super().__init__(natural.shape[:-1], natural.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> PowerSpherical:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return PowerSpherical(self.natural.expand(*batch_shape, *self.event_shape))

    @property
    def _polar(self) -> tuple[Tensor, Tensor]:
        """m ``(*lead, D)`` and k ``(*lead,)``, float64; at v = 0, those of a tiny vector along the first axis."""
        v = self.natural.double()
        nudge = TINY * (torch.arange(v.shape[-1], device=v.device) == 0)
        length = torch.linalg.vector_norm(v.detach(), dim=-1, keepdim=True)
        v = torch.where(length < TINY, nudge + v - v.detach(), v)
        kappa = torch.linalg.vector_norm(v, dim=-1)
        return v / kappa.unsqueeze(-1), kappa

    @property
    def direction(self) -> Tensor:
        """m, the mode of the density, ``(*lead, D)``; the first axis for the uniform distribution."""
        return self._polar[0].to(self.natural.dtype)

    @property
    def mean(self) -> Tensor:
        """``m (a - b) / (a + b)``, inside the unit ball, ``(*lead, D)``."""
        v = self.natural
        return v / (v.shape[-1] - 1 + torch.linalg.vector_norm(v, dim=-1, keepdim=True))

    def _shape(self, kappa: Tensor) -> tuple[Tensor, Tensor]:
        """a and b, the parameters of the beta distribution of ``(1 + m'x) / 2``."""
        b = torch.full_like(kappa, (self.event_shape[0] - 1) / 2)
        return b + kappa, b

    def _log_normaliser(self, kappa: Tensor) -> Tensor:
        a, b = self._shape(kappa)
        return (a + b) * math.log(2) + b * math.log(math.pi) + torch.lgamma(a) - torch.lgamma(a + b)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-density per unit of surface area, ``(*, D) -> (*)``."""
        m, kappa = self._polar
        half = (m + F.normalize(value.double(), dim=-1)).square().sum(-1) / 2  # 1 + m'x, accurate near 0
        found = kappa * half.clamp_min(torch.finfo(torch.float64).tiny).log() - self._log_normaliser(kappa)
        return found.to(self.natural.dtype)

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """``x = t m + sqrt(1 - t^2) w`` with (1 + t) / 2 from a beta distribution and w uniform, orthogonal to m.

        The gradient has two parts. The dependence of t on k has the gradient of implicit reparameterisation. A change
        of m rotates x; the rotation may be multiplied by ``1 - c / p(x)`` for any constant c without changing the
        distribution, since rotations preserve the uniform distribution. c is chosen to make the variance small
        (``1 / c`` is the integral of ``1 / p``, infinite for k >= b): then the gradient with respect to v, ``1 / k``
        times the one with respect to m, stays bounded as v goes to 0.
        """
        m, kappa = self._polar
        a, b = self._shape(kappa)
        near, far = td.Dirichlet(torch.stack([a, b], -1), validate_args=False).rsample(sample_shape).unbind(-1)
        axis = m.detach()
        with torch.no_grad():
            tiny = torch.finfo(torch.float64).tiny
            y, rest, t = near.clamp_min(tiny), far.clamp_min(tiny), (near - far).unsqueeze(-1)
            w = torch.randn(self._extended_shape(sample_shape), dtype=m.dtype, device=m.device)
            w = F.normalize(w - axis * (w * axis).sum(-1, keepdim=True), dim=-1)
            x = F.normalize(t * axis + 2 * (y * rest).sqrt().unsqueeze(-1) * w, dim=-1)
            rise = (axis - t * x) / (2 * y * rest).clamp_min(tiny).unsqueeze(-1)  # dx / dy
            below = (b - kappa).clamp_min(tiny)
            log_c = torch.lgamma(b) - torch.lgamma(2 * b) - torch.lgamma(below) + torch.lgamma(b + below)
            factor = torch.where(kappa < b, -torch.expm1(log_c - kappa * y.log()), 1.0).unsqueeze(-1)
        turn = m - axis
        turned = turn * t - axis * (turn * x).sum(-1, keepdim=True)
        moved = x + rise * (near - near.detach()).unsqueeze(-1) + factor * turned
        return moved.to(self.natural.dtype)

    def entropy(self) -> Tensor:
        """The entropy in nats, ``log Z - k (log 2 + psi(a) - psi(a + b))``, ``(*lead,)``."""
        _, kappa = self._polar
        a, b = self._shape(kappa)
        mean_log = math.log(2) + torch.digamma(a) - torch.digamma(a + b)
        return (self._log_normaliser(kappa) - kappa * mean_log).to(self.natural.dtype)


@td.register_kl(PowerSpherical, PowerSpherical)
def _(q: PowerSpherical, p: PowerSpherical) -> Tensor:
    """``log(area of the sphere) - entropy(q)`` if p is the uniform distribution and fixed; there is no closed form for
    any other p."""
    kappa = p.natural.detach().abs().amax()
    if p.natural.requires_grad or not bool(kappa < TINY):
        raise NotImplementedError("the KL has no closed form unless the second distribution is uniform and fixed")
    return p.entropy() - q.entropy()


@part("family", "power_spherical")
class PowerSphericalFamily(Family):
    """The power spherical distribution of unit vectors in the last dimension of the event, ``p(x) ~ (1 + m'x)^k``.

    ::

        raw (*lead, ..., D) = v ----> k = |v|, m = v / k

    Raw zeros give the uniform distribution on the sphere; the KL of any member from it has a closed form. The
    distribution resembles the von Mises-Fisher distribution, but is sampled exactly in any dimension.

    Reference:
        De Cao, Aziz: "The Power Spherical Distribution", 2020.

    >>> z = PowerSphericalFamily()(torch.zeros(7, 4)).sample()
    >>> bool(sphere.check(z).all()), z.shape
    (True, torch.Size([7, 4]))
    """

    support = sphere

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The natural parameters: ``*event``."""
        return (checked_several(event, "directions on a sphere"),)

    def forward(self, *raw: Tensor) -> PowerSpherical:
        """The distribution over ``(*lead, *event)``, joint in the last dimension, from natural parameters."""
        return PowerSpherical(raw[0])


@centre.register
def _(d: VonMises) -> Tensor:
    return d.loc


@centre.register
def _(d: PowerSpherical) -> Tensor:
    return d.direction


@mean.register
def _(d: PowerSpherical) -> Tensor:
    return d.mean


@tempered.register(VonMises)
@tempered.register(PowerSpherical)
def _(d: Any, t: float) -> td.Distribution:
    """Multiply the concentration by 1/t; the uniform distribution is unchanged."""
    return type(d)(d.natural / checked_temperature(t))


@quantile.register
def _(d: VonMises, u: Tensor) -> Tensor:
    return d.icdf(u)
