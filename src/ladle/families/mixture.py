"""Mixtures of members of one family over whole events: all elements of an event share one component."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.nn import functional as F

from ladle.families.family import (
    Family,
    NotAvailable,
    centre,
    chain,
    draw,
    frozen,
    mapped,
    mean,
    tempered,
)
from ladle.shapes import Size, numel, sum_event
from ladle.spec import part

MOST = 1 << 22  # most numbers, over values and components, that are evaluated at once


class Mixture(td.Distribution):
    """The mixture ``p(z) = sum_k w_k p_k(z)`` of whole events z: a joint distribution, even of element-wise components.

    Components may be joint or element-wise; the log-probability of element-wise ones is summed over the event.

    Args:
        logits: unnormalised log weights, ``(*lead, K)``.
        components: a distribution over ``(*lead, K, *event)``.

    >>> d = Mixture(torch.zeros(7, 3), td.Normal(torch.zeros(7, 3, 2), torch.ones(7, 3, 2)))
    >>> d.batch_shape, d.event_shape, d.log_prob(torch.zeros(2))[0]
    (torch.Size([7]), torch.Size([2]), tensor(-1.8379))
    """

    arg_constraints: dict = {}

    def __init__(self, logits: Tensor, components: td.Distribution) -> None:
        self.log_weights, self.components = logits.log_softmax(-1), components
        lead = logits.dim() - 1
        event = (components.batch_shape + components.event_shape)[lead + 1 :]
        super().__init__(logits.shape[:-1], torch.Size(event), validate_args=False)

    @property
    def support(self) -> Any:  # type: ignore[override]
        """The support of the components."""
        return self.components.support

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the components are element-wise, reparameterised and have a cumulative distribution function."""
        if self.components.event_shape or not self.components.has_rsample:
            return False
        try:
            self.components.cdf(centre(self.components))
        except NotImplementedError:
            return False
        return True

    def expand(self, batch_shape: Any, _instance: Any = None) -> Mixture:
        """See :meth:`torch.distributions.Distribution.expand`."""
        rest = self.components.batch_shape[len(self.batch_shape) :]
        return Mixture(
            self.log_weights.expand(*batch_shape, self.log_weights.shape[-1]),
            self.components.expand(torch.Size((*batch_shape, *rest))),
        )

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability, ``(*S, *lead, *event) -> (*S, *lead)``."""
        lead = max(value.dim() - len(self.event_shape), len(self.batch_shape))
        joint = [
            log_weights + sum_event(members.log_prob(each), lead + 1)
            for log_weights, members, each in self.pieces(value)
        ]
        return torch.logsumexp(torch.cat(joint, -1), -1)

    def pieces(self, value: Tensor) -> Iterator[tuple[Tensor, td.Distribution, Tensor]]:
        """The components in groups that fit into memory: their log weights ``(*lead, k)``, a distribution over
        ``(*lead, k, *event)``, and the value with a dimension for the components, ``(*S, *lead, 1, *event)``."""
        axis, count = len(self.batch_shape), self.log_weights.shape[-1]
        each = value.unsqueeze(value.dim() - len(self.event_shape))
        step = max(1, MOST // max(1, value.numel(), numel(self.batch_shape + self.event_shape)))
        for start in range(0, count, step):
            size = min(step, count - start)
            yield (
                self.log_weights.narrow(-1, start, size),
                mapped(self.components, lambda t, start=start, size=size: t.narrow(axis, start, size)),  # type: ignore[misc]
                each,
            )

    def members(self, chosen: Tensor) -> td.Distribution:
        """The distribution over ``(*S, *lead, *event)`` of the components with indices ``chosen``, ``(*S, *lead)``."""
        samples = chosen.shape[: chosen.dim() - len(self.batch_shape)]

        def pick(t: Tensor) -> Tensor:
            rest = t.shape[len(self.batch_shape) + 1 :]
            where = chosen.reshape(*chosen.shape, *(1,) * (len(rest) + 1)).expand(*chosen.shape, 1, *rest)
            return t.expand(*samples, *t.shape).gather(chosen.dim(), where).squeeze(chosen.dim())

        return mapped(self.components, pick)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Samples, ``(*sample_shape, *lead, *event)``: draw a component, then a value from it."""
        with torch.no_grad():
            chosen = td.Categorical(logits=self.log_weights, validate_args=False).sample(torch.Size(sample_shape))
            return self.members(chosen).sample()

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Samples with implicit reparameterisation gradients, ``(*sample_shape, *lead, *event)``.

        With ``R_i(z, theta) = P(z_i | z_1 .. z_(i-1))``, the distribution function of each element given the
        preceding ones, a sample solves ``R(z, theta) = u`` for uniform numbers u that do not depend on theta. So
        ``dz / dtheta = - (dR / dz)^-1 dR / dtheta``, where ``dR / dz`` is lower triangular.
        """
        z = self.sample(sample_shape)
        if not torch.is_grad_enabled():
            return z
        # The meta device, on which models from untrusted files are tried out, does not support autocast.
        with torch.autocast("cpu" if z.is_meta else z.device.type, enabled=False):
            reached, slope = self._conditional_cdf(z)
            step = torch.linalg.solve_triangular(slope, (reached - reached.detach()).unsqueeze(-1), upper=False)
        return z - step.reshape(z.shape)

    def _conditional_cdf(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """R ``(*S, *lead, D)`` at a detached z, and the matrix dR/dz ``(*S, *lead, D, D)``."""
        lead, count = z.dim() - len(self.event_shape), self.log_weights.shape[-1]
        each = z.unsqueeze(lead).expand(*z.shape[:lead], count, *z.shape[lead:])
        shape = (*z.shape[:lead], count, -1)
        log_p, cdf = (f(each).reshape(shape) for f in (self.components.log_prob, self.components.cdf))
        with torch.enable_grad():
            leaf = each.clone().requires_grad_()
            (score,) = torch.autograd.grad(frozen(self.components).log_prob(leaf).sum(), leaf)
        before = F.pad(log_p.cumsum(-1)[..., :-1], (1, 0))  # log p_k(z_1 .. z_(i-1))
        weights = (self.log_weights.unsqueeze(-1) + before).softmax(-2)  # of the components given z_1 .. z_(i-1)
        reached = (weights * cdf).sum(-2)
        with torch.no_grad():
            deviation = weights * (cdf - reached.unsqueeze(-2))
            slope = torch.tril(deviation.mT @ score.reshape(shape), -1)
            slope = slope + torch.diag_embed((weights * log_p.exp()).sum(-2))
        return reached, slope


@part("family", "mixture")
class MixtureFamily(Family):
    """A mixture of K members of a family over whole events z: ``log p(z) = log sum_k w_k p_k(z)``.

    ::

        raw[0]  (*lead, K) ------------------------softmax--> w
        raw[1:] (*lead, K, *raw_size) --family--> p_1 .. p_K     each over (*lead, *event)

    Raw zeros give K equal components, that is, the standard member of the family. Equal components receive equal
    gradients and stay equal, so learned components must be initialised differently, as ``prior/mixture`` does.

    As a posterior it is trained with implicit reparameterisation, which is unbiased, if the components are
    element-wise with a cumulative distribution function (normal, laplace, logistic, continuous_bernoulli, and affine
    families of these). The variance of the gradient grows with the distance between components, since probability
    moves from one component to another through the region of low density between them. Mixtures of other families can
    only be likelihoods and priors.

    The centre is that of the most probable component. A temperature changes the components and keeps their weights, so
    no component is lost. Mixtures of element-wise components have a chain of conditionals.

    Args:
        family: the family of the components, element-wise or joint.
        components: K, the number of components.

    Reference:
        Figurnov, Mohamed, Mnih: "Implicit Reparameterization Gradients", 2018.
        Graves: "Stochastic Backpropagation through Mixture Density Distributions", 2016.

    >>> from ladle.spec import build
    >>> family = MixtureFamily(build({"part": "family/normal"}), components=5)
    >>> family.raw((2,))
    ((5,), (5, 2), (5, 2))
    >>> family(torch.zeros(4, 5), *torch.zeros(2, 4, 5, 2)).log_prob(torch.zeros(4, 2)).exp()
    tensor([0.1592, 0.1592, 0.1592, 0.1592])
    """

    def __init__(self, family: Family, components: int = 5) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}; 1 gives the family itself")
        self.family, self.components = family, components

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """The support of the components."""
        return self.family.support

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The logits of the weights ``(K,)``, then the raw parameters of the components, ``(K, *size)`` each."""
        return ((self.components,), *((self.components, *size) for size in self.family.raw(event)))

    def forward(self, *raw: Tensor) -> Mixture:
        """The joint distribution with batch shape ``(*lead,)`` and event shape ``(*event,)``."""
        return Mixture(raw[0], self.family(*raw[1:]))

    def read(self, z: Tensor) -> Tensor:
        """The value as the family of the components reads it."""
        return self.family.read(z)

    def read_size(self, event: Size) -> Size:
        """The size of the result of :meth:`read` for one event."""
        return self.family.read_size(event)


