"""Generate: close your eyes, reach into the pool and pick."""

from __future__ import annotations

import math

import numpy as np
import torch

from ladle import families
from ladle.data import DataError
from ladle.model.latents import from_prior
from ladle.seeds import seeded
from ladle.store.folder import Model
from ladle.tasks.common import Progress, at_once


def sample(
    model: Model,
    n: int = 64,
    *,
    temperature: float = 1.0,
    seed: int = 0,
    noise: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """Items from the model: z from the prior, then the expectation of p(x|z).

    Args:
        model: from :func:`ladle.load`; a plain autoencoder has no prior to draw from.
        n: how many.
        temperature: of the prior; below 1 closer to its centre.
        seed: the same seed gives the same items.
        noise: draw x from p(x|z) instead of taking its expectation.
        progress: called with (items done, items in all).

    Returns:
        ``(n, *event)`` float32, in the data's own units.

    Raises:
        DataError: for a number of items or a temperature that is not positive.
        NotAvailable: for a plain autoencoder.
    """
    if n < 1:
        raise DataError(f"the number of samples must be at least 1, got {n}")
    if not 0 < temperature < math.inf:
        raise DataError(f"the temperature must be above 0, got {temperature}")
    rows, size = [], at_once(model)
    with torch.no_grad():
        for start in range(0, n, size):
            with seeded(seed, "sample", start):
                count = min(size, n - start)
                trace = model.vae.latents.walk(from_prior(temperature), n=count)
                d = model.vae.explain(trace.h)
                rows.append((d.sample() if noise else families.mean(d)).float().cpu().numpy())
            if progress:
                progress(start + count, n)
    return np.concatenate(rows)
