"""Proposals of importance sampling: the posterior, or a wider distribution that is safer.

A proposal is a function ``(q, p, event) -> r`` of the posterior and the prior of one level of latents.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from ladle.families import mapped, tempered
from ladle.shapes import Size, sum_event
from ladle.spec import SpecError

Proposal = Callable[[Distribution, Distribution, Size], Distribution]

HOTTER = 1.2  # the temperature of an inflated posterior
SHARE = 0.05  # the share of the draws of a defensive proposal that come from the prior


class Defensive(Distribution):
    """A mixture of posterior and prior: ``r(z) = (1 - a) q(z) + a p(z)`` with a = 5 %, joint over the event.

    Each draw chooses its component independently, so draws are independent and identically distributed. A weight is at
    most ``p(x|z) / a``: if the likelihood is bounded, so are the weights, however narrow q is.

    Args:
        q: over ``(*lead, *event)``.
        p: over ``(*lead, *event)``, or without the first of the leading dimensions.
        event: the shape of one z.

    Reference:
        Hesterberg: "Weighted Average Importance Sampling and Defensive Mixture Distributions", 1995.

    >>> q, p = (torch.distributions.Normal(torch.full((3, 2), loc), 1.0) for loc in (0.0, 100.0))
    >>> Defensive(q, p, (2,)).log_prob(torch.zeros(3, 2)) - q.log_prob(torch.zeros(2)).sum(-1)
    tensor([-0.0513, -0.0513, -0.0513])
    """

    arg_constraints: dict = {}

    def __init__(self, q: Distribution, p: Distribution, event: Size) -> None:
        shape = q.batch_shape + q.event_shape
        fresh = shape[: len(shape) - len(p.batch_shape + p.event_shape)]
        self.q, self.p = q, mapped(p, lambda t: t.expand(*fresh, *t.shape)) if fresh else p
        super().__init__(shape[: len(shape) - len(event)], torch.Size(event), validate_args=False)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """``(*sample_shape, *lead, *event)``."""
        z = self.q.sample(sample_shape)
        prior = (torch.rand(z.shape[: z.dim() - len(self.event_shape)]) < SHARE).to(z.device)
        if prior.any():  # only as many as needed: a learned prior may be slow
            z[prior] = mapped(self.p, lambda t: t.expand(*sample_shape, *t.shape)[prior]).sample().to(z.dtype)
        return z

    def log_prob(self, value: Tensor) -> Tensor:
        """``(*lead, *event) -> (*lead,)``."""
        lead = len(self.batch_shape)
        q, p = (sum_event(d.log_prob(value), lead) for d in (self.q, self.p))
        return torch.logaddexp(q + math.log1p(-SHARE), p + math.log(SHARE))


PROPOSALS: dict[str, Proposal] = {
    "q": lambda q, p, event: q,
    "inflated": lambda q, p, event: tempered(q, HOTTER),
    "defensive": Defensive,
}


def proposal_of(name: str) -> Proposal:
    """The proposal of this name.

    Raises:
        SpecError: for an unknown one.
    """
    if name not in PROPOSALS:
        raise SpecError(f"unknown proposal '{name}'; known: {', '.join(PROPOSALS)}")
    return PROPOSALS[name]
