"""The gradient estimators agree in expectation, and the controlled objectives behave as documented."""

from __future__ import annotations

import pytest
import torch

import ladle
from ladle.data import Batch, Schema, blank
from ladle.model.vae import Terms
from ladle.objectives import Progress, bound
from ladle.objectives.elbo import Capacity, Elbo, Geco
from ladle.objectives.importance import Iwae
from ladle.objectives.likelihood import ExpectationMaximisation
from ladle.seeds import seeded

SCHEMA = Schema("image", (1, 2, 2), "binary")
START = Progress(0.0, 0)
END = Progress(1.0, 100)


def perturbed_model(latents: dict) -> ladle.Assembly:
    """A model of narrow networks with perturbed weights."""
    plan = ladle.recipe("vae", SCHEMA, "xs")
    plan["latents"] |= latents
    for net in ("encoder", "decoder"):
        plan[net] = {"part": "net/mlp", "width": 4, "depth": 1}
    assembly = ladle.assemble(SCHEMA, plan, seed=1)
    with seeded(2), torch.no_grad():
        for parameter in assembly.model.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return assembly


@pytest.fixture
def tiny() -> ladle.Assembly:
    return perturbed_model({"size": 2})


def batch() -> Batch:
    return Batch(torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]]), None, {}, torch.arange(1))


def gradients(model: torch.nn.Module, objective: torch.nn.Module, repeats: int, seed: int) -> torch.Tensor:
    """``(20, parameters)``: the mean gradient in each of 20 blocks of ``repeats`` copies of the item."""
    many = Batch(batch().x.expand(repeats, -1, -1, -1), None, {}, torch.arange(repeats))
    blocks = []
    for block in range(20):
        model.zero_grad()
        with seeded(seed, block):
            objective(model(many, objective.samples), END).scalar.backward()
        blocks.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(blocks)


def agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two sets of block means have the same mean: every parameter within 4.5 standard errors.

    With about 60 parameters and fixed seeds, the probability of a false alarm is below 1 in 1,000.
    """
    se = ((a.var(0) + b.var(0)) / len(a)).sqrt() + 1e-6
    return bool(((a.mean(0) - b.mean(0)).abs() < 4.5 * se).all())


@pytest.mark.parametrize(
    "plain, improved",
    [
        (Elbo(), Elbo(sticking=True)),
        (Iwae(5, doubly=False), Iwae(5, doubly=True)),
        (Iwae(1, doubly=False), Iwae(1, doubly=True)),
    ],
)
def test_improved_estimators_have_the_same_mean(
    tiny: ladle.Assembly, plain: torch.nn.Module, improved: torch.nn.Module
) -> None:
    a = gradients(tiny.model, plain, 2000, seed=7)
    b = gradients(tiny.model, improved, 2000, seed=8)
    assert agree(a, b)
    assert not agree(a, b + 0.05)  # the check itself can fail


def test_doubly_reparameterised_gradients_have_less_variance_for_the_encoder(tiny: ladle.Assembly) -> None:
    plain = gradients(tiny.model, Iwae(50, doubly=False), 200, seed=7)
    quiet = gradients(tiny.model, Iwae(50, doubly=True), 200, seed=8)
    encoder = sum(p.numel() for p in tiny.model.latents.posterior.parameters())
    assert quiet[:, :encoder].var(0).sum() < 0.5 * plain[:, :encoder].var(0).sum()


@pytest.fixture
def choices() -> ladle.Assembly:
    """A model with two latent choices between two classes, whose four configurations can be enumerated."""
    family = {"part": "family/one_hot", "classes": 2}
    return perturbed_model({"size": 4, "posterior": family, "prior": {"part": "prior/learned"}})


def test_em_gradients_are_those_of_the_posterior_by_enumeration(choices: ladle.Assembly) -> None:
    """With many particles they are ``-sum_z p(z|x) grad (log p(x, z) + log q(z|x))``, a sum over all z.

    20 blocks of 200 items with 500 particles; the bias of the weights is below the standard error. The tolerance is 4.5
    standard errors for about 60 parameters: false alarms in less than 1 of 1,000 runs.
    """
    model = choices.model
    every = torch.tensor([[1, 0, 1, 0], [1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1]]).float().unsqueeze(1)
    terms = model(batch(), (4,), draw=lambda level, q, p: every)
    (level,) = terms.levels
    joint = terms.log_px + level.log_p
    model.zero_grad()
    (-(joint.detach().softmax(0) * (joint + level.log_q)).sum()).backward()
    exact = torch.cat([p.grad.flatten() for p in model.parameters()])
    found = gradients(model, ExpectationMaximisation(500), 200, seed=7)
    assert agree(found, exact.expand(20, -1))
    assert not agree(found, exact.expand(20, -1) + 0.05)  # the check itself can fail


def test_em_has_the_decoder_gradient_of_the_importance_weighted_bound(choices: ladle.Assembly) -> None:
    model, found = choices.model, []
    for objective in (ExpectationMaximisation(7), Iwae(7, doubly=False)):
        model.zero_grad()
        with seeded(3):
            terms = model(batch(), (7,))
        loss = objective(terms, END)
        loss.scalar.backward()
        found.append([p.grad.clone() for p in model.likelihood.parameters()])
        assert torch.allclose(loss.per_item, -bound(terms.log_w))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_one_particle_is_the_bound_with_one_sample(tiny: ladle.Assembly) -> None:
    with seeded(0):
        terms = tiny.model(batch(), (1,))
    assert torch.allclose(bound(terms.log_w), terms.log_w[0])


def terms_with(kl: float, log_px: float) -> Terms:
    level = ladle.model.latents.Level(torch.zeros(1, 1), None, None, *(torch.tensor([v]) for v in (kl, 0.0, kl)))
    return Terms(torch.tensor([log_px]), (level,), blank((1,), 1))


def test_beta_warm_up_and_free_bits() -> None:
    terms = terms_with(kl=3.0, log_px=-10.0)
    assert float(Elbo(beta=4.0)(terms, END).scalar) == 22.0
    assert float(Elbo(beta=4.0, warmup=0.5)(terms, Progress(0.25, 1)).scalar) == 16.0
    assert float(Elbo(free_bits=5.0)(terms, END).scalar) == 15.0
    assert float(Elbo(beta=4.0)(terms, END).per_item) == 13.0  # the per-item value is the bound itself
    assert not Elbo(beta=4.0).comparable
    assert Elbo().comparable


def test_geco_raises_its_multiplier_while_the_distortion_is_too_large() -> None:
    objective = Geco(distortion=5.0)
    for _ in range(50):
        objective(terms_with(kl=3.0, log_px=-10.0), START)
    assert float(objective.multiplier) > 1.3
    raised = float(objective.multiplier)
    for _ in range(400):
        objective(terms_with(kl=3.0, log_px=-1.0), START)
    assert float(objective.multiplier) < raised
    still = float(objective.eval().multiplier)
    objective(terms_with(kl=3.0, log_px=-1.0), START)
    assert float(objective.multiplier) == still


def test_capacity_pulls_the_kl_to_its_target() -> None:
    objective = Capacity(nats=10.0, pressure=2.0, ramp=0.5)
    assert float(objective(terms_with(kl=3.0, log_px=-1.0), Progress(0.25, 1)).scalar) == 2.0 * 2.0 + 1.0
    assert float(objective(terms_with(kl=3.0, log_px=-1.0), END).scalar) == 2.0 * 7.0 + 1.0


def test_estimators_that_need_frozen_parameters_are_refused_without_them() -> None:
    plan = ladle.recipe("ae", SCHEMA, "xs")
    with pytest.raises(ladle.SpecError, match="no log q"):
        ladle.assemble(SCHEMA, {**plan, "objective": {"part": "objective/iwae"}})
    plan = ladle.recipe("vae", SCHEMA, "xs")
    plan["latents"]["posterior"] = {"part": "family/bernoulli"}
    with pytest.raises(ladle.SpecError, match="reparameterised"):
        ladle.assemble(SCHEMA, {**plan, "objective": {"part": "objective/elbo", "sticking": True}})
