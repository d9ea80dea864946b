"""Every registered prior, net, conditional, latents, objective and recipe satisfies the contract of ``part_checks.py``.

Parts are discovered in the registry; for a new part that needs arguments, add them to ``ARGUMENTS``.
"""

from __future__ import annotations

from typing import Any

import part_checks as checks
import pytest
import torch

import ladle
from ladle.data import Batch, make_batch
from ladle.model.latents import from_posterior
from ladle.objectives import Progress
from ladle.seeds import seeded
from ladle.spec import build, parts
from toys import narrow

NORMAL = {"part": "family/normal"}
MLP = {"part": "net/mlp", "inputs": [3], "width": 5, "depth": 2}
AMORTISED = {"part": "conditional/amortised", "net": MLP, "family": NORMAL, "event": [2]}
READS = {"part": "net/standardise", "loc": 1.0, "scale": 2.0}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "net/mlp": {"inputs": [3], "width": 5},
    "net/linear": {"inputs": [3]},
    "net/conv_down": {"inputs": [3, 9, 17], "width": 4, "blocks": 1},
    "net/conv_up": {"inputs": [3], "outputs": [9, 17], "width": 4, "blocks": 1},
    "net/conv1d_down": {"inputs": [3, 67], "width": 4},
    "net/conv1d_up": {"inputs": [3], "outputs": [67], "width": 4},
    "net/map_up": {"inputs": [3, 5, 9], "outputs": [9, 17], "width": 4},
    "net/standardise": {"loc": [1.0, 2.0, 3.0], "scale": [1.0, 2.0, 0.5], "masked": True},
    "conditional/amortised": {"net": MLP, "family": NORMAL, "event": [2]},
    "latents/flat": {"reads": READS, "posterior": AMORTISED, "prior": None},
    "latents/ladder": {
        "reads": READS,
        "inputs": [3],
        "blocks": "1x3",
        "width": 5,
        "size": 2,
        "posterior": NORMAL,
        "prior": {"part": "prior/standard", "family": NORMAL, "event": [2]},
    },
    "objective/geco": {"distortion": 5.0},
    "objective/map": {"objective": {"part": "objective/ml", "particles": 3}, "items": 9},
}
PRIORS = {
    "standard": [{"family": NORMAL}, {"family": {"part": "family/student_t", "df": 8.0}}],
    "learned": [{"family": NORMAL}, {"family": {"part": "family/logistic"}}],
    "autoregressive": [{"width": 8, "components": 1}, {"width": 8, "components": 3}],
    "mixture": [{"family": {"part": "family/laplace"}, "components": 3}],
    "vamp": [{"family": NORMAL, "inputs": [3], "components": 3}],
    "flow": [{"couplings": 2, "width": 8}],
    "conditional": [{"family": NORMAL, "classes": 3, "components": 2}],
}


def cases(kind: str) -> list[str]:
    return [f"{kind}/{name}" for name in sorted(parts()[kind])]


def perturbed(spec: dict[str, Any]) -> Any:
    with seeded(0, "made"):
        return checks.stirred(build(spec))


def priors(dims: int) -> list[Any]:
    return [
        pytest.param({"part": f"prior/{name}", **arguments, "event": [dims]}, id=f"{name}-{i}-{dims}d")
        for name in sorted(parts()["prior"])
        for i, arguments in enumerate(PRIORS.get(name, [{}]))
    ]


def posterior(spec: dict[str, Any]) -> Any:
    """A posterior for priors that are built from posteriors."""
    return perturbed({**AMORTISED, "event": spec["event"]})


@pytest.mark.parametrize("spec", [*priors(1), *priors(2), *priors(5)])
def test_priors_survive_their_spec(spec: dict[str, Any]) -> None:
    z, q = torch.linspace(-1, 1, 3 * spec["event"][0]).reshape(3, -1), posterior(spec)
    checks.spec_round_trips(perturbed(spec), lambda prior: prior(3, {}, q).log_prob(z))
    checks.spec_round_trips(perturbed(spec), lambda prior: prior(3, {}, q).sample())


