"""The importance-weighted bound."""

from __future__ import annotations

from ladle.inference.bounds import bound, shares
from ladle.model.vae import Terms
from ladle.objectives.elbo import landing
from ladle.objectives.objective import Loss, Objective, Progress
from ladle.shapes import Size
from ladle.spec import part


@part("objective", "iwae")
class Iwae(Objective):
    """``-log 1/K sum_k p(x, z_k) / q(z_k|x)``, with the doubly reparameterised gradient for the encoder.

    Args:
        particles: K.
        doubly: use the doubly reparameterised estimator (DReG): log q is taken with frozen parameters and the
            gradient through each z is weighted by its squared normalised weight. Without it the encoder's
            gradient drowns in noise as K grows. For one-level, reparameterised latents.
        single: the fraction of training in which one particle is drawn instead: a step then costs a K-th, and early
            steps gain nothing from more. Validation has K particles throughout.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
        Tucker, Lawson, Gu, Maddison: "Doubly Reparameterized Gradient Estimators", 2019.
    """

    def __init__(self, particles: int = 5, doubly: bool = True, single: float = 0.0) -> None:
        super().__init__()
        if particles < 1 or not 0 <= single <= 1:
            raise ValueError(
                f"iwae needs at least 1 particle and a fraction of single ones between 0 and 1, got {particles} and "
                f"{single}"
            )
        self.samples = (particles,)
        self.one_level = doubly
        self.single = single

    def draws(self, progress: Progress) -> Size:
        """See :meth:`Objective.draws`."""
        return (1,) if progress.fraction < self.single else self.samples

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`."""
        per_item = -bound(terms.log_w.detach())
        weight = shares(terms.log_w)  # of the same z: the gradient of the bound is the weighted one of log w
        if not self.one_level:
            return Loss(per_item, -(weight * terms.log_w).sum(dim=0).mean())
        (level,) = terms.levels
        log_w = terms.log_px - landing(level)
        if level.z.requires_grad:
            # The sum below gives the decoder and the prior the weight w, as they need. What reaches the
            # encoder passes through z, where one more factor w makes it w^2.
            spread = weight.reshape(*weight.shape, *[1] * (level.z.dim() - weight.dim()))
            level.z.register_hook(lambda gradient: gradient * spread)
        surrogate = -(weight * log_w).sum(dim=0).mean()
        return Loss(per_item, surrogate)
