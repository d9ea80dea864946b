"""The length of a run, the learning rate schedule and the optimiser."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from ladle.recipes.assemble import Training


class Budget(NamedTuple):
    """The length of a run, in minutes or in passes over the data. Schedules are stretched to it."""

    minutes: float | None
    epochs: float | None
    steps_per_epoch: int

    def fraction(self, step: int, seconds: float) -> float:
        """The fraction of the budget that is used."""
        if self.minutes is not None:
            return min(1.0, seconds / (60 * self.minutes))
        return min(1.0, step / self.steps)

    @property
    def steps(self) -> int:
        """The number of steps of a run whose budget is given in epochs."""
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * self.steps_per_epoch))


def learning_rate(training: Training, fraction: float) -> float:
    """Linear warm-up, then cosine decay to ``training.final`` times the peak."""
    warm = min(1.0, fraction / training.warmup) if training.warmup else 1.0
    if warm < 1.0:
        return training.rate * max(warm, 1e-3)
    part = (fraction - training.warmup) / (1 - training.warmup)
    return training.rate * (training.final + (1 - training.final) * 0.5 * (1 + math.cos(math.pi * part)))


def optimizer(training: Training, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the recipe names.

    Raises:
        ValueError: if the name is unknown.
    """
    settings: dict[str, Any] = {
        "lr": training.rate,
        "betas": (0.9, 0.99),  # the second is smaller than the usual 0.999, because runs are short
        "weight_decay": training.weight_decay,
    }
    optimizers = {
        "adamw": lambda p: torch.optim.AdamW(p, **settings, fused=True),
        "adamax": lambda p: torch.optim.Adamax(p, **settings),
    }
    if training.optimizer not in optimizers:
        raise ValueError(f"unknown optimizer '{training.optimizer}'; known: {', '.join(optimizers)}")
    return optimizers[training.optimizer](model.parameters())
