"""Posteriors of each item's own: the parameters that the encoder gives, refined by gradient steps."""

from __future__ import annotations

import torch
from torch import Tensor

from ladle.data import Batch
from ladle.families import NotAvailable, draw, mapped
from ladle.inference.importance import weigh
from ladle.inference.proposals import Proposal
from ladle.model.conditional import Amortised
from ladle.model.latents import keyed
from ladle.model.latents.flat import Flat
from ladle.model.vae import VAE
from ladle.shapes import Size

RATE = 0.05  # of Adam, falling to 0
LEARN = 4  # draws of each item in a step


def encoded(vae: VAE, batch: Batch) -> list[Tensor]:
    """What the encoder says of each item: the raw parameters of its posterior, ``(B, *raw_size)`` each.

    Raises:
        NotAvailable: where there is no such thing, or no gradient could change it.
    """
    latents = vae.latents
    if not isinstance(latents, Flat) or not isinstance(latents.posterior, Amortised):
        raise NotAvailable("needs one level of latents whose posterior is a family read from a net: not applicable")
    with torch.no_grad():
        raw = latents.posterior.raw(latents.reads(batch.x, batch.observed))
        if not latents.posterior.family(*raw).has_rsample:
            raise NotAvailable(
                f"the posterior ({type(latents.posterior.family).__name__}) is not reparameterised: not applicable"
            )
    return raw


def proposed(vae: VAE, raw: list[Tensor], size: Size) -> Proposal:
    """The posterior with these raw parameters, expanded to the samples of a walk."""
    own = vae.latents.posterior.family(*raw)  # type: ignore[union-attr,operator]
    wide = mapped(own, lambda t: t.expand(*size, *t.shape))
    return lambda q, p, event: wide


def refined(vae: VAE, batch: Batch, start: list[Tensor], steps: int, seed: int) -> list[Tensor]:
    """Raw parameters of each item's own posterior that maximise its ELBO.

    Adam treats every number by itself and the noise is keyed by item, so that neighbours do not matter.

    Args:
        vae: the model; its weights stay as they are.
        batch: B items.
        start: ``(B, *raw_size)`` each.
        steps: how many.
        seed: of the noise.
    """
    raw = [r.clone().requires_grad_() for r in start]
    adam = torch.optim.Adam(raw, lr=RATE)
    for step in range(steps):
        adam.param_groups[0]["lr"] = RATE * (1 - step / steps)
        noise = keyed(seed, batch.index.tolist(), (LEARN,), step + 1, draw)
        with torch.enable_grad():
            loss = -weigh(vae, batch, (LEARN,), noise, proposed(vae, raw, (LEARN,))).mean(0).sum()
            for r, gradient in zip(raw, torch.autograd.grad(loss, raw), strict=True):
                r.grad = gradient
        adam.step()
    return [r.detach() for r in raw]
