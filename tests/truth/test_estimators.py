"""Every estimator on the linear model, whose exact solution is known, and on deep models against brute force."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import ladle
from ladle.inference.importance import log_weights
from ladle.inference.linear_gaussian import LinearGaussian, gaussian, ppca
from ladle.objectives import Progress, bound
from ladle.objectives.elbo import Elbo
from ladle.objectives.likelihood import ExpectationMaximisation, MaximumLikelihood
from ladle.seeds import seeded
from ladle.spec import build
from ladle.store.folder import Model
from ladle.tasks.laplace import Laplace, laplace
from linear_truth import evidence, linear_vae, rows, set_to, spectrum, training_batch, units, weights
from toys import narrow

END = Progress(1.0, 100)


@pytest.fixture(scope="module")
def data() -> ladle.Dataset:
    return ladle.read(rows())


def answer(data: ladle.Dataset, q: int = 2, precision: float = 0.0) -> LinearGaussian:
    """The exact solution, in the units of the likelihood."""
    loc, scale = units(data.schema)
    return ppca((data.train.x - loc) / scale, q, precision)


def exact_evidence(data: ladle.Dataset, precision: float = 0.0) -> float:
    model = answer(data, 2, precision).moved(*units(data.schema))
    return float(model.log_prob(data.train.x).mean())


def trained(data: ladle.Dataset, estimator: str, epochs: int) -> ladle.Assembly:
    assembly = linear_vae(data.schema, 2, estimator, len(data.train))
    *_, last = ladle.fit(assembly, data, epochs=epochs)
    assert last.kind == "done"
    return assembly


def test_variational_inference_reaches_the_exact_evidence() -> None:
    """With 4 latents on data with 2 eigenvalues above the noise, the bound equals the evidence, importance weights are
    constant, 2 latents are active, and their columns are the principal directions.

    A latent that fits only noise changes the bound by v^2 / 4 nats, where v is the variance of its means, so it
    vanishes slowly; a latent counts as active if v is above a tenth of the variance of the prior. Columns rotated by 9
    degrees lower the bound by 0.01 nat here.
    """
    data = spectrum([9.0, 4.0, *[0.5] * 6])
    assembly = linear_vae(data.schema, 4)
    *_, _ = ladle.fit(assembly, data, epochs=400)
    target = answer(data, 4)
    best = float(target.moved(*units(data.schema)).log_prob(data.train.x).mean())
    assert best - 0.01 < evidence(assembly, data) <= best + 1e-6
    log_w = weights(assembly, data)
    assert float(log_w.mean()) > best - 0.01
    assert float(log_w.std(0).mean()) < 0.1
    means = gaussian(assembly.model).posterior(data.train.x).mean.detach()
    active = means.var(0) > 0.1
    assert int(active.sum()) == target.active == 2
    inner = assembly.model.likelihood.head.weight.detach().double()[:, active]
    ours, theirs = (w / w.norm(dim=0) for w in (inner, target.weight[:, :2]))
    assert float((ours.mT @ theirs).abs().amax(0).min()) > math.cos(math.radians(10))


@pytest.mark.parametrize("name", ["ml", "em"])
def test_maximum_likelihood_is_reached(data: ladle.Dataset, name: str) -> None:
    best = exact_evidence(data)
    assert best - 0.002 < evidence(trained(data, name, 200), data) <= best


def test_maximum_a_posteriori_is_the_shrunk_solution_and_converges_to_ml(data: ladle.Dataset) -> None:
    assembly = linear_vae(data.schema, 2)
    plan = ladle.estimator(assembly.recipe, "map", len(data.train), precision=40.0)
    assembly = ladle.assemble(data.schema, plan)
    *_, _ = ladle.fit(assembly, data, epochs=150)
    target = answer(data, 2, 40.0)
    weight = assembly.model.likelihood.head.weight.detach().double()
    torch.testing.assert_close(weight @ weight.mT, target.weight @ target.weight.mT, rtol=0, atol=0.01)
    assert float(weight.square().sum()) < 0.95 * float(answer(data).weight.square().sum())
    gaps = []
    for n in (100, 1000, 10_000):
        x = rows(n, seed=3)
        gaps.append(float((ppca(x, 2).covariance - ppca(x, 2, 1.0).covariance).norm()))
    assert gaps[0] > 8 * gaps[1] > 64 * gaps[2] > 0, "the effect of the prior must fall like 1 / N"


def test_the_gradient_of_exact_em_is_that_of_the_evidence(data: ladle.Dataset) -> None:
    """Fisher's identity holds. With an exact q the gradient of the encoder is zero for each objective, including
    sticking the landing with single draws."""
    assembly = linear_vae(data.schema, 2)
    set_to(assembly, answer(data)._replace(mean=torch.full((6,), 0.3).double()))
    slopes, evidences = {}, {}
    for objective in (MaximumLikelihood(), ExpectationMaximisation(), Elbo(sticking=True)):
        objective.attach(assembly.model)
        assembly.model.zero_grad()
        with seeded(0):
            terms = assembly.model(training_batch(data), objective.samples)
        loss = objective(terms, END)
        loss.scalar.backward()
        slopes[type(objective)] = [p.grad.clone() for p in assembly.model.likelihood.parameters()]
        encoder = torch.cat([p.grad.flatten() for p in assembly.model.latents.parameters()])
        assert float(encoder.abs().max()) < 1e-3
        evidences[type(objective)] = -float(loss.per_item.detach().mean())
    for a, b in zip(slopes[MaximumLikelihood], slopes[ExpectationMaximisation], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    assert max(float(s.abs().max()) for s in slopes[MaximumLikelihood]) > 0.01
    for objective in (MaximumLikelihood, ExpectationMaximisation):
        np.testing.assert_allclose(evidences[objective], evidence(assembly, data), rtol=1e-6)


def test_monte_carlo_em_has_the_exact_gradient_in_expectation(data: ladle.Dataset) -> None:
    """An objective that is not attached to the linear model draws from q. With an exact q the weights are equal, and
    the mean over 20 repeats is within 4.5 standard errors for every parameter (19 of them; false alarms below 1 in
    5,000)."""
    assembly = linear_vae(data.schema, 2)
    set_to(assembly, answer(data)._replace(mean=torch.full((6,), 0.3).double()))
    exact, sampled = MaximumLikelihood(), ExpectationMaximisation(50)
    exact.attach(assembly.model)
    found = {}
    for objective, repeats in ((exact, 1), (sampled, 20)):
        slopes = []
        for repeat in range(repeats):
            assembly.model.zero_grad()
            with seeded(repeat):
                objective(assembly.model(training_batch(data), objective.samples), END).scalar.backward()
            slopes.append(torch.cat([p.grad.flatten() for p in assembly.model.likelihood.parameters()]))
        found[objective] = torch.stack(slopes)
    mean, error = found[sampled].mean(0), found[sampled].std(0) / math.sqrt(20)
    assert bool(((mean - found[exact][0]).abs() < 4.5 * error + 1e-4).all())
    assert not bool(((mean + 0.05 - found[exact][0]).abs() < 4.5 * error + 1e-4).all())


def test_the_monte_carlo_estimate_is_the_exact_evidence(data: ladle.Dataset) -> None:
    """Importance sampling from the prior and from an inexact q: the mean weight of each of 5 items is within 4.5
    standard errors of p(x) (false alarms below 1 in 10,000)."""
    assembly = linear_vae(data.schema, 2)
    set_to(assembly, answer(data))
    with torch.no_grad():
        assembly.model.latents.posterior.head.bias += torch.tensor([0.1, -0.1, 0.3, 0.3])
    batch = training_batch(data)
    few = batch._replace(x=batch.x[:5], index=batch.index[:5])
    truth = gaussian(assembly.model).log_prob(few.x)
    with torch.no_grad(), seeded(5):
        prior = assembly.model(few, (40_000,), lambda i, q, p: p.sample((40_000,))).log_px
        posterior = assembly.model(few, (2000,)).log_w
    for log_w in (prior.double(), posterior.double()):
        ratio = (log_w - truth.detach()).exp()
        z = (ratio.mean(0) - 1) / (ratio.std(0) / math.sqrt(len(ratio)))
        assert float(z.abs().max()) < 4.5
        assert float(ratio.std()) > 0.05


# ------------------------------------------------------------------------------------------------ Laplace


def fitted(x: np.ndarray, q: int) -> Model:
    """The linear model at its exact mode with N(0, 1) priors on the weights, as the estimator would fit it."""
    columns = x.shape[1]
    schema = ladle.Schema("table", (columns,), [ladle.Column("real", loc=0.0, scale=1.0)] * columns)
    assembly = linear_vae(schema, q, "map", len(x))
    set_to(assembly, ppca(x, q, 1.0))
    config = {"objective": assembly.recipe["objective"]}
    return Model(assembly.model.eval().requires_grad_(False), schema, config, "cpu")


def products(model: Model, posterior: Laplace, draws: torch.Tensor) -> torch.Tensor:
    """Posterior draws of the covariance of the first two columns, ``sum_q W_0q W_1q``."""
    start, weight = 0, None
    for name in posterior.names:
        mode = model.vae.get_parameter(name)
        if name.endswith("head.weight"):
            weight = mode + (draws @ posterior.factor.mT)[:, start : start + mode.numel()].reshape(-1, *mode.shape)
        start += mode.numel()
    return (weight[:, 0] * weight[:, 1]).sum(-1)


def test_the_laplace_interval_covers_at_its_level() -> None:
    """For 200 data sets of 300 items, the 90 % interval of a covariance, a product of weights, contains the true value
    in 180 ± 14 (99.9 % of the binomial distribution); an interval of half the width does so in far fewer."""
    weight, noise = torch.tensor([[1.0], [0.8], [-0.5]]).double(), 0.5
    truth, inside, inside_half = float(weight[0] * weight[1]), 0, 0
    with seeded(11):
        draws = torch.randn(1000, 13)
        for _ in range(200):
            z = torch.randn(300, 1).double()
            x = (z @ weight.mT + math.sqrt(noise) * torch.randn(300, 3).double()).float().numpy()
            model = fitted(x, 1)
            posterior = laplace(model, x, split=None)
            assert posterior.curvature == "exact"
            found = products(model, posterior, draws[:, : posterior.factor.shape[1]])
            low, high = np.quantile(found.numpy(), [0.05, 0.95])
            inside += low < truth < high
            middle, half = (low + high) / 2, (high - low) / 4
            inside_half += middle - half < truth < middle + half
    assert 166 <= inside <= 194, inside
    assert inside_half < 150


def test_rotations_are_excluded_and_draws_keep_the_evidence() -> None:
    x = rows(400, 5, 3, seed=2) - 5
    model = fitted(x, 3)
    posterior = laplace(model, x, split=None)
    assert posterior.factor.shape == (5 * 3 + 5 + 1, 5 * 3 + 5 + 1 - 3)
    over = ladle.predictive(model, posterior, x)
    mode = -float(gaussian(model.vae).log_prob(x).mean())
    # Drawing R weights costs half a chi-square of R degrees of freedom, over N, on the training data.
    assert mode < over.low < over.high < mode + 2 * 18 / (2 * 400)
    assert over.low < mode + 18 / (2 * 400) < over.high
    assert mode - 0.01 < over.nats < over.high


def test_the_last_layer_of_a_deep_model() -> None:
    """The curvature is the sum over items of the outer products of the gradients of the bound."""
    data = ladle.read(rows(60, 3, 1))
    plan = ladle.estimator(narrow("vae", data.schema, 2, 4), "laplace", len(data.train))
    assembly = ladle.assemble(data.schema, plan)
    *_, _ = ladle.fit(assembly, data, epochs=2)
    model = Model(assembly.model.eval().requires_grad_(False), data.schema, {"objective": plan["objective"]}, "cpu")
    found = laplace(model, data, split="train")
    assert found.curvature == "last layer"
    head, total = model.vae.likelihood.head.requires_grad_(True), 0
    batch = training_batch(data)
    for row in range(len(batch.x)):
        one = batch._replace(x=batch.x[row : row + 1], index=batch.index[row : row + 1])
        g = torch.autograd.grad(bound(log_weights(model.vae, one, 64, 0)).sum(), [head.weight, head.bias])
        g = torch.cat([part.flatten() for part in g]).double()
        total = total + g.outer(g)
    head.requires_grad_(False)
    total += torch.cat([torch.ones(head.weight.numel()), torch.zeros(head.bias.numel())]).double().diag()
    factor = found.factor.double()
    torch.testing.assert_close(factor.mT @ total @ factor, torch.eye(factor.shape[1]).double(), rtol=1e-3, atol=1e-3)
    assert factor.shape[1] >= head.weight.numel()
    over = ladle.predictive(model, found, data, split="test", draws=5)
    assert over.low <= over.high
    few = ladle.measure(model, data, split="test", at_most=3).index
    expected = ladle.predictive(model, found, data.test.take(few), draws=5)
    assert ladle.predictive(model, found, data, split="test", at_most=3, draws=5) == expected


# ------------------------------------------------------------------------------------------ invalid input


def test_invalid_estimators_are_refused() -> None:
    schema = ladle.Schema("image", (1, 28, 28), "binary")
    with pytest.raises(ladle.SpecError, match="known: vi, ml, map, em, laplace"):
        ladle.estimator(ladle.recipe("vae", schema), "mcmc", 10)
    for name in ("ml", "map", "em", "laplace"):
        with pytest.raises(ladle.SpecError, match="plain autoencoder"):
            ladle.estimator(ladle.recipe("ae", schema), name, 10)
    with pytest.raises(ladle.NotAvailable, match="may have at most 7 outputs"):
        ladle.last_layer(ladle.assemble(schema, "vae").model)
    with pytest.raises(ladle.SpecError, match="the data is binary"):
        ladle.recipe("linear_vae", schema)
    with pytest.raises(ValueError, match="precision above 0"):
        build({"part": "objective/map", "objective": {"part": "objective/ml"}, "items": 5, "precision": 0.0})


@pytest.mark.parametrize("name", ["ml", "map", "em"])
def test_deep_models_learn_by_every_estimator(name: str) -> None:
    data = ladle.read(rows(200, 4, 1))
    plan = ladle.estimator(narrow("vae", data.schema, 2, 8), name, len(data.train))
    first, *_, last = (s for s in ladle.fit(ladle.assemble(data.schema, plan), data, epochs=15) if s.kind == "valid")
    assert last.nats < first.nats - 0.3


@pytest.mark.parametrize("name", ["map", "em"])
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    data, ends = ladle.read(rows(60, 3, 1)), []
    plan = ladle.estimator(narrow("vae", data.schema, 2, 4), name, len(data.train))
    for interrupted in (False, True):
        run = tmp_path / str(interrupted)
        if interrupted:
            steps = ladle.fit(ladle.assemble(data.schema, plan), data, epochs=3, run=run)
            assert [next(steps).step for _ in range(4)][-1] > 1
            steps.close()
        *_, _ = ladle.fit(ladle.assemble(data.schema, plan), data, epochs=3, run=run, resume=interrupted)
        ends.append(ladle.load(run).vae.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ends[0].values(), ends[1].values(), strict=True))
