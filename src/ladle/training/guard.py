"""Safeguards of training: the average of the weights, gradient clipping and the detection of non-finite values."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ladle.model.vae import Terms


class TrainingError(RuntimeError):
    """Training cannot continue. The message gives the reason and what was saved."""


class Average:
    """An exponential moving average of the weights, whose half-life is a fraction of the run.

    In a short run a long average costs nats, so the half-life is given as a fraction of the budget and not in steps.

    Args:
        parameters: the weights to average.
        half_life: the half-life as a fraction of the run.
    """

    def __init__(self, parameters: Iterable[Tensor], half_life: float = 0.02) -> None:
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]
        self.half_life = half_life
        self.last = 0.0

    @torch.no_grad()
    def update(self, step: int, fraction: float) -> None:
        """Update the average with the weights at this step and this fraction of the run.

        The update happens only a few times per half-life, which is often enough.
        """
        if fraction - self.last < self.half_life / 16 and fraction < 1.0:
            return
        decay = 0.5 ** ((fraction - self.last) / self.half_life)
        decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)
        self.last = fraction

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; a second call undoes the exchange."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            saved = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(saved)


class Guard:
    """Checks the loss and the gradient norm before every step, and clips or rejects the gradient.

    * A gradient whose norm exceeds ``limit`` times the median of the last ``memory`` norms is clipped to that norm, and
      counted. (Skipping such a step, as is common for very deep VAEs, would prevent exactly the items that cause it
      from ever being learned: their posteriors then drift away unnoticed, and a few such items cost more nats than all
      others together.)
    * A loss or gradient that is not finite is never applied; ``ladle.training.fit`` then rolls back.

    Args:
        limit: the largest permitted norm as a multiple of the median.
        memory: the number of past norms in the median.
    """

    def __init__(self, limit: float = 1.5, memory: int = 100) -> None:
        self.limit = limit
        self.norms: deque[float] = deque(maxlen=memory)
        self.clipped = 0

    def factor(self, loss: float, norm: float) -> float:
        """The factor by which to multiply the gradient: at most 1, and 0 if the loss or the norm is not finite."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return 0.0
        largest = self.limit * statistics.median(self.norms) if len(self.norms) >= 20 else math.inf
        self.norms.append(norm)
        if norm <= largest:
            return 1.0
        self.clipped += 1
        return largest / norm


def total_norm(gradients: Sequence[Tensor]) -> float:
    """The norm of all gradients together, from one dot product per tensor: several times faster than a norm of each.

    >>> total_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])])
    5.0
    """
    flat = [gradient.flatten() for gradient in gradients]
    return float(torch.stack([torch.dot(g, g) for g in flat]).sum().sqrt())


def describe_nonfinite(terms: Terms, model: nn.Module) -> str:
    """Describe the first quantity that is not finite, for an error message."""
    named: list[tuple[str, Tensor]] = [("log p(x|z)", terms.log_px)]
    for i, level in enumerate(terms.levels):
        named += [(f"z of level {i}", level.z), (f"the KL of level {i}", level.kl)]
    for name, value in named:
        count = int((~torch.isfinite(value.detach())).sum())
        if count:
            return f"{name} is NaN or infinite in {count} of {value.numel()} elements"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name} is NaN or infinite"
    return "the norm of the gradient overflows"


def reset_moments(state: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    """Set an optimiser's running moments to zero."""
    for moments in state.values():
        for name, value in moments.items():
            if name != "step":
                value.zero_()
