"""Select the latent family by evidence."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ladle.comparison.budget import Plan, affordable, pace
from ladle.comparison.candidates import Candidate, candidates, usual
from ladle.comparison.compare import compare
from ladle.comparison.forest_plot import forest
from ladle.comparison.race import ITEMS, RANKING, Failed, Race, Rung, Scores, first_line, rungs
from ladle.comparison.selection import Row, Selection, verdict
from ladle.data import DataError, Dataset, read
from ladle.families import NotAvailable
from ladle.health import amortisation
from ladle.health.amortisation import amortisation_gap
from ladle.health.measures import ACTIVE
from ladle.inference.pareto import BAD
from ladle.recipes import recipe as recipe_spec
from ladle.recipes.plans import has_levels
from ladle.spec import SpecError
from ladle.store.files import ModelError, read_json, write_json
from ladle.tasks.common import Telling, silent
from ladle.tasks.encode import encode
from ladle.training.fit import TrainingError

MINUTES = 10.0
TRIAL, SPARE = 0.05, 0.9  # shares of the time: for measuring the candidates' speed, and for everything that is planned
KEPT = (
    "config.json",
    "log.jsonl",
    "README.md",
    "model.safetensors",
)  # the weights come last: they make the folder a model


def select(
    data: str | Path | np.ndarray | Dataset,
    out: str | Path,
    *,
    families: Iterable[str] | None = None,
    recipe: str | Mapping[str, Any] = "vae",
    size: str = "xs",
    latents: int | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    seeds: int = 3,
    finalists: int = 4,
    samples: int = 500,
    items: int = ITEMS,
    device: str = "auto",
    resume: bool = False,
    force: bool = False,
    progress: Telling = silent,
) -> Selection:
    """Select the distribution family of the latents by held-out evidence, with the uncertainty of the result.

    The data support the family whose models explain held-out items best. Every candidate is a prior with a posterior of
    the same support; networks, likelihood, number of latents and training steps are the same for all. After each round,
    the better half by validation continues. The finalists are trained from several seeds and compared on the test
    items.

    Args:
        data: a name, a file, a folder, an array or a data set.
        out: the folder to write: ``select.json``, ``select.png``, every run under ``candidates/``, and the best
            finalist as a model folder that works wherever a RUN is expected.
        families: the candidates, written as in :mod:`ladle.comparison.candidates`; by default one of every kind.
        recipe: the recipe, by name or as a plan, that supplies networks, likelihood and training settings.
        size: the size of a recipe that is given by name.
        latents: the number of latent variables; by default that of the recipe.
        steps: the training steps of a finalist.
        minutes: the time for the whole comparison, from which the steps are computed. 10 if both are left out.
        seeds: the number of seeds per finalist.
        finalists: the maximum number of finalists. With the number of candidates, there is no halving.
        samples: importance samples per item.
        items: the maximum number of test items.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: continue the comparison in ``out``.
        force: replace the comparison in ``out``.
        progress: a function that maps the name of a task to a function called with (done, total).

    Raises:
        DataError: if a number is out of range, or a split has too few items.
        SpecError: for an unknown candidate, or a recipe that does not fit any candidate.
        ModelError: if the folder contains something else.
        TrainingError: if every candidate failed.
    """
    if steps is not None and minutes is not None:
        raise DataError(f"give steps or minutes, not both; got steps={steps}, minutes={minutes}")
    for name, value in (("steps", steps), ("minutes", minutes), ("seeds", seeds), ("finalists", finalists),
                        ("samples", samples), ("items", items), ("latents", latents)):  # fmt: skip
        if value is not None and not 0 < value < 1e9:
            raise DataError(f"{name} must be above 0, got {value}")
    data = data if isinstance(data, Dataset) else read(data)
    for split in ("train", "valid", "test"):
        if len(data.split(split)) < 2:
            raise DataError(f"a comparison needs at least 2 items to train, validate and test; split '{split}' has 1")
    plan = recipe_spec(recipe, data.schema, size) if isinstance(recipe, str) else recipe
    if has_levels(plan):
        raise SpecError(
            "families are compared on one level of latents, but this recipe has several; recipes that fit: "
            "vae, learned_prior, iwae_dreg"
        )
    count = int(plan["latents"]["size"]) if latents is None else latents
    field = candidates(usual(count) if families is None else families, count)
    settings = as_stored({
        "data": data.schema.to_json(), "families": [c.name for c in field], "plan": {**plan, "latents": count},
        "steps": steps, "minutes": minutes if steps or minutes else MINUTES, "seeds": seeds, "finalists": finalists,
        "samples": samples, "items": items,
    })  # fmt: skip
    folder = Path(out)
    state = opened(folder, settings, resume, force)
    if "rows" in state:
        return Selection.from_json(state)
    race = Race(data, plan, folder / "candidates", device, progress, items)
    return _Comparison(race, field, folder, state).run()


def opened(folder: Path, settings: Mapping[str, Any], resume: bool, force: bool) -> dict[str, Any]:
    """Prepare the folder and return the content of ``select.json``.

    Raises:
        ModelError: if the folder contains something else, or a comparison with other settings.
    """
    path = folder / "select.json"
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"'{folder}' must be a folder, got a file")
    if folder.is_dir() and any(folder.iterdir()):
        if not path.is_file():
            raise ModelError(
                f"'{folder}' must be empty or contain a comparison, got other files; give --out a new folder"
            )
        if resume:
            state = read_json(path)
            began = state.get("settings")
            if not isinstance(began, dict):
                raise ModelError(f"'{path}' is damaged: it must contain the settings of the comparison")
            if began == settings:
                return state
            other = [name for name in settings if began.get(name) != settings[name]]
            raise ModelError(f"'{folder}' was started with other {', '.join(other)}; resume it with the same values")
        if not force:
            raise ModelError(f"'{folder}' contains a comparison already; --resume continues it, --force replaces it")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"settings": dict(settings)}
    write_json(path, state)
    return state


def as_stored(data: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data as it is read back from a file, with lists instead of tuples."""
    return json.loads(json.dumps(data))


