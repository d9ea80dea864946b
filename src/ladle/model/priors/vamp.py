"""A prior that is a mixture of posteriors, at a few learned inputs of the encoder."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ladle.families import Family
from ladle.families.mixture import Mixture
from ladle.model.conditional import Conditional
from ladle.model.priors.prior import Prior
from ladle.spec import part


@part("prior", "vamp")
class Vamp(Prior):
    """The variational mixture of posteriors, ``p(z) = sum_k w_k q(z | u_k)``, at K learned pseudo-inputs u.

    ::

        u (K, *inputs) --posterior--> q(z|u_1) .. q(z|u_K) --w--> p(z)

    The optimal prior for the bound is the mean of the posteriors of all training items; this prior approximates it with
    K posteriors. Pseudo-inputs have the form of the standardised encoder input and are initialised with standard normal
    noise; they and the weights (initially equal) are learned. They are encoded once per walk. The mixture of an
    element-wise posterior has exact one-dimensional conditionals, so it can be used for compression.

    Args:
        family: the family of the posterior, which determines the support of the prior.
        event: the shape of one z.
        inputs: the shape of the encoder's input.
        components: the number of components, K.

    Raises:
        ValueError: if there are fewer than 1 component, or it is called without a posterior.

    Reference:
        Tomczak, Welling: "VAE with a VampPrior", 2018.

    >>> from ladle.spec import build
    >>> net = {"part": "net/mlp", "inputs": [4], "width": 8}
    >>> normal = {"part": "family/normal"}
    >>> q = build({"part": "conditional/amortised", "net": net, "family": normal, "event": [2]})
    >>> Vamp(build(normal), event=(2,), inputs=(4,), components=5)(3, {}, q).sample().shape
    torch.Size([3, 2])
    """

    def __init__(self, family: Family, event: list[int], inputs: list[int], components: int = 50) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}; 50 is usual")
        self.event, self.support = tuple(event), family.support  # the parameters of the family belong to the posterior
        self.inputs = nn.Parameter(torch.randn(components, *inputs))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """A joint distribution: batch ``(n,)``, event ``(*event,)``. The context of the items is not used."""
        if posterior is None:
            raise ValueError("prior/vamp is a mixture of posteriors and must be called with the posterior, got None")
        q = posterior(self.inputs, {})
        return Mixture(self.logits.expand(n, *self.logits.shape), q.expand(torch.Size((n, *q.batch_shape))))
