"""How many steps a given time is enough for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from ladle.data import DataError
from ladle.folder import Model
from ladle.machine import choose
from ladle.select.candidates import Candidate
from ladle.select.race import FEWEST_STEPS, Race, rungs
from ladle.tasks.score import measure
from ladle.train import VALIDATION_ITEMS, VALIDATIONS, fit

FEW_ITEMS, FEW_STEPS = 20, 3
WHOLE = 1 << 20  # steps of a finalist, to count the steps of all in parts of them


class Pace(NamedTuple):
    """Seconds that a step of training takes, a validation, and the evidence of an item."""

    step: float
    validation: float
    item: float


def pace(race: Race, candidate: Candidate, seconds: float, samples: int) -> Pace:
    """How fast a candidate is trained and measured here, tried out for about so many seconds."""
    assembly = race.assembly(candidate)
    show = race.progress(f"{candidate.name}: trying its pace, step")
    begun = spent = 0.0
    done = 0
    records = fit(assembly, race.data, epochs=1e6, device=race.device)
    with closing(records):  # type: ignore[type-var]
        for record in records:
            begun = begun or time.perf_counter()  # the first step pays for what is set up once
            spent, done = time.perf_counter() - begun, record.step - 1
            show(record.step, record.step)
            if done >= FEW_STEPS and spent > seconds:
                break
    step = spent / done
    batch = min(assembly.training.batch, len(race.data.train))
    checked = min(len(race.data.valid), VALIDATION_ITEMS) / batch
    held = race.held("valid")
    few = held.take(np.arange(min(len(held), FEW_ITEMS)))
    started = time.perf_counter()
    measure(Model(assembly.model.eval(), race.data.schema, {}, choose(race.device).device), few, samples=samples)
    item = (time.perf_counter() - started) / len(few)
    return Pace(step, step * checked / 3, item)  # without a gradient a batch takes about a third


def affordable(
    paces: Sequence[Pace], seconds: float, items: tuple[int, int], seeds: int, finalists: int
) -> int:
    """The steps of a finalist for which the time suffices, were it the slowest candidates that go furthest.

    Args:
        paces: of the candidates.
        seconds: for everything.
        items: validation and test items measured of every run.
        seeds: of the finalists.
        finalists: at most so many.

    Raises:
        DataError: when it suffices for hardly any step; it says what would.

    >>> affordable([Pace(0.01, 0.0, 0.0)] * 2, 60.0, (100, 100), 3, 4)
    1000
    """
    slow = sorted(paces, reverse=True)
    fixed = of_steps = 0.0
    field = rungs(len(slow), WHOLE, seeds, finalists)
    for rung in field:
        measured = items[0] + (items[1] if rung is field[-1] else 0)
        for one in slow[: rung.candidates]:
            of_steps += rung.seeds * rung.steps / WHOLE * one.step
            fixed += rung.seeds * (VALIDATIONS * one.validation + measured * one.item)
    steps = int((seconds - fixed) / of_steps)
    if steps < FEWEST_STEPS:
        least = (fixed + 10 * FEWEST_STEPS * of_steps) / 60
        raise DataError(
            f"the time is not enough to train {len(slow)} candidates: it must be about {least:.1g} minutes more, with "
            "fewer families, seeds or samples, or a smaller size, less"
        )
    return steps
