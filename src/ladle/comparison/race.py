"""Train and measure candidates, and halve their number in each round until the finalists are left."""

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
from ladle.inference.methods import tightest
from ladle.inference.pareto import BAD
from ladle.recipes.assemble import Assembly, assemble
from ladle.spec import build
from ladle.store.files import write_json
from ladle.store.folder import Model, load
from ladle.tasks.common import Telling
from ladle.tasks.score import measure
from ladle.training.fit import fit

BOUND = {"part": "objective/iwae", "particles": 8, "single": 0.5}
DISCRETE = {"part": "objective/em", "particles": 16}
FEWEST_STEPS = 20
ITEMS, VALIDATING = 2000, 1000  # maximum numbers of test and validation items
RANKING = 100  # maximum number of samples per validation item, which is only used for ranking
AGAIN, TEMPERATURES = 50, 100  # maximum number of test items of a run for the closer method, and its temperatures


class Failed(Exception):
    """A candidate failed; the message is the reason."""


class Scores(NamedTuple):
    """The evidence of a trained candidate.

    Attributes:
        nats: ``(N,)``, the nats of every item; their mean and spread are those of the evidence.
        k_hat: ``(N,)``, the Pareto k of the importance weights of each item.
        closer: nats by which a closer method lowered the mean; NaN if none was used.
    """

    nats: np.ndarray
    k_hat: np.ndarray
    closer: np.ndarray


class Rung(NamedTuple):
    """The numbers of candidates, steps and seeds of one round of successive halving."""

    candidates: int
    steps: int
    seeds: int


def rungs(candidates: int, steps: int, seeds: int, finalists: int) -> list[Rung]:
    """Successive halving: the better half continues with twice the steps until only the finalists are left, which are
    trained from all seeds.

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
    """The settings that all runs share.

    Attributes:
        data: the data set with its splits.
        plan: the plan of the recipe that supplies networks, likelihood and training settings.
        folder: the folder that contains the folder of every run.
        device: ``auto``, ``cpu`` or ``cuda``.
        progress: a function that maps the name of a task to a function called with (done, total).
        items: the maximum number of test items.
        share: the share of the held-out items that is measured.
    """

    data: Dataset
    plan: Mapping[str, Any]
    folder: Path
    device: str
    progress: Telling
    items: int = ITEMS
    share: float = 1.0

    def assembly(self, candidate: Candidate, seed: int = 0, aim: Mapping[str, float] | None = None) -> Assembly:
        """Assemble the candidate's model with an importance-weighted objective, which penalises a family whose
        posterior is hard to approximate less than the plain bound does. ``aim`` changes the objective."""
        plan = {**self.plan, "latents": candidate.latents, "objective": {**objective(candidate.latents), **(aim or {})}}
        return assemble(self.data.schema, plan, seed=seed)

    def run(self, candidate: Candidate, steps: int, seed: int) -> Path:
        """The folder of one run. Finished work in it is not repeated, and interrupted work is resumed."""
        return self.folder / f"{candidate.folder}-{steps}-{seed}"

    def trained(self, candidate: Candidate, steps: int, seed: int) -> Model:
        """The trained candidate: train it, resume its training, or load the finished model.

        Raises:
            Failed: with the reason, which is stored in its folder.
        """
        folder = self.run(candidate, steps, seed)
        failure = folder / "failed.json"
        if failure.exists():
            raise Failed(json.loads(failure.read_text(encoding="utf-8"))["reason"])
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
        """Train a candidate into its folder, from its last checkpoint if there is one."""
        show = self.progress(f"{candidate.name}, seed {seed}: training, step")
        assembly = self.assembly(candidate, seed)
        splits = {"train": self.data.train, "valid": self.held("valid"), "test": self.data.test}
        data = dataclasses.replace(self.data, splits=splits, members={})
        records = fit(
            assembly, data, epochs=epochs(assembly, self.data, steps), seed=seed, device=self.device,
            run=self.run(candidate, steps, seed), settings={"recipe": f"select {candidate.name}"}, resume=True,
        )  # fmt: skip
        with closing(records):  # type: ignore[type-var]  # closing between two steps saves the run
            for record in records:
                show(record.step, steps)

    def fail(self, candidate: Candidate, steps: int, seed: int, reason: str) -> NoReturn:
        """Store why a candidate failed, and raise ``Failed``."""
        folder = self.run(candidate, steps, seed)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "failed.json", {"reason": reason})
        raise Failed(reason)

    def scores(self, candidate: Candidate, steps: int, seed: int, split: str, samples: int) -> Scores:
        """The evidence of a candidate on held-out items, which are the same for all candidates."""
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
        """The importance-weighted bound of every held-out item. If the Pareto k is too high for a larger share of test
        items than ``LOOSE``, the first ``AGAIN`` items are measured again by a closer method, and their improvement
        corrects the mean of all items. They are chosen independently of their weights, because a large weight by chance
        gives a better bound *and* a worse k."""
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
        except NotAvailable:  # the quadrature did not converge
            return bound
        change = again.nats - found.nats[some]
        if change.mean() >= 0:  # keep the better of two bounds
            return bound
        return Scores(corrected(found.nats, change), found.k_hat, -change.mean())

    def held(self, split: str) -> Split:
        """Held-out items, chosen at random, the same for every candidate."""
        whole, most = self.data.split(split), VALIDATING if split == "valid" else self.items
        fewer = math.ceil(self.share * min(most, len(whole)))
        return whole.take(np.random.default_rng(0).permutation(len(whole))[: max(2, fewer)])


def corrected(nats: np.ndarray, change: np.ndarray) -> np.ndarray:
    """Nats corrected by ``change``, which is only known for the first M of N items. Their mean is the mean of ``nats``
    plus that of ``change``. Their variance divided by N is the variance of this estimate: var(nats) / N +
    var(change) / M and their covariance.

    Reference:
        Cochran: "Sampling Techniques", 1977, chapter 9 (double sampling with a difference estimator).

    >>> corrected(np.array([5.0, 7.0, 9.0, 7.0]), np.array([-1.0, -3.0])).tolist()
    [5.0, 3.0, 7.0, 5.0]
    """
    found = nats + change.mean()
    found[: len(change)] += (change - change.mean()) * len(nats) / len(change)
    return found


def closest(model: Model) -> str | None:
    """The most accurate method of evidence for this model; ``None`` if only the bound is available."""
    method = tightest(model.vae)
    return None if method == "iwae" else method


def objective(latents: Mapping[str, Any]) -> dict[str, Any]:
    """The objective: the importance-weighted bound if gradients pass through draws from the posterior, and otherwise
    Monte Carlo EM, which maximises the same bound without such gradients.

    >>> objective({"size": 2, "posterior": {"part": "family/bernoulli"}})["part"]
    'objective/em'
    """
    q = standard(build(latents["posterior"]), (int(latents["size"]),))
    return BOUND if q.has_rsample else DISCRETE


def epochs(assembly: Assembly, data: Dataset, steps: int) -> float:
    """The number of epochs that corresponds to this number of steps."""
    return (steps - 0.5) / max(1, len(data.train) // min(assembly.training.batch, len(data.train)))


def first_line(error: Exception) -> str:
    """The first line of the message of an error."""
    return (str(error) or type(error).__name__).splitlines()[0][:300]
