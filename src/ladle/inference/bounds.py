"""The importance-weighted bound and the normalised weights, as functions of log weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEGLIGIBLE = 1e-12  # a normalised weight below this counts as 0


def bound(log_w: Tensor) -> Tensor:
    """``log 1/K sum_k w_k``: ``(K, B) -> (B,)``. In expectation a lower bound on log p(x), never less than the evidence
    lower bound, and rising with K.

    >>> round(float(bound(torch.tensor([[1.0], [3.0]]).log())), 4)  # the logarithm of 2
    0.6931
    """
    return torch.logsumexp(log_w, dim=0) - math.log(log_w.shape[0])


def shares(log_w: Tensor) -> Tensor:
    """The normalised weights, ``(K, B)``, without a gradient; negligible ones are set to 0. A gradient multiplied by a
    negligible weight would be a subnormal number, which makes multiplication several times slower.

    >>> shares(torch.tensor([[0.0], [0.0], [-90.0]])).flatten().tolist()
    [0.5, 0.5, 0.0]
    """
    weight = log_w.detach().softmax(dim=0)
    return weight.masked_fill(weight < NEGLIGIBLE, 0.0)
