"""Latent families by evidence: the statistics on simulated scores, and whole comparisons with tiny networks."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import ladle
from ladle.cli import app
from ladle.comparison import select as choice
from ladle.comparison.budget import Pace, pace
from ladle.comparison.candidates import candidate, candidates, usual
from ladle.comparison.compare import LEVEL, compare, difference
from ladle.comparison.race import Race, corrected, rungs
from ladle.comparison.selection import Row, Selection, verdict
from ladle.spec import parts
from toys import narrow

QUICK: dict[str, Any] = {"steps": 24, "seeds": 2, "samples": 10, "latents": 2}


@pytest.fixture(scope="module")
def data(toys: dict[str, ladle.Dataset]) -> ladle.Dataset:
    return toys["bits"]


@pytest.fixture(scope="module")
def plan(data: ladle.Dataset) -> dict[str, Any]:
    return narrow("vae", data.schema, width=8)


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory, data: ladle.Dataset, plan: dict[str, Any]) -> Path:
    """The folder of a finished comparison. Tests must copy it before changing it."""
    out = tmp_path_factory.mktemp("select") / "run"
    ladle.select(data, out, families=["normal", "laplace", "categorical:3"], recipe=plan, **QUICK)
    return out


# -------------------------------------------------------------------------------------------- statistics


def scores(rng: np.random.Generator, shifts: list[float], seeds: int, noise: tuple[float, float]) -> dict:
    """Nats with noise per item, per family and item, per seed, and per seed and item."""
    of_seeds, of_both = noise
    item = 3 * rng.normal(size=(1, 200))
    return {
        f"f{i}": shift + item + 0.3 * rng.normal(size=(1, 200)) + of_seeds * rng.normal(size=(seeds, 1))
        + of_both * rng.normal(size=(seeds, 200))
        for i, shift in enumerate(shifts)
    }  # fmt: skip


@pytest.mark.parametrize("seeds, noise", [(3, (0.05, 0.3)), (3, (0.2, 0.0)), (2, (0.05, 0.0)), (1, (0.0, 0.3))])
def test_the_false_alarm_rate_is_at_most_the_stated_level(seeds: int, noise: tuple[float, float]) -> None:
    """Three equal families, seed 0: in 250 repetitions at most 5 % call one of them worse. The limit, 0.05 + 3.1
    standard errors of 0.014, is exceeded by a correct procedure with probability below 0.1 %."""
    rng = np.random.default_rng(0)
    alarms = [len(compare(scores(rng, [0, 0, 0], seeds, noise)).supported) < 3 for _ in range(250)]
    assert np.mean(alarms) < 0.093


def test_errors_over_items_alone_would_give_false_alarms() -> None:
    """Without the term of the seeds, noise of the seeds is mistaken for a difference between families."""
    rng = np.random.default_rng(1)
    alarms = []
    for _ in range(200):
        one, two = scores(rng, [0, 0], 3, (0.05, 0.0)).values()
        d = one.mean(0) - two.mean(0)
        alarms.append(abs(d.mean()) > 1.96 * d.std(ddof=1) / np.sqrt(d.size))
    assert np.mean(alarms) > 0.15


def test_a_difference_is_found() -> None:
    """At 6 standard errors (0.037 nats each, of them 0.02 of seeds), found in 95 of 100 repetitions; seed 2."""
    rng = np.random.default_rng(2)
    found = [compare(scores(rng, [0, 0, 0.22], 3, (0.02, 0.1))).supported for _ in range(100)]
    assert np.mean(["f2" not in names for names in found]) > 0.95


def test_the_standard_error_matches_the_spread_of_repetitions() -> None:
    """The stated standard error against the spread of 500 repetitions, seed 3: within 10 %."""
    rng = np.random.default_rng(3)
    found = [difference(*scores(rng, [0.1, 0], 3, (0.05, 0.0)).values()) for _ in range(500)]
    spread = np.std([d.nats for d in found])
    assert np.isclose(np.sqrt(np.mean([d.se**2 for d in found])), spread, rtol=0.1)
    assert np.isclose(np.mean([d.nats for d in found]), 0.1, atol=4 * spread / np.sqrt(500))
    assert np.isclose(np.mean([abs(d.nats - 0.1) < d.half for d in found]), 1 - LEVEL, atol=0.03)


def test_a_family_worse_than_another_is_not_supported_even_if_the_best_is_uncertain() -> None:
    """a is best by one lucky seed and does not differ significantly from any other; b and c differ from each other."""
    rng = np.random.default_rng(4)
    item = rng.normal(size=(1, 500))
    small = [item + 0.1 * rng.normal(size=(2, 500)) for _ in range(3)]
    found = compare({"a": small[0] + np.array([[-9.0], [6.0]]), "b": small[1], "c": small[2] + 1})
    assert found.best == "a"
    assert found.differences["c"].p > 0.05
    assert found.supported == ("a", "b")


def test_equal_scores_are_no_difference() -> None:
    same = np.ones((2, 5))
    found = compare({"a": same, "b": same})
    assert found.supported == ("a", "b")
    assert found.differences["b"].p == 1.0


def words(shifts: list[float], loose: float = 0.0, names: str = "abc") -> str:
    nats = dict(zip(names, scores(np.random.default_rng(0), shifts, 3, (0.01, 0.1)).values(), strict=True))
    found = compare(nats)
    return verdict(found, [Row(n, n, "finalist", loose=loose) for n in found.differences], 3)


def test_the_verdict() -> None:
    assert words([0, 0, 0]).startswith("There is no significant difference between")
    assert words([0, 1, 2]).startswith("The data support a: its evidence is better than that of b and c.")
    two = words([0, 0, 2])
    assert "or" in two
    assert "no significant difference between the two; worse: c" in two
    assert "3 pairs" in two
    assert "3 seeds" in two
    assert "k > 0.7" in words([0, 0, 0], loose=0.5)
    assert "k > 0.7" not in two


def test_one_prior_with_two_posteriors_is_compared_as_bounds() -> None:
    rows = [Row(n, "normal", "finalist") for n in ("normal", "normal/laplace")]
    nats = {row.family: np.random.default_rng(0).normal(size=(2, 50)) for row in rows}
    assert "the same prior and different posteriors" in verdict(compare(nats), rows, 2)


# --------------------------------------------------------------------------------------------- candidates


@pytest.mark.parametrize("name", [*sorted(parts()["candidate"]), "mixture:1", "student_t:5", "laplace/laplace",
                                  "normal/full_normal", "mixture/laplace"])  # fmt: skip
def test_every_candidate_makes_a_model(name: str, data: ladle.Dataset, plan: dict[str, Any], tmp_path: Path) -> None:
    data = ladle.Dataset(replace(data.schema, label_names=("a", "b")), {"all": data.all}, members=data.members)
    race = Race(data, plan, tmp_path, "cpu", lambda what: lambda done, total: None)
    model = race.assembly(candidate(name, 3)).model
    assert len(ladle.sample(ladle.Model(model.eval(), data.schema, {}, "cpu"), 4)) == 4


def test_a_named_posterior_does_not_change_the_prior() -> None:
    for name in ("laplace", "mixture", "full_normal", "student_t:4"):
        one, other = candidate(name, 2), candidate(f"{name}/logistic", 2)
        assert one.prior == other.prior == name
        assert {"family": one.latents["posterior"], **one.latents["prior"]} == {
            "family": one.latents["posterior"], **other.latents["prior"]
        }  # fmt: skip


def test_there_is_no_sphere_of_one_number() -> None:
    assert "sphere" in usual(2)
    assert len(candidates(usual(1), 1)) == len(set(usual(2)) - {"sphere", "dirichlet", "autoregressive"})


@pytest.mark.parametrize("count, finalists", [(2, 4), (4, 4), (11, 4), (7, 1), (3, 2)])
def test_each_round_halves_the_candidates(count: int, finalists: int) -> None:
    field = rungs(count, 6400, 3, finalists)
    assert field[0].candidates == count
    assert field[-1] == (min(count, finalists), 6400, 3)
    for one, two in pairwise(field):
        assert two.candidates == max(finalists, -(-one.candidates // 2))
        assert (one.seeds, 2 * one.steps) == (1, two.steps)


# ----------------------------------------------------------------------------------------------- the whole


def test_a_comparison_writes_a_table_a_picture_and_a_model(chosen: Path, data: ladle.Dataset) -> None:
    found = Selection.from_json(json.loads((chosen / "select.json").read_text()))
    assert {row.family for row in found.rows} == {"normal", "laplace", "categorical:3"}
    assert [row.status for row in found.rows] == ["finalist"] * 3
    assert found.rows[0].difference == 0.0
    assert found.rows[0].se is None
    for row in found.rows[1:]:
        assert row.se > 0
        assert row.difference >= 0
        assert np.isclose(row.nats - found.rows[0].nats, row.difference)
    assert (chosen / "select.png").read_bytes().startswith(b"\x89PNG")
    assert all(name in str(found) for name in ("laplace", "P(worse)", found.verdict))
    assert len(ladle.sample(ladle.load(chosen), 3)) == 3
    best = next(r for r in found.rows if r.family == found.best)
    assert best.valid == min(row.valid for row in found.rows)
    kept = ladle.load(chosen).config["fit"]["recipe"]
    assert kept == f"select {found.best}"


def test_the_report_draws_the_comparison(chosen: Path, data: ladle.Dataset, tmp_path: Path) -> None:
    run = shutil.copytree(chosen, tmp_path / "run")
    ladle.report(run, data, quick=True)
    page = (run / "report.html").read_text()
    assert 'class="forest"' in page
    (run / "select.json").write_text(json.dumps({"verdict": "<script>", "rows": [{"family": 1}]}))
    ladle.report(run, data, quick=True)
    page = (run / "report.html").read_text()
    assert "cannot be read" in page
    assert "<script>" not in page


class Stop(Exception):
    """Raised by a test to interrupt a comparison."""


def test_an_interrupted_comparison_is_resumed(
    chosen: Path, data: ladle.Dataset, plan: dict[str, Any], tmp_path: Path
) -> None:
    """Stopped in the middle of the second candidate's training: the first is not trained again, the second
    continues from its checkpoint, and the result is bit-identical."""
    began: list[str] = []

    def until(limit: str, step: int) -> Any:
        def progress(what: str) -> Any:
            began.append(what)

            def show(done: int, total: int) -> None:
                if what.startswith(limit) and done == step:
                    raise Stop

            return show

        return progress

    ask = {"families": ["normal", "laplace", "categorical:3"], "recipe": plan, **QUICK}
    with pytest.raises(Stop):
        ladle.select(data, tmp_path, **ask, progress=until("laplace, seed 1: training", 7))
    began.clear()
    first: list[int] = []
    seen = until("nothing", 0)

    def watch(what: str) -> Any:
        seen(what)
        return lambda done, total: first.append(done) if what.startswith("laplace, seed 1: training") else None

    again = ladle.select(data, tmp_path, **ask, resume=True, progress=watch)
    assert not any(what.startswith(("normal, seed 0: training", "normal, seed 1: training")) for what in began)
    assert first[0] == 8
    before = Selection.from_json(json.loads((chosen / "select.json").read_text()))
    assert [(r.family, r.nats, r.se) for r in again.rows] == [(r.family, r.nats, r.se) for r in before.rows]
    began.clear()
    assert ladle.select(data, tmp_path, **ask, resume=True, progress=until("nothing", 0)).verdict == again.verdict
    assert not began
    with pytest.raises(ladle.ModelError, match="other seeds"):
        ladle.select(data, tmp_path, **{**ask, "seeds": 3}, resume=True)


def test_a_failed_candidate_is_reported_and_the_others_continue(
    data: ladle.Dataset, plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One candidate cannot be assembled, and one diverges."""
    from ladle.comparison import race

    fit = race.fit

    def diverging(assembly: Any, *args: Any, **kwargs: Any) -> Any:
        if "laplace" in json.dumps(assembly.recipe["latents"]):
            raise ladle.TrainingError("the numbers broke 11 times\nand more")
        return fit(assembly, *args, **kwargs)

    monkeypatch.setattr(race, "fit", diverging)
    ask: dict[str, Any] = {**QUICK, "latents": 1, "seeds": 1}
    found = ladle.select(
        data, tmp_path / "run", families=["normal", "laplace", "sphere", "bernoulli"], recipe=plan, **ask
    )
    rows = {row.family: row for row in found.rows}
    assert [rows[name].status for name in ("laplace", "sphere")] == ["failed"] * 2
    assert rows["laplace"].reason == "the numbers broke 11 times"
    assert "on a sphere" in rows["sphere"].reason
    assert [row.family for row in found.rows if row.status == "finalist"]
    assert "laplace failed: the numbers broke 11 times" in str(found)
    assert "one seed" in found.verdict
    with pytest.raises(ladle.TrainingError, match=r"every candidate failed.*numbers broke"):
        ladle.select(data, tmp_path / "none", families=["laplace", "laplace/logistic"], recipe=plan, **ask)


