"""Interpolate between items along a line through the latent space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from ladle.data import DataError
from ladle.store.folder import Model
from ladle.tasks.common import Progress, Source, at_once, gather, items, map_batches
from ladle.tasks.encode import decode_batch, encode_batch


def interpolate(model: Model, a: Source, b: Source, *, steps: int = 8) -> np.ndarray:
    """Decode the points of the straight line between the embeddings of ``a`` and ``b``.

    Args:
        model: from :func:`ladle.load`.
        a: one item or several, where the lines start.
        b: the same number of items, where the lines end.
        steps: the number of points on each line, both ends included.

    Returns:
        ``(N, steps, *event)`` float32, in the data's own units.

    Raises:
        DataError: if ``a`` and ``b`` have different numbers of items, or for fewer than 2 steps.
    """
    pieces, n = _lines(model, a, b, steps, None)
    return gather(pieces, n)


def interpolate_batches(
    model: Model, a: Source, b: Source, *, steps: int = 8, progress: Progress | None = None
) -> Iterator[np.ndarray]:
    """The rows of :func:`interpolate`, some lines at a time as they are computed: for :func:`ladle.write`, where they
    would not fit into memory.

    Args:
        model: as for :func:`interpolate`.
        a: as for :func:`interpolate`.
        b: as for :func:`interpolate`.
        steps: as for :func:`interpolate`.
        progress: called with (points done, points in total).
    """
    return _lines(model, a, b, steps, progress)[0]


def line_batch(start: np.ndarray, end: np.ndarray, steps: int) -> np.ndarray:
    """The points of the lines between two batches of embeddings, one line after the other: ``(B * steps, D)``."""
    weight = np.linspace(0, 1, steps, dtype=np.float32)[None, :, None]
    line = (1 - weight) * start[:, None] + weight * end[:, None]
    return line.reshape(-1, line.shape[-1])


def _lines(
    model: Model, a: Source, b: Source, steps: int, progress: Progress | None
) -> tuple[Iterator[np.ndarray], int]:
    """The decoded lines, and how many there are."""
    if steps < 2:
        raise DataError(f"an interpolation needs at least 2 steps, got {steps}")
    starts, ends = items(model, a), items(model, b)
    n = len(starts)
    if n != len(ends):
        raise DataError(f"both ends must have the same number of items, got {n} and {len(ends)}")
    encoded = (map_batches(encode_batch, model, side) for side in (starts, ends))
    points = map(partial(line_batch, steps=steps), *encoded)
    decoded = map_batches(decode_batch, model, rebatch(points, at_once(model)), total=n * steps, progress=progress)
    lines = rebatch(decoded, steps * max(1, at_once(model) // steps))
    return (x.reshape(-1, steps, *x.shape[1:]) for x in lines), n


def rebatch(pieces: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same rows in pieces of ``size`` rows; the last one may be smaller.

    >>> [len(piece) for piece in rebatch([np.zeros(3), np.zeros(4)], 5)]
    [5, 2]
    """
    waiting: list[np.ndarray] = []
    count = 0
    for piece in pieces:
        while count + len(piece) >= size:
            cut = size - count
            yield np.concatenate([*waiting, piece[:cut]])
            waiting, count, piece = [], 0, piece[cut:]
        if len(piece):
            waiting.append(piece)
            count += len(piece)
    if waiting:
        yield np.concatenate(waiting)
