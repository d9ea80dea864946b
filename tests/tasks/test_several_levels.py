"""Tasks with hierarchical models, from training to the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import ladle
from ladle.cli import main
from ladle.data import DataError
from ladle.families import NotAvailable
from ladle.health.measures import units
from ladle.shapes import numel
from toys import narrow

TOP = 2  # latents


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny hierarchical model of the digits, with six levels."""
    folder, data = tmp_path_factory.mktemp("ladder") / "run", ladle.read("digits")
    plan = narrow("vdvae", data.schema)
    plan["latents"] |= {"blocks": f"1:{TOP}, 2x2, 4x3", "width": 12}
    settings = {"recipe": "vdvae", "size": "xs"}
    for _ in ladle.fit(
        ladle.assemble(data.schema, plan, seed=1), data, epochs=4, seed=1, run=folder, settings=settings
    ):
        pass
    return folder


@pytest.fixture
def model(run: Path) -> ladle.Model:
    return ladle.load(run, "cpu")


def test_levels_are_concatenated_from_the_top(model: ladle.Model) -> None:
    every, top = ladle.encode(model, "digits"), ladle.encode(model, "digits", levels="top")
    assert every.shape[1] == sum(numel(e) for e in model.vae.latents.events)
    assert np.array_equal(top, every[:, :TOP])
    with pytest.raises(DataError, match="unknown levels 'bottom'; known: all, top"):
        ladle.encode(model, "digits", levels="bottom")


def test_levels_that_are_not_given_are_decoded_at_their_centres(model: ladle.Model) -> None:
    x = ladle.read("digits").test.x[:6]
    every = ladle.encode(model, x)
    for keep, columns in ((1, TOP), (3, TOP + 2 * 4), (6, every.shape[1])):
        again = ladle.reconstruct(model, x, keep=keep)
        np.testing.assert_allclose(ladle.decode(model, every[:, :columns]), again, atol=1e-3)
    assert np.array_equal(again, ladle.reconstruct(model, x))
    for wrong in (TOP + 1, every.shape[1] + 1):
        with pytest.raises(DataError, match=rf"shape \(N, {every.shape[1]}\), or \(N, {TOP}\) of the top"):
            ladle.decode(model, np.zeros((2, wrong)))


def test_the_gist_is_kept_and_the_detail_varied(model: ladle.Model) -> None:
    x = ladle.read("digits").test.x[:6]
    spread = [ladle.reconstruct(model, x, draws=20, keep=keep).var(1).mean() for keep in (1, 6)]
    assert spread[0] > spread[1], "detail from the prior varies more than detail from the posterior"
    whole = ladle.reconstruct(model, x, draws=2, keep=2, batch=6)
    for size in (1, 4):  # noise is keyed by item also if it is drawn from the prior
        np.testing.assert_allclose(ladle.reconstruct(model, x, draws=2, keep=2, batch=size), whole, atol=1e-3)
    for keep in (0, 7):
        with pytest.raises(DataError, match="between 1 and the 6"):
            ladle.reconstruct(model, x, keep=keep)


def test_importance_weights_include_all_levels(model: ladle.Model) -> None:
    """The bound decreases with K for every proposal, and all proposals bound the same quantity."""
    x = ladle.read("digits").test.x[:40]
    found = {p: ladle.evidence(model, x, samples=1000, proposal=p) for p in ("q", "inflated", "defensive")}
    for evidence in found.values():
        nats = [n for _, n in evidence.curve]
        assert nats[-1] < nats[0]
    assert abs(found["q"].nats - found["inflated"].nats) < 1.0
    assert found["defensive"].nats - found["q"].nats < 3.0


def test_functions_for_one_level_refuse_several(model: ladle.Model) -> None:
    x = ladle.read("digits").test.x[:2]
    assert ladle.evidence(model, x, method="ais", samples=2).method == "iwae"
    with pytest.raises(NotAvailable, match=r"one level of latents.*58 latents in 6 levels.*iwae"):
        ladle.sandwich(model, 2)
    with pytest.raises(NotAvailable, match=r"58 latents in 6 levels.*iwae"):
        ladle.evidence(model, x, method="exact")
    with pytest.raises(NotAvailable, match="one level"):
        ladle.amortisation_gap(model, ladle.read("digits").test, items=2)
    with pytest.raises(ladle.SpecError, match="recipes that fit: vae"):
        ladle.select("digits", "nowhere", recipe="vdvae", steps=1)
    from ladle.sklearn import VAE

    with pytest.raises(ladle.SpecError, match="n_components must be None"):
        VAE(recipe="lvae", n_components=3, size="xs").fit(np.random.default_rng(0).normal(size=(40, 5)))


def test_the_kl_of_the_latents_sums_to_that_of_the_bound(model: ladle.Model) -> None:
    test = ladle.tasks.common.items(model, "digits")
    found = units(model, test)
    assert found.kl.shape == found.spread.shape == (58,)
    assert 0 < found.kl.sum() < ladle.evidence(model, test, samples=1).nats
    unused = found.kl < 1e-4
    assert (found.spread[unused] < 0.05).all(), "a latent that equals its prior has a constant centre"


def test_the_health_check_of_several_levels(model: ladle.Model) -> None:
    health = ladle.check(model, ladle.read("digits"))
    found = {f.name: f for f in health.findings}
    assert all(found[name].ok for name in ("weights", "supports", "neighbours", "normalisation"))
    assert found["information"].ok is None
    assert "one level" in found["information"].reason
    assert found["shuffle"].measured["drop"] > 0


def test_the_report_of_several_levels(run: Path) -> None:
    ladle.report(run, quick=True)
    page = (run / "report.html").read_text()
    assert "z₅₋₄" in page
    assert "2 levels of 1 × 2 × 2" in page
    assert "top-down: 3 levels" in page
    assert "levels 1:2, 2x2, 4x3" in (run / "README.md").read_text()


def test_the_command_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    z, x = tmp_path / "z.npy", tmp_path / "x.npy"

    def call(*arguments: object) -> dict:
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in arguments])
        assert not left.value.code
        return json.loads(capsys.readouterr().out)

    assert call("encode", run, "digits", z, "--levels", "top", "--json")["latents"] == TOP
    call("decode", run, z, x, "--json")
    assert np.load(x).shape == (len(np.load(z)), 1, 8, 8)
    call("reconstruct", run, "digits", x, "--keep", "1", "--draws", "2", "--force", "--json")
    assert np.load(x).shape[1] == 2
