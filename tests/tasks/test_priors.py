"""Every learned prior, and a mixture as posterior, from fitting to the report, with the same tasks for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ladle
from ladle.data import make_batch
from ladle.model.latents import from_posterior
from ladle.reporting.graph import name_of, parts_of
from toys import narrow

NORMAL = {"part": "family/normal"}
MIXTURE = {"part": "family/mixture", "family": NORMAL, "components": 2}
CODABLE = {"mixture", "vamp", "posterior", "conditional"}
LATENTS: dict[str, dict[str, Any]] = {
    "mixture": {"posterior": NORMAL, "prior": {"part": "prior/mixture", "components": 5}},
    "vamp": {"posterior": NORMAL, "prior": {"part": "prior/vamp", "components": 10}},
    "flow": {"posterior": NORMAL, "prior": {"part": "prior/flow", "width": 16}},
    "conditional": {"posterior": NORMAL, "prior": {"part": "prior/conditional", "components": 2}},
    "posterior": {"posterior": MIXTURE, "prior": {"part": "prior/standard", "family": NORMAL}},
}


def plan(name: str, schema: ladle.Schema) -> dict[str, Any]:
    whole = narrow("vae", schema)
    return {**whole, "latents": {"size": 3, **LATENTS[name]}}


Fitted = tuple[str, Path, list[float]]


@pytest.fixture(scope="module", params=sorted(LATENTS))
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """The fitted model, its folder and the losses."""
    data = ladle.read("digits")
    folder = tmp_path_factory.mktemp(request.param) / "run"
    assembly = ladle.assemble(data.schema, plan(request.param, data.schema), seed=1)
    steps = ladle.fit(assembly, data, epochs=5, seed=1, run=folder)
    losses = [step.nats for step in steps if step.kind == "train"]
    return request.param, folder, losses


def test_the_loss_falls(fitted: Fitted) -> None:
    _, _, losses = fitted
    assert np.isfinite(losses).all()
    assert np.mean(losses[-10:]) < np.mean(losses[:10]) - 20


def test_a_saved_model_serves_every_task(fitted: Fitted) -> None:
    _, folder, _ = fitted
    model, data = ladle.load(folder), ladle.read("digits")
    x = data.test.x[:5]
    z = ladle.encode(model, x)
    assert z.shape == (5, 3)
    assert np.array_equal(z, ladle.encode(ladle.load(folder), x))
    assert ladle.decode(model, z).shape == x.shape
    for temperature in (1.0, 0.5):
        assert np.isfinite(ladle.sample(model, 4, temperature=temperature)).all()
    assert ladle.score(model, x)[:2] == pytest.approx(ladle.score(model, x[:2]))
    assert np.isfinite(ladle.evidence(model, x, samples=8).nats)


def test_the_health_check_finds_nothing_wrong_with_its_densities(fitted: Fitted) -> None:
    name, folder, _ = fitted
    digits = ladle.read("digits")
    few = ladle.Dataset(digits.schema, {"all": digits.test.take(np.arange(100))})
    findings = {f.name: f for f in ladle.check(ladle.load(folder), few).findings}
    for check in ("weights", "supports", "neighbours", "normalisation"):
        assert findings[check].ok, findings[check]
    assert ("p(z)" in findings["normalisation"].measured) == (name in CODABLE)


def test_the_report_names_it(fitted: Fitted) -> None:
    name, folder, _ = fitted
    vae = ladle.load(folder).vae
    told = " ".join(f"{where} {what} {shapes}" for where, what, shapes, _ in parts_of(vae))
    named = {
        "mixture": "prior: mixture (components 5) 3",
        "vamp": "prior: vamp (components 10) 3",
        "flow": "prior: flow (couplings 4, width 16) 3",
        "conditional": "prior: conditional (classes 10, components 2) 3",
        "posterior": "linear to mixture of normal",
    }
    assert named[name] in told
    assert name_of(vae.latents.posterior.family) == ("mixture of normal" if name == "posterior" else "normal")


@pytest.mark.parametrize("toy", ["table", "colour"])
@pytest.mark.parametrize("name", sorted(LATENTS))
def test_every_kind_of_data_is_walked_through(name: str, toy: str, toys: dict[str, ladle.Dataset]) -> None:
    """Also with missing values, which double the encoder's input, and with images, which are not vectors."""
    data = toys[toy]
    schema = replace(data.schema, label_names=("a", "b"))
    model = ladle.assemble(schema, plan(name, schema)).model
    labelled = data.train.relabelled(np.arange(len(data.train)) % 3 - 1)
    batch = make_batch(labelled, schema, torch.arange(6), given=model.context)
    terms = model(batch, (2,), from_posterior)
    assert terms.log_w.shape == (2, 6)
    terms.log_w.sum().backward()
    for path, parameter in model.named_parameters():
        assert parameter.grad is not None, path
        assert bool(parameter.grad.isfinite().all()), path


@pytest.mark.parametrize("name", ["mixture", "vamp", "flow"])
def test_a_prior_lives_where_the_posterior_does(name: str, toys: dict[str, ladle.Dataset]) -> None:
    schema = toys["bits"].schema
    whole = plan(name, schema)
    beta = {**whole, "latents": {**whole["latents"], "posterior": {"part": "family/beta"}}}
    if name == "flow":
        with pytest.raises(ladle.SpecError, match="must have the same support"):
            ladle.assemble(schema, beta)
        return
    vae = ladle.assemble(schema, beta).model
    z = vae.walk(lambda i, q, p: p.sample(), vae.blank(4)).h
    assert bool(((z > 0) & (z < 1)).all())


def test_a_mixture_can_be_stuck_to_its_landing(toys: dict[str, ladle.Dataset]) -> None:
    """Its draw is reparameterised, so the doubly reparameterised gradient is available, unlike for student_t."""
    data = toys["bits"]
    stuck = {**plan("posterior", data.schema), "objective": {"part": "objective/iwae", "particles": 3}}
    ladle.assemble(data.schema, stuck)
    heavy = {**MIXTURE, "family": {"part": "family/student_t"}}
    with pytest.raises(ladle.SpecError, match="reparameterised"):
        ladle.assemble(data.schema, {**stuck, "latents": {**stuck["latents"], "posterior": heavy}})


@pytest.mark.parametrize(
    ("prior", "told"),
    [
        ({"part": "prior/mixture", "components": 0}, "'prior/mixture': components must be at least 1"),
        ({"part": "prior/vamp", "components": 0}, "'prior/vamp': components must be at least 1"),
        ({"part": "prior/flow", "couplings": 3}, "'prior/flow': couplings must be even"),
        ({"part": "prior/vamps"}, "known: .*vamp"),
    ],
)
def test_what_cannot_be_built_is_named(prior: dict[str, Any], told: str, toys: dict[str, ladle.Dataset]) -> None:
    schema = toys["bits"].schema
    whole = plan("vamp", schema)
    with pytest.raises(ladle.SpecError, match=told):
        ladle.assemble(schema, {**whole, "latents": {**whole["latents"], "prior": prior}})
