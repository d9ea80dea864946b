"""Encode data to latents, and decode latents to data."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from ladle import families
from ladle.data import DataError
from ladle.model.latents import centres, from_prior, replay
from ladle.shapes import numel
from ladle.store.folder import Model
from ladle.tasks.common import Progress, Source, at_once, each_batch, items


def encode(
    model: Model,
    data: Source,
    *,
    levels: str = "all",
    split: str | None = None,
    batch: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """The embedding of every item: the centre of q(z|x). Deterministic; never a random sample.

    Args:
        model: from :func:`ladle.load`.
        data: what to encode; see :func:`ladle.tasks.common.items`.
        levels: of a hierarchy ``all``, or only the ``top`` one.
        split: of a data set that has splits.
        batch: items at a time.
        progress: called with (items done, items in all).

    Returns:
        ``(N, D)`` float32; the levels of a hierarchy are concatenated, the top one first.
    """
    taken = taken_levels(model, levels)
    rows = []
    for b in each_batch(model, items(model, data, split), batch, progress):
        with torch.no_grad():
            trace = model.vae.latents.walk(centres, b, context=b.context)
        rows.append(torch.cat([level.z.flatten(1) for level in trace.levels[:taken]], dim=1).float().cpu().numpy())
    return np.concatenate(rows)


def taken_levels(model: Model, levels: str) -> int:
    """How many levels are ``all`` or ``top``.

    Raises:
        DataError: for another word.
    """
    known = {"all": len(model.vae.latents.events), "top": 1}
    if levels not in known:
        raise DataError(f"unknown levels '{levels}'; known: {', '.join(known)}")
    return known[levels]


def levels_of(model: Model, z: np.ndarray) -> list[torch.Tensor]:
    """Rows of latents as one tensor per level; of a hierarchy they may be those of the first levels only.

    Raises:
        DataError: when the rows do not have the model's number of latents, or hold NaN or infinity.
    """
    events = model.vae.latents.events
    sizes = [numel(event) for event in events]
    fitting = list(itertools.accumulate(sizes))  # all levels, or the first few
    rows = np.asarray(z)
    if rows.ndim != 2 or rows.shape[1] not in fitting or rows.dtype.kind not in "fiu":
        some = f", or (N, {fitting[0]}) of the top level" if len(sizes) > 1 else ""
        raise DataError(f"latents must be numbers of shape (N, {sum(sizes)}){some}, got {rows.dtype} {rows.shape}")
    sizes = sizes[: fitting.index(rows.shape[1]) + 1]
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float32)
    if not np.isfinite(rows).all():
        raise DataError("latents must be finite 32-bit numbers, got NaN, infinity or larger ones")
    whole = torch.from_numpy(rows).to(model.device)
    parts = whole.split(sizes, dim=1)
    return [p.reshape(-1, *event) for p, event in zip(parts, events, strict=False)]


def decode(model: Model, z: np.ndarray, *, batch: int | None = None, progress: Progress | None = None) -> np.ndarray:
    """The expectation of p(x|z) for every row of latents, in the data's own units.

    Args:
        model: from :func:`ladle.load`.
        z: ``(N, D)``, as :func:`encode` gives. Below the levels that it holds, the centre of the prior is taken.
        batch: rows at a time.
        progress: called with (rows done, rows in all).

    Returns:
        ``(N, *event)`` float32: for binary data probabilities, for 8-bit images values in 0..255.
    """
    batch = at_once(model) if batch is None else batch
    if batch < 1:
        raise DataError(f"the size of a batch must be at least 1, got {batch}")
    rows, levels = [], levels_of(model, z)
    with torch.no_grad():
        for start in range(0, len(z), batch):
            zs = [level[start : start + batch] for level in levels]
            trace = model.vae.latents.walk(replay(zs, from_prior(0.0)), n=len(zs[0]))
            rows.append(families.mean(model.vae.explain(trace.h)).float().cpu().numpy())
            if progress:
                progress(min(start + batch, len(z)), len(z))
    return np.concatenate(rows) if rows else np.zeros((0, *model.schema.shape), np.float32)
