"""Each check of ``part_checks.py`` finds a fault that is planted for it."""

from __future__ import annotations

import functools
import math
from typing import Any

import part_checks as checks
import pytest
import torch
from torch import nn

import ladle
from ladle.data import make_batch
from ladle.seeds import seeded
from ladle.spec import build, part, registered
from toys import narrow, toy_data


def autoregressive(dims: int = 2) -> Any:
    with seeded(0):
        spec = {"part": "prior/autoregressive", "event": [dims], "width": 8, "components": 2}
        return checks.stirred(build(spec))


bits = functools.cache(lambda: toy_data()["bits"])


def vae() -> ladle.Assembly:
    data = bits()
    return ladle.assemble(data.schema, narrow("vae", data.schema))


def batch() -> Any:
    data = bits()
    return make_batch(data.train, data.schema, torch.arange(16))


def test_a_mask_that_looks_ahead() -> None:
    prior = autoregressive()
    prior.last.mask.fill_(1.0)
    prior.first.mask.fill_(1.0)
    with pytest.raises(AssertionError, match="integrates to"):
        checks.prior_density_sums_to_one(prior)


def test_a_dropped_constant(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = autoregressive(1)
    member = type(prior(1, {}))
    original = member.log_prob
    monkeypatch.setattr(member, "log_prob", lambda self, z: original(self, z) + 0.5 * math.log(2 * math.pi))
    with pytest.raises(AssertionError, match="integrates to"):
        checks.prior_density_sums_to_one(prior)


@pytest.mark.parametrize("fault", [lambda z: 1.15 * z, lambda z: z + 0.1, lambda z: z.flip(-1)])
def test_a_sampler_of_another_distribution(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prior = autoregressive()
    with torch.no_grad():
        prior.last.bias[:6] += 0.5  # the dimensions differ
    member = type(prior(1, {}))
    original = member.sample
    monkeypatch.setattr(member, "sample", lambda self, *shape: fault(original(self, *shape)))
    with pytest.raises(AssertionError, match="another distribution"):
        checks.prior_sampler_agrees_with_density(prior)


def test_a_sampler_that_ignores_dependence_between_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    prior = autoregressive()
    with torch.no_grad():
        for layer in (prior.first, prior.last):
            layer.weight.mul_(6)
    member = type(prior(1, {}))
    original = member.sample

    def shuffled(self: Any, *shape: Any) -> torch.Tensor:
        z = original(self, *shape)
        return torch.stack([z[:, 0], z[:, 1].roll(1)], dim=1)

    checks.prior_sampler_agrees_with_density(prior)
    monkeypatch.setattr(member, "sample", shuffled)
    with pytest.raises(AssertionError, match="another distribution"):
        checks.prior_sampler_agrees_with_density(prior)


def test_a_parameter_that_no_gradient_reaches() -> None:
    assembly = vae()
    assembly.model.likelihood.idle = nn.Parameter(torch.ones(2))
    with pytest.raises(AssertionError, match=r"no gradient reaches likelihood\.idle"):
        checks.gradients_reach_every_parameter(assembly, batch())


def test_a_posterior_without_gradients() -> None:
    assembly = vae()
    family = assembly.model.latents.posterior.family
    family.read = lambda z: z.detach()
    family.forward = lambda loc, scale: torch.distributions.Normal(loc.detach(), 1 + 0 * scale.detach())
    with pytest.raises(AssertionError, match="posterior"):
        checks.gradients_reach_every_parameter(assembly, batch())


def test_a_gradient_that_is_zero() -> None:
    assembly = vae()
    net = assembly.model.likelihood.net
    original = net.forward
    net.forward = lambda x: 0 * original(x)
    with pytest.raises(AssertionError, match="is zero"):
        checks.gradients_reach_every_parameter(assembly, batch())


def test_a_wrong_kl(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    latents = sys.modules["ladle.model.latents.latents"]
    original = latents.kl
    monkeypatch.setattr(latents, "kl", lambda *a: 1.05 * original(*a) + 0.05)
    model = checks.stirred(vae().model)
    with torch.no_grad(), seeded(2):
        levels = model(batch(), (2000,)).levels
    with pytest.raises(AssertionError, match="not the mean"):
        checks.kl_is_the_mean_of_its_estimate(levels, 2000)


class Forgetful(nn.Module):
    """A network with a factor that is not part of its spec."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = float(torch.rand(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_a_lossy_spec() -> None:
    part("net", "forgetful")(Forgetful)
    try:
        with pytest.raises(AssertionError, match="incomplete"):
            checks.spec_round_trips(Forgetful(), lambda net: net(torch.ones(2)))
    finally:
        registered("net").pop("forgetful")  # type: ignore[attr-defined]
