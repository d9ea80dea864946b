"""The protocol of a prior p(z), and the two simplest priors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint

from ladle.families import Family
from ladle.model.conditional import NO_CONTEXT, Conditional
from ladle.shapes import Size
from ladle.spec import part


class Prior(nn.Module, ABC):
    """p(z | context).

    Attributes:
        event: the shape of one z.
        support: the support of z.
        context: the context that it reads, see :class:`ladle.model.conditional.Conditional`.
    """

    event: Size
    support: Constraint
    context: Mapping[str, int] = NO_CONTEXT

    @abstractmethod
    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """The prior of ``n`` latents.

        Args:
            n: the number of latents.
            context: one tensor ``(n, ...)`` for each known name of :attr:`context`.
            posterior: the posterior of the model, for priors that are mixtures of posteriors.
        """


@part("prior", "standard")
class Standard(Prior):
    """The standard member of a family (raw parameters of zero), without learned parameters. For the normal, N(0, I).

    Args:
        family: the family.
        event: the shape of one z.

    >>> from ladle.spec import build
    >>> p = Standard(build({"part": "family/normal"}), event=(2,))(3, {})
    >>> p.loc.shape, float(p.scale[0, 0])
    (torch.Size([3, 2]), 1.0)
    """

    def __init__(self, family: Family, event: list[int]) -> None:
        super().__init__()
        self.family, self.event, self.support = family, tuple(event), family.support
        self.register_buffer("zero", torch.zeros(()))

    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """A distribution over ``(n, *event)``."""
        zero: Tensor = self.zero  # type: ignore[assignment]
        return self.family(*(zero.expand(n, *size) for size in self.family.raw(self.event)))


@part("prior", "learned")
class Learned(Prior):
    """One member of a family with learned parameters, initialised as the standard member.

    Args:
        family: the family.
        event: the shape of one z.
    """

    def __init__(self, family: Family, event: list[int]) -> None:
        super().__init__()
        self.family, self.event, self.support = family, tuple(event), family.support
        self.raw = nn.ParameterList(torch.zeros(size) for size in family.raw(self.event))

    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """A distribution over ``(n, *event)``."""
        return self.family(*(raw.expand(n, *raw.shape) for raw in self.raw))
