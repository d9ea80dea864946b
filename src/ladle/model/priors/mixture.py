"""A learned mixture of members of a family as prior."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ladle.families import Family
from ladle.families.mixture import MixtureFamily
from ladle.model.conditional import Conditional
from ladle.model.priors.prior import Prior
from ladle.spec import part

SPREAD = 0.5  # initial spread of the components' locations, in units of the standard member


@part("prior", "mixture")
class Mixture(Prior):
    """``p(z) = sum_k w_k p_k(z)``: learned weights, and K learned members of a family over the whole z.

    Components with equal initial values would stay equal. Therefore the first raw parameter of each (its location if
    the family has one) is initialised with noise that sums to zero over the components. With K = 1 there is no noise,
    and the prior is ``prior/learned``. Mixtures of element-wise members have exact one-dimensional conditionals, so
    they can be used for compression.

    Args:
        family: the family of the components.
        event: the shape of one z.
        components: the number of components, K.

    Raises:
        ValueError: if there are fewer than 1 component.

    Reference:
        Dilokthanakul et al.: "Deep Unsupervised Clustering with Gaussian Mixture Variational Autoencoders", 2016.

    >>> from ladle.spec import build
    >>> p = Mixture(build({"part": "family/normal"}), event=(2,), components=5)(3, {})
    >>> p.batch_shape, p.event_shape
    (torch.Size([3]), torch.Size([2]))
    """

    def __init__(self, family: Family, event: list[int], components: int = 10) -> None:
        super().__init__()
        self.mixture = MixtureFamily(family, components)
        self.event, self.support = tuple(event), family.support
        self.raw = nn.ParameterList(torch.zeros(size) for size in self.mixture.raw(self.event))
        with torch.no_grad():
            noise = SPREAD * torch.randn_like(self.raw[1])
            self.raw[1].copy_(noise - noise.mean(0))

    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """A joint distribution: batch ``(n,)``, event ``(*event,)``."""
        return self.mixture(*(raw.unsqueeze(0) for raw in self.raw)).expand((n,))
