"""Linear-Gaussian models: the closed forms agree with scipy and with each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.distributions import kl_divergence

import ladle
from ladle.inference.linear_gaussian import LinearGaussian, em, gaussian, mixture, ppca
from linear_truth import linear_vae, rows, set_to, units, weights

X = rows()


def random_model(seed: int = 0, d: int = 6, q: int = 2) -> LinearGaussian:
    g = torch.Generator().manual_seed(seed)
    weight, mean, noise = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((d, q), (d,), (d,)))
    return LinearGaussian(weight, mean + 5, noise.exp())


def test_evidence_is_the_normal_density() -> None:
    model = random_model()
    oracle = multivariate_normal(model.mean.numpy(), model.covariance.numpy()).logpdf(X)
    np.testing.assert_allclose(model.log_prob(X).numpy(), oracle, rtol=1e-10)
    assert abs(float(model.average(torch.tensor(X.mean(0)).double(), torch.tensor(np.cov(X.T, bias=True))))
               - oracle.mean()) < 1e-5  # fmt: skip


def test_evidence_of_observed_values_is_the_marginal() -> None:
    model, seen = random_model(), np.random.default_rng(0).random(X.shape) < 0.6
    found = model.log_prob(X, seen)
    for row in range(5):
        o = seen[row]
        oracle = multivariate_normal(model.mean.numpy()[o], model.covariance.numpy()[np.ix_(o, o)]).logpdf(X[row][o])
        assert abs(float(found[row]) - oracle) < 1e-10


@pytest.mark.parametrize("holes", [False, True])
def test_bayes_rule_and_the_expectation_of_em_hold(holes: bool) -> None:
    """``log p(x) = log p(x, z) - log p(z|x)`` for any z, so also in expectation: ``E log p(x, z) + entropy``."""
    model = random_model()
    seen = np.random.default_rng(0).random(X.shape) < 0.6 if holes else None
    q = model.posterior(X, seen)
    bayes = model.expected(q, X, seen) + q.entropy()
    torch.testing.assert_close(bayes, model.log_prob(X, seen), rtol=1e-10, atol=1e-10)
    other = random_model(1).posterior(X, seen)  # for any other q the bound is lower by its KL
    bound = model.expected(other, X, seen) + other.entropy() + kl_divergence(other, q)
    torch.testing.assert_close(bound, model.log_prob(X, seen), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("precision", [0.0, 1.0, 100.0])
def test_the_gradient_vanishes_at_the_ppca_solution(precision: float) -> None:
    model = ppca(X, 2, precision)
    weight, mean, noise = (t.clone().requires_grad_() for t in (model.weight, model.mean, model.noise[0]))
    target = LinearGaussian(weight, mean, noise.expand(6)).log_prob(X).sum() - precision / 2 * weight.square().sum()
    found = float(target.detach())
    for slope in torch.autograd.grad(target, (weight, mean, noise)):
        assert float(slope.abs().max()) < 1e-8
    for step in torch.randn(20, 6, 2, generator=torch.Generator().manual_seed(0)).double() / 100:
        moved = LinearGaussian(model.weight + step, model.mean, model.noise)
        assert float(moved.log_prob(X).sum() - precision / 2 * moved.weight.square().sum()) < found


def test_a_strong_prior_switches_latents_off() -> None:
    assert ppca(X, 2).active == 2
    assert ppca(X, 2, precision=420.0).active == 1
    assert ppca(X, 2, precision=1e6).active == 0


def test_em_never_decreases_and_converges_to_the_maximum() -> None:
    found = em(X, 2, 500)
    assert float(found.evidence.diff().min()) > -1e-12
    best = float(ppca(X, 2).log_prob(X).mean())
    assert abs(float(found.evidence[-1]) - best) < 1e-9
    assert float(found.evidence[0]) < best - 0.5


def test_factor_analysis_never_decreases_and_exceeds_ppca() -> None:
    uneven = X * np.array([1, 2, 3, 1, 2, 3], np.float32)
    found = em(uneven, 2, 300, shared=False)
    assert float(found.evidence.diff().min()) > -1e-12
    assert float(found.evidence[-1]) > float(ppca(uneven, 2).log_prob(uneven).mean()) + 0.1
    assert abs(float(found.evidence[-1]) - float(found.model.log_prob(uneven).mean())) < 1e-9


def test_a_mixture_never_decreases_and_finds_its_components() -> None:
    found = mixture(np.concatenate([X, X[:100] + 12]), 2, 2, steps=20)
    assert float(found.evidence.diff().min()) > -1e-10
    assert sorted(round(float(s), 2) for s in found.model.shares) == [0.2, 0.8]
    full = mixture(X, 1, 5, steps=1).model.components[0].covariance  # D - 1 latents: any Gaussian
    np.testing.assert_allclose(full.numpy(), np.cov(X.T, bias=True), rtol=1e-4, atol=1e-5)


def test_invalid_input_is_refused() -> None:
    for call in (lambda: ppca(X, 6), lambda: ppca(X, -1), lambda: ppca(X[:3], 3), lambda: em(X * np.nan, 2),
                 lambda: em(X * 0, 2), lambda: mixture(X, 0, 1), lambda: em(X, 2, -1), lambda: mixture(X, 2, 1, -1),
                 lambda: em(X[:, :1] * np.arange(1, 4), 1, 400)):  # fmt: skip
        with pytest.raises(ladle.DataError):
            call()


def test_a_linear_vae_is_recognised_as_linear_gaussian() -> None:
    """The evidence is exact and in the units of the data. With the exact posterior as q importance weights are
    constant, and with another q they vary."""
    data = ladle.read(X)
    loc, scale = units(data.schema)
    inner = ppca((data.train.x - loc) / scale, 2)
    assembly = linear_vae(data.schema, 2)
    set_to(assembly, inner)
    model = gaussian(assembly.model)
    torch.testing.assert_close(model.covariance, inner.moved(loc, scale).covariance, rtol=1e-5, atol=1e-5)
    log_w = weights(assembly, data)
    assert float(log_w.std(0).max()) < 2e-4  # for values near -10 in float32
    torch.testing.assert_close(log_w.mean(0).double(), model.log_prob(data.train.x), rtol=0, atol=1e-4)
    with torch.no_grad():
        assembly.model.latents.posterior.head.bias[-1] += 0.3
    assert float(weights(assembly, data).std(0).mean()) > 0.02


@pytest.mark.parametrize("change, message", [
    ({"decoder": {"part": "net/mlp", "width": 4}}, "net/linear"),
    ({"likelihood": {"part": "family/normal"}}, "shared_scale"),
    ({"likelihood": {"part": "family/laplace", "shared_scale": True}}, "normal"),
])  # fmt: skip
def test_models_that_are_not_linear_gaussian_are_refused(change: dict, message: str) -> None:
    data = ladle.read(X)
    plan = {**ladle.recipe("linear_vae", data.schema, "xs"), **change}
    with pytest.raises(ladle.NotAvailable, match=message):
        gaussian(ladle.assemble(data.schema, plan).model)
    with pytest.raises(ladle.NotAvailable, match="prior"):
        gaussian(ladle.assemble(data.schema, "ae", "xs").model)
