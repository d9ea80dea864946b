"""Safeguards of training: NaN is never applied, outliers are clipped; the average of the weights; the budget."""

from __future__ import annotations

import math

import pytest
import torch

import ladle
import ladle.training.fit
from ladle.objectives.elbo import Elbo
from ladle.recipes.assemble import Training
from ladle.training.guard import Average, Guard
from ladle.training.schedule import Budget, learning_rate


class Planted(Elbo):
    """The bound, multiplied by a factor at some steps."""

    def __init__(self, factors: dict[int, float]) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, terms, progress):  # type: ignore[no-untyped-def]
        loss = super().forward(terms, progress)
        return loss._replace(scalar=loss.scalar * self.factors.get(progress.step, 1.0))


def run(factors: dict[int, float], epochs: float = 10) -> tuple[ladle.Assembly, list[ladle.Step]]:
    data = ladle.read("digits")
    assembly = ladle.assemble(data.schema, "vae", "xs")._replace(objective=Planted(factors))
    assembly = assembly._replace(training=assembly.training._replace(batch=64))
    return assembly, list(ladle.fit(assembly, data, epochs=epochs))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_is_never_applied_and_training_continues(bad: float) -> None:
    assembly, steps = run({30: bad, 77: bad})
    notes = [s for s in steps if s.kind == "note"]
    assert [s.step for s in notes] == [31, 78]
    assert all("NaN or infinite" in s.message or "overflows" in s.message for s in notes)
    assert all("rolled back" in s.message for s in notes)
    assert all(torch.isfinite(p).all() for p in assembly.model.parameters())
    rates = {s.step: s.rate for s in steps if s.kind == "train"}
    healthy = {s.step: s.rate for s in run({})[1] if s.kind == "train"}
    assert rates[100] == pytest.approx(healthy[100] / 4)  # halved twice
    valid = [s.nats for s in steps if s.kind == "valid"]
    assert valid[-1] < valid[0]


def test_repeated_nan_ends_the_run_with_a_reason() -> None:
    with pytest.raises(ladle.TrainingError, match="extreme values"):
        run(dict.fromkeys(range(20, 200), math.nan))


def test_the_reason_names_the_quantity_that_is_not_finite() -> None:
    data = ladle.read("digits")
    assembly = ladle.assemble(data.schema, "vae", "xs")
    with torch.no_grad():
        next(iter(assembly.model.likelihood.parameters())).fill_(math.nan)
    with pytest.raises(ladle.TrainingError, match=r"log p\(x\|z\) is NaN or infinite"):
        list(ladle.fit(assembly, data, epochs=5))


def test_outliers_are_clipped_and_counted() -> None:
    _, steps = run({50: 1e4, 90: 1e4})
    healthy = run({})[1]
    assert steps[-1].clipped == healthy[-1].clipped + 2
    assert not [s for s in steps if s.kind == "note"]
    assert [s.nats for s in steps if s.kind == "valid"][-1] < 1.02 * [s.nats for s in healthy if s.kind == "valid"][-1]


def test_a_lasting_change_of_scale_is_clipped_only_at_first() -> None:
    guard = Guard()
    assert all(guard.factor(1.0, 1.0) == 1.0 for _ in range(100))
    factors = [guard.factor(1.0, 50.0) for _ in range(100)]
    assert factors[0] == pytest.approx(1.5 / 50)
    assert factors[-1] == 1.0
    assert guard.factor(1.0, math.nan) == guard.factor(math.inf, 1.0) == 0.0


def test_training_stops_when_validation_no_longer_improves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model overfits on forty images: the weights of the best validation are kept."""
    monkeypatch.setattr(ladle.training.fit, "PATIENCE", 3)
    x = ladle.read("digits").train.x[:40]
    data = ladle.read(x)
    assembly = ladle.assemble(data.schema, "vae", "s")
    steps = list(ladle.fit(assembly, data, epochs=800))
    valid = [s.nats for s in steps if s.kind == "valid"]
    assert steps[-1].fraction < 1.0
    assert valid[-3:] == sorted(valid[-3:]) or min(valid[-3:]) > min(valid)
    assert steps[-1].nats == min(valid)


def test_the_average_has_the_given_half_life() -> None:
    value = torch.zeros(1)
    average = Average([value], half_life=0.02)
    average.values[0].fill_(0.0)
    value.fill_(1.0)
    for step in range(1000, 1020):  # 20 steps of a run of 1,000: one half-life
        average.update(step, (step - 999) / 1000)
    assert float(average.values[0]) == pytest.approx(0.5, abs=0.03)
    average.swap()
    assert float(value) == pytest.approx(0.5, abs=0.03)
    average.swap()
    assert float(value) == 1.0


def test_budgets_and_rates() -> None:
    by_epochs = Budget(None, 2.5, 10)
    assert (by_epochs.steps, by_epochs.fraction(5, 1e9), by_epochs.fraction(30, 0)) == (25, 0.2, 1.0)
    by_clock = Budget(0.5, None, 10)
    assert (by_clock.fraction(10**6, 15.0), by_clock.fraction(0, 31.0)) == (0.5, 1.0)
    training = Training(rate=1.0, warmup=0.1, final=0.01)
    assert learning_rate(training, 0.05) == 0.5
    assert learning_rate(training, 0.1) == 1.0
    assert learning_rate(training, 1.0) == pytest.approx(0.01)


def test_invalid_budgets_are_refused() -> None:
    data = ladle.read("digits")
    assembly = ladle.assemble(data.schema, "vae", "xs")
    for budget in ({}, {"minutes": 1, "epochs": 1}, {"epochs": 0}, {"minutes": -1}, {"epochs": math.nan}):
        with pytest.raises(ValueError, match="one budget"):
            ladle.fit(assembly, data, **budget)
