"""The ladder against closed forms, and the consistency of inference and generation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import ladle
from ladle.data import Batch, blank
from ladle.families import positive
from ladle.inference.importance import weigh
from ladle.inference.proposals import proposal_of
from ladle.model.conditional import Amortised
from ladle.model.latents import Trace, from_posterior, from_prior, keyed, replay
from ladle.model.latents.ladder import Ladder
from ladle.model.latents.levels import maps, parse
from ladle.model.vae import VAE
from ladle.nets import Standardise
from ladle.objectives import Progress
from ladle.seeds import seeded
from ladle.spec import SpecError, build
from toys import narrow, stirred

NORMAL = {"part": "family/normal"}
STANDARD = {"part": "prior/standard", "family": NORMAL}


def ladder(inputs: tuple[int, ...], blocks: str, family: str = "normal", width: int = 6, size: int = 2) -> Ladder:
    posterior = {"part": f"family/{family}"}
    top = parse(blocks, inputs, size)[0]
    event = [math.prod(top)]
    with seeded(0, "ladder"):
        return Ladder(
            Standardise(0.0, 1.0), list(inputs), blocks, width, size, build(posterior),
            build({"part": "prior/standard", "family": posterior, "event": event}),
        )  # fmt: skip


def batch_of(inputs: tuple[int, ...], n: int = 5) -> Batch:
    with seeded(3):
        return Batch(torch.randn(n, *inputs), None, {}, torch.arange(n))


def drawn(latents: Ladder, batch: Batch, samples: tuple[int, ...] = ()) -> Trace:
    with seeded(4), torch.no_grad():
        return latents.walk(from_posterior, batch, samples=samples)


SHAPES = {
    "table": ((3,), "1x3"),
    "dense image": ((2, 5, 4), "1:3, 1:4"),
    "image": ((1, 8, 8), "1:4, 2x2, 8"),
    "odd image": ((3, 9, 17), "2, 5, 9x2:1"),
    "large steps": ((1, 28, 28), "1, 7, 28"),
}


# ----------------------------------------------------------------------------------------------- closed forms


def test_the_evidence_of_a_linear_gaussian_ladder() -> None:
    """``z_1 ~ N(0, 1), z_2 ~ N(a z_1, s^2), x ~ N(C z, r^2)``: the importance-weighted estimate of every item agrees
    with the closed form to 4.5 standard errors (one false alarm in 10,000 for 6 items).

    A value v passes through a ReLU as the pair ``relu(v), relu(-v)``.
    """
    a, raw_s, raw_r = 0.8, -0.7, 0.2
    weights = torch.tensor([[1.0, 0.5], [-0.3, 1.2], [0.6, -0.9]])
    latents = ladder((3,), "1x2", width=4, size=1)
    net = build({"part": "net/linear", "inputs": [4, 1, 1]})
    likelihood = Amortised(net, build({**NORMAL, "shared_scale": True}), [3])
    (below,) = latents.below
    with torch.no_grad():
        for module in (latents.residual.second, below.residual.second):
            module.weight.zero_()
        latents.enter.weight.copy_(torch.tensor([[1.0], [-1.0], [0.0], [0.0]]))
        below.project.weight.copy_(torch.tensor([[0.0], [0.0], [1.0], [-1.0]]))
        below.prior[0].weight.copy_(torch.eye(4))
        below.prior[2].weight.copy_(torch.tensor([[a, -a, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
        below.prior[2].bias.copy_(torch.tensor([0.0, raw_s]))
        likelihood.head.weight.copy_(
            torch.stack([weights[:, 0], 0 * weights[:, 0], weights[:, 1], 0 * weights[:, 1]], 1)
        )
        likelihood.family.raw_scale.fill_(raw_r)
        stirred(latents.posterior, 0.1)
        stirred(below.step, 0.1)
        for head in (latents.posterior.head, below.step):
            head.bias[1] = 0.7  # a wide proposal, so that no weight is large
    s, r = (float(positive(torch.tensor(raw), 1e-3)) for raw in (raw_s, raw_r))
    of_z = torch.tensor([[1.0, a], [a, a * a + s * s]])
    covariance = weights @ of_z @ weights.T + r * r * torch.eye(3)
    truth = torch.distributions.MultivariateNormal(torch.zeros(3), covariance)
    with seeded(3):
        batch = Batch(truth.sample((6,)), None, {}, torch.arange(6))
    exact = truth.log_prob(batch.x)

    vae, size = VAE(latents, likelihood), (40_000,)
    with torch.no_grad():
        log_w = weigh(vae, batch, size, keyed(0, range(6), size), proposal_of("q")).double()
    w = (log_w - log_w.amax(0)).exp()
    found = log_w.amax(0) + w.mean(0).log()
    error = w.std(0) / w.mean(0) / math.sqrt(len(w))
    assert float(error.max()) < 0.05, "too few samples for a meaningful comparison"
    assert bool(((found - exact).abs() < 4.5 * error).all()), (found, exact, error)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("family", ["normal", "laplace"])
def test_initial_priors_are_standard_and_initial_posteriors_differ_between_items(name: str, family: str) -> None:
    inputs, blocks = SHAPES[name]
    standard = build({"part": f"family/{family}"})(torch.zeros(1), torch.zeros(1))
    for level in drawn(ladder(inputs, blocks, family), batch_of(inputs, 50)).levels:
        assert level.q is not None
        scale = level.q.scale  # type: ignore[attr-defined]
        torch.testing.assert_close(level.log_p, standard.log_prob(level.z).flatten(1).sum(1), rtol=1e-4, atol=1e-3)
        assert 0.2 < float(scale.min()) <= float(scale.max()) < 0.5
        assert 0.2 < float(level.q.loc.std(0).mean()) < 3  # type: ignore[attr-defined]
        assert float(level.kl.min()) > 0.1


# ---------------------------------------------------------------------------------------------------- one walk


@pytest.mark.parametrize("family", ["normal", "laplace", "logistic", "student_t"])
@pytest.mark.parametrize("name", SHAPES)
def test_generation_and_inference_agree(name: str, family: str) -> None:
    """z from the posterior has the same log p and gives the same h, whether it is inferred or given."""
    inputs, blocks = SHAPES[name]
    latents, batch = stirred(ladder(inputs, blocks, family)), batch_of(inputs)
    inferred = drawn(latents, batch, (3,))
    zs = [level.z for level in inferred.levels]
    assert [tuple(z.shape[2:]) for z in zs] == list(latents.events)
    assert tuple(inferred.h.shape) == (3, 5, *latents.features)
    with torch.no_grad():
        given = latents.walk(replay(zs), blank((), 5))
        replayed = latents.walk(replay(zs), batch, samples=(3,))
    torch.testing.assert_close(given.h, inferred.h)
    for a, b, c in zip(inferred.levels, given.levels, replayed.levels, strict=True):
        assert a.log_p.shape == a.log_q.shape == a.kl.shape == (3, 5)
        torch.testing.assert_close(b.log_p, a.log_p)
        torch.testing.assert_close(c.log_q, a.log_q)


def test_samples_share_the_features_of_their_item() -> None:
    """A walk with K samples equals K separate walks, item by item."""
    inputs, blocks = SHAPES["odd image"]
    latents, batch = stirred(ladder(inputs, blocks)).double(), batch_of(inputs)
    batch = batch._replace(x=batch.x.double())
    together = drawn(latents, batch, (3,))
    for k in range(3):
        for item in range(5):
            zs = [level.z[k, item : item + 1] for level in together.levels]
            one = Batch(batch.x[item : item + 1], None, {}, batch.index[:1])
            with torch.no_grad():
                alone = latents.walk(replay(zs), one)
            for a, b in zip(alone.levels, together.levels, strict=True):
                torch.testing.assert_close(a.log_q[0], b.log_q[k, item])


def test_lower_levels_depend_on_upper_levels() -> None:
    """p of the lower levels depends on the upper levels, and drawing the lower levels does not change the given
    ones."""
    inputs, blocks = SHAPES["image"]
    latents = stirred(ladder(inputs, blocks))
    with seeded(1), torch.no_grad():
        one = latents.walk(from_prior(), blank((), 2))
        kept = latents.walk(replay([level.z for level in one.levels[:2]], from_prior()), blank((), 2))
        coldest = latents.walk(replay([one.levels[0].z], from_prior(0.0)), blank((), 2))
    for i, (a, b) in enumerate(zip(one.levels, kept.levels, strict=True)):
        assert torch.equal(a.z, b.z) == (i < 2)
    assert torch.equal(one.levels[2].p.loc, kept.levels[2].p.loc)
    assert float((one.levels[2].p.loc[0] - one.levels[2].p.loc[1]).abs().max()) > 1e-3
    assert torch.equal(coldest.levels[1].z, coldest.levels[1].p.loc)


PRIORS: dict[str, dict[str, Any]] = {
    "learned": {},
    "autoregressive": {"width": 12, "components": 2},
    "mixture": {"components": 3},
    "vamp": {"components": 4},
    "flow": {"width": 8},
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("blocks", ["1:3, 4", "2, 4"])
def test_any_prior_can_be_at_the_top(blocks: str, prior: str, toys: dict[str, ladle.Dataset]) -> None:
    """Also over a feature map, which the prior treats as one vector; gradients reach every parameter."""
    data = toys["digits"]
    plan = narrow("vdvae", data.schema)
    plan["latents"] |= {"prior": {"part": f"prior/{prior}", **PRIORS[prior]}, "blocks": blocks}
    assembly = ladle.assemble(data.schema, plan)
    stirred(assembly.model)
    terms = assembly.model(ladle.data.make_batch(data.train, data.schema, torch.arange(6)))
    assembly.objective(terms, Progress(1.0, 1)).scalar.backward()
    for name, parameter in assembly.model.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert bool(parameter.grad.any()), f"no gradient reaches {name}"
    with torch.no_grad():
        trace = assembly.model.walk(from_prior(), assembly.model.blank(2))
    assert bool(trace.h.isfinite().all())


def test_free_bits_apply_to_every_level(toys: dict[str, ladle.Dataset]) -> None:
    data = toys["digits"]
    plan = {**narrow("vdvae", data.schema), "objective": {"part": "objective/elbo", "free_bits": 1e3}}
    assembly = ladle.assemble(data.schema, plan)
    terms = assembly.model(ladle.data.make_batch(data.train, data.schema, torch.arange(6)))
    loss = assembly.objective(terms, Progress(1.0, 1))
    expected = 1e3 * len(terms.levels) - terms.log_px.mean()
    torch.testing.assert_close(loss.scalar, expected)


# ------------------------------------------------------------------------------------------ the blocks string


def test_blocks_denote_maps_by_their_longer_side() -> None:
    assert maps((1, 28, 28)) == [(28, 28), (14, 14), (7, 7), (4, 4), (2, 2), (1, 1)]
    levels = parse(" 1x2:16,7 ,14x2:3", (1, 28, 28), size=4)
    assert levels == [(16, 1, 1)] * 2 + [(4, 7, 7)] + [(3, 14, 14)] * 2
    assert parse("9,17", (3, 9, 17), size=1) == [(1, 5, 9), (1, 9, 17)]


@pytest.mark.parametrize(
    "text, column, message",
    [
        ("1, 8x2", 3, "one of 28, 14, 7, 4, 2, 1, got 8; 7 would fit"),
        ("1, seven", 3, "SIDE, SIDExCOUNT or SIDExCOUNT:SIZE"),
        ("", 0, "SIDE"),
        ("1,7,", 4, "SIDE"),
        ("7, 4", 3, "4 is below 7"),
        ("1 7", 2, "comma or the end"),
        ("1,7*3", 3, "comma or the end"),
        ("1,7x0", 4, "at least 1 level"),
        ("1,7x2:0", 6, "1 latent"),
        ("1,7x300", 2, "at most 100 levels"),
        ("7", 0, "at least 2 levels, got 1; 7,7 would fit, or 'flat'"),
    ],
)
def test_a_syntax_error_shows_its_position(text: str, column: int, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse(text, (1, 28, 28), size=4)
    why, shown, caret = str(caught.value).split("\n")
    assert message in why
    assert (shown, caret) == (f"    {text}", " " * (4 + column) + "^")


def test_a_long_string_is_shortened_around_the_error() -> None:
    with pytest.raises(SpecError) as caught:
        parse("1," * 80 + "?" + ",1" * 5000, (3,), size=1)
    _, shown, caret = str(caught.value).split("\n")
    assert len(shown) < 100
    assert shown[caret.index("^")] == "?"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"posterior": {"part": "family/bernoulli"}}, "location-scale family.*normal, laplace"),
        ({"posterior": {"part": "family/normal", "shared_scale": True}}, "location-scale family"),
        ({"prior": {"part": "prior/standard", "family": {"part": "family/beta"}}}, "must have the same support"),
        ({"prior": None}, "needs a prior"),
        ({"blocks": "1,3"}, "blocks: a side must be one of 8, 4, 2, 1"),
        ({"width": 0}, "width of at least 1"),
        ({"size": 0}, "at least 1 latent"),
    ],
)
def test_invalid_plans_are_refused(change: dict[str, Any], message: str, toys: dict[str, ladle.Dataset]) -> None:
    schema = toys["digits"].schema
    plan = narrow("vdvae", schema)
    plan["latents"] |= change
    with pytest.raises(SpecError, match=f"(?s){message}"):
        ladle.assemble(schema, plan)


def test_objectives_that_need_one_level_are_refused(toys: dict[str, ladle.Dataset]) -> None:
    data = toys["digits"]
    plan = narrow("vdvae", data.schema)
    for objective in ({"part": "objective/elbo", "sticking": True}, {"part": "objective/iwae"}):
        with pytest.raises(SpecError, match="one-level"):
            ladle.assemble(data.schema, {**plan, "objective": objective})
    ladle.assemble(data.schema, {**plan, "objective": {"part": "objective/iwae", "doubly": False}})
    with pytest.raises(SpecError, match="recipes that fit: lvae"):
        ladle.recipe("vdvae", toys["table"].schema)