def test_minutes_make_steps(
    data: ladle.Dataset, plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A measured pace, and the steps that follow from a known pace: 2 candidates of half a second per step."""
    race = Race(data, plan, tmp_path, "cpu", lambda what: lambda done, total: None)
    measured = pace(race, candidate("normal", 2), 0.01, 5)
    assert all(seconds > 0 for seconds in measured)
    monkeypatch.setattr(choice, "pace", lambda *arguments: Pace(0.5, 0.0, 0.0, 0.0))
    ask = {**QUICK, "steps": None, "seeds": 1}
    found = ladle.select(data, tmp_path / "run", families=["normal", "laplace"], recipe=plan, minutes=0.5, **ask)
    assert 25 <= found.about["steps"] <= 30
    dear = 15.0 / len(race.held("test"))  # both, once: more than the half minute
    monkeypatch.setattr(choice, "pace", lambda *arguments: Pace(0.05, 0.0, dear, 0.0))
    fewer = ladle.select(data, tmp_path / "few", families=["normal", "laplace"], recipe=plan, minutes=0.5, **ask)
    assert fewer.about["items"] < found.about["items"], "measuring must leave half of the time to training"
    with pytest.raises(ladle.DataError, match="time is not enough"):
        ladle.select(data, tmp_path / "no", families=["normal", "laplace"], recipe=plan, minutes=0.05, **ask)
    assert not (tmp_path / "no").exists(), "a later call may have more time"

    def broken(race: Race, one: Any, *told: Any) -> Pace:
        if one.name == "laplace":
            raise ladle.TrainingError("the numbers broke")
        return Pace(0.5, 0.0, 0.0, 0.0)

    monkeypatch.setattr(choice, "pace", broken)
    found = ladle.select(data, tmp_path / "one", families=["normal", "laplace"], recipe=plan, minutes=0.5, **ask)
    assert {row.family: row.status for row in found.rows} == {"normal": "finalist", "laplace": "failed"}


def test_a_closer_method_corrects_the_bound_if_it_is_available(
    data: ladle.Dataset, plan: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If k shows that the bound is unreliable, the improvement of a closer method on some items corrects the mean."""
    from ladle.comparison import race as race_module

    race = Race(data, plan, tmp_path, "cpu", lambda what: lambda done, total: None)
    model = race.trained(candidate("normal", 2), 24, 0)
    bound = race.measured(model, "normal", 0, "test", 2)
    assert np.isnan(bound.closer)
    measure, held = race_module.measure, len(race.held("test"))

    def doubtful(*args: Any, **kwargs: Any) -> Any:
        found = measure(*args, **kwargs)
        return found._replace(k_hat=np.ones(len(found.nats)))

    monkeypatch.setattr(race_module, "measure", doubtful)
    monkeypatch.setattr(race_module, "AGAIN", 7)
    exact = race.measured(model, "normal", 0, "test", 2)
    truth = ladle.measure(model, race.held("test").take(np.arange(7)), method="exact").nats
    gain = bound.nats[:7] - truth
    assert gain.mean() > 0
    np.testing.assert_allclose(exact.closer, gain.mean())
    np.testing.assert_allclose(exact.nats.mean(), bound.nats.mean() - gain.mean())
    monkeypatch.setattr(race_module, "AGAIN", held)
    whole = race.measured(model, "normal", 0, "test", 2)
    np.testing.assert_allclose(whole.nats, ladle.measure(model, race.held("test"), method="exact").nats)

    def unsettled(*args: Any, **kwargs: Any) -> Any:
        if kwargs.get("method"):
            raise ladle.NotAvailable("quadrature did not settle")
        return doubtful(*args, **kwargs)

    monkeypatch.setattr(race_module, "measure", unsettled)
    assert np.isnan(race.measured(model, "normal", 0, "test", 2).closer)


def test_a_corrected_mean_has_the_error_of_a_difference_estimator() -> None:
    """The stated variance of the mean against that over 2,000 repetitions: 400 items, 50 of them measured twice."""
    rng = np.random.default_rng(0)
    means, stated = [], []
    for _ in range(2000):
        nats = rng.normal(90, 3, 400)
        change = -rng.exponential(1.0, 50) - 0.1 * (nats[:50] - 90)
        found = corrected(nats, change)
        means.append(found.mean())
        stated.append(found.var(ddof=1) / 400)
    assert abs(np.mean(means) - 89) < 4 * np.std(means) / math.sqrt(2000)
    assert np.mean(stated) == pytest.approx(np.var(means), rel=0.12)


@pytest.mark.parametrize(
    "asked, told",
    [
        ({"families": ["normal", "gausian"]}, "unknown candidate 'gausian'; known: .*normal"),
        ({"families": ["normal"]}, "at least 2 candidates"),
        ({"families": ["normal", "normal"]}, "every candidate must be given once"),
        ({"families": ["normal", "laplace:3"]}, "takes no number"),
        ({"families": ["normal", "laplace/nowhere"]}, "unknown family 'nowhere'"),
        ({"families": ["normal", "a b"]}, "written NAME"),
        ({"samples": 0}, "samples must be above 0"),
        ({"seeds": 0}, "seeds must be above 0"),
        ({"minutes": 1.0}, "steps or minutes, not both"),
    ],
)
def test_bad_input_is_refused(asked: dict[str, Any], told: str, data: ladle.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=told):
        ladle.select(data, tmp_path, **{**QUICK, "families": ["normal", "laplace"], **asked})
    assert not list(tmp_path.iterdir())


def test_a_folder_in_use_is_not_touched(chosen: Path, data: ladle.Dataset, tmp_path: Path) -> None:
    with pytest.raises(ladle.ModelError, match="--resume continues"):
        ladle.select(data, chosen, **QUICK)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ladle.ModelError, match="must be empty or contain a comparison"):
        ladle.select(data, tmp_path, **QUICK, force=True)


