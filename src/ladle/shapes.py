"""Shapes of tensors: the leading dimensions ``S`` (samples) and ``B`` (batch), followed by the event dimensions.

Families return element-wise distributions. :func:`sum_event` sums their log-densities over the event.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Size = tuple[int, ...]


def sum_event(value: Tensor, lead: int) -> Tensor:
    """Sum over everything after the first ``lead`` dimensions.

    Args:
        value: ``(*lead, *rest)``; ``rest`` is empty for a joint distribution over the event.
        lead: the number of leading dimensions to keep.

    Returns:
        ``(*lead,)``.

        >>> sum_event(torch.ones(5, 2, 3, 4), 2)[0]
        tensor([12., 12.])
    """
    return value.flatten(lead).sum(-1) if value.dim() > lead else value


def wide(value: Tensor) -> Tensor:
    """Convert to at least float32: densities are never computed in half precision.

    >>> wide(torch.zeros(1, dtype=torch.bfloat16)).dtype, wide(torch.zeros(1, dtype=torch.float64)).dtype
    (torch.float32, torch.float64)
    """
    return value.to(torch.promote_types(value.dtype, torch.float32))


def fold(value: Tensor, event: int) -> tuple[Tensor, Size]:
    """Fold all leading dimensions into one: ``(*lead, *event) -> (prod(lead), *event)`` and ``lead``."""
    lead = tuple(value.shape[: value.dim() - event])
    return value.reshape(-1, *value.shape[value.dim() - event :]), lead


def unfold(value: Tensor, lead: Sequence[int]) -> Tensor:
    """The inverse of :func:`fold`: ``(prod(lead), *event) -> (*lead, *event)``."""
    return value.reshape(*lead, *value.shape[1:])


def numel(size: Sequence[int]) -> int:
    """The number of elements in a shape.

    >>> numel((3, 32, 32))
    3072
    """
    return int(torch.Size(size).numel())