@centre.register
def _(d: Mixture) -> Tensor:
    """The centre of the most probable component."""
    return centre(d.members(d.log_weights.argmax(-1)))


@mean.register
def _(d: Mixture) -> Tensor:
    """The weighted sum of the means of the components; the centre if they have no expectation."""
    if mean.dispatch(type(d.components)) is mean.dispatch(object):
        return centre(d)
    weights = d.log_weights.exp()
    return (weights.reshape(*weights.shape, *(1,) * len(d.event_shape)) * mean(d.components)).sum(weights.dim() - 1)


@tempered.register
def _(d: Mixture, t: float) -> Mixture:
    return Mixture(d.log_weights, tempered(d.components, t))


@draw.register
def _(d: Mixture) -> Tensor:
    """A sample with implicit reparameterisation gradients."""
    if d.has_rsample:
        return d.rsample()
    raise NotAvailable(
        f"a mixture of {type(d.components).__name__} components has no gradient estimator, so it cannot be a posterior "
        "in training; its components must be element-wise with a distribution function: use normal, laplace or logistic"
    )


@chain.register
def _(d: Mixture, z: Tensor) -> Tensor:
    """``log p(z_1 .. z_i) - log p(z_1 .. z_(i-1))``, each a log-sum over components."""
    lead = max(z.dim() - len(d.event_shape), len(d.batch_shape))
    upto = []
    for log_weights, members, each in d.pieces(z):
        parts = chain(members, each)
        parts = parts.reshape(*parts.shape[: lead + 1], -1).cumsum(-1)
        upto.append(torch.logsumexp(log_weights.unsqueeze(-1) + parts, -2))
    total = torch.logsumexp(torch.stack(upto), 0)
    return (total - F.pad(total[..., :-1], (1, 0))).reshape(*total.shape[:-1], *d.event_shape)
