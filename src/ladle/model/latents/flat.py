"""One level of latents: the plain VAE, and the plain autoencoder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ladle.data import Batch
from ladle.model.conditional import Conditional
from ladle.model.latents.latents import Draw, Latents, Trace, level
from ladle.model.priors import Prior
from ladle.nets import Standardise
from ladle.shapes import Size
from ladle.spec import part


@part("latents", "flat")
class Flat(Latents):
    """One vector of latents per item.

    ::

        x --reads--> --posterior--> q(z|x) --draw--> z --read--> h
                           prior --> p(z)

    Args:
        reads: what the encoder sees of x.
        posterior: q(z|x), read from the data.
        prior: p(z); ``None`` makes a plain autoencoder.
    """

    def __init__(self, reads: Standardise, posterior: Conditional, prior: Prior | None) -> None:
        super().__init__()
        self.reads, self.posterior, self.prior = reads, posterior, prior
        self.events = (posterior.event,)

    @property
    def has_prior(self) -> bool:
        """See :attr:`Latents.has_prior`."""
        return self.prior is not None

    def walk(
        self,
        draw: Draw,
        batch: Batch | None = None,
        n: int | None = None,
        context: Mapping[str, Tensor] | None = None,
        samples: Size = (),
    ) -> Trace:
        """See :meth:`Latents.walk`."""
        context = context or {}
        q = None
        if batch is not None:
            n = len(batch.x)
            q = self.posterior(self.reads(batch.x, batch.observed), context)
            q = q.expand(samples + tuple(q.batch_shape)) if samples else q
        assert n is not None, "a walk needs a batch or a number of items"
        p = self.prior(n, context, self.posterior) if self.prior is not None else None
        z = draw(0, q, p)
        top = level(z, q, p, self.posterior.event)
        return Trace((top,), self.posterior.family.read(z))
