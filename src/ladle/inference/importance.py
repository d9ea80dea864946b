"""Importance sampling: the weights of a model's proposals, and the bound that they give."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.distributions import Distribution

from ladle.data import Batch
from ladle.families import frozen
from ladle.inference.evidence import Items, check_density, outputs, sample_counts
from ladle.inference.pareto import k_hat
from ladle.inference.proposals import Proposal, proposal_of
from ladle.model.latents import Draw, keyed
from ladle.model.vae import VAE
from ladle.shapes import Size, sum_event

BLOCK = 1000  # samples drawn under one key: part of what a seed means
NUMBERS = 2_000_000  # that the decoder's net puts out at a time: what bounds memory
DRAWS = 16_384  # of z at a time: what bounds the memory of its hidden layers, where items are small


def importance(
    vae: VAE, batches: Iterable[Batch], *, samples: int = 100, seed: int = 0, proposal: str = "q"
) -> Iterator[Items]:
    """The importance-weighted bound of every item, a batch at a time.

    ``log p(x) >= E log 1/K sum_k p(x, z_k) / q(z_k|x)``: in expectation a lower bound that rises with K.

    Args:
        vae: in evaluation mode.
        batches: the items; make them no larger than :func:`rows` says.
        samples: K.
        seed: of the noise, keyed by item.
        proposal: what z is drawn from: ``q``, ``inflated`` or ``defensive``, see :mod:`ladle.inference.proposals`.

    Yields:
        What was found of a batch: ``-log p(x)`` bounded from above, and how good its weights are.

    Raises:
        NotAvailable: for a plain autoencoder, a model with batch normalisation, or a posterior without a temperature
            if it is to be inflated.
        SpecError: for an unknown proposal.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
    """
    check_density(vae)
    proposal_of(proposal)
    for batch in batches:
        with torch.no_grad():  # not around the yield: a generator that is left early would leave gradients off
            log_w = log_weights(vae, batch, samples, seed, proposal).double().cpu()
            weights = log_w.softmax(dim=0)
            ess = 1 / weights.square().sum(dim=0) / samples
            bounds = -curve(log_w)
        yield Items(
            "iwae", "bound", samples, batch.index.cpu().numpy(), bounds[:, -1].numpy(), ess.numpy(),
            k_hat(log_w.numpy()), bounds.numpy(),
        )  # fmt: skip


def log_weights(vae: VAE, batch: Batch, samples: int, seed: int, proposal: str = "q") -> Tensor:
    """The log importance weights of a batch, ``log p(x, z) / r(z|x)`` with z drawn from the proposal r,
    ``(samples, B)``, computed a :func:`block` of samples at a time.

    The noise of an item depends on (seed, item, block) alone: not on its neighbours, the batch size or the
    device.
    """
    blocks = []
    most = block(vae)
    for i, start in enumerate(range(0, samples, most)):
        size = (min(most, samples - start),)
        blocks.append(weigh(vae, batch, size, keyed(seed, batch.index.tolist(), size, i), proposal_of(proposal)))
    return torch.cat(blocks)


def weigh(vae: VAE, batch: Batch, size: Size, noise: Draw, propose: Proposal) -> Tensor:
    """The log importance weights of one walk, ``(*size, B)``.

    Gradients reach the parameters of a proposal through z alone: where it is exact, they vanish.

    Args:
        vae: the model.
        batch: the items.
        size: how many samples of each.
        noise: how to draw from what is proposed.
        propose: what to draw from at each level.
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
    """The bound with fewer samples, from the same weights: ``(S, B) -> (B, C)`` with the numbers K of
    :func:`sample_counts`.

    ``1/G sum_g log 1/K sum_(k in g) w_k`` over the G disjoint groups of K samples that there are.

    >>> curve(torch.tensor([1.0, 1.0, 3.0]).log()[:, None]).exp()  # (1 * 1 * 3)^(1/3), 1, (1 + 1 + 3) / 3
    tensor([[1.4422, 1.0000, 1.6667]])
    """
    sums = {1: log_w}
    for k in sample_counts(len(log_w))[1:]:
        inner = max(n for n in sums if k % n == 0)  # a group of these has been summed
        groups = len(log_w) // k
        sums[k] = sums[inner][: groups * (k // inner)].unflatten(0, (groups, -1)).logsumexp(1)
    return torch.stack([logs.mean(0) - math.log(k) for k, logs in sums.items()], dim=1)


def block(vae: VAE) -> int:
    """How many samples of an item are drawn under one key: ``BLOCK``, and fewer of large items."""
    return max(1, min(BLOCK, NUMBERS // outputs(vae)))


def rows(vae: VAE, samples: int) -> int:
    """How many items to take at a time, so that memory stays bounded."""
    return max(1, min(DRAWS, NUMBERS // outputs(vae)) // min(samples, block(vae)))
