"""Interpolate between two items, through the latents."""

from __future__ import annotations

import numpy as np

from ladle.data import DataError
from ladle.store.folder import Model
from ladle.tasks.common import Source
from ladle.tasks.encode import decode, encode


def interpolate(model: Model, a: Source, b: Source, *, steps: int = 8) -> np.ndarray:
    """Decode the straight line between the embeddings of ``a`` and ``b``.

    Args:
        model: from :func:`ladle.load`.
        a: where the lines start; one item or several.
        b: where they end; as many items.
        steps: points on each line, both ends counted.

    Returns:
        ``(N, steps, *event)`` float32, in the data's own units.

    Raises:
        DataError: for different numbers of items, or fewer than 2 steps.
    """
    if steps < 2:
        raise DataError(f"an interpolation needs at least 2 steps, got {steps}")
    start, end = encode(model, a), encode(model, b)
    if len(start) != len(end):
        raise DataError(f"both ends must have the same number of items, got {len(start)} and {len(end)}")
    weight = np.linspace(0, 1, steps, dtype=np.float32)[None, :, None]
    line = (1 - weight) * start[:, None] + weight * end[:, None]
    x = decode(model, line.reshape(-1, line.shape[-1]))
    return x.reshape(len(start), steps, *x.shape[1:])
