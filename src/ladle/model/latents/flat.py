"""One level of latents, for the plain VAE and the plain autoencoder."""

from __future__ import annotations

from ladle.data import Batch
from ladle.model.conditional import Conditional, joint_context
from ladle.model.latents.latents import Draw, Latents, Trace, level
from ladle.model.priors import Prior
from ladle.nets import Standardise
from ladle.shapes import Size
from ladle.spec import part, to_spec


@part("latents", "flat")
class Flat(Latents):
    """One vector of latents per item.

    ::

        x --reads--> --posterior--> q(z|x) --draw--> z --read--> h
                           prior --> p(z)

    Args:
        reads: computes the encoder's input from x.
        posterior: q(z|x).
        prior: p(z); ``None`` makes a plain autoencoder.
    """

    def __init__(self, reads: Standardise, posterior: Conditional, prior: Prior | None) -> None:
        super().__init__()
        self.reads, self.posterior, self.prior = reads, posterior, prior
        self.events = (posterior.event,)
        self.context = joint_context(posterior, prior)

    @property
    def has_prior(self) -> bool:
        """See :attr:`Latents.has_prior`."""
        return self.prior is not None

    def describe(self) -> str:
        """See :meth:`Latents.describe`."""
        return f"{to_spec(self.posterior.family)['part']} over {list(self.posterior.event)}"

    def walk(self, draw: Draw, batch: Batch, samples: Size = ()) -> Trace:
        """See :meth:`Latents.walk`."""
        q = None
        if not batch.blank:
            q = self.posterior(self.reads(batch.x, batch.observed), batch.context)
            q = q.expand(samples + tuple(q.batch_shape)) if samples else q
        p = self.prior(len(batch.x), batch.context, self.posterior) if self.prior is not None else None
        z = draw(0, q, p)
        top = level(z, q, p, self.posterior.event)
        return Trace((top,), self.posterior.family.read(z))
