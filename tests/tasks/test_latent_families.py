"""Every family of latents as posterior and prior of a small model: the model trains, and every task works."""

from __future__ import annotations

import functools
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ladle
from ladle.data import make_batch
from ladle.families import NotAvailable
from ladle.health.measures import units
from ladle.model.latents import replay
from ladle.shapes import sum_event
from ladle.spec import SpecError
from ladle.store.folder import Model
from toys import narrow

NORMAL = {"part": "family/normal"}
FAMILIES: dict[str, dict[str, Any]] = {
    name: {"part": f"family/{name}"}
    for name in ("full_normal", "von_mises", "power_spherical", "dirichlet", "logistic_normal", "beta", "bernoulli")
} | {"one_hot": {"part": "family/one_hot", "classes": 3}}
SIZE = 6
PRIORS = {
    "standard": {"part": "prior/standard"},
    "learned": {"part": "prior/learned"},
}
MIXED = {  # a posterior under a prior of another family on the same support
    "normal under full_normal": (NORMAL, {"part": "prior/learned", "family": FAMILIES["full_normal"]}),
    "full_normal under normal": (FAMILIES["full_normal"], {"part": "prior/standard", "family": NORMAL}),
    "full_normal under autoregressive": (FAMILIES["full_normal"], {"part": "prior/autoregressive", "width": 12}),
    "dirichlet under logistic_normal": (
        FAMILIES["dirichlet"],
        {"part": "prior/learned", "family": FAMILIES["logistic_normal"]},
    ),
}
CASES = {f"{name} under {kind}": (family, prior) for name, family in FAMILIES.items() for kind, prior in PRIORS.items()}
CASES |= MIXED


@functools.cache
def digits() -> ladle.Dataset:
    return ladle.read(ladle.read("digits").all.x[:500, 0] >= 8)


def plan(posterior: dict[str, Any], prior: dict[str, Any] | None, size: int = SIZE) -> dict[str, Any]:
    found = narrow("vae", digits().schema, width=32)
    return {**found, "latents": {"size": size, "posterior": posterior, "prior": prior}}


def fitted(posterior: dict[str, Any], prior: dict[str, Any], folder: Path | None, epochs: int = 8) -> list[ladle.Step]:
    assembly = ladle.assemble(digits().schema, plan(posterior, prior), seed=3)
    return list(ladle.fit(assembly, digits(), epochs=epochs, seed=3, run=folder))


@pytest.mark.parametrize("case", CASES)
def test_every_family_from_end_to_end(case: str, tmp_path: Path) -> None:
    steps = fitted(*CASES[case], tmp_path / "run")
    nats = [s.nats for s in steps if s.kind == "train"]
    assert np.isfinite(nats).all()
    assert np.mean(nats[-3:]) < nats[0] - 2

    model, items = ladle.load(tmp_path / "run", "cpu"), digits().all.take(np.arange(12))
    z = ladle.encode(model, items)
    assert z.shape == (12, SIZE)
    latents = model.vae.latents
    assert bool(latents.posterior.family.support.check(torch.from_numpy(z)).all())
    assert len(np.unique(z, axis=0)) > 1, "the centres do not depend on the items"
    np.testing.assert_allclose(ladle.decode(model, z), ladle.reconstruct(model, items), rtol=1e-6, atol=1e-6)
    for temperature in (1.0, 0.7):
        sampled = ladle.sample(model, 5, seed=1, temperature=temperature)
        assert sampled.shape == (5, 1, 8, 8)
        assert np.array_equal(sampled, ladle.sample(model, 5, seed=1, temperature=temperature))
    scores = [ladle.score(model, items, samples=20, batch=n) for n in (1, 5, 12)]
    for score in scores:
        np.testing.assert_allclose(score, scores[0], rtol=1e-6, atol=1e-3)
    found = ladle.evidence(model, digits(), samples=50, split="test")
    assert found.nats < nats[0]
    assert found.ess > 0.02


