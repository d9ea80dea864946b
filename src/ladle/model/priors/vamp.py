"""A prior made of posteriors: what the encoder says of a few learned inputs."""

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

    The prior that is best for the bound is the mean of the posteriors of all training items; this one makes do with
    K of them. Pseudo-inputs live in what the encoder reads, near whose mean they start, as standard normal noise;
    they and the weights (equal at the start) are learned. They are encoded once in a walk. The mixture of an
    element-wise posterior has exact one-dimensional conditionals, so it can be coded with.

    Args:
        family: that of the posterior; the prior lives where it lives.
        event: the shape of one z.
        inputs: the shape of what the encoder reads.
        components: K.

    Raises:
        ValueError: for fewer than 1 component, and when called without a posterior.

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
        self.event, self.support = tuple(event), family.support  # not the family: its parameters are the posterior's
        self.inputs = nn.Parameter(torch.randn(components, *inputs))
        self.logits = nn.Parameter(torch.zeros(components))

    def forward(self, n: int, context: Mapping[str, Tensor], posterior: Conditional | None = None) -> Distribution:
        """A joint distribution: batch ``(n,)``, event ``(*event,)``. Context is the items', not the pseudo-inputs'."""
        if posterior is None:
            raise ValueError("prior/vamp is a mixture of posteriors: call it with the model's posterior")
        q = posterior(self.inputs, {})
        return Mixture(self.logits.expand(n, *self.logits.shape), q.expand(torch.Size((n, *q.batch_shape))))
