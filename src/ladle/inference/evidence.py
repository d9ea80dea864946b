"""log p(x) and its error. A bound is called a bound.

A *method* is a function ``(vae, batches, *, samples, seed, ...)`` that yields :class:`Items`, a batch at a time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.modules.batchnorm import _BatchNorm

from ladle.families import NotAvailable
from ladle.inference.pareto import BAD
from ladle.model.conditional import Amortised
from ladle.model.latents.flat import Flat
from ladle.model.vae import VAE
from ladle.shapes import numel

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
        k_hat: ``(N,)``, the Pareto k̂ of the importance weights, see :func:`ladle.inference.pareto.k_hat`.
        curve: ``(N, C)``, the bound with each number of samples of :func:`sample_counts`, from the same weights; no
            columns where the method has no such bound.
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


def sample_counts(samples: int) -> list[int]:
    """1, 2, 5, 10, ... and ``samples``.

    >>> sample_counts(70)
    [1, 2, 5, 10, 20, 50, 70]
    """
    steps = [digit * 10**power for power in range(len(str(samples))) for digit in (1, 2, 5)]
    return [k for k in steps if k < samples] + [samples]


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
    steps = zip(sample_counts(items.samples), items.curve.mean(0).tolist(), strict=False)
    bits = mean / (dims * math.log(2))
    return Evidence(
        items.method, items.kind, items.samples, n, of or n, mean, se, bits, float(items.ess.mean()), bad, tuple(steps)
    )
