"""log p(x) and its error. A bound is called a bound."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from ladle.data import Batch
from ladle.families import NotAvailable
from ladle.latents import keyed
from ladle.objectives import bound
from ladle.vae import VAE

BLOCK = 100  # samples drawn under one key: part of what a seed means
ROWS, LARGE = 5_000, 784  # decoded at a time, and fewer of items with more numbers than this


class Evidence(NamedTuple):
    """An estimate or bound of the evidence of a set of items.

    Attributes:
        method: how it was computed.
        kind: ``bound``, ``estimate`` or ``exact``.
        samples: importance samples per item.
        items: how many items.
        nats: -log p(x), the mean per item; lower is better.
        se: its standard error over items.
        bits_per_dim: nats per number of the data, in bits.
        ess: the mean relative effective sample size of the importance weights, between 1/K and 1.
    """

    method: str
    kind: str
    samples: int
    items: int
    nats: float
    se: float
    bits_per_dim: float
    ess: float

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


def batch_norms(vae: VAE) -> list[str]:
    """The names of the batch normalisations in a model, such as ``likelihood.net.1``."""
    return [name for name, module in vae.named_modules() if isinstance(module, _BatchNorm)]


def log_weights(vae: VAE, batch: Batch, samples: int, seed: int) -> Tensor:
    """The log importance weights of a batch, ``(samples, B)``, computed ``BLOCK`` samples at a time.

    The noise of an item depends on (seed, item, block) alone: not on its neighbours, the batch size or the
    device.
    """
    blocks = []
    for block, start in enumerate(range(0, samples, BLOCK)):
        size = (min(BLOCK, samples - start),)
        blocks.append(vae(batch, size, keyed(seed, batch.index.tolist(), size, block)).log_w)
    return torch.cat(blocks)


def importance(
    vae: VAE, batches: Iterable[Batch], *, samples: int = 100, seed: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The importance-weighted bound of every item, a batch at a time.

    ``log p(x) >= E log 1/K sum_k p(x, z_k) / q(z_k|x)``: in expectation a lower bound that rises with K.

    Args:
        vae: in evaluation mode.
        batches: the items; make them no larger than :func:`rows` says.
        samples: K.
        seed: of the noise, keyed by item.

    Yields:
        ``-log p(x)`` bounded from above, in nats ``(B,)``, and the relative effective sample size ``(B,)``.

    Raises:
        NotAvailable: for a plain autoencoder, or a model with batch normalisation.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
    """
    check_density(vae)
    for batch in batches:
        with torch.no_grad():  # not around the yield: a generator that is left early would leave gradients off
            log_w = log_weights(vae, batch, samples, seed).double()
            weights = log_w.softmax(dim=0)
            ess = 1 / weights.square().sum(dim=0) / samples
            nats = -bound(log_w)
        yield nats.cpu().numpy(), ess.cpu().numpy()


def rows(samples: int, dims: int) -> int:
    """How many items of ``dims`` numbers to take at a time, so that memory stays bounded.

    >>> rows(500, 784), rows(500, 3 * 64 * 64)
    (50, 3)
    """
    return max(1, ROWS * LARGE // max(dims, LARGE) // min(samples, BLOCK))


def summary(nats: np.ndarray, ess: np.ndarray, samples: int, dims: int) -> Evidence:
    """The evidence of a set of items from the bound of each.

    Args:
        nats: ``(N,)`` -log p(x) of each item.
        ess: ``(N,)`` relative effective sample sizes.
        samples: K.
        dims: the numbers in one item.
    """
    n = len(nats)
    mean = float(nats.mean())
    se = float(nats.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return Evidence("iwae", "bound", samples, n, mean, se, mean / (dims * math.log(2)), float(ess.mean()))