def logs_of_everything(model: Model, items: ladle.Split, values: torch.Tensor) -> torch.Tensor:
    """``log p(x, z)`` of every item and every value of z, ``(Z, N)``."""
    batch = make_batch(items, model.schema, torch.arange(len(items)))
    with torch.no_grad():
        rows = []
        for z in values:
            zs = [z.expand(len(items), -1)]
            blank = model.vae.blank(len(items))
            trace = model.vae.walk(replay(zs), blank)
            rows.append(sum_event(model.vae.explain(trace.h, blank).log_prob(batch.x), 1) + trace.levels[0].log_p)
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["bernoulli", "one_hot"])
def test_codes_are_evaluated_as_codes(name: str, tmp_path: Path) -> None:
    """The bound with 2,000 samples equals log p(x) by enumeration up to its noise, so no relaxation is used."""
    fitted(FAMILIES[name], PRIORS["learned"], tmp_path / "run", epochs=3)
    model, items = ladle.load(tmp_path / "run", "cpu"), digits().all.take(np.arange(10))
    choices = [(0.0, 1.0)] * SIZE if name == "bernoulli" else [torch.eye(3).tolist()] * 2
    values = torch.tensor(list(itertools.product(*choices))).reshape(-1, SIZE)
    logs = logs_of_everything(model, items, values).double()
    exact = -logs.logsumexp(0).numpy()
    found = ladle.score(model, items, samples=2000)
    # log_w = log p(x, z) - log q(z|x) has this standard deviation under q; the error of 2,000 weights follows
    batch = make_batch(items, model.schema, torch.arange(10))
    with torch.no_grad():
        q = model.vae.latents.posterior(model.vae.latents.reads(batch.x, None), {})
        log_q = torch.stack([sum_event(q.log_prob(z.expand(10, -1)), 1) for z in values]).double()
    torch.testing.assert_close(log_q.logsumexp(0), torch.zeros(10, dtype=torch.float64), rtol=0.0, atol=1e-5)
    posterior = logs.softmax(0)
    chi = (posterior * (posterior.log() - log_q).exp()).sum(0) - 1  # the variance of w / E w
    error = (chi / 2000).sqrt().numpy()
    assert error.max() < 0.2
    assert (np.abs(found - exact) <= 5 * error + 1e-4).all()  # a false alarm in 100,000 runs


def test_what_no_latents_can_have() -> None:
    cases = [
        ({"part": "family/one_hot", "classes": 4}, 6, "multiple of the number of classes, 4, got an event of size"),
        (FAMILIES["power_spherical"], 1, "at least 2 numbers"),
        (FAMILIES["dirichlet"], 1, "at least 2 numbers"),
        (FAMILIES["logistic_normal"], 1, "at least 2 numbers"),
    ]
    for posterior, size, told in cases:
        with pytest.raises(SpecError, match=told) as raised:
            ladle.assemble(digits().schema, plan(posterior, PRIORS["standard"], size))
        assert posterior["part"] in str(raised.value)


@pytest.mark.parametrize("name", ["von_mises", "power_spherical", "dirichlet", "one_hot"])
def test_a_prior_elsewhere_is_refused(name: str) -> None:
    for prior in ({"part": "prior/standard", "family": NORMAL}, {"part": "prior/autoregressive"}):
        with pytest.raises(SpecError, match="must have the same support"):
            ladle.assemble(digits().schema, plan(FAMILIES[name], prior))


def test_gradients_that_need_a_reparameterised_posterior() -> None:
    for name in FAMILIES:
        wanted = {**plan(FAMILIES[name], PRIORS["standard"]), "objective": {"part": "objective/elbo", "sticking": True}}
        if name in ("bernoulli", "one_hot"):
            with pytest.raises(SpecError, match="reparameterised"):
                ladle.assemble(digits().schema, wanted)
        else:
            ladle.assemble(digits().schema, wanted)


def test_a_joint_likelihood_of_a_table() -> None:
    """A likelihood with correlated residuals gains nats, and missing values are refused."""
    rng = np.random.default_rng(0)
    pair = np.array([[1.0, 0.95], [0.0, 0.3]])  # two directions, of which the single latent explains one
    x = (rng.normal(size=(400, 4)) @ np.kron(np.eye(2), pair)).astype(np.float32)
    data = ladle.read(x)
    nats = {}
    for name in ("normal", "full_normal"):
        wanted = narrow("vae", data.schema, latents=1)
        wanted["likelihood"] = {**wanted["likelihood"], "family": {"part": f"family/{name}"}}
        wanted["training"] = {"rate": 0.02, "batch": 25}
        assembly = ladle.assemble(data.schema, wanted, seed=0)
        for _ in ladle.fit(assembly, data, epochs=40, seed=0):
            pass
        model = Model(assembly.model.eval().requires_grad_(False), data.schema, {}, "cpu")
        nats[name] = ladle.evidence(model, data, samples=50).nats
    best = 0.5 * (4 * math.log(2 * math.pi * math.e) + np.linalg.slogdet(np.cov(x.T))[1])  # the best normal
    assert nats["full_normal"] < nats["normal"] - 0.2
    assert abs(nats["full_normal"] - best) < 0.3
    x[0, 0] = np.nan
    holed = ladle.read(x, missing="nan")
    with pytest.raises(SpecError, match="element-wise family"):
        ladle.assemble(holed.schema, wanted)


def test_no_latents_of_one_number_after_the_other() -> None:
    """A joint family without conditionals raises an error if they are needed."""
    assembly = ladle.assemble(digits().schema, plan(FAMILIES["power_spherical"], PRIORS["standard"]))
    model = Model(assembly.model.eval().requires_grad_(False), digits().schema, {}, "cpu")
    with pytest.raises(NotAvailable, match="chain"):
        units(model, digits().all.take(np.arange(4)))
