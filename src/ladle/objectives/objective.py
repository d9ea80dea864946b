"""The protocol of an objective: what training minimises. Objectives stand outside the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ladle.model.vae import VAE, Terms
from ladle.shapes import Size


class Progress(NamedTuple):
    """How far training is: ``fraction`` of the budget in [0, 1], and the number of steps taken."""

    fraction: float
    step: int


class Loss(NamedTuple):
    """``per_item``: the negative bound in nats, ``(B,)``; ``scalar``: what is minimised, averaged over items."""

    per_item: Tensor
    scalar: Tensor


class Objective(nn.Module, ABC):
    """From terms to a loss. Buffers (multipliers, moving averages) are part of a checkpoint.

    Attributes:
        samples: ``S``, how many draws per item the model is asked for; see :meth:`draws`.
        one_level: it needs log q with frozen parameters, which only one-level reparameterised latents give.
        comparable: it minimises the bound that ``per_item`` holds, so validation can choose the best weights.
        everywhere: how :meth:`mean` is taken in training.
    """

    samples: Size = ()
    one_level: bool = False
    comparable: bool = True
    everywhere: Callable[[Tensor], Tensor] = staticmethod(torch.mean)

    def attach(self, model: VAE) -> None:
        """Shown the model once, when both are made: for an objective of the weights, or of a closed form."""
        return

    def draws(self, progress: Progress) -> Size:
        """How many draws per item the model is asked for at this point of training; at the end, ``samples``."""
        return self.samples

    def share(self, everywhere: Callable[[Tensor], Tensor]) -> None:
        """Take means over a batch in this way from now on; the objectives within this one do, too."""
        for part in self.modules():
            if isinstance(part, Objective):
                part.everywhere = everywhere

    def mean(self, per_item: Tensor) -> Tensor:
        """The mean over the whole batch. A loss that is not linear in a mean must take it from here: with several
        devices, each sees a part of the batch."""
        return self.everywhere(per_item) if self.training else per_item.mean()

    @abstractmethod
    def forward(self, terms: Terms, progress: Progress) -> Loss:
        """The loss of a batch at this point of training."""


def warm(beta: float, warmup: float, progress: Progress) -> float:
    """``beta``, reached linearly over the first ``warmup`` fraction of training.

    >>> warm(4.0, 0.2, Progress(0.1, 100)), warm(4.0, 0.2, Progress(0.5, 500)), warm(1.0, 0.0, Progress(0.0, 0))
    (2.0, 4.0, 1.0)
    """
    return beta * min(1.0, progress.fraction / warmup) if warmup > 0 else beta
