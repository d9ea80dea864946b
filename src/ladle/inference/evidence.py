"""log p(x) and its error. A bound is called a bound.

A *method* is a function ``(vae, batches, *, samples, seed, ...)`` that yields :class:`Items`, a batch at a time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint
from torch.nn.modules.batchnorm import _BatchNorm

from ladle.conditional import Amortised
from ladle.data import Batch
from ladle.families import NotAvailable, frozen
from ladle.latents import Draw, keyed
from ladle.latents.flat import Flat
from ladle.pareto import BAD, k_hat
from ladle.proposals import Proposal, proposal_of
from ladle.shapes import Size, numel, sum_event
from ladle.vae import VAE

BLOCK = 1000  # samples drawn under one key: part of what a seed means
NUMBERS = 2_000_000  # that the decoder's net puts out at a time: what bounds memory
DRAWS = 16_384  # of z at a time: what bounds the memory of its hidden layers, where items are small
WORDS = {
    "iwae": "{} importance samples",
    "ais": "{} annealed chains",
    "closed form": "the closed form of linear models",
    "quadrature": "quadrature",
    "enumeration": "enumeration of the latents",
}


class Items(NamedTuple):
    """What a method found of each item.

    Attributes:
        method: how it was computed.
        kind: ``bound``, ``estimate`` or ``exact``.
        samples: importance samples per item; of ``ais`` chains, and 0 of what is exact.
        index: ``(N,)``, which items of the data these are.
        nats: ``(N,)``, -log p(x).
        ess: ``(N,)``, the relative effective sample size of the importance weights, between 1/K and 1.
        k_hat: ``(N,)``, the Pareto k̂ of the importance weights, see :func:`ladle.pareto.k_hat`.
        curve: ``(N, C)``, the bound with each number of samples of :func:`ladder`, from the same weights; no columns
            where the method has no such bound.
    """

    method: str
    kind: str
    samples: int
    index: np.ndarray  # type: ignore[assignment]  # as in a Batch
    nats: np.ndarray
    ess: np.ndarray
    k_hat: np.ndarray
    curve: np.ndarray


def joined(found: Iterable[Items]) -> Items:
    """One record of what was found of several batches, at least one."""
    parts = list(found)
    return Items(*parts[0][:3], *(np.concatenate(part) for part in zip(*(one[3:] for one in parts), strict=True)))


class Evidence(NamedTuple):
    """An estimate or bound of the evidence of a set of items.

    Attributes:
        method: how it was computed.
        kind: ``bound``, ``estimate`` or ``exact``.
        samples: importance samples per item.
        items: how many items.
        of: how many there are in the data; more than ``items`` if there was a time limit.
        nats: -log p(x), the mean per item; lower is better.
        se: its standard error over items.
        bits_per_dim: nats per number of the data, in bits.
        ess: the mean relative effective sample size of the importance weights, between 1/K and 1.
        k_hat_bad: the share of items whose Pareto k̂ is above 0.7: there the bound may be far from log p(x).
        curve: ``(K, nats)`` for K = 1, 2, 5, 10, ...: how the bound falls as samples grow.
    """

    method: str
    kind: str
    samples: int
    items: int
    of: int
    nats: float
    se: float
    bits_per_dim: float
    ess: float
    k_hat_bad: float
    curve: tuple[tuple[int, float], ...]

    def __str__(self) -> str:
        """In words."""
        sign = "<=" if self.kind == "bound" else "="
        bad = f"; k̂ > {BAD} on {self.k_hat_bad:.0%} of them" if self.k_hat_bad > 0 else ""
        few = f" of {self.of:,}, taken at random" if self.items < self.of else ""
        return (
            f"-log p(x) {sign} {self.nats:.3f} ± {self.se:.3f} nats ({self.bits_per_dim:.4f} bits/dim), "
            f"{self.kind} by {WORDS[self.method].format(self.samples)} on {self.items:,} items{few}{bad}"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data; what is not a number is None."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in self._asdict().items()}


def check_density(vae: VAE) -> None:
    """Refuse a model without a density.

    Raises:
        NotAvailable: for a plain autoencoder, or a model with batch normalisation.
    """
    if not vae.latents.has_prior:
        raise NotAvailable(
            "a plain autoencoder has no prior and so no p(x): it can encode, decode and reconstruct, but there is "
            "no evidence or score; fit one of the VAE recipes"
        )
    found = batch_norms(vae)
    if found:
        raise NotAvailable(
            f"'{found[0]}' is a batch normalisation: an item's density would depend on its neighbours or on the "
            "training set's statistics, so there is no p(x); normalise each item by itself (LayerNorm, GroupNorm)"
        )


def support(vae: VAE) -> Constraint | None:
    """Where z lives, if there is one level of it with a prior."""
    prior = vae.latents.prior if isinstance(vae.latents, Flat) else None
    return prior.support if prior is not None else None


def lives(vae: VAE) -> str:
    """What there is of latents, in words."""
    events, over = vae.latents.events, support(vae)
    count = sum(numel(event) for event in events)
    return f"{count} latents in {len(events)} levels" if over is None else f"{count} on {over}"


def on_real_line(vae: VAE) -> bool:
    """Whether z is any real numbers, on one level. (A copied model has its own copy of a constraint.)"""
    over = support(vae)
    return over == constraints.real_vector or isinstance(over, type(constraints.real))


def doubled(vae: VAE) -> VAE:
    """A frozen copy in double precision: an item's numbers do not depend on how its neighbours round."""
    return copy.deepcopy(vae).double().eval().requires_grad_(False)


