"""The model: latents and a likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.distributions import Distribution

from ladle.data import Batch
from ladle.families import chain, total
from ladle.model.conditional import Conditional
from ladle.model.latents import Draw, Latents, Level, from_posterior
from ladle.shapes import Size, sum_event
from ladle.spec import part


class Terms(NamedTuple):
    """What an objective is made of, per item, in nats: ``log_px`` is ``(*S, B)``; and the batch itself."""

    log_px: Tensor
    levels: tuple[Level, ...]
    penalties: Mapping[str, Tensor]
    batch: Batch | None = None

    @property
    def kl(self) -> Tensor:
        """The sum of the levels' KL, ``(*S, B)``."""
        total = self.levels[0].kl
        for level in self.levels[1:]:
            total = total + level.kl
        return total

    @property
    def log_w(self) -> Tensor:
        """The log importance weight ``log p(x|z) + log p(z) - log q(z|x)``, ``(*S, B)``."""
        total = self.log_px
        for level in self.levels:
            total = total + level.log_p - level.log_q
        return total


@part("model", "vae")
class VAE(nn.Module):
    """A variational autoencoder: log p(x) >= E_q[log p(x|z)] - KL(q(z|x) || p(z)).

    ::

        batch.x --latents.walk--> levels, h --likelihood--> p(x|h) --> log p(x|h)

    Args:
        latents: everything between the data and what the likelihood reads.
        likelihood: p(x|h), in the data's own units.

    Reference:
        Kingma, Welling: "Auto-Encoding Variational Bayes", 2014.
        Rezende, Mohamed, Wierstra: "Stochastic Backpropagation and Approximate Inference", 2014.
    """

    def __init__(self, latents: Latents, likelihood: Conditional) -> None:
        super().__init__()
        self.latents, self.likelihood = latents, likelihood

    def forward(self, batch: Batch, samples: Size = (), draw: Draw = from_posterior) -> Terms:
        """The terms of the bound: the only entry for training.

        Args:
            batch: B items.
            samples: ``S``, e.g. ``(K,)`` for K importance samples per item.
            draw: how z is chosen.
        """
        trace = self.latents.walk(draw, batch, context=batch.context, samples=samples)
        return Terms(self.log_px(trace.h, batch, len(samples) + 1), trace.levels, {}, batch)

    def log_px(self, h: Tensor, batch: Batch, lead: int) -> Tensor:
        """log p(x|h) of what is observed of each item: ``h``, ``(*S, B, *read)`` with ``lead`` leading dimensions, to
        ``(*S, B)``."""
        p = self.explain(h, batch.context)
        if batch.observed is None:
            return total(p, batch.x, lead)
        return sum_event(chain(p, batch.x) * batch.observed, lead)

    def explain(self, h: Tensor, context: Mapping[str, Tensor] | None = None) -> Distribution:
        """p(x|h): ``(*lead, *read)`` to a distribution over ``(*lead, *event)``."""
        return self.likelihood(h, context or {})
