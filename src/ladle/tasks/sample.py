"""Generate items from the model's distribution."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from ladle import families
from ladle.data import Batch, DataError
from ladle.model.latents import from_prior
from ladle.seeds import seeded
from ladle.store.folder import Model
from ladle.tasks.common import Progress, at_once, gather, label_number, map_batches


def sample(
    model: Model,
    n: int = 64,
    *,
    label: str | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    noise: bool = False,
    progress: Progress | None = None,
) -> np.ndarray:
    """Generate items: draw z from the prior, and take the expectation of p(x|z).

    Args:
        model: from :func:`ladle.load`. A plain autoencoder has no prior to draw from.
        n: the number of items.
        label: the name of a class, for a model with a class-conditional prior: z is drawn from p(z|label). By default
            z is drawn from p(z).
        temperature: the temperature of the prior; below 1, z is closer to the prior's centre.
        seed: the same seed gives the same items.
        noise: draw x from p(x|z) instead of taking its expectation.
        progress: called with (items done, items in total).

    Returns:
        ``(n, *event)`` float32, in the data's own units.

    Raises:
        DataError: if the number of items or the temperature is not positive, for an unknown label, and for any label
            if the model reads none.
        NotAvailable: for a plain autoencoder.
    """
    pieces = sample_batches(
        model, n, label=label, temperature=temperature, seed=seed, noise=noise, progress=progress
    )  # fmt: skip
    return gather(pieces, n)


def sample_batches(
    model: Model,
    n: int = 64,
    *,
    label: str | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    noise: bool = False,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """The items of :func:`sample`, batch by batch as they are generated: for :func:`ladle.write`, where they would not
    fit into memory. The arguments are those of :func:`sample`."""
    if n < 1:
        raise DataError(f"the number of samples must be at least 1, got {n}")
    if not 0 < temperature < math.inf:
        raise DataError(f"the temperature must be above 0, got {temperature}")
    task = partial(sample_batch, temperature=temperature, seed=seed, noise=noise)
    return map_batches(task, model, _blanks(model, n, label), total=n, progress=progress)


def sample_batch(
    model: Model, batch: Batch, *, temperature: float = 1.0, seed: int = 0, noise: bool = False
) -> np.ndarray:
    """One item for each of a blank batch, ``(B, *event)`` float32; see :func:`sample`.

    The noise is keyed by the seed and the number of the first item. The context of the batch is what is conditioned on.
    """
    with torch.no_grad(), seeded(seed, "sample", int(batch.index[0])):
        trace = model.vae.walk(from_prior(temperature), batch)
        p = model.vae.explain(trace.h, batch)
        return (p.sample() if noise else families.mean(p)).float().cpu().numpy()


def _blanks(model: Model, n: int, label: str | None) -> Iterator[Batch]:
    """Batches without data of ``n`` items in total, which are numbered from 0, all of one label or of none."""
    size, number = at_once(model), None if label is None else label_number(model, label)
    for start in range(0, n, size):
        count = min(size, n - start)
        given = {} if number is None else {"label": torch.full((count,), number, device=model.device)}
        blank = model.vae.blank(count, given)
        yield blank._replace(index=blank.index + start)
