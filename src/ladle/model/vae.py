"""The model: latents and a likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn
from torch.distributions import Distribution

from ladle.data import Batch, DataError, blank
from ladle.families import chain, total
from ladle.model.conditional import Conditional, joint_context
from ladle.model.latents import Draw, Latents, Level, Trace, from_posterior
from ladle.shapes import Size, sum_event
from ladle.spec import part


class Terms(NamedTuple):
    """The terms of an objective, per item, in nats.

    Attributes:
        log_px: log p(x|z), ``(*S, B)``.
        levels: the levels of latents, from the top.
        batch: the items.
    """

    log_px: Tensor
    levels: tuple[Level, ...]
    batch: Batch

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
        latents: everything between the data and the input of the likelihood.
        likelihood: p(x|h), in the units of the data.

    Reference:
        Kingma, Welling: "Auto-Encoding Variational Bayes", 2014.
        Rezende, Mohamed, Wierstra: "Stochastic Backpropagation and Approximate Inference", 2014.
    """

    def __init__(self, latents: Latents, likelihood: Conditional) -> None:
        super().__init__()
        self.latents, self.likelihood = latents, likelihood
        self.context = joint_context(latents, likelihood)

    def forward(self, batch: Batch, samples: Size = (), draw: Draw = from_posterior) -> Terms:
        """The terms of the bound. Training calls only this method.

        Args:
            batch: B items.
            samples: ``S``, e.g. ``(K,)`` for K importance samples per item.
            draw: how z is chosen.
        """
        trace = self.walk(draw, batch, samples)
        return Terms(self.log_px(trace.h, batch, len(samples) + 1), trace.levels, batch)

    def walk(self, draw: Draw, batch: Batch, samples: Size = ()) -> Trace:
        """Visit the levels of latents from the top, see :meth:`ladle.model.latents.Latents.walk`.

        Raises:
            DataError: if the batch has a context that the model does not read.
        """
        unwanted = sorted(set(batch.context) - set(self.context))
        if unwanted:
            reads = f"reads {', '.join(self.context)}" if self.context else "reads no context"
            raise DataError(f"the model {reads}, got the context {', '.join(unwanted)}")
        return self.latents.walk(draw, batch, samples)

    def blank(self, n: int, context: Mapping[str, Tensor] | None = None) -> Batch:
        """A batch of ``n`` items without data on the model's device, for a walk from the prior."""
        return blank(self.likelihood.event, n, context, next(self.parameters()).device)

    def log_px(self, h: Tensor, batch: Batch, lead: int) -> Tensor:
        """log p(x|h) of the observed elements of each item: ``h``, ``(*S, B, *read)`` with ``lead`` leading dimensions,
        to ``(*S, B)``."""
        p = self.explain(h, batch)
        if batch.observed is None:
            return total(p, batch.x, lead)
        return sum_event(chain(p, batch.x) * batch.observed, lead)

    def explain(self, h: Tensor, batch: Batch) -> Distribution:
        """p(x|h, context): ``(*lead, B, *read)`` to a distribution over ``(*lead, B, *event)``."""
        return self.likelihood(h, batch.context)
