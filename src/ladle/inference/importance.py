"""Importance sampling: the weights of draws from a proposal, and the bound on log p(x) that they give."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution

from ladle.data import Batch
from ladle.families import frozen
from ladle.inference.evidence import Items, Measure, check_density, decoder_width, items_of, sample_counts
from ladle.inference.pareto import k_hat
from ladle.inference.proposals import Proposal, proposal_of
from ladle.model.latents import Draw, keyed
from ladle.model.vae import VAE
from ladle.shapes import Size, sum_event

BLOCK = 1000  # samples drawn under one key; changing it changes the noise of a seed
NUMBERS = 2_000_000  # decoder outputs computed together: bounds the memory
DRAWS = 16_384  # draws of z decoded together: bounds the memory of the hidden layers where items are small


def importance(vae: VAE, *, samples: int = 100, seed: int = 0, proposal: str = "q") -> Measure:
    """The importance-weighted bound, prepared for a model.

    ``log p(x) >= E log 1/K sum_k p(x, z_k) / q(z_k|x)``: in expectation a lower bound that rises with K.

    Args:
        vae: in evaluation mode.
        samples: K.
        seed: of the noise, keyed by item.
        proposal: the distribution that z is drawn from: ``q``, ``inflated`` or ``defensive``, see
            :mod:`ladle.inference.proposals`.

    Returns:
        A function from a batch, of at most :func:`batch_size` items, to the upper bound on ``-log p(x)`` of each item
        and the diagnostics of its weights.

    Raises:
        NotAvailable: for a plain autoencoder or a model with batch normalisation. The returned function raises it for
            a posterior that has no temperature and cannot be inflated.
        SpecError: for an unknown proposal.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
    """
    check_density(vae)
    proposal_of(proposal)

    def measure(batch: Batch) -> Items:
        with torch.no_grad():
            log_w = log_weights(vae, batch, samples, seed, proposal).double().cpu()
            weights = log_w.softmax(dim=0)
            ess = 1 / weights.square().sum(dim=0) / samples
            bounds = -curve(log_w)
        nats = bounds[:, -1].numpy()
        return items_of(batch, "iwae", "bound", samples, nats, ess.numpy(), k_hat(log_w.numpy()), bounds.numpy())

    return measure


def log_weights(vae: VAE, batch: Batch, samples: int, seed: int, proposal: str = "q") -> Tensor:
    """The log importance weights of a batch, ``log p(x, z) / r(z|x)`` with z drawn from the proposal r,
    ``(samples, B)``, computed in blocks of :func:`block_size` samples.

    The noise of an item depends on the seed, the item and the block only, not on the other items, the batch size or the
    device.
    """
    blocks = []
    largest = block_size(vae)
    for i, start in enumerate(range(0, samples, largest)):
        size = (min(largest, samples - start),)
        blocks.append(weigh(vae, batch, size, keyed(seed, batch.index.tolist(), size, i), proposal_of(proposal)))
    return torch.cat(blocks)


def weigh(vae: VAE, batch: Batch, size: Size, noise: Draw, propose: Proposal) -> Tensor:
    """The log importance weights of one walk, ``(*size, B)``.

    Gradients reach the parameters of the proposal through z only; they vanish where the proposal is the posterior.

    Args:
        vae: the model.
        batch: B items.
        size: the shape of the samples of each item.
        noise: how to draw from the proposal.
        propose: the proposal at each level.
    """

    def draw(i: int, q: Distribution | None, p: Distribution | None) -> Tensor:
        return noise(i, propose(q, p, vae.latents.events[i]), p)  # type: ignore[arg-type]

    terms = vae(batch, size, draw)
    log_w = terms.log_px
    for level, event in zip(terms.levels, vae.latents.events, strict=True):
        r = frozen(propose(level.q, level.p, event))
        log_w = log_w + level.log_p - sum_event(r.log_prob(level.z), log_w.dim())
    return log_w


def curve(log_w: Tensor) -> Tensor:
    """The bound with fewer samples, from the same weights: ``(S, B) -> (B, C)``, for each K of
    :func:`~ladle.inference.evidence.sample_counts`.

    ``1/G sum_g log 1/K sum_(k in g) w_k`` over the G disjoint groups of K samples.

    >>> curve(torch.tensor([1.0, 1.0, 3.0]).log()[:, None]).exp()  # (1 * 1 * 3)^(1/3), 1, (1 + 1 + 3) / 3
    tensor([[1.4422, 1.0000, 1.6667]])
    """
    sums = {1: log_w}
    for k in sample_counts(len(log_w))[1:]:
        inner = max(n for n in sums if k % n == 0)  # the sums over groups of n are known already
        groups = len(log_w) // k
        sums[k] = sums[inner][: groups * (k // inner)].unflatten(0, (groups, -1)).logsumexp(1)
    return torch.stack([logs.mean(0) - math.log(k) for k, logs in sums.items()], dim=1)


def block_size(vae: VAE) -> int:
    """The number of samples of an item that are drawn under one key: ``BLOCK``, and fewer of large items."""
    return max(1, min(BLOCK, NUMBERS // decoder_width(vae)))


def batch_size(vae: VAE, samples: int) -> int:
    """The largest number of items in a batch, so that memory stays bounded."""
    return max(1, min(DRAWS, NUMBERS // decoder_width(vae)) // min(samples, block_size(vae)))
