"""Score items, and measure the evidence of a data set."""

from __future__ import annotations

import numpy as np

from ladle.data import DataError
from ladle.evidence import Evidence, importance, rows, summary
from ladle.folder import Model
from ladle.shapes import numel
from ladle.tasks.run import Progress, Source, each_batch, items


def score(
    model: Model,
    data: Source,
    *,
    samples: int = 100,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """How unlikely the model finds each item: the importance-weighted bound on -log p(x).

    Args:
        model: from :func:`ladle.load`; a plain autoencoder has no density.
        data: what to score; see :func:`ladle.tasks.run.items`.
        samples: importance samples per item.
        split: of a data set that has splits.
        seed: of the noise, keyed by item: an item's score does not depend on its neighbours.
        batch: items at a time.
        progress: called with (items done, items in all).

    Returns:
        ``(N,)`` nats, lower is likelier.
    """
    return _importance(model, data, samples, split, seed, batch, progress)[0]


def evidence(
    model: Model,
    data: Source,
    *,
    samples: int = 500,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Evidence:
    """The evidence of a data set: the importance-weighted bound on -log p(x), the mean over items.

    Arguments as for :func:`score`.
    """
    nats, ess = _importance(model, data, samples, split, seed, batch, progress)
    return summary(nats, ess, samples, numel(model.schema.shape))


def _importance(
    model: Model,
    data: Source,
    samples: int,
    split: str | None,
    seed: int,
    batch: int | None,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    if samples < 1:
        raise DataError(f"the number of importance samples must be at least 1, got {samples}")
    chosen = items(model, data, split)
    found = importance(
        model.vae,
        each_batch(model, chosen, batch or rows(samples, numel(model.schema.shape)), progress),
        samples=samples,
        seed=seed,
    )
    nats, ess = zip(*found, strict=True)
    return np.concatenate(nats), np.concatenate(ess)
