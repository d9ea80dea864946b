"""Reconstruct: encode and decode again."""

from __future__ import annotations

import numpy as np
import torch

from ladle import families
from ladle.data import DataError
from ladle.model.latents import Draw, centres, keyed
from ladle.store.folder import Model
from ladle.tasks.common import Progress, Source, each_batch, items


def reconstruct(
    model: Model,
    data: Source,
    *,
    draws: int = 0,
    keep: int | None = None,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The expectation of p(x|z) at the centre of q(z|x), or at draws from q.

    Args:
        model: from :func:`ladle.load`.
        data: what to reconstruct; see :func:`ladle.tasks.common.items`.
        draws: 0 takes the centre; otherwise how many z are drawn per item.
        keep: of a hierarchy, how many levels are read from the item; those below come from their prior given these.
            Keep the gist, vary the detail.
        split: of a data set that has splits.
        seed: of the draws, keyed by item.
        batch: items at a time.
        progress: called with (items done, items in all).

    Returns:
        ``(N, *event)`` float32 in the data's own units; with draws ``(N, draws, *event)``.

    Raises:
        DataError: for a negative number of draws, a number of levels that the model has not, or data that is not what
            the model was fitted to.
    """
    if draws < 0:
        raise DataError(f"the number of draws must be at least 0, got {draws}")
    levels = len(model.vae.latents.events)
    if keep is not None and not 1 <= keep <= levels:
        raise DataError(f"the levels to keep must be between 1 and the {levels} that the model has, got {keep}")
    rows = []
    samples = (draws,) if draws else ()
    for b in each_batch(model, items(model, data, split), batch, progress):
        draw = kept(keyed(seed, b.index.tolist(), samples) if draws else centres, levels if keep is None else keep)
        with torch.no_grad():
            trace = model.vae.latents.walk(draw, b, context=b.context, samples=samples)
            x = families.mean(model.vae.explain(trace.h, b.context)).float().cpu().numpy()
        rows.append(np.moveaxis(x, 0, 1) if draws else x)
    return np.concatenate(rows)


def kept(draw: Draw, keep: int) -> Draw:
    """A draw from the posteriors of the first levels, and from the priors of the ones below."""
    return lambda i, q, p: draw(i, q if i < keep else p, p)
