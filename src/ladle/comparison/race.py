"""Runs of candidates: train one, measure one, and halve the field until the finalists are left."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ladle.comparison.candidates import Candidate
from ladle.comparison.selection import LOOSE
from ladle.data import Dataset, Split, atomic_file
from ladle.families import NotAvailable, standard
from ladle.inference.pareto import BAD
from ladle.recipes.assemble import Assembly, assemble
from ladle.spec import build
from ladle.store.files import write_json
from ladle.store.folder import Model, load
from ladle.tasks.common import Telling
from ladle.tasks.score import METHODS, measure
from ladle.training.fit import fit

BOUND = {"part": "objective/iwae", "particles": 8, "single": 0.5}
DISCRETE = {"part": "objective/em", "particles": 16}
FEWEST_STEPS = 20
ITEMS, VALIDATING = 2000, 1000  # test and validation items, at most
RANKING = 100  # samples of validation items, at most: they only rank
AGAIN, TEMPERATURES = 50, 100  # test items of a run, at most, and how finely


class Failed(Exception):
    """Why a candidate leaves the comparison."""


class Scores(NamedTuple):
    """What a trained candidate was found to be worth.

    Attributes:
        nats: ``(N,)`` of every item; their mean and spread are those of the evidence.
        k_hat: ``(N,)`` the Pareto k of its importance weights.
        closer: nats by which a closer method lowered the mean; NaN where there was none.
    """

    nats: np.ndarray
    k_hat: np.ndarray
    closer: np.ndarray


class Rung(NamedTuple):
    """One round of the race: how many candidates, steps and seeds."""

    candidates: int
    steps: int
    seeds: int


def rungs(candidates: int, steps: int, seeds: int, finalists: int) -> list[Rung]:
    """Successive halving: the better half goes on with twice the steps, until no more than the finalists are left,
    who take all seeds.

    Reference:
        Jamieson, Talwalkar: "Non-stochastic Best Arm Identification and Hyperparameter Optimization", 2016.

    >>> [tuple(rung) for rung in rungs(11, 4000, 3, 4)]
    [(11, 1000, 1), (6, 2000, 1), (4, 4000, 3)]
    """
    field = [candidates]
    while field[-1] > finalists:
        field.append(max(finalists, math.ceil(field[-1] / 2)))
    last = len(field) - 1
    return [
        Rung(n, max(FEWEST_STEPS, steps >> (last - i)) if i < last else steps, seeds if i == last else 1)
        for i, n in enumerate(field)
    ]


@dataclass(frozen=True)
class Race:
    """What all runs share.

    Attributes:
        data: with its splits.
        plan: of the recipe, whose nets, likelihood and training every candidate gets.
        folder: holds a folder for every run.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: given the name of a piece of work, gives a function called with (done, total).
        items: test items, at most.
        share: of the held-out items: so many of them are measured.
    """

    data: Dataset
    plan: Mapping[str, Any]
    folder: Path
    device: str
    progress: Telling
    items: int = ITEMS
    share: float = 1.0

    def assembly(self, candidate: Candidate, seed: int = 0, aim: Mapping[str, float] | None = None) -> Assembly:
        """The candidate's model, ready to be trained on importance-weighted particles: a family whose posterior is hard
        to approximate loses less by them than under the plain bound. ``aim`` changes the objective."""
        plan = {**self.plan, "latents": candidate.latents, "objective": {**objective(candidate.latents), **(aim or {})}}
        return assemble(self.data.schema, plan, seed=seed)

    def run(self, candidate: Candidate, steps: int, seed: int) -> Path:
        """The folder of one run; what is finished there is not done again, what was broken off goes on."""
        return self.folder / f"{candidate.folder}-{steps}-{seed}"

    def trained(self, candidate: Candidate, steps: int, seed: int) -> Model:
        """Train a candidate, or go on with it, or open what is finished.

        Raises:
            Failed: with the reason, remembered in its folder.
        """
        folder = self.run(candidate, steps, seed)
        known = folder / "failed.json"
        if known.exists():
            raise Failed(json.loads(known.read_text(encoding="utf-8"))["reason"])
        try:
            if not (folder / "model.safetensors").exists():
                self.train(candidate, steps, seed)
            model = load(folder, self.device)
        except RuntimeError as error:
            self.fail(candidate, steps, seed, first_line(error))
        nats = model.config["result"]["nats"]
        if nats is None or not math.isfinite(nats):
            self.fail(candidate, steps, seed, "its bound was never finite on the validation items")
        return model

    def train(self, candidate: Candidate, steps: int, seed: int) -> None:
        """Train a candidate into its folder, from its last checkpoint where there is one."""
        show = self.progress(f"{candidate.name}, seed {seed}: training, step")
        assembly = self.assembly(candidate, seed)
        splits = {"train": self.data.train, "valid": self.held("valid"), "test": self.data.test}
        data = dataclasses.replace(self.data, splits=splits, members={})
        records = fit(
            assembly, data, epochs=epochs(assembly, self.data, steps), seed=seed, device=self.device,
            run=self.run(candidate, steps, seed), settings={"recipe": f"select {candidate.name}"}, resume=True,
        )  # fmt: skip
        with closing(records):  # type: ignore[type-var]  # left between two steps, the run is saved
            for record in records:
                show(record.step, steps)

    def fail(self, candidate: Candidate, steps: int, seed: int, reason: str) -> NoReturn:
        """Remember why a candidate failed, and leave."""
        folder = self.run(candidate, steps, seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "failed.json", {"reason": reason})
        raise Failed(reason)

    def scores(self, candidate: Candidate, steps: int, seed: int, split: str, samples: int) -> Scores:
        """The evidence of a candidate on held-out items, the same for all."""
        model = self.trained(candidate, steps, seed)
        path = self.run(candidate, steps, seed) / f"{split}.npz"
        if not path.exists():
            try:
                found = self.measured(model, candidate.name, seed, split, samples)
            except RuntimeError as error:
                self.fail(candidate, steps, seed, first_line(error))
            if not np.isfinite(found.nats).all():
                bad = int((~np.isfinite(found.nats)).sum())
                self.fail(candidate, steps, seed, f"its evidence is not finite on {bad} {split} items")
            with atomic_file(path) as temporary:
                np.savez(temporary, **found._asdict())
        with np.load(path) as stored:
            return Scores(*(stored[name] for name in Scores._fields))

    def measured(self, model: Model, name: str, seed: int, split: str, samples: int) -> Scores:
        """The importance-weighted bound of every held-out item. Where the Pareto k of more test items than ``LOOSE``
        forbids to trust it, the first ``AGAIN`` are measured by a closer method, and what that gains on them corrects
        the mean of all. Which they are does not depend on their weights: a lucky large weight gives a better bound
        *and* a worse k."""
        held = self.held(split)
        show = self.progress(f"{name}, seed {seed}: evidence, {split} item")
        found = measure(model, held, samples=min(samples, RANKING) if split == "valid" else samples, progress=show)
        bound, method = Scores(found.nats, found.k_hat, np.array(np.nan)), closest(model)
        if method is None or split != "test" or (found.k_hat > BAD).mean() <= LOOSE:
            return bound
        some = np.arange(min(math.ceil(self.share * AGAIN), len(held)))
        show = self.progress(f"{name}, seed {seed}: evidence by {method}, item")
        try:
            again = measure(model, held.take(some), method=method, temperatures=TEMPERATURES, progress=show)
        except NotAvailable:  # a grid that did not settle
            return bound
        change = again.nats - found.nats[some]
        if change.mean() >= 0:  # of two bounds, the better
            return bound
        return Scores(corrected(found.nats, change), found.k_hat, -change.mean())

    def held(self, split: str) -> Split:
        """Held-out items, at random and the same for every candidate."""
        whole, most = self.data.split(split), VALIDATING if split == "valid" else self.items
        fewer = math.ceil(self.share * min(most, len(whole)))
        return whole.take(np.random.default_rng(0).permutation(len(whole))[: max(2, fewer)])


def corrected(nats: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Items whose mean is that of ``nats`` plus that of ``change``, which is known of the first M of N items only, and
    whose variance over N is that of this estimate: var(nats) / N + var(change) / M and their covariance.

    Reference:
        Cochran: "Sampling Techniques", 1977, chapter 9 (double sampling with a difference estimator).

    >>> corrected(np.array([5.0, 7.0, 9.0, 7.0]), np.array([-1.0, -3.0])).tolist()
    [5.0, 3.0, 7.0, 5.0]
    """
    found = nats + change.mean()
    found[: len(change)] += (change - change.mean()) * len(nats) / len(change)
    return found


def closest(model: Model) -> str | None:
    """The method of evidence that comes closest to the truth; ``None`` where there is but the bound."""
    return next((name for name in ("exact", "ais") if METHODS[name].serves(model.vae)), None)


def objective(latents: Mapping[str, Any]) -> dict[str, Any]:
    """The importance-weighted bound where gradients pass through draws from the posterior; Monte Carlo EM, which climbs
    the same bound and needs no such gradient, where they do not.

    >>> objective({"size": 2, "posterior": {"part": "family/bernoulli"}})["part"]
    'objective/em'
    """
    q = standard(build(latents["posterior"]), (int(latents["size"]),))
    return BOUND if q.has_rsample else DISCRETE


def epochs(assembly: Assembly, data: Dataset, steps: int) -> float:
    """The budget in epochs that is just these steps."""
    return (steps - 0.5) / max(1, len(data.train) // min(assembly.training.batch, len(data.train)))


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
