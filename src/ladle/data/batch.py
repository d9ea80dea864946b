"""Batches: the items of a split as tensors, made without a loop over items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ladle.data.dataset import Split
from ladle.data.errors import DataError
from ladle.data.noise import binarise, key, shuffle
from ladle.data.schema import Schema

# First words of the keys: they keep the streams apart.
_ORDER, _TRAINING, _EVALUATION = 1, 2, 3


class Batch(NamedTuple):
    """Some items as tensors.

    Attributes:
        x: ``(B, *event)`` float32 in the data's own units: 0..255 for bytes, 0 or 1 for binary data.
        observed: ``(B, *event)`` bool, or ``None`` when every value is known. Missing entries of ``x`` hold an
            arbitrary value inside the support.
        context: what the model may be told; ``context["label"]`` is ``(B,)`` int64 with -1 for unknown.
        index: ``(B,)`` int64, the items' numbers in their split. Noise is keyed by it.
    """

    x: Tensor
    observed: Tensor | None
    context: Mapping[str, Tensor]
    index: Tensor  # type: ignore[assignment]  # a tuple's own method of that name is of no use here

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on ``device``."""
        observed = None if self.observed is None else self.observed.to(device, non_blocking=non_blocking)
        context = {k: v.to(device, non_blocking=non_blocking) for k, v in self.context.items()}
        return Batch(
            self.x.to(device, non_blocking=non_blocking),
            observed,
            context,
            self.index.to(device, non_blocking=non_blocking),
        )


def make_batch(
    split: Split, schema: Schema, index: np.ndarray | Tensor, *, seed: int | None = None, epoch: int = 0
) -> Batch:
    """The items at ``index`` of a split.

    Where the schema binarises dynamically, the draw is a function of the item's number and, in training, of ``seed``
    and ``epoch``. Without a seed it is the one fixed draw of evaluation.

    Args:
        split: the items.
        schema: what they are.
        index: ``(B,)`` integers.
        seed: the training run's seed, or ``None`` for evaluation.
        epoch: the pass over the data, in training.

    Returns:
        The batch.

        >>> split = Split(np.full((8, 1, 2, 2), 128, np.uint8))
        >>> schema = Schema("image", (1, 2, 2), "binary", binarize="dynamic")
        >>> one, many = make_batch(split, schema, np.array([5])), make_batch(split, schema, np.arange(8))
        >>> bool((one.x[0] == many.x[5]).all())
        True
    """
    items = np.asarray(index, dtype=np.int64)
    if items.ndim != 1:
        raise DataError(f"the index of a batch must be 1-D, got shape {items.shape}")
    if len(items) and not 0 <= items.min() <= items.max() < len(split):
        raise DataError(f"the index must lie in 0..{len(split) - 1}, got {items.min()}..{items.max()}")
    stream = key(_EVALUATION) if seed is None else key(_TRAINING, seed, epoch)
    values, observed = split.rows(items)
    x = _BINARIZE[schema.binarize](values, stream, items)
    return Batch(
        torch.from_numpy(x.astype(np.float32, copy=False)),
        None if observed is None else torch.from_numpy(observed),
        {} if split.labels is None else {"label": torch.from_numpy(split.labels[items])},
        torch.from_numpy(items.copy()),
    )


def blank(
    schema: Schema, n: int, context: Mapping[str, Tensor] | None = None, device: torch.device | str = "cpu"
) -> Batch:
    """A batch of ``n`` stand-in items, for a walk that has no data: generation, decoding, or a trial of a model.

    Args:
        schema: what one item is.
        n: how many.
        context: what the items are to be given, such as ``{"label": ...}`` with ``(n,)`` int64.
        device: of the tensors; ``meta`` takes no memory.

    Returns:
        Items of zeros. All values count as observed.

        >>> blank(Schema("image", (1, 2, 2), "binary"), 3).x.shape
        torch.Size([3, 1, 2, 2])
    """
    x = torch.zeros(n, *schema.shape, device=device)
    observed = torch.ones_like(x, dtype=torch.bool) if schema.missing else None
    return Batch(x, observed, dict(context or {}), torch.arange(n, device=device))


_BINARIZE = {
    None: lambda x, stream, items: x,
    "dynamic": binarise,
    "threshold": lambda x, stream, items: x >= 128,
}


def order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of ``n`` items in one pass of training: ``(n,)`` int64, a function of ``(seed, epoch)``."""
    return shuffle(n, _ORDER, seed, epoch)


def batches(
    split: Split,
    schema: Schema,
    size: int,
    *,
    seed: int | None = None,
    epoch: int = 0,
    whole: bool = False,
    turn: np.ndarray | None = None,
) -> Iterator[Batch]:
    """All items of a split, ``size`` at a time: in order for evaluation, shuffled when a ``seed`` is given.

    Args:
        split: the items.
        schema: what they are.
        size: the number of items in a batch; the last one may be smaller.
        seed: the training run's seed, or ``None`` for evaluation.
        epoch: the pass over the data, in training.
        whole: leave out a last batch that is smaller.
        turn: in evaluation, the items in the order in which they are wanted; by default their own.

    Yields:
        Batches.
    """
    if size < 1:
        raise DataError(f"the size of a batch must be at least 1, got {size}")
    if seed is not None:
        items = order(len(split), seed, epoch)
    else:
        items = np.arange(len(split)) if turn is None else turn
    for start in range(0, len(items) - size + 1 if whole else len(items), size):
        yield make_batch(split, schema, items[start : start + size], seed=seed, epoch=epoch)