@pytest.mark.parametrize("spec", [*priors(1), *priors(2)])
def test_priors_are_densities(spec: dict[str, Any]) -> None:
    checks.prior_density_sums_to_one(perturbed(spec), posterior(spec))
    checks.prior_sampler_agrees_with_density(perturbed(spec), posterior(spec))


@pytest.mark.parametrize("spec", [*priors(1), *priors(2)])
def test_priors_at_a_temperature_are_densities(spec: dict[str, Any]) -> None:
    class Cooled(ladle.model.priors.Prior):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.event, self.support = perturbed(spec), tuple(spec["event"]), None

        def forward(self, n: int, context: Any, posterior: Any = None) -> torch.distributions.Distribution:
            return ladle.families.tempered(self.inner(n, context, posterior), 0.5)

    checks.prior_density_sums_to_one(Cooled(), posterior(spec))
    checks.prior_sampler_agrees_with_density(Cooled(), posterior(spec))


@pytest.mark.parametrize("name", cases("net"))
def test_nets_survive_their_spec_and_keep_their_shapes(name: str) -> None:
    net = perturbed({"part": name, **ARGUMENTS.get(name, {})})
    inputs = getattr(net, "inputs", (3,))
    x = torch.linspace(-1, 1, 4 * torch.Size(inputs).numel()).reshape(4, *inputs)
    checks.spec_round_trips(net, lambda net: net(x))
    if hasattr(net, "features"):
        assert net(x).shape == (4, *net.features)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


@pytest.mark.parametrize("name", cases("conditional"))
def test_conditionals_survive_their_spec(name: str) -> None:
    conditional = perturbed({"part": name, **ARGUMENTS[name]})
    given = torch.linspace(-1, 1, 12).reshape(4, 3)
    checks.spec_round_trips(conditional, lambda c: c(given, {}).sample())
    several = conditional(given.expand(5, 4, 3), {})
    assert several.batch_shape + several.event_shape == (5, 4, *conditional.event)


@pytest.mark.parametrize("name", cases("latents"))
def test_latents_survive_their_spec(name: str) -> None:
    batch = Batch(torch.linspace(-1, 1, 12).reshape(4, 3), None, {}, torch.arange(4))
    checks.spec_round_trips(perturbed({"part": name, **ARGUMENTS[name]}), lambda w: w.walk(from_posterior, batch).h)


@pytest.mark.parametrize("name", cases("objective"))
def test_objectives_survive_their_spec_and_return_the_bound_per_item(name: str, toys: dict[str, ladle.Dataset]) -> None:
    data = toys["bits"]
    model = checks.stirred(ladle.assemble(data.schema, narrow("vae", data.schema)).model)
    batch = make_batch(data.all, data.schema, torch.arange(6))

    def output(objective: Any) -> torch.Tensor:
        with seeded(1):
            loss = objective(model(batch, objective.samples), Progress(0.5, 7))
        assert loss.per_item.shape == (6,)
        assert loss.scalar.shape == ()
        return torch.cat([loss.per_item, loss.scalar[None]]).detach()

    checks.spec_round_trips(perturbed({"part": name, **ARGUMENTS.get(name, {})}).eval(), lambda o: output(o.eval()))


@pytest.mark.parametrize("toy", ["digits", "grey", "table", "bits", "colour"])
@pytest.mark.parametrize("name", sorted(parts()["recipe"]))
def test_recipes_train_every_parameter_and_survive_their_spec(
    name: str, toy: str, toys: dict[str, ladle.Dataset]
) -> None:
    data = toys[toy]
    try:
        plan = narrow(name, data.schema)
    except ladle.SpecError as error:
        pytest.skip(str(error))
    assembly = ladle.assemble(data.schema, plan)
    batch = make_batch(data.train, data.schema, torch.arange(16))
    checks.gradients_reach_every_parameter(assembly, batch)
    checks.spec_round_trips(assembly.model, lambda m: m(batch).log_px.detach())
    if assembly.model.latents.prior is not None:
        with torch.no_grad(), seeded(2):
            levels = assembly.model.walk(from_posterior, batch, (2000,)).levels
        checks.kl_is_the_mean_of_its_estimate(levels, 2000)
