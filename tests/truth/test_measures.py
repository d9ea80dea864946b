"""The measures of latents and the two-sample test, where the answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import ladle
from ladle.families import NotAvailable, chain
from ladle.health.measures import two_sample, units
from ladle.inference.evidence import check_density
from ladle.model.latents import from_posterior
from ladle.tasks.common import each_batch, items


@pytest.fixture(scope="module", params=["vae", "learned_prior"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ladle.Model:
    data = ladle.read("digits")
    run: Path = tmp_path_factory.mktemp(request.param) / "run"
    list(ladle.fit(ladle.assemble(data.schema, recipe=request.param, size="xs"), data, epochs=3, run=run))
    return ladle.load(run)


def test_the_kl_of_the_latents_sums_to_that_of_the_bound(model: ladle.Model) -> None:
    split = items(model, ladle.read("digits"), "test")
    check_density(model.vae)
    torch.manual_seed(0)
    with torch.no_grad():
        kl = [model.vae(b, (64,), from_posterior).kl.mean(0) for b in each_batch(model, split)]
    assert units(model, split).kl.sum() == pytest.approx(float(torch.cat(kl).mean()), rel=0.05)


def test_a_latent_that_the_encoder_ignores_is_not_active(model: ladle.Model) -> None:
    split = items(model, ladle.read("digits"), "test")
    head = model.vae.latents.posterior.head
    before = units(model, split)
    original = head.weight.detach().clone(), head.bias.detach().clone()
    dims = len(before.kl)
    with torch.no_grad():
        for row in (0, dims):  # the location and the scale of the first latent
            head.weight[row], head.bias[row] = 0.0, 0.0
        after = units(model, split)
        head.weight.copy_(original[0])
        head.bias.copy_(original[1])
    assert before.active[0]
    assert not after.active[0]
    assert after.spread[0] == pytest.approx(0, abs=1e-10)
    assert (after.active[1:] == before.active[1:]).all()


def test_the_standard_prior_gives_the_closed_form() -> None:
    data = ladle.read("digits")
    assembly = ladle.assemble(data.schema, recipe="vae", size="xs")
    model = ladle.Model(assembly.model.eval(), data.schema, {}, "cpu")
    split = items(model, data, "test")
    (batch,) = each_batch(model, split, len(split))
    with torch.no_grad():
        q = model.vae.latents.posterior(model.vae.latents.reads(batch.x, None), {})
    standard = Normal(torch.zeros_like(q.mean), 1.0)
    assert np.allclose(units(model, split).kl, kl_divergence(q, standard).mean(0), atol=1e-5)


def test_an_autoencoder_is_refused() -> None:
    data = ladle.read("digits")
    model = ladle.Model(ladle.assemble(data.schema, recipe="ae", size="xs").model.eval(), data.schema, {}, "cpu")
    with pytest.raises(NotAvailable):
        units(model, items(model, data, "test"))


def test_the_chain_of_a_prior_sums_to_its_density() -> None:
    prior = ladle.build({"part": "prior/autoregressive", "event": [4], "width": 16, "components": 2})
    z = torch.randn(7, 4)
    d = prior(7, {})
    assert chain(d, z).shape == (7, 4)
    assert torch.allclose(chain(d, z).sum(-1), d.log_prob(z), atol=1e-5)
    with pytest.raises(NotAvailable):
        chain(torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)), torch.zeros(2))


def test_the_two_sample_test_detects_only_different_distributions() -> None:
    noise = np.random.default_rng(0)
    a, b = noise.normal(size=(2, 800, 60))
    assert abs(two_sample(a, b) - 0.5) < 0.06
    assert two_sample(a, 2 * b) > 0.9, "the means are equal, the variances differ"
    assert two_sample(a[:20], b[:20] + 3) > 0.9, "fewer items than dimensions"
    with pytest.raises(ladle.DataError, match="at least 20"):
        two_sample(a[:19], b)
