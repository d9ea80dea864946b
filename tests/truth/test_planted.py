"""Planted latent families: the oracle of ``bench/planted.py`` is correct, and ``select`` finds the planted family."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import planted
import planted_worlds as worlds
from planted_worlds import World

HIDDEN_LAYER = [w for w in worlds.WORLDS if w.decoder == "mlp"]


def test_there_are_thirty_worlds_five_of_each_family() -> None:
    families = [world.family for world in worlds.WORLDS]
    assert len({world.name for world in worlds.WORLDS}) == 30
    assert {family: families.count(family) for family in planted.TRUE} == dict.fromkeys(planted.TRUE, 5)


@pytest.mark.parametrize("latents", [2, 3])
def test_quadrature_with_a_linear_decoder_is_the_closed_form(latents: int) -> None:
    world = World("normal", "linear", latents, 0.5, 7, train=200, test=50)
    x, f = worlds.simulate(world)["test"], worlds.decoder(world)
    covariance = f.out @ f.out.T + 0.25 * torch.eye(8, dtype=torch.float64)
    exact = torch.distributions.MultivariateNormal(f.bias, covariance).log_prob(torch.tensor(x, dtype=torch.float64))
    assert (worlds.truth(world, x) - exact).abs().max() < 1e-6


@pytest.mark.parametrize(
    "world",
    [*HIDDEN_LAYER, *(w for w in worlds.WORLDS if w.seed == 1), World("sphere", "linear", 3, 0.7, 8)],
    ids=lambda w: w.name,
)
def test_the_truth_is_that_of_the_simulation(world: World) -> None:
    """Against the mean over 400,000 draws of the prior, at 4 standard errors: one false alarm in 16,000 items."""
    world = world._replace(train=100, test=3, noise=max(world.noise, 1.0))
    x, f = worlds.simulate(world)["test"], worlds.decoder(world)
    z = torch.tensor(worlds.prior(world).draw(np.random.default_rng(5), 400_000), dtype=torch.float64)
    means = f(z)
    for item, log_p in zip(torch.tensor(x).double(), worlds.truth(world, x), strict=True):
        square = (item - means).square().sum(1) / world.noise**2
        relative = torch.exp(-0.5 * square - 4 * math.log(2 * math.pi * world.noise**2) - log_p)
        error = float(relative.std()) / math.sqrt(len(z))
        assert abs(float(relative.mean()) - 1) < 4 * error + 1e-3, world.name


def test_the_best_normal_latents_reach_the_truth_in_a_normal_world() -> None:
    """In a normal world the fitted model is below the truth by about parameters / (2 N) nats on held-out items, here
    0.02: the limit is 0.06. On the training items it cannot be below the truth."""
    world = World("normal", "linear", 2, 0.5, 3, train=800, test=800)
    x = worlds.simulate(world)
    behind, _ = worlds.gap(worlds.truth(world, x["test"]), worlds.best_normal(world, x["train"], x["test"]))
    assert -0.02 < behind < 0.06
    assert worlds.gap(worlds.truth(world, x["train"]), worlds.best_normal(world, x["train"], x["train"]))[0] < 0


def test_select_finds_the_planted_family(tmp_path: Path) -> None:
    """For latents with four classes, whose gap is above 5 standard errors, normal latents are rejected and the
    categories are found. In worlds with the seeds 1, 2 and 3 the difference is at least 7 standard errors."""
    world = World("categorical", "linear", 1, 1.5, 1, train=2000, test=1000)
    data = planted.dataset(world)
    behind, se = worlds.gap(worlds.truth(world, data.test.x), worlds.best_normal(world, data.train.x, data.test.x))
    assert behind > planted.CLEAR * se
    found = planted.ladle.select(
        data, tmp_path / "run", families=("normal", "categorical:4"), recipe=planted.plan(world, data.schema),
        latents=1, steps=150, seeds=2, samples=50, device="cpu",
    )  # fmt: skip
    assert found.supported == ("categorical:4",)
    assert "The data support categorical:4" in found.verdict
    assert found.rows[0].nats < -float(worlds.truth(world, data.test.x).mean()) + 0.1 * behind


def test_claims_can_fail() -> None:
    row = {"world": "w", "family": "laplace", "z": 9.0, "rejected": True, "wrong": False,
           "ties": {"full_normal": {"nats": 0.0, "se": 1.0, "p": 1.0}}}  # fmt: skip
    assert all(good for good, _ in planted.claims([row] * 15))
    assert not planted.claims([row] * 14)[0][0]
    assert not planted.claims([{**row, "rejected": False}] * 2 + [row] * 13)[1][0]
    assert not planted.claims([{**row, "wrong": True}] * 2 + [row] * 13)[2][0]
    assert not planted.claims([{**row, "ties": {"full_normal": {"nats": 1.0, "se": 0.1, "p": 1e-9}}}] + [row] * 14)[3][
        0
    ]
    assert not planted.claims([{**row, "ties": {"full_normal": None}}] + [row] * 14)[3][0]
