"""The interface of objectives, the losses that training minimises. Objectives are separate from models."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ladle.model.vae import VAE, Terms
from ladle.shapes import Size


class Progress(NamedTuple):
    """The progress of training: ``fraction`` of the budget in [0, 1], and ``step``, the number of steps done."""

    fraction: float
    step: int


class Loss(NamedTuple):
    """``per_item``: the negative bound in nats, ``(B,)``; ``scalar``: the loss to minimise, averaged over items."""

    per_item: Tensor
    scalar: Tensor


class Objective(nn.Module, ABC):
    """A map from the terms of a batch to a loss. Buffers (multipliers, moving averages) are part of a checkpoint.

    Attributes:
        samples: ``S``, the shape of the draws of z per item that the objective needs; see :meth:`draws`.
        one_level: whether the objective needs log q with frozen parameters, which requires one-level, reparameterised
            latents.
        comparable: whether the objective minimises the bound in ``per_item``, so that the best weights can be chosen by
            validation.
        everywhere: the function that :meth:`mean` uses in training; it averages over all devices.
    """

    samples: Size = ()
    one_level: bool = False
    comparable: bool = True
    everywhere: Callable[[Tensor], Tensor] = staticmethod(torch.mean)

    def attach(self, model: VAE) -> None:
        """Receive the model once, after both are built: for objectives that use its weights or a closed form."""
        return

    def draws(self, progress: Progress) -> Size:
        """The shape of the draws of z per item at this point of training; ``samples`` at the end of training."""
        return self.samples

    def share(self, everywhere: Callable[[Tensor], Tensor]) -> None:
        """Set the function that :meth:`mean` uses in training, for this objective and the objectives inside it."""
        for part in self.modules():
            if isinstance(part, Objective):
                part.everywhere = everywhere

    def mean(self, per_item: Tensor) -> Tensor:
        """The mean over the whole batch. A loss that is not linear in a mean must use this method, because with several
        devices each one holds only a part of the batch."""
        return self.everywhere(per_item) if self.training else per_item.mean()

    @abstractmethod
    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """The loss of a batch at this point of training."""


def warm(beta: float, warmup: float, progress: Progress) -> float:
    """``beta`` after a linear warm-up from 0 over the first ``warmup`` fraction of training.

    >>> warm(4.0, 0.2, Progress(0.1, 100)), warm(4.0, 0.2, Progress(0.5, 500)), warm(1.0, 0.0, Progress(0.0, 0))
    (2.0, 4.0, 1.0)
    """
    return beta * min(1.0, progress.fraction / warmup) if warmup > 0 else beta
