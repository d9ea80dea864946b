"""The evidence of small models against quadrature and enumeration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

import ladle
from gaussians import linear_gaussian, narrower
from ladle.data import Batch, Column, Schema
from ladle.inference.evidence import sample_counts, summary
from ladle.inference.importance import curve, importance, log_weights
from ladle.model.latents import replay
from ladle.seeds import seeded

SCHEMAS = {
    "binary": Schema("image", (1, 3, 3), "binary"),
    "bytes": Schema("image", (1, 2, 2), "bytes"),
    "real": Schema("table", (3,), [Column("real", "", *units) for units in ((10.0, 2.0), (0.0, 1e-2), (-1e3, 300.0))]),
}
PRIORS = ["prior/standard", "prior/learned", "prior/autoregressive"]


def model(schema: Schema, prior: str, latents: int) -> ladle.Assembly:
    """A tiny model with a non-trivial decoder and prior, and a posterior wide enough to be a safe proposal."""
    plan = ladle.recipe("vae", schema, "xs")
    plan["latents"] = {**plan["latents"], "size": latents, "prior": {"part": prior}}
    for net in ("encoder", "decoder"):
        plan[net] = {"part": "net/mlp", "width": 16, "depth": 1}
    assembly = ladle.assemble(schema, plan, seed=3)
    with seeded(5), torch.no_grad():
        vae = assembly.model
        vae.latents.posterior.head.weight.mul_(0.1)
        vae.latents.posterior.head.bias[latents:].add_(1.5)  # the raw scales
        for parameter in [*vae.likelihood.parameters(), *vae.latents.prior.parameters()]:
            parameter.add_(0.2 * torch.randn_like(parameter))
    assembly.model.double().eval()
    return assembly


def items(schema: Schema, n: int = 4) -> torch.Tensor:
    with seeded(11):
        if schema.support == "binary":
            return torch.randint(0, 2, (n, *schema.shape)).double()
        if schema.support == "bytes":
            return torch.randint(0, 256, (n, *schema.shape)).double()
        return torch.tensor(schema.loc) + torch.tensor(schema.scale) * torch.randn(n, *schema.shape).double()


def batch_of(x: torch.Tensor) -> Batch:
    return Batch(x, None, {}, torch.arange(len(x)))


def log_p_by_quadrature(vae: torch.nn.Module, x: torch.Tensor, latents: int) -> torch.Tensor:
    """``log p(x) = log sum_z p(x|z) p(z) dz`` on a fine grid of latents."""
    axis = torch.linspace(-9, 9, 4001 if latents == 1 else 301).double()
    grid = torch.cartesian_prod(*[axis] * latents).reshape(-1, latents)
    cell = latents * math.log(float(axis[1] - axis[0]))
    blank = vae.blank(len(grid))
    trace = vae.walk(replay([grid]), blank)
    log_p = trace.levels[0].log_p
    d = vae.explain(trace.h, blank)
    return torch.stack([torch.logsumexp(log_p + d.log_prob(one).flatten(1).sum(1), 0) + cell for one in x])


@pytest.mark.parametrize("latents", [1, 2])
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("support", SCHEMAS)
def test_the_bound_with_many_samples_is_the_evidence(support: str, prior: str, latents: int) -> None:
    """Seeded. The tolerance is 4 estimated standard errors of the bound at 20,000 samples, plus 0.01 nat."""
    schema = SCHEMAS[support]
    vae = model(schema, prior, latents).model
    x = items(schema)
    with torch.no_grad():
        exact = log_p_by_quadrature(vae, x, latents)
        log_w = log_weights(vae, batch_of(x), 20_000, seed=1)
        estimate = torch.logsumexp(log_w, 0) - math.log(len(log_w))
        error = (log_w - estimate).exp().std(0) / math.sqrt(len(log_w))
    assert ((estimate - exact).abs() < 4 * error + 0.01).all(), (estimate, exact, error)


def test_probabilities_of_all_binary_images_sum_to_one() -> None:
    vae = model(SCHEMAS["binary"], "prior/autoregressive", 1).model
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9))).double().reshape(-1, 1, 3, 3)
    with torch.no_grad():
        total = log_p_by_quadrature(vae, images, 1).exp().sum()
    assert abs(float(total) - 1) < 1e-3


def test_the_bound_rises_with_the_samples() -> None:
    """The bound rises in expectation; with 64 items the standard error of each difference is far below it."""
    schema = SCHEMAS["binary"]
    vae, x = model(schema, "prior/standard", 2).model, items(schema, 64)
    means = [importance(vae, samples=k, seed=0)(batch_of(x)).nats.mean() for k in (1, 10, 1000)]
    assert means[0] > means[1] > means[2]


def test_missing_values_are_marginalised_out() -> None:
    """Values that are not observed have no effect: their log-probability is left out."""
    plan = ladle.recipe("vae", SCHEMAS["real"], "xs")
    vae = ladle.assemble(SCHEMAS["real"], plan, seed=0).model.eval()
    x = items(SCHEMAS["real"]).float()
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[:, 1] = False
    other = x.clone()
    other[:, 1] += 7.0
    with torch.no_grad():
        a, b = (log_weights(vae, Batch(v, observed, {}, torch.arange(len(x))), 50, seed=0) for v in (x, other))
    assert torch.equal(a, b)


# ------------------------------------------------------------------------------------- weights and proposals


def test_an_exact_posterior_makes_every_weight_the_evidence() -> None:
    model, x, log_p, _ = linear_gaussian()
    batch = batch_of(torch.from_numpy(x[:20]).double())
    found = importance(model.vae, samples=200, seed=0)(batch)
    np.testing.assert_allclose(found.nats, -log_p[:20], atol=1e-9)
    np.testing.assert_allclose(found.ess, 1.0)
    assert (found.k_hat == -math.inf).all()
    report = summary(found, 5)
    assert report.k_hat_bad == 0
    assert [k for k, _ in report.curve] == sample_counts(200)
    np.testing.assert_allclose([nats for _, nats in report.curve], report.nats, rtol=1e-12)


@pytest.mark.parametrize("proposal", ["inflated", "defensive"])
def test_a_wider_proposal_corrects_a_posterior_that_is_too_narrow(proposal: str) -> None:
    """With 0.45 of the correct standard deviation the tail has k = 1 - 0.45^2 = 0.8. Inflated by 1.2 it has k = 0.71,
    and with 5 % of the prior the weights are bounded. Seeded: 40 items, 2,000 samples."""
    model, x, log_p, _ = linear_gaussian(noise=1.0)
    narrower(model, 0.45)
    batch = batch_of(torch.from_numpy(x[:40]).double())
    narrow, wide = (importance(model.vae, samples=2000, seed=0, proposal=p)(batch) for p in ("q", proposal))
    assert narrow.k_hat.mean() > 0.7
    assert wide.k_hat.mean() < narrow.k_hat.mean() - 0.05
    assert wide.nats.mean() < narrow.nats.mean(), "the bound must rise"
    assert summary(wide).k_hat_bad < summary(narrow).k_hat_bad
    assert abs(wide.nats + log_p[:40]).mean() < 0.2


@pytest.mark.parametrize(
    "proposal, prior",
    [("q", "standard"), ("inflated", "standard"), ("defensive", "standard"), ("defensive", "autoregressive")],
)
def test_weights_of_every_proposal_are_p_of_x_on_average(proposal: str, prior: str) -> None:
    """Against quadrature. Seeded; the tolerance for each of 4 items is 4 standard errors plus 0.01 nat."""
    vae, x = model(SCHEMAS["binary"], f"prior/{prior}", 2).model, items(SCHEMAS["binary"])
    with torch.no_grad():
        exact = log_p_by_quadrature(vae, x, 2)
        w = (log_weights(vae, batch_of(x), 4_000, 2, proposal) - exact).exp()
    assert ((w.mean(0) - 1).abs() < 4 * w.std(0) / math.sqrt(len(w)) + 0.01).all(), w.mean(0)


@pytest.mark.parametrize("proposal", ["q", "inflated", "defensive"])
def test_weights_do_not_depend_on_the_batch(proposal: str) -> None:
    vae, x = model(SCHEMAS["real"], "prior/learned", 2).model, items(SCHEMAS["real"])
    batch = batch_of(x)
    alone = Batch(x[2:3], None, {}, batch.index[2:3])
    with torch.no_grad():
        many, one = (log_weights(vae, b, 1200, 3, proposal) for b in (batch, alone))
    torch.testing.assert_close(many[:, 2:3], one)


def test_the_curve_is_the_bound_with_fewer_samples() -> None:
    """For 37 weights: the mean over all groups of K; the last value is the bound with all weights."""
    log_w = torch.from_numpy(np.random.default_rng(0).normal(size=(37, 3)))
    found = curve(log_w)
    assert found.shape == (3, len(sample_counts(37)))
    for column, k in enumerate(sample_counts(37)):
        groups = log_w[: 37 // k * k].reshape(37 // k, k, 3)
        torch.testing.assert_close(found[:, column], (groups.logsumexp(1) - math.log(k)).mean(0))
