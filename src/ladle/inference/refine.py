"""A separate posterior for each item: the encoder's parameters, refined by gradient steps."""

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

RATE = 0.05  # the learning rate of Adam, which falls to 0
LEARN = 4  # draws per item and step


def encoded(vae: VAE, batch: Batch) -> list[Tensor]:
    """The encoder's output for each item: the raw parameters of its posterior, ``(B, *raw_size)`` each.

    Raises:
        NotAvailable: for several levels of latents, and for a posterior that is not reparameterised or not the output
            of a net.
    """
    latents = vae.latents
    if not isinstance(latents, Flat) or not isinstance(latents.posterior, Amortised):
        raise NotAvailable("needs one level of latents whose posterior is parameterised by a net: not applicable")
    with torch.no_grad():
        raw = latents.posterior.raw(latents.reads(batch.x, batch.observed))
        if not latents.posterior.family(*raw).has_rsample:
            raise NotAvailable(
                f"the posterior ({type(latents.posterior.family).__name__}) is not reparameterised: not applicable"
            )
    return raw


def proposed(vae: VAE, raw: list[Tensor], size: Size) -> Proposal:
    """The posterior with these raw parameters as a proposal, expanded to ``size`` samples per item."""
    posterior = vae.latents.posterior.family(*raw)  # type: ignore[union-attr,operator]
    expanded = mapped(posterior, lambda t: t.expand(*size, *t.shape))
    return lambda q, p, event: expanded


def refined(vae: VAE, batch: Batch, start: list[Tensor], steps: int, seed: int) -> list[Tensor]:
    """Optimise the raw posterior parameters of each item to maximise its ELBO.

    Adam's update is element-wise and the noise is keyed by item, so the result for an item does not depend on the
    other items of the batch.

    Args:
        vae: the model; its weights do not change.
        batch: B items.
        start: the initial parameters, ``(B, *raw_size)`` each.
        steps: the number of steps.
        seed: of the noise.

    Returns:
        The parameters after the last step, ``(B, *raw_size)`` each.
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
