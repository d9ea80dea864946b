"""How many steps, and how many measured items, a given time is enough for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import NamedTuple

import numpy as np

from ladle.comparison.candidates import Candidate
from ladle.comparison.race import AGAIN, BOUND, FEWEST_STEPS, TEMPERATURES, Race, closest, objective, rungs
from ladle.data import DataError
from ladle.machine import choose
from ladle.store.folder import Model
from ladle.tasks.score import measure
from ladle.training.fit import VALIDATIONS, fit

FEW_STEPS = 3
FEW_ITEMS, SOME_ITEMS = 20, 200  # measured to warm up, and to be timed: what a call costs by itself must not count
AT_ONCE = 8  # items that are annealed together
WHOLE = 1 << 20  # steps of a finalist, to count the steps of all in parts of them
SHARES = (1.0, 0.5, 0.25)  # of the held-out items: fewer are measured where all would take more than half of the time


class Pace(NamedTuple):
    """Seconds that a step of training takes, a validation, the evidence of an item, and of one measured again."""

    step: float
    validation: float
    item: float
    again: float


def pace(race: Race, candidate: Candidate, seconds: float, samples: int) -> Pace:
    """How fast a candidate is trained and measured here, tried out for about so many seconds."""
    phases = ({"single": 1.0}, {"single": 0.0}) if objective(candidate.latents) is BOUND else ({},)
    steps = [step(race, candidate, phase, seconds / len(phases)) for phase in phases]  # halves of a training
    assembly = race.assembly(candidate)
    batch = min(assembly.training.batch, len(race.data.train))
    held = race.held("valid")
    checked = len(held) / batch
    few, some = (held.take(np.arange(min(len(held), n))) for n in (FEW_ITEMS, SOME_ITEMS))
    model = Model(assembly.model.eval(), race.data.schema, {}, choose(race.device).device)
    measure(model, few, samples=samples)
    item = timed(lambda: measure(model, some, samples=samples)) / len(some)
    method, again = closest(model), 0.0
    if method:
        few = few.take(np.arange(min(len(few), AT_ONCE)))
        again = timed(lambda: measure(model, few, method=method, temperatures=TEMPERATURES)) / len(few)
    return Pace(float(np.mean(steps)), steps[-1] * checked / 3, item, again)  # without a gradient: about a third


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def step(race: Race, candidate: Candidate, phase: Mapping[str, float], seconds: float) -> float:
    """Seconds of a step of training in a phase of the objective, tried out for about so many."""
    show = race.progress(f"{candidate.name}: trying its pace, step")
    begun = spent = 0.0
    done = 0
    records = fit(race.assembly(candidate, aim=phase), race.data, epochs=1e6, device=race.device)
    with closing(records):  # type: ignore[type-var]
        for record in records:
            begun = begun or time.perf_counter()  # the first step pays for what is set up once
            spent, done = time.perf_counter() - begun, record.step - 1
            show(record.step, record.step)
            if done >= FEW_STEPS and spent > seconds:
                break
    return spent / done


class Plan(NamedTuple):
    """The steps of a finalist, and the share of the held-out items that every run is measured on."""

    steps: int
    share: float


def affordable(paces: Sequence[Pace], seconds: float, items: tuple[float, int], seeds: int, finalists: int) -> Plan:
    """The plan for which the time suffices, were it the slowest candidates that go furthest.

    Args:
        paces: of the candidates.
        seconds: for everything.
        items: validation and test items measured of every run; one with fewer samples counts as less.
        seeds: of the finalists.
        finalists: at most so many.

    Raises:
        DataError: when it suffices for hardly any step; it says what would.

    >>> affordable([Pace(0.01, 0.0, 0.0, 0.0)] * 2, 60.0, (100, 100), 3, 4)
    Plan(steps=1000, share=1.0)
    """
    slow = sorted(paces, reverse=True)
    of_steps = measuring = 0.0
    field = rungs(len(slow), WHOLE, seeds, finalists)
    for rung in field:
        last = rung is field[-1]
        for one in slow[: rung.candidates]:
            of_steps += rung.seeds * rung.steps / WHOLE * one.step
            measuring += rung.seeds * (VALIDATIONS * one.validation + items[0] * one.item)
            if last:
                measuring += rung.seeds * (items[1] * one.item + min(AGAIN, items[1]) * one.again)
    share = next((share for share in SHARES if share * measuring <= seconds / 2), SHARES[-1])
    steps = int((seconds - share * measuring) / of_steps)
    if steps < FEWEST_STEPS:
        least = (share * measuring + 10 * FEWEST_STEPS * of_steps) / 60
        raise DataError(
            f"the time is not enough to train {len(slow)} candidates: it takes about {least:.1g} minutes "
            "from here; less with fewer families, seeds or samples, or a smaller size"
        )
    return Plan(steps, share)
