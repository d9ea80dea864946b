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
    """The negative importance-weighted bound, ``-log 1/K sum_k p(x, z_k) / q(z_k|x)``.

    Args:
        particles: K, the number of particles (samples of z per item).
        doubly: use the doubly reparameterised gradient estimator (DReG) for the encoder: log q is evaluated with frozen
            parameters, and the gradient through each z is weighted by its squared normalised weight. Without it the
            signal-to-noise ratio of the encoder's gradient falls as K grows. For one-level, reparameterised latents.
        single: the initial fraction of training in which one particle is drawn instead of K. Such a step costs 1 / K of
            a full one, and early in training more particles have no benefit. Validation always uses K particles.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
        Tucker, Lawson, Gu, Maddison: "Doubly Reparameterized Gradient Estimators", 2019.
    """

    def __init__(self, particles: int = 5, doubly: bool = True, single: float = 0.0) -> None:
        super().__init__()
        if particles < 1 or not 0 <= single <= 1:
            raise ValueError(
                f"iwae needs particles of at least 1 and single between 0 and 1, got particles={particles} and "
                f"single={single}"
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
        weight = shares(terms.log_w)  # the gradient of the bound is the weighted gradient of log w
        if not self.one_level:
            return Loss(per_item, -(weight * terms.log_w).sum(dim=0).mean())
        (level,) = terms.levels
        log_w = terms.log_px - landing(level)
        if level.z.requires_grad:
            # The sum below has the weights w, as the decoder and the prior need. The encoder's gradient passes
            # through z, where another factor w makes the weight w^2.
            spread = weight.reshape(*weight.shape, *[1] * (level.z.dim() - weight.dim()))
            level.z.register_hook(lambda gradient: gradient * spread)
        surrogate = -(weight * log_w).sum(dim=0).mean()
        return Loss(per_item, surrogate)
