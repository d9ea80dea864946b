"""Encode data as latents, and decode latents."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from ladle import families
from ladle.data import Batch, DataError
from ladle.model.latents import centres, from_prior, replay
from ladle.shapes import numel
from ladle.store.folder import Model
from ladle.tasks.common import Progress, Source, at_once, gather, items, map_batches

BLOCK = 1 << 16  # rows of latents that are checked together


def encode(
    model: Model,
    data: Source,
    *,
    levels: str = "all",
    split: str | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The embedding of every item: the centre of q(z|x). It is deterministic, never a random sample.

    Args:
        model: from :func:`ladle.load`.
        data: the items to encode; see :func:`ladle.tasks.common.items`.
        levels: for a hierarchical model, ``all`` levels or only the ``top`` one.
        split: the split of a data set that has splits.
        batch: the number of items in a batch.
        progress: called with (items done, items in total).

    Returns:
        ``(N, D)`` float32. The levels of a hierarchical model are concatenated, the top one first.
    """
    task = partial(encode_batch, levels=number_of_levels(model, levels))
    found = items(model, data, split)
    return gather(map_batches(task, model, found, size=batch, progress=progress), len(found))


def encode_batches(
    model: Model,
    data: Source,
    *,
    levels: str = "all",
    split: str | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """The rows of :func:`encode`, batch by batch as they are computed: for :func:`ladle.write`, where they would not
    fit into memory. The arguments are those of :func:`encode`."""
    task = partial(encode_batch, levels=number_of_levels(model, levels))
    return map_batches(task, model, items(model, data, split), size=batch, progress=progress)


def encode_batch(model: Model, batch: Batch, *, levels: int | None = None) -> np.ndarray:
    """The embeddings of one batch, ``(B, D)`` float32: those of the first ``levels`` levels, by default of all."""
    with torch.no_grad():
        trace = model.vae.walk(centres, batch)
    return torch.cat([level.z.flatten(1) for level in trace.levels[:levels]], dim=1).float().cpu().numpy()


def number_of_levels(model: Model, levels: str) -> int:
    """The number of levels that ``all`` or ``top`` stands for.

    Raises:
        DataError: for another word.
    """
    known = {"all": len(model.vae.latents.events), "top": 1}
    if levels not in known:
        raise DataError(f"unknown levels '{levels}'; known: {', '.join(known)}")
    return known[levels]


def decode(model: Model, z: np.ndarray, *, batch: int | None = None, progress: Progress | None = None) -> np.ndarray:
    """The expectation of p(x|z) for every row of latents, in the data's own units.

    Args:
        model: from :func:`ladle.load`.
        z: ``(N, D)``, as :func:`encode` returns. The rows of a hierarchical model may end with any level; the levels
            below it are set to the centre of their prior.
        batch: the number of rows in a batch.
        progress: called with (rows done, rows in total).

    Returns:
        ``(N, *event)`` float32: probabilities for binary data, values in 0..255 for 8-bit images.
    """
    return gather(decode_batches(model, z, batch=batch, progress=progress), len(z))


def decode_batches(
    model: Model, z: np.ndarray, *, batch: int | None = None, progress: Progress | None = None
) -> Iterator[np.ndarray]:
    """The rows of :func:`decode`, batch by batch as they are computed. The arguments are those of :func:`decode`."""
    batch = at_once(model) if batch is None else batch
    if batch < 1:
        raise DataError(f"the size of a batch must be at least 1, got {batch}")
    rows = np.asarray(z)
    check_latents(model, rows)
    if not len(rows):
        return iter([np.zeros((0, *model.schema.shape), np.float32)])
    pieces = (rows[start : start + batch] for start in range(0, len(rows), batch))
    return map_batches(decode_batch, model, pieces, total=len(rows), progress=progress)


def decode_batch(model: Model, z: np.ndarray) -> np.ndarray:
    """The expectation of p(x|z) of one batch of latents, ``(B, *event)`` float32; see :func:`decode`."""
    levels = _split(model, z)
    with torch.no_grad():
        blank = model.vae.blank(len(z))
        trace = model.vae.walk(replay(levels, from_prior(0.0)), blank)
        return families.mean(model.vae.explain(trace.h, blank)).float().cpu().numpy()


def check_latents(model: Model, rows: np.ndarray) -> None:
    """Refuse an array that does not hold latents of the model, or only those of its first levels.

    Raises:
        DataError: if the number of columns is not the model's number of latents, or values are NaN or infinite as
            32-bit numbers.
    """
    sizes = [numel(event) for event in model.vae.latents.events]
    fitting = list(itertools.accumulate(sizes))  # all levels, or the first few
    if rows.ndim != 2 or rows.shape[1] not in fitting or rows.dtype.kind not in "fiu":
        top = f", or (N, {fitting[0]}) of the top level" if len(sizes) > 1 else ""
        raise DataError(f"latents must be numbers of shape (N, {sum(sizes)}){top}, got {rows.dtype} {rows.shape}")
    for start in range(0, len(rows), BLOCK):
        with np.errstate(over="ignore"):
            finite = np.isfinite(rows[start : start + BLOCK].astype(np.float32, copy=False))
        if not finite.all():
            raise DataError("latents must be finite 32-bit numbers, got NaN, infinity or larger ones")


def levels_of(model: Model, z: np.ndarray) -> list[torch.Tensor]:
    """Rows of latents as one tensor per level, on the model's device; see :func:`check_latents`."""
    rows = np.asarray(z)
    check_latents(model, rows)
    return _split(model, rows)


def _split(model: Model, rows: np.ndarray) -> list[torch.Tensor]:
    """Rows of latents as one tensor for each level that they hold, ``(B, *event)``."""
    events = model.vae.latents.events
    sizes = [numel(event) for event in events]
    sizes = sizes[: list(itertools.accumulate(sizes)).index(rows.shape[1]) + 1]
    latents = torch.from_numpy(rows.astype(np.float32)).to(model.device)
    return [part.reshape(-1, *event) for part, event in zip(latents.split(sizes, dim=1), events, strict=False)]
