"""Batches: the items of a split as tensors, made without a loop over items."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ladle.data.dataset import Split
from ladle.data.errors import DataError
from ladle.data.noise import binarise, key, shuffle
from ladle.data.schema import Schema
from ladle.shapes import Size

# First words of the keys: they keep the streams apart.
_ORDER, _TRAINING, _EVALUATION = 1, 2, 3


class Batch(NamedTuple):
    """Some items as tensors.

    Attributes:
        x: ``(B, *event)`` float32 in the data's own units: 0..255 for bytes, 0 or 1 for binary data.
        observed: ``(B, *event)`` bool, or ``None`` when every value is known. Missing entries of ``x`` hold an
            arbitrary value inside the support.
        context: what the items are conditioned on; ``context["label"]`` is ``(B,)`` int64 with -1 for unknown. It holds
            only what was asked for: evaluation is of p(x), and of p(x|label) where labels are given.
        index: ``(B,)`` int64, the items' numbers in their split. Noise is keyed by it.
        blank: True for a stand-in from :func:`blank`: there are no data, so a walk has no posterior.
    """

    x: Tensor
    observed: Tensor | None
    context: Mapping[str, Tensor]
    index: Tensor  # type: ignore[assignment]  # this replaces tuple.index, which a batch does not need
    blank: bool = False

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on ``device``."""
        observed = None if self.observed is None else self.observed.to(device, non_blocking=non_blocking)
        context = {k: v.to(device, non_blocking=non_blocking) for k, v in self.context.items()}
        return Batch(
            self.x.to(device, non_blocking=non_blocking),
            observed,
            context,
            self.index.to(device, non_blocking=non_blocking),
            self.blank,
        )


def make_batch(
    split: Split,
    schema: Schema,
    index: np.ndarray | Tensor,
    *,
    seed: int | None = None,
    epoch: int = 0,
    given: Collection[str] = (),
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
        given: the names of the context that the batch shall hold: ``"label"`` or nothing.

    Returns:
        The batch.

    Raises:
        DataError: for an index out of range, and where ``given`` names a context that the split does not have.

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
        {name: torch.from_numpy(_context(split, schema, name)[items]) for name in given},
        torch.from_numpy(items.copy()),
    )


def blank(
    shape: Size, n: int, context: Mapping[str, Tensor] | None = None, device: torch.device | str = "cpu"
) -> Batch:
    """A batch of ``n`` items without data, for a walk from the prior: generation and decoding.

    Args:
        shape: the shape of one item, such as ``schema.shape``.
        n: how many.
        context: what the items are conditioned on, such as ``{"label": ...}`` with ``(n,)`` int64.
        device: of the tensors.

    Returns:
        The batch; its ``x`` is a zero that takes no memory.

        >>> blank((1, 2, 2), 3).x.shape
        torch.Size([3, 1, 2, 2])
    """
    x = torch.zeros((), device=device).expand(n, *shape)
    return Batch(x, None, dict(context or {}), torch.arange(n, device=device), blank=True)


def zeros(schema: Schema, n: int, device: torch.device | str = "cpu") -> Batch:
    """A batch of ``n`` items whose values are all zero and observed, with which a model is tried out.

    Args:
        schema: what one item is.
        n: how many.
        device: of the tensors; on ``meta`` they take no memory.
    """
    x = torch.zeros(n, *schema.shape, device=device)
    observed = torch.ones_like(x, dtype=torch.bool) if schema.missing else None
    return Batch(x, observed, {}, torch.arange(n, device=device))


def _context(split: Split, schema: Schema, name: str) -> np.ndarray:
    """The values of one context for all items of a split."""
    if name != "label":
        raise DataError(f"a batch can be given the context 'label', got '{name}'")
    if split.labels is None:
        raise DataError(f"the model reads labels, but {schema.source or 'the data'} has none; --labels names them")
    return split.labels


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
    given: Collection[str] = (),
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
        given: as for :func:`make_batch`.

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
        batch = make_batch(split, schema, items[start : start + size], seed=seed, epoch=epoch, given=given)
        split.release()
        yield batch
