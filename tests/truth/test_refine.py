"""The amortisation gap of linear-Gaussian models, for which it is known, since the best posterior is exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ladle
from gaussians import linear_gaussian, narrower, shifted
from ladle.data import make_batch
from ladle.health import Context
from ladle.health.amortisation import amortisation, amortisation_gap
from ladle.inference.importance import weigh
from ladle.inference.refine import encoded, proposed, refined
from ladle.model.latents import keyed
from ladle.tasks.common import items
from toys import narrow


def test_an_exact_encoder_has_no_gap() -> None:
    """With an exact q every weight is p(x), so that the gap is zero up to the effect of rounding on Adam."""
    model, x, _, _ = linear_gaussian()
    gap = amortisation_gap(model, items(model, x), items=10, steps=100)
    assert abs(gap.nats) < 2e-3
    assert gap.se < 1e-3


def test_refinement_corrects_a_perturbed_encoder() -> None:
    """The refined bound is log p(x), and the gap is KL(q || p(z|x)) = sum (s^2 + d^2 - 1) / 2 - log s, for means moved
    by d and standard deviations multiplied by s. The measured gap has 64 draws for each of 20 items, a standard error
    below 0.04."""
    model, x, log_p, _ = linear_gaussian()
    narrower(shifted(model, 1.0), 0.5)
    split = items(model, x)
    batch = make_batch(split, model.schema, np.arange(20))
    raw = refined(model.vae, batch, encoded(model.vae, batch), 200, seed=0)
    size = (8,)
    noise = keyed(1, batch.index.tolist(), size)
    found = weigh(model.vae, batch, size, noise, proposed(model.vae, raw, size))
    np.testing.assert_allclose(found.mean(0).numpy(), log_p[:20], atol=2e-3)

    gap = amortisation_gap(model, split, items=20, steps=200)
    expected = 2 * ((0.5**2 + 1 - 1) / 2 - np.log(0.5))
    assert abs(gap.nats - expected) < 0.15, (gap, expected)
    assert gap.se < 0.04


def test_the_check_reports_a_planted_gap_without_a_warning() -> None:
    """KL(q || p(z|x)) is 2 (1 / 2) for means moved by one standard deviation, up to Monte Carlo error."""
    model, x, _, _ = linear_gaussian()
    found = amortisation(Context(shifted(model, 1.0), items(model, x)))
    assert found.ok
    assert abs(found.measured["gap"] - 1.0) < 0.15
    assert f"{found.measured['gap']:.3g}" in found.reason


def test_refinement_does_not_depend_on_the_batch_and_keeps_the_weights() -> None:
    model, x, _, _ = linear_gaussian()
    shifted(model, 1.0)
    split = items(model, x)
    before = [p.clone() for p in model.vae.parameters()]
    many, one = (make_batch(split, model.schema, np.array(rows)) for rows in ([3, 5, 8], [5]))
    several, alone = (refined(model.vae, b, encoded(model.vae, b), 20, seed=3) for b in (many, one))
    for a, b in zip(several, alone, strict=True):
        torch.testing.assert_close(a[1], b[0])
    assert all(torch.equal(a, b) for a, b in zip(before, model.vae.parameters(), strict=True))


@pytest.mark.parametrize("family", ["laplace", "logistic", "student_t"])
def test_every_reparameterised_posterior_can_be_refined(family: str) -> None:
    data = ladle.read("digits")
    plan = narrow("vae", data.schema)
    plan["latents"] = {**plan["latents"], "posterior": {"part": f"family/{family}"}}
    model = ladle.Model(ladle.assemble(data.schema, plan).model.eval(), data.schema, {}, "cpu")
    gap = amortisation_gap(model, items(model, data), items=20, steps=40)
    assert gap.nats > 3 * gap.se > 0, "an untrained encoder has a large gap"


def test_models_that_cannot_be_refined_are_refused() -> None:
    data = ladle.read("digits")
    plan = narrow("vae", data.schema, latents=4)
    plan["latents"]["posterior"] = {"part": "family/one_hot", "classes": 4}
    model = ladle.Model(ladle.assemble(data.schema, plan).model.eval(), data.schema, {}, "cpu")
    with pytest.raises(ladle.NotAvailable, match="not reparameterised"):
        amortisation_gap(model, items(model, data))
    plain = ladle.Model(ladle.assemble(data.schema, narrow("ae", data.schema)).model.eval(), data.schema, {}, "cpu")
    with pytest.raises(ladle.NotAvailable, match="plain autoencoder"):
        amortisation_gap(plain, items(plain, data))
    with pytest.raises(ladle.DataError, match="at least 1 item"):
        amortisation_gap(model, items(model, data), items=0)
