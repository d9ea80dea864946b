"""Annealed importance sampling, the sandwich, quadrature and enumeration against closed forms and each other."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import ladle
from ladle.data import Batch, Column, Schema, Split, order
from ladle.families import NotAvailable, positive
from ladle.inference.annealed import annealed, path_of, prepared, sandwich, schedule, simulated, transition, tune
from ladle.inference.evidence import Items, in_double_precision, summary
from ladle.inference.importance import importance
from ladle.inference.proposals import proposal_of
from ladle.inference.quadrature import exact_evidence, integrate, real_line
from ladle.model.vae import VAE
from ladle.seeds import seeded
from ladle.tasks.score import measure

BITS = Schema("image", (1, 3, 3), "binary")
TABLE = Schema("table", (6,), [Column("real", loc=0.0, scale=1.0)] * 6)
MLP = {"part": "net/mlp", "width": 16, "depth": 1}


def tiny(schema: Schema, size: int, net: dict[str, Any] = MLP, **changed: Any) -> VAE:
    """A model with random weights and a moderately wrong posterior; ``changed`` overrides entries of its plan."""
    plan = {**ladle.recipe("vae", schema, "xs"), "encoder": net, "decoder": net}
    plan["latents"] = {**plan["latents"], "size": size, **changed.pop("latents", {})}
    vae = ladle.assemble(schema, {**plan, **changed}, seed=0).model.eval()
    with seeded(1), torch.no_grad():
        for parameter in vae.likelihood.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
        vae.latents.posterior.head.weight.mul_(0.1)
    return vae


def bits(n: int) -> Batch:
    with seeded(2):
        return Batch(torch.randint(0, 2, (n, *BITS.shape)).float(), None, {}, torch.arange(n))


def linear(size: int = 3) -> tuple[VAE, MultivariateNormal]:
    """A linear model whose q(z|x) is too wide and has a mean that is 10 % too small, and the closed form of its
    p(x)."""
    vae = tiny(TABLE, size, {"part": "net/linear"}, likelihood={"part": "family/normal", "shared_scale": True})
    decoder, encoder = vae.likelihood.head, vae.latents.posterior.head
    noise = positive(vae.likelihood.family.raw_scale, 1e-3).detach().square()
    with torch.no_grad():
        gain = torch.linalg.solve(noise * torch.eye(size) + decoder.weight.T @ decoder.weight, decoder.weight.T)
        encoder.weight.zero_()[:size] = 0.9 * gain
        encoder.bias.fill_(-0.5)[:size] = -0.9 * gain @ decoder.bias
    weight = decoder.weight.detach().double()
    return vae, MultivariateNormal(decoder.bias.detach().double(), weight @ weight.T + noise.double() * torch.eye(6))


@pytest.mark.parametrize("proposal", ["q", "inflated", "defensive"])
def test_ais_is_the_closed_form_of_a_linear_model(proposal: str) -> None:
    """Seeded. By the weights, 0.01 nat is at least 3 standard errors of the mean over items, which an unseeded run
    would exceed once in 300; each item must be within 5 of its standard errors."""
    vae, marginal = linear()
    with seeded(3):
        x = marginal.sample((10,)).float()
    batch, truth = Batch(x, None, {}, torch.arange(10)), marginal.log_prob(x.double()).numpy()
    found = annealed(vae, samples=1500, temperatures=100, proposal=proposal)(batch)
    deviation, error = -found.nats - truth, standard_error(found)
    one = -importance(vae, samples=1)(batch).nats - truth
    assert one.mean() < -0.1  # the posterior is wrong
    assert 3 * np.sqrt(np.square(error).sum()) / 10 < 0.01
    assert abs(deviation.mean()) < 0.01
    assert (np.abs(deviation) < 5 * error).all(), deviation / error


def standard_error(found: Items) -> np.ndarray:
    """The standard error of the logarithm of a mean of weights, from their effective sample size."""
    return np.sqrt((1 / found.ess - 1) / found.samples)


def test_quadrature_is_the_closed_form_of_a_linear_model() -> None:
    vae = tiny(TABLE, 2, {"part": "net/linear"}, likelihood={"part": "family/normal", "shared_scale": True})
    with torch.no_grad():
        vae.likelihood.family.raw_scale.fill_(-5.0)  # a narrow posterior, far from the prior mean
    head = vae.likelihood.head
    noise = positive(vae.likelihood.family.raw_scale, 1e-3).detach().double().square()
    weight = head.weight.detach().double()
    marginal = MultivariateNormal(head.bias.detach().double(), weight @ weight.T + noise * torch.eye(6))
    with seeded(3):
        x = 3 * marginal.sample((5,)).float()
    batch, truth = Batch(x, None, {}, torch.arange(5)), marginal.log_prob(x.double()).numpy()
    precise = in_double_precision(vae)
    grid = integrate(precise, batch._replace(x=x.double()), real_line(precise))
    np.testing.assert_allclose(grid.numpy(), truth, atol=1e-3)
    found = exact_evidence(vae)(batch)
    assert (found.method, found.kind) == ("closed form", "exact")
    np.testing.assert_allclose(-found.nats, truth, atol=1e-9)


def test_quadrature_annealing_and_the_bound_agree_in_two_dimensions() -> None:
    """Seeded. The mean over 8 items: 0.01 nat is at least 3 standard errors, as for the linear model."""
    vae, batch = tiny(BITS, 2), bits(8)
    with torch.no_grad():
        vae.likelihood.head.weight.mul_(0.5)
    truth = exact_evidence(vae)(batch).nats
    for found in (
        annealed(vae, samples=1000, temperatures=100)(batch),
        importance(vae, samples=50_000)(batch),
    ):
        assert 3 * np.sqrt(np.square(standard_error(found)).sum()) / 8 < 0.01
        assert abs((found.nats - truth).mean()) < 0.01


@pytest.mark.parametrize(("family", "size"), [("beta", 1), ("von_mises", 1), ("von_mises", 2)])
def test_the_probabilities_of_all_images_sum_to_one(family: str, size: int) -> None:
    """On an interval and on the circle, by quadrature."""
    small = Schema("image", (1, 2, 2), "binary")
    vae = tiny(small, size, latents={"posterior": {"part": f"family/{family}"}})
    x = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4))).reshape(-1, 1, 2, 2)
    nats = exact_evidence(vae)(Batch(x, None, {}, torch.arange(16))).nats
    assert abs(np.exp(-nats).sum() - 1) < 1e-3


def test_heavy_tails_are_integrated() -> None:
    """If the decoder ignores z, log p(x) is that of the decoder alone only if p(z) integrates to one."""
    student = {"part": "family/student_t", "df": 2.0}
    vae, batch = tiny(BITS, 2, latents={"posterior": student}), bits(3)
    with torch.no_grad():
        vae.likelihood.head.weight.zero_()
    logits = vae.likelihood.head.bias.detach().double()
    alone = torch.distributions.Bernoulli(logits=logits).log_prob(batch.x.double().flatten(1)).sum(1)
    np.testing.assert_allclose(-exact_evidence(vae)(batch).nats, alone.numpy(), atol=1e-3)


@pytest.mark.parametrize(
    ("family", "size"), [({"part": "family/bernoulli"}, 5), ({"part": "family/one_hot", "classes": 3}, 6)]
)
def test_enumeration_is_brute_force(family: dict[str, Any], size: int) -> None:
    prior = {"part": "prior/learned", "family": family}
    vae, batch = tiny(BITS, size, latents={"posterior": family, "prior": prior}), bits(4)
    with seeded(5), torch.no_grad():
        vae.latents.prior.raw[0].normal_()
    raw, per = vae.latents.prior.raw[0].detach(), family.get("classes")
    total = torch.zeros(4, dtype=torch.float64)
    for values in itertools.product(range(per or 2), repeat=size // (per or 1)):
        z = torch.eye(per)[list(values)].flatten() if per else torch.tensor(values).float()
        log_odds = raw.reshape(-1, per).log_softmax(-1).flatten() if per else None
        log_pz = (z * log_odds).sum() if per else (z * raw - torch.nn.functional.softplus(raw)).sum()
        logits = vae.explain(z[None], vae.blank(len(z))).logits[0]
        log_px = torch.distributions.Bernoulli(logits=logits).log_prob(batch.x).flatten(1).sum(1)
        total += (log_px + log_pz).detach().double().exp()
    found = exact_evidence(vae)(batch)
    assert (found.method, found.kind, found.samples) == ("enumeration", "exact", 0)
    np.testing.assert_allclose(-found.nats, total.log().numpy(), atol=1e-4)


@pytest.mark.parametrize("label", [None, -1, 2])
def test_every_method_serves_a_class_conditional_prior(label: int | None) -> None:
    """An unknown label is summed over: ``log p(x) = log sum_c p(c) p(x|c)``, each term by quadrature. Seeded: the other
    methods agree with quadrature within 5 of their standard errors on each of 4 items, and 0.01 nat."""
    prior = {"part": "prior/conditional", "classes": 3, "components": 2}
    labelled = Schema("image", BITS.shape, "binary", label_names=("a", "b", "c"))
    vae, batch = tiny(labelled, 1, latents={"prior": prior}), bits(4)
    with seeded(3), torch.no_grad():
        for parameter in vae.latents.prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        vae.likelihood.head.weight.mul_(0.5)

    def given(c: int | None) -> Batch:
        return batch if c is None else batch._replace(context={"label": torch.full((4,), c)})

    exact = exact_evidence(vae)
    truth = -exact(given(label)).nats
    each = np.stack([-exact(given(c)).nats for c in range(3)])
    assert np.ptp(each, axis=0).max() > 0.05, "the classes must matter"
    log_p = vae.latents.prior.log_shares().detach().double().numpy()
    expected = np.logaddexp.reduce(each + log_p[:, None]) if label in (None, -1) else each[label]
    np.testing.assert_allclose(truth, expected, atol=1e-3)
    for measure_ in (annealed(vae, samples=100, temperatures=40), importance(vae, samples=2000)):
        found = measure_(given(label))
        assert (np.abs(-found.nats - truth) < 5 * standard_error(found) + 0.01).all()


def test_an_items_chains_do_not_depend_on_its_neighbours() -> None:
    vae, batch = tiny(BITS, 4), bits(3)
    alone = Batch(batch.x[2:], None, {}, batch.index[2:])
    measure_ = annealed(vae, samples=4, temperatures=20)
    together, apart = (measure_(b).nats for b in (batch, alone))
    np.testing.assert_allclose(together[2:], apart, rtol=1e-9)
    other = annealed(vae, samples=4, temperatures=20, seed=1)(batch).nats
    assert np.abs(other - together).min() > 1e-6


def test_a_transition_preserves_its_distribution() -> None:
    """A transition at beta = 1 keeps the mean and variance of draws of p(z|x): 4 standard errors, false alarm below
    1e-3. The acceptance rate is near its target."""
    vae, marginal = linear()
    vae, x = prepared(vae), marginal.sample((1,)).float()
    weight, noise = vae.likelihood.head.weight, positive(vae.likelihood.family.raw_scale, 1e-3).square()
    precision = torch.eye(3) + weight.T @ weight / noise
    posterior = MultivariateNormal(
        torch.linalg.solve(precision, weight.T @ (x[0] - vae.likelihood.head.bias) / noise), precision_matrix=precision
    )
    path, start = path_of(vae, Batch(x, None, {}, torch.arange(1)), 4000, 0, proposal_of("q"))
    step = tune(path, start, schedule(100), 0)[-1]
    with seeded(6):
        here = path.at(posterior.sample((4000, 1)))
        for _ in range(3):
            momentum, log_u = torch.randn_like(here.z), torch.rand(4000, 1).double().log()
            here, accepted = transition(path, here, torch.tensor(1.0).double(), step, momentum, log_u)
    centred = (here.z[:, 0] - posterior.mean) / posterior.variance.sqrt()
    assert (centred.mean(0).abs() < 4 / math.sqrt(4000)).all()
    assert ((centred.square().mean(0) - 1).abs() < 4 * math.sqrt(2 / 4000)).all()
    assert 0.5 < float(accepted.mean()) < 0.8


def test_the_sandwich_contains_the_true_value() -> None:
    """Seeded. The true value of the simulated items is between the bounds, within 4 standard errors, and more
    temperatures tighten the bounds."""
    vae, marginal = linear()
    with torch.no_grad():
        vae.latents.posterior.head.weight.zero_()  # q is the same for every item
    rough, fine = (sandwich(vae, 20, samples=8, temperatures=t) for t in (2, 100))
    truth = float(marginal.log_prob(simulated(prepared(vae), range(20), 0)[1].double()).mean())
    assert rough.lower < truth < rough.upper
    assert abs(fine.width) < 0.2 < rough.width
    assert fine.lower - 4 * fine.se < truth < fine.upper + 4 * fine.se
    assert math.isclose(fine.width, np.mean(fine.widths))
    assert json.dumps(fine.to_json())


def test_unsupported_methods_are_refused() -> None:
    shares = tiny(BITS, 3, latents={"posterior": {"part": "family/beta"}})
    with pytest.raises(NotAvailable, match=r"real line.*methods that fit: exact.*iwae"):
        annealed(shares)
    with pytest.raises(NotAvailable, match=r"at most 2 real latents.*methods that fit: ais"):
        exact_evidence(shares)


@pytest.mark.parametrize(
    ("size", "posterior", "method"),
    [
        (3, {"part": "family/normal"}, "ais"),
        (4, {"part": "family/bernoulli"}, "enumeration"),
        (17, {"part": "family/bernoulli"}, "iwae"),
        (1, {"part": "family/beta"}, "quadrature"),
        (3, {"part": "family/beta"}, "iwae"),
    ],
)
def test_ais_is_replaced_if_it_is_not_supported(size: int, posterior: dict[str, Any], method: str) -> None:
    """AIS is replaced by an exact method or else by the bound; all methods use the same random subset of items."""
    vae = tiny(BITS, size, latents={"posterior": posterior})
    model = ladle.Model(vae, BITS, {}, "cpu")
    x = bits(9).x.numpy().astype(np.uint8)
    found = measure(model, Split(x), method="ais", samples=2, temperatures=2, at_most=3)
    assert (found.method, len(found.nats)) == (method, 3)
    assert list(found.index) == sorted(order(9, 0, 0)[:3])
    assert np.isfinite(found.nats).all()
    assert method in str(summary(found, 9)) or method in ("ais", "iwae")
