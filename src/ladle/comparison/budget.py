"""The number of steps and of measured items that fit into a given time."""

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
FEW_ITEMS, SOME_ITEMS = 20, 200  # measured to warm up, and to be timed: the fixed cost of a call is excluded
AT_ONCE = 8  # items per batch of annealing
WHOLE = 1 << 20  # nominal steps of a finalist, in which the steps of all rounds are expressed
SHARES = (1.0, 0.5, 0.25)  # of the held-out items: fewer are measured if all would take over half of the time


class Pace(NamedTuple):
    """Seconds per training step, per validation, per item for the evidence, and per item for the closer method."""

    step: float
    validation: float
    item: float
    again: float


def pace(race: Race, candidate: Candidate, seconds: float, samples: int) -> Pace:
    """Measure the speed of training and measuring a candidate on this machine, in about ``seconds`` seconds."""
    phases = ({"single": 1.0}, {"single": 0.0}) if objective(candidate.latents) is BOUND else ({},)
    steps = [step(race, candidate, phase, seconds / len(phases)) for phase in phases]  # the two halves of training
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
    """The duration of ``work()`` in seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def step(race: Race, candidate: Candidate, phase: Mapping[str, float], seconds: float) -> float:
    """Seconds per training step in a phase of the objective, measured for about ``seconds`` seconds."""
    show = race.progress(f"{candidate.name}: measuring its speed, step")
    begun = spent = 0.0
    done = 0
    records = fit(race.assembly(candidate, aim=phase), race.data, epochs=1e6, device=race.device)
    with closing(records):  # type: ignore[type-var]
        for record in records:
            begun = begun or time.perf_counter()  # the first step includes the setup
            spent, done = time.perf_counter() - begun, record.step - 1
            show(record.step, record.step)
            if done >= FEW_STEPS and spent > seconds:
                break
    return spent / done


class Plan(NamedTuple):
    """The training steps of a finalist, and the share of the held-out items that every run is measured on."""

    steps: int
    share: float


def affordable(paces: Sequence[Pace], seconds: float, items: tuple[float, int], seeds: int, finalists: int) -> Plan:
    """The largest plan that fits into the time even if the slowest candidates become the finalists.

    Args:
        paces: the pace of each candidate.
        seconds: the time for everything.
        items: the validation and test items measured in every run; an item with fewer samples counts as a fraction.
        seeds: the number of seeds of each finalist.
        finalists: the maximum number of finalists.

    Raises:
        DataError: if the time is not enough for a minimum of steps; the message states how much is needed.

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
            f"the time is not enough to train {len(slow)} candidates: another {least:.1g} minutes are "
            "needed; fewer families, seeds or samples, or a smaller size, need less"
        )
    return Plan(steps, share)
