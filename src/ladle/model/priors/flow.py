"""A learned prior by a change of variables: a standard normal, transformed by invertible networks."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from ladle.families import centre, tempered
from ladle.families.family import checked_temperature
from ladle.model.conditional import Conditional
from ladle.model.priors.prior import Prior
from ladle.shapes import Size, wide
from ladle.spec import part

MOST = 2.0  # the largest absolute value of a coupling's log scale


class Coupling(nn.Module):
    """An affine coupling: shift and scale the second half of a vector, given the first half, and reverse the order.

    ::

        (a, b) <--> reversed(a, b * exp(s(a)) + m(a))        |s| < MOST, to limit the scales

    Initially it only reverses the order.

    Args:
        size: D; the first ``D // 2`` numbers are not changed.
        width: hidden units in each of the two hidden layers.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.sizes = [size // 2, size - size // 2]
        # The network also reads a constant 1 instead of a bias, which is its only input in one dimension.
        self.first = nn.Linear(self.sizes[0] + 1, width, bias=False)
        self.second = nn.Linear(width, width)
        self.last = nn.Linear(width, 2 * self.sizes[1])
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def says(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Log scale and shift of the second half, ``(*lead, D - D // 2)`` each."""
        hidden = F.relu(self.first(F.pad(a, (0, 1), value=1.0)))
        hidden = F.relu(hidden + self.second(hidden))
        raw, shift = wide(self.last(hidden)).chunk(2, -1)
        return MOST * torch.tanh(raw / MOST), shift

    def forward(self, u: Tensor) -> Tensor:
        """From the base to the latents: ``(*lead, D) -> (*lead, D)``."""
        a, b = u.split(self.sizes, -1)
        log_scale, shift = self.says(a)
        return torch.cat([a, b * log_scale.exp() + shift], -1).flip(-1)

    def inverse(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """From the latents to the base, and log |du/dz|: ``(*lead, D) -> (*lead, D), (*lead,)``."""
        a, b = z.flip(-1).split(self.sizes, -1)
        log_scale, shift = self.says(a)
        return torch.cat([a, (b - shift) * torch.exp(-log_scale)], -1), -log_scale.sum(-1)


@part("prior", "flow")
class Flow(Prior):
    """``z = f(u)`` with u standard normal: ``log p(z) = log N(f^-1(z); 0, I) + log |det df^-1/dz|``.

    f is a stack of affine couplings, each of which keeps one half of the vector; they are initialised as the identity,
    so the prior is initially the standard normal. Density and sampling both take one pass. There are no one-dimensional
    conditionals, so the prior cannot be used for compression, and its KL cannot be split by latent.

    Args:
        event: ``(D,)``.
        couplings: the number of couplings; even, so that both halves are changed equally often and the order is kept.
        width: hidden units in each of the two hidden layers of a coupling.

    Raises:
        ValueError: if the number of couplings is odd or below 2.

    Reference:
        Dinh, Sohl-Dickstein, Bengio: "Density Estimation Using Real NVP", 2017.

    >>> prior = Flow(event=(3,), couplings=4, width=16)
    >>> prior(5, {}).sample().shape, prior(5, {}).log_prob(torch.zeros(5, 3))[0]
    (torch.Size([5, 3]), tensor(-2.7568, grad_fn=<SelectBackward0>))
    """

    def __init__(self, event: list[int], couplings: int = 4, width: int = 256) -> None:
        super().__init__()
        if couplings < 2 or couplings % 2:
            raise ValueError(f"couplings must be even and at least 2, got {couplings}; 4 is usual")
        self.event, self.support = tuple(event), constraints.real
        (size,) = self.event
        self.couplings = nn.ModuleList(Coupling(size, width) for _ in range(couplings))

    def outwards(self, u: Tensor) -> Tensor:
        """f: ``(*lead, D) -> (*lead, D)``."""
        for coupling in self.couplings:
            u = coupling(u)
        return u

    def inwards(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The inverse of f and its log determinant: ``(*lead, D) -> (*lead, D), (*lead,)``."""
        log_det = z.new_zeros(z.shape[:-1])
        for coupling in reversed(self.couplings):
            z, more = coupling.inverse(z)  # type: ignore[operator]
            log_det = log_det + more
        return z, log_det

    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """A joint distribution: batch ``(n,)``, event ``(D,)``."""
        return Flowed(self, torch.Size((n,)))


class Flowed(Distribution):
    """The distribution of a :class:`Flow` whose base has temperature ``t``: ``u ~ N(0, t^2 I)``."""

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, net: Flow, batch_shape: torch.Size, temperature: float = 1.0) -> None:
        self.net, self.temperature = net, temperature
        super().__init__(batch_shape, torch.Size(net.event), validate_args=False)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        """The same distribution over a larger batch."""
        return Flowed(self.net, torch.Size(batch_shape), self.temperature)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(*lead, D) -> (*lead,)``."""
        u, log_det = self.net.inwards(value)
        log_base = -0.5 * (u / self.temperature).square() - math.log(self.temperature) - 0.5 * math.log(2 * math.pi)
        return log_base.sum(-1) + log_det

    def sample(self, sample_shape: Size = ()) -> Tensor:  # type: ignore[override]
        """``(*sample_shape, *batch, D)``."""
        with torch.no_grad():
            return self.net.outwards(self.temperature * torch.randn_like(self._origin(tuple(sample_shape))))

    def _origin(self, sample_shape: Size = ()) -> Tensor:
        like = next(self.net.parameters())
        return like.new_zeros(*sample_shape, *self.batch_shape, *self.event_shape)


@centre.register
def _(d: Flowed) -> Tensor:
    """The image of the centre of the base."""
    with torch.no_grad():
        return d.net.outwards(d._origin())


@tempered.register
def _(d: Flowed, t: float) -> Distribution:
    return Flowed(d.net, d.batch_shape, d.temperature * checked_temperature(t))
