"""Reconstruct: encode and decode again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from ladle import families
from ladle.data import Batch, DataError
from ladle.model.latents import Draw, centres, keyed
from ladle.store.folder import Model
from ladle.tasks.common import Progress, Source, gather, items, map_batches


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
        data: the items to reconstruct; see :func:`ladle.tasks.common.items`.
        draws: the number of z that are drawn from q for each item; with 0, z is the centre of q.
        keep: for a hierarchical model, the number of levels, from the top, whose z is inferred from the item, by
            default all. The levels below are drawn from their prior given these: this keeps the gist of an item and
            varies its detail.
        split: the split of a data set that has splits.
        seed: the seed of the draws. Their noise is keyed by item, so that it does not depend on the batches.
        batch: the number of items in a batch.
        progress: called with (items done, items in total).

    Returns:
        ``(N, *event)`` float32 in the data's own units; with draws ``(N, draws, *event)``.

    Raises:
        DataError: if the number of draws is negative, the model does not have this number of levels, or the data is
            not of the shape or type that the model was fitted to.
    """
    task = _task(model, draws, keep, seed)
    found = items(model, data, split)
    return gather(map_batches(task, model, found, size=batch, progress=progress), len(found))


def reconstruct_batches(
    model: Model,
    data: Source,
    *,
    draws: int = 0,
    keep: int | None = None,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """The rows of :func:`reconstruct`, batch by batch as they are computed: for :func:`ladle.write`, where they would
    not fit into memory. The arguments are those of :func:`reconstruct`."""
    task = _task(model, draws, keep, seed)
    return map_batches(task, model, items(model, data, split), size=batch, progress=progress)


def reconstruct_batch(
    model: Model, batch: Batch, *, draws: int = 0, keep: int | None = None, seed: int = 0
) -> np.ndarray:
    """The reconstructions of one batch, ``(B, *event)`` or ``(B, draws, *event)`` float32; see :func:`reconstruct`."""
    samples = (draws,) if draws else ()
    draw: Draw = keyed(seed, batch.index.tolist(), samples) if draws else centres
    if keep is not None:
        draw = from_prior_below(draw, keep)
    with torch.no_grad():
        trace = model.vae.walk(draw, batch, samples)
        x = families.mean(model.vae.explain(trace.h, batch)).float().cpu().numpy()
    return np.moveaxis(x, 0, 1) if draws else x


def from_prior_below(draw: Draw, keep: int) -> Draw:
    """A draw from the posteriors of the first ``keep`` levels, and from the priors of the levels below them."""
    return lambda i, q, p: draw(i, q if i < keep else p, p)


def _task(model: Model, draws: int, keep: int | None, seed: int) -> Callable[[Model, Batch], np.ndarray]:
    """:func:`reconstruct_batch` with checked arguments."""
    if draws < 0:
        raise DataError(f"the number of draws must be at least 0, got {draws}")
    levels = len(model.vae.latents.events)
    if keep is not None and not 1 <= keep <= levels:
        raise DataError(f"the levels to keep must be between 1 and the {levels} that the model has, got {keep}")
    return partial(reconstruct_batch, draws=draws, keep=keep, seed=seed)
