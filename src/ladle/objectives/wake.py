"""Reweighted wake-sleep: learning where no gradient passes through z."""

from __future__ import annotations

import torch

from ladle.objectives.importance import bound
from ladle.objectives.objective import Loss, Objective, Progress
from ladle.spec import part
from ladle.vae import Terms


@part("objective", "wake")
class Wake(Objective):
    """``-sum_k w_k (log p(x, z_k) + log q(z_k|x))`` with the normalised importance weights ``w_k``, held fixed.

    The decoder and the prior climb the importance-weighted bound; the posterior goes to the true posterior, as the
    weights see it, by ``KL(p(z|x) || q(z|x))``. No gradient passes through z, so z may be discrete, without the bias of
    a straight-through estimator.

    Args:
        particles: K.

    Reference:
        Bornschein, Bengio: "Reweighted Wake-Sleep", 2015.
        Le, Kosiorek, Siddharth, Teh, Wood: "Revisiting Reweighted Wake-Sleep", 2019.
    """

    def __init__(self, particles: int = 16) -> None:
        super().__init__()
        if particles < 2:
            raise ValueError(f"wake needs at least 2 particles to weigh against each other, got {particles}")
        self.samples = (particles,)

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`."""
        for level in terms.levels:
            if level.z.requires_grad:
                level.z.register_hook(torch.zeros_like)
        weight = terms.log_w.detach().softmax(dim=0)
        log_q = sum((level.log_q for level in terms.levels), torch.zeros(()))
        log_joint = terms.log_w + log_q  # log p(x, z)
        surrogate = -(weight * (log_joint + log_q)).sum(dim=0).mean()
        return Loss(-bound(terms.log_w.detach()), surrogate)
