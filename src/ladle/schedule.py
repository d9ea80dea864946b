"""How long a run is, and the learning rate over it."""

from __future__ import annotations

import math
from typing import NamedTuple

from ladle.assemble import Training


class Budget(NamedTuple):
    """How long a run is: by the clock or by passes over the data; schedules are stretched to it."""

    minutes: float | None
    epochs: float | None
    steps_per_epoch: int

    def fraction(self, step: int, seconds: float) -> float:
        """The part of the budget that is spent."""
        if self.minutes is not None:
            return min(1.0, seconds / (60 * self.minutes))
        return min(1.0, step / self.steps)

    @property
    def steps(self) -> int:
        """The number of steps of a run that is counted in epochs."""
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * self.steps_per_epoch))


def learning_rate(training: Training, fraction: float) -> float:
    """Linear warm-up, then a cosine down to ``training.final`` of the peak."""
    warm = min(1.0, fraction / training.warmup) if training.warmup else 1.0
    if warm < 1.0:
        return training.rate * max(warm, 1e-3)
    part = (fraction - training.warmup) / (1 - training.warmup)
    return training.rate * (training.final + (1 - training.final) * 0.5 * (1 + math.cos(math.pi * part)))
