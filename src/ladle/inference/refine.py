"""The amortisation gap: what is lost because one encoder speaks for all items."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ladle.conditional import Amortised
from ladle.data import Batch, DataError, Split
from ladle.evidence import check_density, weigh
from ladle.families import NotAvailable, draw, mapped
from ladle.folder import Model
from ladle.latents import keyed
from ladle.latents.flat import Flat
from ladle.proposals import Proposal
from ladle.shapes import Size
from ladle.tasks.run import Progress, at_once, each_batch
from ladle.vae import VAE

RATE = 0.05  # of Adam, falling to 0
LEARN, MEASURE = 4, 64  # draws of each item: in a step, and to measure with


class Gap(NamedTuple):
    """The mean over items, in nats, and its standard error."""

    nats: float
    se: float


def amortisation_gap(
    model: Model,
    split: Split,
    *,
    items: int = 100,
    steps: int = 300,
    seed: int = 0,
    progress: Progress | None = None,
) -> Gap:
    """How much better the bound is with a posterior of each item's own than with the encoder's.

    ``E [max_phi ELBO(x; phi) - ELBO(x; encoder(x))]`` over items, phi the parameters of one member of the posterior's
    family, found by Adam. What is left to log p(x) after that is the family's fault, not the encoder's.

    Args:
        model: with one level of latents.
        split: items as the model wants them, see :func:`ladle.tasks.run.items`.
        items: how many to look at, the first ones.
        steps: of the optimisation; with too few the gap is underestimated.
        seed: of all noise, keyed by item.
        progress: called with (items done, items in all).

    Raises:
        DataError: for fewer than 1 item or step.
        NotAvailable: for a plain autoencoder, several levels of latents, a posterior that is no family read from a net,
            or one that is not reparameterised.

    Reference:
        Cremer, Li, Duvenaud: "Inference Suboptimality in Variational Autoencoders", 2018.
        Roeder, Wu, Duvenaud: "Sticking the Landing", 2017 (the gradient).
    """
    if items < 1 or steps < 1:
        raise DataError(f"there must be at least 1 item and 1 step, got {items} and {steps}")
    check_density(model.vae)
    few = split.take(np.arange(min(items, len(split))))
    size = max(1, at_once(model) // LEARN)
    each = np.concatenate([_gaps(model.vae, b, steps, seed) for b in each_batch(model, few, size, progress)])
    return Gap(float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan)


def _gaps(vae: VAE, batch: Batch, steps: int, seed: int) -> np.ndarray:
    """The gap of each item, ``(B,)``, on noise that the optimisation has not seen."""
    start = encoded(vae, batch)
    own = refined(vae, batch, start, steps, seed)
    noise = keyed(seed, batch.index.tolist(), (MEASURE,))  # the same for both
    with torch.no_grad():
        before, after = (weigh(vae, batch, (MEASURE,), noise, proposed(vae, raw, (MEASURE,))) for raw in (start, own))
    return (after - before).mean(0).double().cpu().numpy()


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
