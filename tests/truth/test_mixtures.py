"""Mixtures and learned priors against torch's mixtures, enumeration and Jacobians."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from ladle.families import Family, NotAvailable, centre, chain, draw, mean, mixture, tempered
from ladle.families.mixture import Mixture
from ladle.model.priors.flow import MOST
from ladle.seeds import seeded
from ladle.spec import build

K, D = 3, 2
NORMAL = {"part": "family/normal"}


def family(name: str = "normal", components: int = K) -> Family:
    return build({"part": "family/mixture", "family": {"part": f"family/{name}"}, "components": components})


def raws(f: Family, lead: tuple[int, ...] = (5,), spread: float = 1.0, event: tuple[int, ...] = (D,)) -> list[Tensor]:
    with seeded(4):
        return [spread * torch.randn(*lead, *size, dtype=torch.float64) for size in f.raw(event)]


def reference(d: Mixture) -> td.Distribution:
    """The same mixture in torch."""
    return td.MixtureSameFamily(td.Categorical(logits=d.log_weights), td.Independent(d.components, 1))


@pytest.mark.parametrize("name", ["normal", "laplace", "student_t"])
def test_density_is_that_of_torch(name: str) -> None:
    d = family(name)(*raws(family(name)))
    z = 2 * torch.randn(7, 5, D, dtype=torch.float64)
    torch.testing.assert_close(d.log_prob(z), reference(d).log_prob(z))
    torch.testing.assert_close(mean(d), reference(d).mean)


def test_evaluating_components_in_groups_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    d = family()(*raws(family()))
    z = torch.randn(7, 5, D, dtype=torch.float64)
    expected = d.log_prob(z), chain(d, z)
    monkeypatch.setattr(mixture, "MOST", 1)
    assert len(list(d.pieces(z))) == K
    torch.testing.assert_close((d.log_prob(z), chain(d, z)), expected)


JOINT = {"one_hot": {"classes": 3}, "full_normal": {}, "power_spherical": {}, "dirichlet": {}, "logistic_normal": {}}


@pytest.mark.parametrize("name", JOINT)
def test_components_may_be_joint(name: str) -> None:
    inner = {"part": f"family/{name}", **JOINT[name]}
    of = build({"part": "family/mixture", "family": inner, "components": K})
    logits, *members = raws(of, event=(6,))
    d = of(logits, *members)
    with seeded(4):
        z = d.sample((4,))
    each = torch.stack([of.family(*(r[:, k] for r in members)).log_prob(z) for k in range(K)], -1)
    torch.testing.assert_close(d.log_prob(z), torch.logsumexp(logits.log_softmax(-1) + each, -1))


def test_chain_is_made_of_conditionals() -> None:
    """p(z_1) is the mixture of the first elements, and p(z_2 | z_1) = p(z_1, z_2) / p(z_1)."""
    logits, loc, scale = raws(family())
    d = family()(logits, loc, scale)
    z = torch.randn(7, 5, D, dtype=torch.float64)
    first = family()(logits, loc[..., :1], scale[..., :1]).log_prob(z[..., :1])
    torch.testing.assert_close(chain(d, z), torch.stack([first, d.log_prob(z) - first], -1))


def test_centre_is_that_of_the_most_probable_component_and_temperature_keeps_the_weights() -> None:
    logits, loc, scale = raws(family())
    d = family()(logits, loc, scale)
    best = logits.argmax(-1)
    torch.testing.assert_close(centre(d), loc[torch.arange(5), best])
    cold = tempered(d, 0.5)
    assert isinstance(cold, Mixture)
    torch.testing.assert_close(cold.log_weights, d.log_weights)
    torch.testing.assert_close(cold.components.stddev, 0.5 * d.components.stddev)


def quadratic(z: Tensor) -> Tensor:
    return z[..., 0] * z[..., 1] + 0.5 * z[..., 0].square() - z[..., 1]


def expected_quadratic(variance: float) -> Callable[[Any], Tensor]:
    """The expectation of ``quadratic`` under each component; the components have this variance at scale 1."""

    def expectation(d: Any) -> Tensor:
        (x, y), scale = d.loc.unbind(-1), d.scale[..., 0]
        return x * y + 0.5 * (x.square() + variance * scale.square()) - y

    return expectation


def turning(z: Tensor) -> Tensor:
    return z[..., 0].cos() * z[..., 1].sin() + z[..., 0].sin()


def expected_turning(d: Any) -> Tensor:
    (cos, sin), (_, other) = d.expectation.unbind(-2)[0].unbind(-1), d.expectation.unbind(-2)[1].unbind(-1)
    return cos * other + sin


@pytest.mark.parametrize(
    ("name", "objective", "expectation"),
    [
        ("normal", quadratic, expected_quadratic(1.0)),
        ("laplace", quadratic, expected_quadratic(2.0)),
        ("logistic", quadratic, expected_quadratic(math.pi**2 / 3)),
        ("von_mises", turning, expected_turning),
    ],
)
def test_gradient_of_a_draw_is_that_of_the_enumerated_expectation(name: str, objective: Any, expectation: Any) -> None:
    """``grad sum_k w_k E_k f`` with every ``E_k f`` in closed form, against the mean over 20,000 draws, within 4.5
    standard errors for each of 15 parameters: one false alarm in 10,000 seeds."""
    of, n = family(name), 20_000
    raw = [r.requires_grad_() for r in raws(of, (), 0.7)]
    d = of(*raw)
    exact = torch.autograd.grad((d.log_weights.exp() * expectation(d.components)).sum(), raw)

    many = [r.detach().expand(n, *r.shape).clone().requires_grad_() for r in raw]
    with seeded(5):
        found = torch.autograd.grad(objective(draw(of(*many))).sum(), many)
    for truth, sampled in zip(exact, found, strict=True):
        error = sampled.std(0) / math.sqrt(n)
        assert bool(((sampled.mean(0) - truth).abs() <= 4.5 * error).all())
        assert bool((error < 0.05).all())  # small enough for a meaningful comparison


def test_a_draw_is_a_sample() -> None:
    """The value of a draw is that of ``sample``, with and without gradients."""
    of = family()
    d = of(*(r.requires_grad_() for r in raws(of, (5,))))
    with seeded(6):
        z = d.sample((4,))
    with seeded(6):
        drawn = d.rsample((4,))
    assert drawn.requires_grad
    torch.testing.assert_close(drawn.detach(), z, rtol=0, atol=0)
    with torch.no_grad():
        assert not draw(d).requires_grad


@pytest.mark.parametrize("name", ["student_t", "beta", "bernoulli", "full_normal"])
def test_components_without_a_distribution_function_have_no_gradient_estimator(name: str) -> None:
    with pytest.raises(NotAvailable, match="no gradient estimator"):
        draw(family(name)(*raws(family(name))))


# ------------------------------------------------------------------------------------------------- priors


def posterior(name: str = "normal") -> Any:
    net = {"part": "net/mlp", "inputs": [4], "width": 6}
    with seeded(7):
        part = {"part": "conditional/amortised", "net": net, "family": {"part": f"family/{name}"}, "event": [D]}
        return build(part)


def stirred(prior: Any) -> Any:
    with seeded(8), torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return prior


def test_a_mixture_of_one_component_is_the_learned_prior() -> None:
    one = build({"part": "prior/mixture", "family": NORMAL, "event": [D], "components": 1})
    learned = build({"part": "prior/learned", "family": NORMAL, "event": [D]})
    z = torch.randn(6, D)
    for _ in range(2):
        torch.testing.assert_close(one(6, {}).log_prob(z), learned(6, {}).log_prob(z).sum(-1))
        with torch.no_grad():
            for k, raw in enumerate(learned.raw):
                raw.copy_(torch.tensor([0.3, -1.2]) * (k + 1))
                one.raw[k + 1].copy_(raw[None])


def test_components_are_initialised_differently_around_the_standard_member() -> None:
    def built(seed: int) -> Any:
        with seeded(seed):
            return build({"part": "prior/mixture", "family": NORMAL, "event": [4], "components": 5})

    first, same, other = built(0), built(0), built(1)
    assert torch.equal(first.raw[1], same.raw[1])
    assert not torch.equal(first.raw[1], other.raw[1])
    torch.testing.assert_close(first.raw[1].mean(0), torch.zeros(4), atol=1e-6, rtol=0)
    first(8, {}).log_prob(torch.randn(8, 4)).sum().backward()
    assert len({tuple(row.tolist()) for row in first.raw[2].grad}) == 5, "some components receive the same gradient"


@pytest.mark.parametrize("name", ["normal", "student_t"])
def test_vamp_is_the_mixture_of_posteriors(name: str) -> None:
    q = posterior(name)
    spec = {"part": "prior/vamp", "family": {"part": f"family/{name}"}, "event": [D], "inputs": [4], "components": K}
    vamp = stirred(build(spec))
    z = torch.randn(6, D)
    weights = vamp.logits.softmax(0)
    each = torch.stack([q(vamp.inputs[k], {}).log_prob(z).sum(-1).exp() for k in range(K)])
    torch.testing.assert_close(vamp(6, {}, q).log_prob(z), (weights[:, None] * each).sum(0).log())
    vamp(6, {}, q).log_prob(z).sum().backward()
    assert all(bool(p.grad.any()) for p in (*vamp.parameters(), *q.head.parameters()))
    with pytest.raises(ValueError, match="posterior"):
        vamp(6, {})


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_flow_is_invertible_with_the_right_log_determinant(dims: int) -> None:
    flow = stirred(build({"part": "prior/flow", "event": [dims], "width": 8})).double()
    z = 2 * torch.randn(6, dims, dtype=torch.float64)
    u, log_det = flow.inwards(z)
    torch.testing.assert_close(flow.outwards(u), z)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda v: flow.inwards(v)[0], row) for row in z])
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobians).logabsdet)
    assert not torch.allclose(u, z)
    torch.testing.assert_close(flow.inwards(centre(flow(1, {})))[0], torch.zeros(1, dims, dtype=torch.float64))


def test_flow_starts_as_the_standard_normal_and_its_scales_are_bounded() -> None:
    flow = build({"part": "prior/flow", "event": [3], "width": 8})
    z = torch.randn(6, 3)
    torch.testing.assert_close(flow(6, {}).log_prob(z), td.Normal(0.0, 1.0).log_prob(z).sum(-1))
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(0).add_(50 * torch.randn_like(parameter))
    log_scale, _ = flow.couplings[0].says(torch.full((1, 1), 1e6))
    assert float(log_scale.detach().abs().max()) == MOST, "the log-scale must be bounded for any output of the network"
