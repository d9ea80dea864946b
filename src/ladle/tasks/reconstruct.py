"""Reconstruct: encode and decode again."""

from __future__ import annotations

import numpy as np
import torch

from ladle import families
from ladle.data import DataError
from ladle.folder import Model
from ladle.latents import centres, keyed
from ladle.tasks.run import Progress, Source, each_batch, items


def reconstruct(
    model: Model,
    data: Source,
    *,
    draws: int = 0,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The expectation of p(x|z) at the centre of q(z|x), or at draws from q.

    Args:
        model: from :func:`ladle.load`.
        data: what to reconstruct; see :func:`ladle.tasks.run.items`.
        draws: 0 takes the centre; otherwise how many z are drawn per item.
        split: of a data set that has splits.
        seed: of the draws, keyed by item.
        batch: items at a time.
        progress: called with (items done, items in all).

    Returns:
        ``(N, *event)`` float32 in the data's own units; with draws ``(N, draws, *event)``.

    Raises:
        DataError: for a negative number of draws, or data that is not what the model was fitted to.
    """
    if draws < 0:
        raise DataError(f"the number of draws must be at least 0, got {draws}")
    rows = []
    samples = (draws,) if draws else ()
    for b in each_batch(model, items(model, data, split), batch, progress):
        draw = keyed(seed, b.index.tolist(), samples) if draws else centres
        with torch.no_grad():
            trace = model.vae.latents.walk(draw, b, context=b.context, samples=samples)
            x = families.mean(model.vae.explain(trace.h, b.context)).float().cpu().numpy()
        rows.append(np.moveaxis(x, 0, 1) if draws else x)
    return np.concatenate(rows)
