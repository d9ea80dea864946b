"""A learned prior with exact one-dimensional conditionals: p(z) = prod_i p(z_i | z_1, ..., z_{i-1})."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from ladle.families import centre, chain, tempered
from ladle.families.real import positive
from ladle.model.conditional import Conditional
from ladle.model.priors.prior import Prior
from ladle.shapes import Size, wide
from ladle.spec import part

NORMAL = 0.5 * math.log(2 * math.pi)
FLOOR = 1e-2  # the smallest scale of a component


class MaskedLinear(nn.Linear):
    """A linear layer in which a mask sets some weights to zero."""

    mask: Tensor

    def __init__(self, inputs: Tensor, outputs: Tensor, strict: bool) -> None:
        super().__init__(len(inputs), len(outputs))
        mask = outputs[:, None] > inputs[None] if strict else outputs[:, None] >= inputs[None]
        self.register_buffer("mask", mask.to(torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """``(*, inputs) -> (*, outputs)``."""
        return F.linear(x, self.weight * self.mask, self.bias)


@part("prior", "autoregressive")
class Autoregressive(Prior):
    """A mixture of normal or logistic distributions for every latent given the previous ones, by one masked network.

    The tails of a logistic fall like e^-|z|, those of a normal like e^-z^2. With logistic members, the cost of an item
    whose posterior is far from the centre is only proportional to its distance, so its gradient does not dominate those
    of all other items. Evaluating a density takes one pass; sampling takes one pass per dimension. Every conditional is
    a one-dimensional mixture, so the prior can be used for compression.

    Args:
        event: ``(D,)``.
        width: hidden units in each of the two hidden layers.
        components: the number of mixture components of each dimension.
        members: the type of the components, ``normal`` or ``logistic``.

    Reference:
        Germain, Gregor, Murray, Larochelle: "MADE: Masked Autoencoder for Distribution Estimation", 2015.

    >>> prior = Autoregressive(event=(3,), width=16, components=2)
    >>> prior(5, {}).sample().shape
    torch.Size([5, 3])
    """

    def __init__(self, event: list[int], width: int = 400, components: int = 5, members: str = "normal") -> None:
        super().__init__()
        if members not in ("normal", "logistic"):
            raise ValueError(f"members must be normal or logistic, got '{members}'")
        self.members = members
        self.event, self.components, self.support = tuple(event), components, constraints.real
        (size,) = self.event
        order = torch.arange(size)
        hidden = torch.arange(width) % max(size - 1, 1)
        self.first = MaskedLinear(order, hidden, strict=False)
        self.second = MaskedLinear(hidden, hidden, strict=False)
        self.last = MaskedLinear(hidden, order.repeat_interleave(3 * components), strict=True)
        with torch.no_grad():
            self.last.weight.mul_(0.1)
            bias = torch.zeros(size, 3, components)
            bias[:, 1] = torch.linspace(-1, 1, components) if components > 1 else 0.0
            self.last.bias.copy_(bias.flatten())

    def conditionals(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the weights, locations and scales of each dimension given the earlier ones,
        ``(*lead, D) -> (components, *lead, D)`` each: sums over few components are fast along the first dimension."""
        hidden = F.relu(self.first(z))
        hidden = F.relu(hidden + self.second(hidden))
        raw = wide(self.last(hidden)).unflatten(-1, (*self.event, 3, self.components))
        logits, loc, scale = raw.movedim((-2, -1), (0, 1)).contiguous()
        return logits, loc, positive(scale, FLOOR)

    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """A joint distribution: batch ``(n,)``, event ``(D,)``."""
        return AutoregressiveMixture(self, torch.Size((n,)))


class AutoregressiveMixture(Distribution):
    """The distribution of an :class:`Autoregressive` prior, at temperature ``t``."""

    arg_constraints: dict = {}
    support = constraints.real_vector
    has_rsample = False

    def __init__(self, net: Autoregressive, batch_shape: torch.Size, temperature: float = 1.0) -> None:
        self.net, self.temperature = net, temperature
        super().__init__(batch_shape, torch.Size(net.event), validate_args=False)

    def expand(self, batch_shape, _instance=None):  # type: ignore[no-untyped-def]
        """The same distribution over a larger batch."""
        return AutoregressiveMixture(self.net, torch.Size(batch_shape), self.temperature)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(*lead, D) -> (*lead,)``."""
        return self.conditionals_log_prob(value).sum(-1)

    def conditionals_log_prob(self, value: Tensor) -> Tensor:
        """log p(z_i | z_1 .. z_(i-1)): ``(*lead, D) -> (*lead, D)``."""
        logits, loc, scale = self.net.conditionals(value)
        if self.temperature != 1:
            scale = scale * self.temperature
        apart = (value - loc) / scale
        shape = -0.5 * apart.square() - NORMAL if self.net.members == "normal" else -apart - 2 * F.softplus(-apart)
        return (logits + shape - scale.log()).logsumexp(0) - logits.logsumexp(0)

    def sample(self, sample_shape: Size = ()) -> Tensor:  # type: ignore[override]
        """One dimension after the other: ``(*sample_shape, *batch, D)``."""
        shape = (*sample_shape, *self.batch_shape)
        return self._walk(shape, self._one_sample)

    def _one_sample(self, logits: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
        chosen = torch.distributions.Categorical(logits=logits.movedim(0, -1)).sample().unsqueeze(0)
        loc, scale = loc.gather(0, chosen).squeeze(0), scale.gather(0, chosen).squeeze(0)
        if self.net.members == "normal":
            return loc + self.temperature * scale * torch.randn_like(loc)
        return loc + self.temperature * scale * torch.logit(torch.rand_like(loc).clamp(1e-7, 1 - 1e-7))

    def _walk(self, shape, step) -> Tensor:  # type: ignore[no-untyped-def]
        z = self.net.last.bias.new_zeros(*shape, *self.event_shape)
        with torch.no_grad():
            for i in range(self.event_shape[0]):
                z[..., i] = step(*(c[..., i] for c in self.net.conditionals(z)))
        return z


@centre.register
def _(d: AutoregressiveMixture) -> Tensor:
    """Each dimension's conditional mean given the means before it."""
    return d._walk(d.batch_shape, lambda logits, loc, scale: (logits.softmax(0) * loc).sum(0))


@tempered.register
def _(d: AutoregressiveMixture, t: float) -> Distribution:
    return AutoregressiveMixture(d.net, d.batch_shape, d.temperature * t)


@chain.register
def _(d: AutoregressiveMixture, z: Tensor) -> Tensor:
    return d.conditionals_log_prob(z)