def batch_norms(vae: VAE) -> list[str]:
    """The names of the batch normalisations in a model, such as ``likelihood.net.1``."""
    return [name for name, module in vae.named_modules() if isinstance(module, _BatchNorm)]


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
        proposal: what z is drawn from: ``q``, ``inflated`` or ``defensive``, see :mod:`ladle.proposals`.

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


def ladder(samples: int) -> list[int]:
    """1, 2, 5, 10, ... and ``samples``.

    >>> ladder(70)
    [1, 2, 5, 10, 20, 50, 70]
    """
    steps = [digit * 10**power for power in range(len(str(samples))) for digit in (1, 2, 5)]
    return [k for k in steps if k < samples] + [samples]


def curve(log_w: Tensor) -> Tensor:
    """The bound with fewer samples, from the same weights: ``(S, B) -> (B, C)`` with the numbers K of :func:`ladder`.

    ``1/G sum_g log 1/K sum_(k in g) w_k`` over the G disjoint groups of K samples that there are.

    >>> curve(torch.tensor([1.0, 1.0, 3.0]).log()[:, None]).exp()  # (1 * 1 * 3)^(1/3), 1, (1 + 1 + 3) / 3
    tensor([[1.4422, 1.0000, 1.6667]])
    """
    sums = {1: log_w}
    for k in ladder(len(log_w))[1:]:
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


def outputs(vae: VAE) -> int:
    """How many numbers the decoder's net reads or puts out for one z, whichever is more."""
    likelihood = vae.likelihood
    read = numel(likelihood.net.inputs) if isinstance(likelihood, Amortised) else 0
    return max(read, sum(numel(size) for size in likelihood.family.raw(likelihood.event)))


def summary(items: Items, dims: int, of: int | None = None) -> Evidence:
    """The evidence of a set of items.

    Args:
        items: what was found of each.
        dims: the numbers in one item.
        of: how many items there are in the data; by default no more than these.
    """
    n = len(items.nats)
    mean = float(items.nats.mean())
    se = float(items.nats.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    known = items.k_hat[~np.isnan(items.k_hat)]
    bad = float((known > BAD).mean()) if len(known) else math.nan
    steps = zip(ladder(items.samples), items.curve.mean(0).tolist(), strict=False)
    bits = mean / (dims * math.log(2))
    return Evidence(
        items.method, items.kind, items.samples, n, of or n, mean, se, bits, float(items.ess.mean()), bad, tuple(steps)
    )
