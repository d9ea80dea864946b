"""What keeps a run healthy: the average of the weights, and the guard over the gradient."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ladle.model.vae import Terms


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why and what was kept."""


class Average:
    """An exponential moving average of the weights, its half-life a fraction of the run.

    An average that reaches far back costs nats in a short run, so the half-life is given as a part of the
    budget and not in steps.

    Args:
        parameters: what is averaged.
        half_life: as a fraction of the run.
    """

    def __init__(self, parameters: Iterable[Tensor], half_life: float = 0.02) -> None:
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]
        self.half_life = half_life
        self.last = 0.0

    @torch.no_grad()
    def update(self, step: int, fraction: float) -> None:
        """Take in the weights of this step, at this fraction of the run; a few times per half-life will do."""
        if fraction - self.last < self.half_life / 16 and fraction < 1.0:
            return
        decay = 0.5 ** ((fraction - self.last) / self.half_life)
        decay = min(decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - decay)
        self.last = fraction

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; a second call undoes it."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            kept = parameter.detach().clone()
            parameter.copy_(value)
            value.copy_(kept)


class Guard:
    """Looks at the loss and the gradient before every step, and says whether to take it.

    * A gradient whose norm is more than ``limit`` times the median of the last ``memory`` ones is shortened to that,
      and counted. (To skip it, as very deep VAEs often do, would keep just the items that cause it from ever being
      learned: their posteriors then drift away, unseen, and a few such items cost more nats than all others together.)
    * A loss or gradient that is not finite is never applied: see ``ladle.training.fit`` for what follows.

    Args:
        limit: times the median.
        memory: how many norms are remembered.
    """

    def __init__(self, limit: float = 1.5, memory: int = 100) -> None:
        self.limit = limit
        self.norms: deque[float] = deque(maxlen=memory)
        self.clipped = 0

    def judge(self, loss: float, norm: float) -> float:
        """What the gradient is to be multiplied by: at most 1, and 0 where it or the loss is not finite."""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return 0.0
        most = self.limit * statistics.median(self.norms) if len(self.norms) >= 20 else math.inf
        self.norms.append(norm)
        if norm <= most:
            return 1.0
        self.clipped += 1
        return most / norm


def total_norm(gradients: Sequence[Tensor]) -> float:
    """The norm of all gradients together, by one product each: several times faster than a norm of each.

    >>> total_norm([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]])])
    5.0
    """
    flat = [gradient.flatten() for gradient in gradients]
    return float(torch.stack([torch.dot(g, g) for g in flat]).sum().sqrt())


def blame(terms: Terms, model: nn.Module) -> str:
    """Which number is not finite, in words."""
    named: list[tuple[str, Tensor]] = [("log p(x|z)", terms.log_px)]
    for i, level in enumerate(terms.levels):
        named += [(f"z of level {i}", level.z), (f"the KL of level {i}", level.kl)]
    for name, value in named:
        bad = int((~torch.isfinite(value.detach())).sum())
        if bad:
            return f"{name} is NaN or infinite in {bad} of {value.numel()} places"
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name} is NaN or infinite"
    return "the norm of the gradient overflows"


def reset_moments(state: Mapping[Tensor, Mapping[str, Tensor]]) -> None:
    """Forget an optimiser's running moments."""
    for moments in state.values():
        for name, value in moments.items():
            if name != "step":
                value.zero_()