class _Comparison:
    """A comparison in progress. All intermediate results are in the folders of its runs."""

    def __init__(self, race: Race, field: list[Candidate], folder: Path, state: dict[str, Any]) -> None:
        self.race, self.field, self.folder, self.state = race, field, folder, state
        self.settings = state["settings"]
        self.samples, self.seeds = self.settings["samples"], self.settings["seeds"]
        self.rows: dict[str, Row] = {c.name: Row(c.name, c.prior, "out") for c in field}

    def run(self) -> Selection:
        """Run all rounds, then compare the finalists on the test items."""
        alive = self.fitting()
        if "steps" not in self.state:
            steps = self.settings["steps"]
            alive, plan = (alive, Plan(steps, 1.0)) if steps else self.paced(alive)
            self.state.update(plan._asdict())
            write_json(self.folder / "select.json", self.state)
        self.race = replace(self.race, share=self.state["share"])
        field = rungs(len(alive), self.state["steps"], self.seeds, self.settings["finalists"])
        for rung in field:
            alive = self.valid(alive[: rung.candidates], rung)
        finalists = self.tested(alive, field[-1])
        return self.ended(finalists, field[-1])

    def fitting(self) -> list[Candidate]:
        """The candidates for which a model can be assembled."""
        fit = []
        for one in self.field:
            try:
                self.race.assembly(one)
                fit.append(one)
            except (ValueError, RuntimeError) as error:  # SpecError is the first, NotAvailable the second
                self.failed(one, str(error))
        if not fit:
            raise SpecError(f"no candidate fits: {self.reasons()}")
        return fit

    def paced(self, alive: list[Candidate]) -> tuple[list[Candidate], Plan]:
        """The candidates that can be trained, and the steps and measured items that fit into the minutes."""
        started, seconds = time.perf_counter(), 60 * self.settings["minutes"]
        paces = {}
        for one in alive:
            try:
                paces[one.name] = pace(self.race, one, TRIAL * seconds / len(alive), self.samples)
            except RuntimeError as error:
                self.failed(one, first_line(error))
        if not paces:
            raise TrainingError(f"every candidate failed: {self.reasons()}")
        items = len(self.race.held("valid")) * min(1.0, RANKING / self.samples), len(self.race.held("test"))
        left = SPARE * seconds - (time.perf_counter() - started)
        try:
            plan = affordable(list(paces.values()), left, items, self.seeds, self.settings["finalists"])
        except DataError:
            shutil.rmtree(self.folder)  # it is still empty; a later call may have more time
            raise
        return [one for one in alive if one.name in paces], plan

    def valid(self, alive: list[Candidate], rung: Rung) -> list[Candidate]:
        """Run a round and return the candidates that did not fail, the best first."""
        ranked = []
        for one in alive:
            try:
                found = [self.race.scores(one, rung.steps, s, "valid", self.samples) for s in range(rung.seeds)]
            except Failed as error:
                self.failed(one, str(error))
                continue
            nats = float(np.mean([scores.nats.mean() for scores in found]))
            self.rows[one.name] = self.rows[one.name]._replace(
                valid=nats, steps=rung.steps, seeds=rung.seeds, seconds=self.seconds(one, rung)
            )
            ranked.append((nats, one))
        if not ranked:
            raise TrainingError(f"every candidate failed: {self.reasons()}")
        return [one for _, one in sorted(ranked, key=lambda pair: pair[0])]

    def tested(self, alive: list[Candidate], rung: Rung) -> dict[str, list[Scores]]:
        """The evidence of the finalists on the test items, by seed; the best by validation first."""
        found = {}
        for one in alive:
            try:
                found[one.name] = [
                    self.race.scores(one, rung.steps, s, "test", self.samples) for s in range(rung.seeds)
                ]
            except Failed as error:
                self.failed(one, str(error))
                continue
            k_hat = np.stack([scores.k_hat for scores in found[one.name]])
            self.rows[one.name] = self.rows[one.name]._replace(
                status="finalist",
                loose=None if np.isnan(k_hat).all() else float((k_hat > BAD).mean()),
                closer=self.closer(found[one.name]),
                active=self.active(one, rung),
                gap=self.gap(one, rung),
            )
        if not found:
            raise TrainingError(f"every finalist failed: {self.reasons()}")
        return found

    def ended(self, finalists: Mapping[str, list[Scores]], rung: Rung) -> Selection:
        """Write the table, the verdict, the forest plot and the model of the best finalist."""
        nats = {name: np.stack([scores.nats for scores in found]) for name, found in finalists.items()}
        found = compare(nats)
        for name, d in found.differences.items():
            self.rows[name] = self.rows[name]._replace(nats=float(nats[name].mean()), difference=d.nats)
            if name != found.best:
                self.rows[name] = self.rows[name]._replace(
                    se=d.se, low=d.nats - d.half, high=d.nats + d.half, worse=d.worse, p=d.p
                )
        place = ["finalist", "out", "failed"]
        rows = sorted(self.rows.values(), key=lambda r: (place.index(r.status), r.difference or 0.0, r.valid or 0.0))
        best = next(iter(finalists))  # by validation: test items are not used for the choice
        about = {
            "source": self.race.data.schema.source or "data", "data": self.race.data.schema.describe(),
            "latents": self.settings["plan"]["latents"],
            "steps": rung.steps, "seeds": rung.seeds, "samples": self.samples, "items": nats[best].shape[1],
            "method": "iwae", "kind": "bound",
        }  # fmt: skip
        selection = Selection(tuple(rows), verdict(found, rows, rung.seeds), found.supported, best, about)
        self.keep(next(c for c in self.field if c.name == best), rung)
        forest(selection, self.folder / "select.png")
        write_json(self.folder / "select.json", {**self.state, **selection.to_json()})
        return selection

    def keep(self, one: Candidate, rung: Rung) -> None:
        """Copy the model of the best seed, by validation, into the folder."""
        runs = [self.race.scores(one, rung.steps, s, "valid", self.samples).nats.mean() for s in range(rung.seeds)]
        chosen = self.race.run(one, rung.steps, int(np.argmin(runs)))
        for name in KEPT:
            shutil.copyfile(chosen / name, self.folder / name)

    def seconds(self, one: Candidate, rung: Rung) -> float:
        """The seconds of training, averaged over seeds."""
        configs = [read_json(self.race.run(one, rung.steps, s) / "config.json") for s in range(rung.seeds)]
        return float(np.mean([config["result"]["seconds"] for config in configs]))

    def active(self, one: Candidate, rung: Rung) -> float:
        """Active units (latents whose posterior centre depends on x), averaged over seeds."""
        models = [self.race.trained(one, rung.steps, s) for s in range(rung.seeds)]
        held = self.race.held("valid")
        return float(np.mean([(encode(model, held).var(0) > ACTIVE).sum() for model in models]))

    def gap(self, one: Candidate, rung: Rung) -> float | None:
        """The amortisation gap of the first seed's model; ``None`` if it cannot be measured."""
        model, held = self.race.trained(one, rung.steps, 0), self.race.held("valid")
        show = self.race.progress(f"{one.name}: amortisation gap, item")
        try:
            gap = amortisation_gap(model, held, items=amortisation.ITEMS, steps=amortisation.STEPS, progress=show)
        except NotAvailable:
            return None
        return gap.nats if math.isfinite(gap.nats) else None

    @staticmethod
    def closer(found: list[Scores]) -> float | None:
        """Nats by which closer methods lowered the mean over the seeds; ``None`` if no bound was corrected."""
        gains = [float(scores.closer) for scores in found]
        return None if np.isnan(gains).all() else float(np.nansum(gains) / len(gains))

    def failed(self, one: Candidate, reason: str) -> None:
        self.rows[one.name] = self.rows[one.name]._replace(status="failed", reason=reason)

    def reasons(self) -> str:
        """The reason of each failure."""
        return "; ".join(f"{r.family}: {r.reason}" for r in self.rows.values() if r.status == "failed")
