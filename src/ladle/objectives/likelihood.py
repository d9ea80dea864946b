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


class Exact(NamedTuple):
    """A batch under a linear-Gaussian model: ``now`` with gradients, and the model and p(z|x) frozen."""

    now: LinearGaussian
    frozen: LinearGaussian
    posterior: MultivariateNormal
    x: Tensor
    observed: Tensor | None

    def follow(self, level: Level) -> Tensor:
        """``KL(q || p(z|x))``, by a draw of z through which gradients reach q: what an encoder has left to learn."""
        return landing(level) + level.log_p - self.posterior.log_prob(level.z)


def exact(model: VAE, terms: Terms) -> Exact:
    """The batch of the terms under a linear-Gaussian model."""
    now = gaussian(model)
    frozen = LinearGaussian(*(t.detach() for t in now))
    assert terms.batch is not None
    x, observed = terms.batch.x, terms.batch.observed
    return Exact(now, frozen, frozen.posterior(x, observed), x, observed)


def reparameterised(model: VAE) -> bool:
    """Whether gradients pass through the draws of one level of latents."""
    if not isinstance(model.latents, Flat):
        return False
    return standard(model.latents.posterior.family, model.latents.events[0]).has_rsample


@part("objective", "ml")
class MaximumLikelihood(Objective):
    """``-log p(x)``, as tightly as it can be computed.

    * A linear-Gaussian model: exactly. The encoder learns ``KL(q(z|x) || p(z|x))`` beside it.
    * Any other: the importance-weighted bound, doubly reparameterised where the latents allow it.

    Args:
        particles: importance samples per item, where they are needed.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
    """

    def __init__(self, particles: int = PARTICLES) -> None:
        super().__init__()
        self.bound = Iwae(particles, doubly=False)
        self.linear: tuple[VAE, ...] = ()  # a tuple: a model is no part of its objective
        self.samples = self.bound.samples

    def attach(self, model: VAE) -> None:
        """See :meth:`Objective.attach`."""
        self.bound = Iwae(self.bound.samples[0], doubly=reparameterised(model))
        self.linear = (model,) if is_linear(model) else ()
        self.samples = () if self.linear else self.bound.samples

    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """See :meth:`Objective.forward`."""
        for model in self.linear:
            batch = exact(model, terms)
            per_item = -batch.now.log_prob(batch.x, batch.observed)
            return Loss(per_item.detach(), per_item.mean() + batch.follow(terms.levels[0]).mean())
        return self.bound(terms, progress)


@part("objective", "em")
class ExpectationMaximisation(Objective):
    """``-E[log p(x, z)]`` with z from the posterior of the model as it stands, frozen: one gradient step of M for the
    E of every batch.

    * A linear-Gaussian model: the posterior, and so the expectation, is exact.
    * Any other, Monte Carlo: K draws of q, weighted by ``p(x, z) / q(z|x)``, stand for the posterior (the mean over a
      resampling of them, without its noise). The encoder learns to propose them: ``-E[log q(z|x)]``.

    ``per_item`` is -log p(x), or its importance-weighted bound. Where E is exact, the gradient is that of -log p(x).

    Args:
        particles: K, where draws are needed.

    Reference:
        Wei, Tanner: "A Monte Carlo Implementation of the EM Algorithm", 1990.
        Neal, Hinton: "A View of the EM Algorithm that Justifies Incremental, Sparse, and Other Variants", 1998.
        Bornschein, Bengio: "Reweighted Wake-Sleep", 2015 (the encoder).
    """

    def __init__(self, particles: int = PARTICLES) -> None:
        super().__init__()
        if particles < 1:
            raise ValueError(f"em needs at least 1 particle, got {particles}")
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
            batch = exact(model, terms)
            complete = batch.now.expected(batch.posterior, batch.x, batch.observed)
            per_item = -batch.frozen.log_prob(batch.x, batch.observed)
            return Loss(per_item, batch.follow(terms.levels[0]).mean() - complete.mean())
        log_w = terms.log_w.detach()
        complete = terms.log_px
        for level in terms.levels:
            if level.z.requires_grad:  # the draws are data here: no gradient passes through them
                level.z.register_hook(torch.zeros_like)
            assert level.q is not None
            proposed = sum_event(level.q.log_prob(level.z.detach()), level.log_q.dim())
            complete = complete + level.log_p + proposed
        return Loss(-bound(log_w), -(shares(log_w) * complete).sum(dim=0).mean())


@part("objective", "map")
class MaximumAPosteriori(Objective):
    """An objective and the prior ``N(0, 1 / precision)`` on every weight of the decoder (matrices and kernels; biases
    and scales have flat priors): ``loss + precision / (2 N) * sum of weight^2``, both per item.

    ``per_item`` stays the inner objective's: the prior is of the weights, and no part of log p(x).

    Args:
        objective: what is penalised, such as :class:`MaximumLikelihood`.
        items: N, the items that are trained on. The prior counts once, so it fades as they grow more.
        precision: of the prior.
    """

    def __init__(self, objective: Objective, items: int, precision: float = 1.0) -> None:
        super().__init__()
        if items < 1 or not precision > 0:
            raise ValueError(f"map needs items of at least 1 and a precision above 0, got {items} and {precision}")
        self.objective, self.pull = objective, precision / (2 * items)
        self.weights: tuple[Tensor, ...] = ()
        self._follow()

    def attach(self, model: VAE) -> None:
        """See :meth:`Objective.attach`."""
        self.objective.attach(model)
        self.weights = tuple(p for p in model.likelihood.parameters() if p.dim() > 1)
        self._follow()

    def _follow(self) -> None:
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
