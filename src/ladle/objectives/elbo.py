"""The evidence lower bound, and its variants with weights, warm-up and control of the rate."""

from __future__ import annotations

import torch
from torch import Tensor

from ladle.families import frozen
from ladle.model.latents import Level
from ladle.model.vae import Terms
from ladle.objectives.objective import Loss, Objective, Progress, warm
from ladle.shapes import sum_event
from ladle.spec import part


def negative_elbo(terms: Terms) -> Tensor:
    """``KL(q || p) - log p(x|z)`` of each item, ``(B,)``."""
    return terms.kl - terms.log_px


@part("objective", "elbo")
class Elbo(Objective):
    """The negative (beta-)ELBO, ``-log p(x|z) + beta * KL(q(z|x) || p(z))``.

    Args:
        beta: the weight of the KL; 1 gives the bound itself.
        warmup: the fraction of training over which beta grows from 0.
        free_bits: nats per level below which the KL (averaged over the batch) is not reduced further.
        sticking: use the "sticking the landing" gradient estimator: log q is evaluated with frozen parameters, so that
            the gradient has no variance when q is the exact posterior. For one-level, reparameterised latents.

    Reference:
        Higgins et al.: "beta-VAE", 2017. Kingma et al.: "Improved Variational Inference with Inverse
        Autoregressive Flow", 2016 (free bits). Roeder, Wu, Duvenaud: "Sticking the Landing", 2017.
    """

    def __init__(self, beta: float = 1.0, warmup: float = 0.0, free_bits: float = 0.0, sticking: bool = False) -> None:
        super().__init__()
        if beta < 0 or not 0 <= warmup <= 1 or free_bits < 0:
            raise ValueError(
                f"beta and free_bits must be at least 0 and warmup between 0 and 1, "
                f"got beta={beta}, warmup={warmup}, free_bits={free_bits}"
            )
        self.beta, self.warmup, self.free_bits = beta, warmup, free_bits
        self.one_level = sticking
        self.comparable = beta == 1.0 and free_bits == 0.0

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`."""
        rate = sum((self.rate(level) for level in terms.levels), start=torch.zeros(()))
        scalar = warm(self.beta, self.warmup, progress) * rate - terms.log_px.mean()
        return Loss(negative_elbo(terms), scalar)

    def rate(self, level: Level) -> Tensor:
        """The KL of a level, averaged over the batch and at least ``free_bits``."""
        value = landing(level) if self.one_level else level.kl
        return self.mean(value).clamp_min(self.free_bits) if self.free_bits else value.mean()


def landing(level: Level) -> Tensor:
    """``log q(z) - log p(z)``, ``(*S, B)``, with the parameters of q frozen: gradients pass only through z."""
    if level.q is None or level.p is None:
        return level.kl
    return sum_event(frozen(level.q).log_prob(level.z), level.log_q.dim()) - level.log_p


@part("objective", "geco")
class Geco(Objective):
    """Minimise the KL subject to ``-log p(x|z) <= distortion`` on average, with a Lagrange multiplier.

    Args:
        distortion: the allowed ``-log p(x|z)`` in nats per item.
        rate: the step size of the multiplier.
        memory: the decay rate of the moving average of the constraint.

    Reference:
        Rezende, Viola: "Taming VAEs", 2018.
    """

    comparable = False
    multiplier: Tensor
    average: Tensor

    def __init__(self, distortion: float, rate: float = 0.01, memory: float = 0.99) -> None:
        super().__init__()
        self.distortion, self.rate, self.memory = distortion, rate, memory
        self.register_buffer("multiplier", torch.ones(()))
        self.register_buffer("average", torch.full((), float("nan")))

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`; also updates the multiplier in training mode."""
        excess = -self.mean(terms.log_px) - self.distortion
        if self.training:
            with torch.no_grad():
                self.average.copy_(
                    torch.where(self.average.isnan(), excess, torch.lerp(excess, self.average, self.memory))
                )
                step = (self.rate * self.average / max(abs(self.distortion), 1.0)).clamp(-0.1, 0.1)
                self.multiplier.mul_(step.exp()).clamp_(1e-6, 1e6)
        weight = self.multiplier.clone()
        return Loss(negative_elbo(terms), (terms.kl.mean() + weight * excess) / weight.clamp_min(1.0))


@part("objective", "capacity")
class Capacity(Objective):
    """``-log p(x|z) + pressure * |KL - C|``, with a capacity C that grows linearly.

    Args:
        nats: the capacity reached at the end of the ramp.
        pressure: the weight of the distance between the KL and C.
        ramp: the fraction of training over which C grows from 0.

    Reference:
        Burgess et al.: "Understanding disentangling in beta-VAE", 2018.
    """

    comparable = False

    def __init__(self, nats: float = 25.0, pressure: float = 30.0, ramp: float = 0.5) -> None:
        super().__init__()
        self.nats, self.pressure, self.ramp = nats, pressure, ramp

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`."""
        gap = (self.mean(terms.kl) - warm(self.nats, self.ramp, progress)).abs()
        return Loss(negative_elbo(terms), self.pressure * gap - terms.log_px.mean())
