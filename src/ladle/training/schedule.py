"""How long a run is, the learning rate over it, and what takes its steps."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from ladle.recipes.assemble import Training


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


def optimizer(training: Training, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser that a recipe asks for.

    Raises:
        ValueError: for an unknown one.
    """
    settings: dict[str, Any] = {
        "lr": training.rate,
        "betas": (0.9, 0.99),  # a shorter memory than usual: runs are short
        "weight_decay": training.weight_decay,
    }
    known = {
        "adamw": lambda p: torch.optim.AdamW(p, **settings, fused=True),
        "adamax": lambda p: torch.optim.Adamax(p, **settings),
    }
    if training.optimizer not in known:
        raise ValueError(f"unknown optimizer '{training.optimizer}'; known: {', '.join(known)}")
    return known[training.optimizer](model.parameters())