def test_the_command(tmp_path: Path, data: ladle.Dataset) -> None:
    table = tmp_path / "bits.npy"
    np.save(table, data.all.x[:, 0])
    out = tmp_path / "run"
    ask = ["select", str(table), "--out", str(out), "--families", "normal,bernoulli", "--latents", "2", "--steps", "20",
           "--seeds", "1", "--samples", "5", "--json"]  # fmt: skip
    done = CliRunner().invoke(app, ask)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["verdict"]
    assert {row["family"] for row in found["rows"]} == {"normal", "bernoulli"}
    assert (out / "report.html").exists()
    again = CliRunner().invoke(app, [*ask, "--resume"])
    assert json.loads(again.stdout)["rows"] == found["rows"]


def test_a_signal_is_not_a_failure_of_a_candidate(
    tmp_path: Path, data: ladle.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After SIGTERM in the first training no candidate is marked as failed, and --resume finishes the comparison."""
    from ladle.cli import select

    asked: list[None] = []

    def received() -> int:
        asked.append(None)
        return signal.SIGTERM if len(asked) > 10 else 0

    @contextmanager
    def after_ten_steps() -> Iterator[Any]:
        yield received

    table = tmp_path / "bits.npy"
    np.save(table, data.all.x[:, 0])
    out = tmp_path / "run"
    ask = ["select", str(table), "--out", str(out), "--families", "normal,laplace", "--latents", "2", "--steps", "20",
           "--seeds", "1", "--samples", "5", "--json"]  # fmt: skip
    with monkeypatch.context() as patched:
        patched.setattr(select, "interruptible", after_ten_steps)
        stopped = CliRunner().invoke(app, ask)
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert "--resume" in stopped.stderr
    assert not list(out.rglob("failed.json"))
    done = CliRunner().invoke(app, [*ask, "--resume"])
    assert {row["status"] for row in json.loads(done.stdout)["rows"]} == {"finalist"}
