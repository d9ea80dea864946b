"""log p(x) of items and its mean: exact values, estimates and bounds, with their errors.

A method of evidence, see :mod:`ladle.inference.methods`, is prepared once for a model. The result is a :data:`Measure`,
a function that takes a batch and returns :class:`Items`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn.modules.batchnorm import _BatchNorm

from ladle.data import Batch
from ladle.families import NotAvailable
from ladle.inference.pareto import BAD
from ladle.model.conditional import Amortised
from ladle.model.latents.flat import Flat
from ladle.model.vae import VAE
from ladle.shapes import numel

DESCRIPTIONS = {
    "iwae": "{} importance samples",
    "ais": "{} annealed chains",
    "closed form": "the closed form of linear models",
    "quadrature": "quadrature",
    "enumeration": "enumeration of the latents",
}


class Items(NamedTuple):
    """The evidence of each of N items.

    Attributes:
        method: the method: ``iwae``, ``ais``, ``closed form``, ``quadrature`` or ``enumeration``.
        kind: ``bound``, ``estimate`` or ``exact``.
        samples: importance samples per item; for ``ais`` the chains, for exact values 0.
        index: ``(N,)``, the positions of the items in the data.
        nats: ``(N,)``, -log p(x) of the observed values.
        ess: ``(N,)``, the relative effective sample size of the importance weights, between 1/K and 1.
        k_hat: ``(N,)``, the Pareto k̂ of the importance weights, see :func:`ladle.inference.pareto.k_hat`.
        curve: ``(N, C)``, the bound for each number of samples of :func:`sample_counts`, from the same weights; no
            columns where the method has no such bound.
        observed: ``(N,)``, the number of observed values.
    """

    method: str
    kind: str
    samples: int
    index: np.ndarray  # type: ignore[assignment]  # as in a Batch
    nats: np.ndarray
    ess: np.ndarray
    k_hat: np.ndarray
    curve: np.ndarray
    observed: np.ndarray


Measure = Callable[[Batch], Items]
"""A prepared method of evidence. It may be called from several threads at once."""


def items_of(
    batch: Batch,
    method: str,
    kind: str,
    samples: int,
    nats: np.ndarray,
    ess: np.ndarray | None = None,
    k_hat: np.ndarray | None = None,
    curve: np.ndarray | None = None,
) -> Items:
    """The evidence of the items of a batch; numbers that the method does not have are NaN."""
    n = len(nats)
    unknown = np.full(n, np.nan)
    return Items(
        method,
        kind,
        samples,
        batch.index.cpu().numpy(),
        nats,
        unknown if ess is None else ess,
        unknown if k_hat is None else k_hat,
        np.empty((n, 0)) if curve is None else curve,
        observed_values(batch),
    )


def observed_values(batch: Batch) -> np.ndarray:
    """The number of observed values of each item, ``(B,)`` int64."""
    if batch.observed is None:
        return np.full(len(batch.x), numel(batch.x.shape[1:]))
    return batch.observed.flatten(1).sum(1).cpu().numpy()


def subset(items: Items, rows: np.ndarray) -> Items:
    """The items at these positions, in this order."""
    return items._replace(**{k: v[rows] for k, v in items._asdict().items() if isinstance(v, np.ndarray)})


class Evidence(NamedTuple):
    """The evidence of a set of items: the exact value, an estimate or a bound.

    Attributes:
        method: the method: ``iwae``, ``ais``, ``closed form``, ``quadrature`` or ``enumeration``.
        kind: ``bound``, ``estimate`` or ``exact``.
        samples: importance samples per item.
        items: the number of items.
        of: the number of items in the data; more than ``items`` if only some were measured.
        nats: -log p(x), the mean over items; lower is better.
        se: its standard error over items.
        bits_per_dim: nats per observed value, in bits.
        ess: the mean relative effective sample size of the importance weights, between 1/K and 1.
        k_hat_bad: the share of items whose Pareto k̂ is above 0.7: there the bound may be far from log p(x).
        curve: ``(K, nats)`` for K = 1, 2, 5, 10, ...: the bound as a function of the number of samples.
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
        """One sentence."""
        sign = "<=" if self.kind == "bound" else "="
        bad = f"; k̂ > {BAD} on {self.k_hat_bad:.0%} of them" if self.k_hat_bad > 0 else ""
        subset = f" of {self.of:,}, taken at random" if self.items < self.of else ""
        return (
            f"-log p(x) {sign} {self.nats:.3f} ± {self.se:.3f} nats ({self.bits_per_dim:.4f} bits/dim), "
            f"{self.kind} by {DESCRIPTIONS[self.method].format(self.samples)} on {self.items:,} items{subset}{bad}"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, with None for NaN and infinity."""
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
            "training set's statistics, so there is no p(x); normalise each item separately (LayerNorm, GroupNorm)"
        )


def latent_support(vae: VAE) -> Constraint | None:
    """The support of z; ``None`` for a hierarchy and for a model without a prior."""
    prior = vae.latents.prior if isinstance(vae.latents, Flat) else None
    return prior.support if prior is not None else None


def describe_latents(vae: VAE) -> str:
    """The number of latents, and their support or the number of levels."""
    events, support = vae.latents.events, latent_support(vae)
    count = sum(numel(event) for event in events)
    return f"{count} latents " + (f"in {len(events)} levels" if support is None else f"with the support {support}")


def on_real_line(vae: VAE) -> bool:
    """Whether there is one level of latents, and all real numbers are its support."""
    support = latent_support(vae)  # of a copied model it is a copy too
    return support == constraints.real_vector or isinstance(support, type(constraints.real))


def in_double_precision(vae: VAE) -> VAE:
    """A frozen copy in double precision, where the rounding of a batch does not change an item's numbers."""
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


def decoder_width(vae: VAE) -> int:
    """The number of inputs or of raw outputs of the decoder for one z, whichever is larger."""
    likelihood = vae.likelihood
    inputs = numel(likelihood.net.inputs) if isinstance(likelihood, Amortised) else 0
    return max(inputs, sum(numel(size) for size in likelihood.family.raw(likelihood.event)))


def summary(items: Items, of: int | None = None) -> Evidence:
    """The evidence of a set of items.

    Args:
        items: the evidence of each.
        of: the number of items in the data; by default that of these.
    """
    n = len(items.nats)
    mean = float(items.nats.mean())
    se = float(items.nats.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    observed = float(items.observed.mean())
    bits = mean / (observed * math.log(2)) if observed else math.nan
    k_hat = items.k_hat[~np.isnan(items.k_hat)]
    bad = float((k_hat > BAD).mean()) if len(k_hat) else math.nan
    curve = tuple(zip(sample_counts(items.samples), items.curve.mean(0).tolist(), strict=False))
    return Evidence(
        items.method, items.kind, items.samples, n, of or n, mean, se, bits, float(items.ess.mean()), bad, curve
    )
