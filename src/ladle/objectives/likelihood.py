"""Maximum likelihood, expectation-maximisation and maximum a posteriori, as objectives."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ladle.families import standard
from ladle.inference.bounds import bound, shares
from ladle.inference.linear_gaussian import LinearGaussian, gaussian, is_linear
from ladle.model.latents import Level
from ladle.model.latents.flat import Flat
from ladle.model.vae import VAE, Terms
from ladle.objectives.elbo import landing
from ladle.objectives.importance import Iwae
from ladle.objectives.objective import Loss, Objective, Progress
from ladle.shapes import Size, sum_event
from ladle.spec import part

PARTICLES = 64


class LinearBatch(NamedTuple):
    """A batch under a linear-Gaussian model: the model with gradients (``now``) and frozen, and the frozen p(z|x)."""

    now: LinearGaussian
    frozen: LinearGaussian
    posterior: MultivariateNormal
    x: Tensor
    observed: Tensor | None

    def encoder_loss(self, level: Level) -> Tensor:
        """The encoder's loss ``KL(q || p(z|x))``, estimated from a reparameterised draw of z, ``(*S, B)``."""
        return landing(level) + level.log_p - self.posterior.log_prob(level.z)


def linear_batch(model: VAE, terms: Terms) -> LinearBatch:
    """The batch of ``terms`` under a linear-Gaussian model."""
    now = gaussian(model)
    frozen = LinearGaussian(*(t.detach() for t in now))
    x, observed = terms.batch.x, terms.batch.observed
    return LinearBatch(now, frozen, frozen.posterior(x, observed), x, observed)


def reparameterised(model: VAE) -> bool:
    """Whether the latents have one level and a reparameterised posterior."""
    if not isinstance(model.latents, Flat):
        return False
    return standard(model.latents.posterior.family, model.latents.events[0]).has_rsample


@part("objective", "ml")
class MaximumLikelihood(Objective):
    """The negative log-likelihood ``-log p(x)``, exact or as an importance-weighted bound.

    * For a linear-Gaussian model it is exact. The encoder is trained by adding ``KL(q(z|x) || p(z|x))``.
    * For any other model it is the importance-weighted bound, with doubly reparameterised gradients if the latents
      support them.

    Args:
        particles: the importance samples per item for the bound.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
    """

    def __init__(self, particles: int = PARTICLES) -> None:
        super().__init__()
        self.bound = Iwae(particles, doubly=False)
        self.linear: tuple[VAE, ...] = ()  # a tuple, so that the model does not become a submodule
        self.samples = self.bound.samples

    def attach(self, model: VAE) -> None:
        """See :meth:`Objective.attach`."""
        self.bound = Iwae(self.bound.samples[0], doubly=reparameterised(model))
        self.linear = (model,) if is_linear(model) else ()
        self.samples = () if self.linear else self.bound.samples

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`."""
        for model in self.linear:
            batch = linear_batch(model, terms)
            per_item = -batch.now.log_prob(batch.x, batch.observed)
            return Loss(per_item.detach(), per_item.mean() + batch.encoder_loss(terms.levels[0]).mean())
        return self.bound(terms, progress)


@part("objective", "em")
class ExpectationMaximisation(Objective):
    """``-E[log p(x, z)]`` with z from the frozen posterior of the current model.

    Each training step is the E step for a batch followed by one gradient step of the M step.

    * For a linear-Gaussian model the posterior, and so the expectation, is exact.
    * For any other model the expectation is Monte Carlo: the posterior is approximated by K draws of q with weights
      ``p(x, z) / q(z|x)`` (the expected value over resampling, without its noise). The encoder is trained as the
      proposal by ``-E[log q(z|x)]``.

    ``per_item`` is -log p(x), or its importance-weighted bound. If the E step is exact, the gradient is that of
    -log p(x).

    Args:
        particles: K, the draws per item for the Monte Carlo expectation.

    Reference:
        Wei, Tanner: "A Monte Carlo Implementation of the EM Algorithm", 1990.
        Neal, Hinton: "A View of the EM Algorithm that Justifies Incremental, Sparse, and Other Variants", 1998.
        Bornschein, Bengio: "Reweighted Wake-Sleep", 2015 (the encoder).
    """

    def __init__(self, particles: int = PARTICLES) -> None:
        super().__init__()
        if particles < 1:
            raise ValueError(f"em needs particles of at least 1, got {particles}; {PARTICLES} is the default")
        self.particles = particles
        self.linear: tuple[VAE, ...] = ()
        self.samples = (particles,)

    def attach(self, model: VAE) -> None:
        """See :meth:`Objective.attach`."""
        self.linear = (model,) if is_linear(model) else ()
        self.samples = () if self.linear else (self.particles,)

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`."""
        for model in self.linear:
            batch = linear_batch(model, terms)
            complete = batch.now.expected(batch.posterior, batch.x, batch.observed)
            per_item = -batch.frozen.log_prob(batch.x, batch.observed)
            return Loss(per_item, batch.encoder_loss(terms.levels[0]).mean() - complete.mean())
        log_w = terms.log_w.detach()
        complete = terms.log_px
        for level in terms.levels:
            if level.z.requires_grad:  # the draws are treated as data: no gradient passes through them
                level.z.register_hook(torch.zeros_like)
            assert level.q is not None
            log_proposal = sum_event(level.q.log_prob(level.z.detach()), level.log_q.dim())
            complete = complete + level.log_p + log_proposal
        return Loss(-bound(log_w), -(shares(log_w) * complete).sum(dim=0).mean())


@part("objective", "map")
class MaximumAPosteriori(Objective):
    """An objective plus a prior ``N(0, 1 / precision)`` on every weight of the decoder.

    The loss is ``loss + precision / (2 N) * sum of weight^2``, both per item. The prior applies to matrices and
    kernels; biases and scales have flat priors. ``per_item`` is that of the inner objective, since the prior on the
    weights is not part of log p(x).

    Args:
        objective: the objective to which the prior is added, such as :class:`MaximumLikelihood`.
        items: N, the number of training items. The prior enters once, so its influence falls as N grows.
        precision: the precision of the prior.
    """

    def __init__(self, objective: Objective, items: int, precision: float = 1.0) -> None:
        super().__init__()
        if items < 1 or not precision > 0:
            raise ValueError(
                f"map needs items of at least 1 and a precision above 0, got items={items} and precision={precision}"
            )
        self.objective, self.pull = objective, precision / (2 * items)
        self.weights: tuple[Tensor, ...] = ()
        self._copy_attributes()

    def attach(self, model: VAE) -> None:
        """See :meth:`Objective.attach`."""
        self.objective.attach(model)
        self.weights = tuple(p for p in model.likelihood.parameters() if p.dim() > 1)
        self._copy_attributes()

    def _copy_attributes(self) -> None:
        inner = self.objective
        self.samples, self.one_level, self.comparable = inner.samples, inner.one_level, inner.comparable

    def draws(self, progress: Progress) -> Size:
        """See :meth:`Objective.draws`."""
        return self.objective.draws(progress)

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`."""
        loss = self.objective(terms, progress)
        penalty = sum((weight.square().sum() for weight in self.weights), start=torch.zeros(()))
        return Loss(loss.per_item, loss.scalar + self.pull * penalty)
