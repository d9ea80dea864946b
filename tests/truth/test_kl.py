"""Every closed form of a KL between members of two families equals the mean of ``log q - log p`` over samples of q."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch import distributions as td

from ladle.families import Family
from ladle.model.latents import kl
from ladle.seeds import seeded
from ladle.shapes import Size, sum_event
from ladle.spec import build, parts

# The arguments of each family, and the event: two elements, or one value of a joint distribution.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "affine": {"family": {"part": "family/normal"}, "loc": 2.0, "scale": 3.0},
    "categorical": {"classes": 4},
    "columns": {"families": [{"part": "family/normal"}, {"part": "family/logistic"}], "groups": [[1], [0]]},
    "one_hot": {"classes": 2},
    "vq": {"classes": 2, "size": 3},
    "mixture": {"family": {"part": "family/normal"}, "components": 2},
    "discretised_logistic": {"levels": 5},
    "discretised_logistic_mixture": {"levels": 5},
    "colour_mixture": {"levels": 5},
    "local_autoregressive": {"family": {"part": "family/discretised_logistic", "levels": 5}},
}
EVENTS: dict[str, Size] = {
    "one_hot": (4,), "vq": (4,), "power_spherical": (4,), "dirichlet": (4,), "logistic_normal": (4,),
    "colour_mixture": (2, 1, 1), "local_autoregressive": (1, 1, 2),
}  # fmt: skip
SAMPLES, PIECE = 1_000_000, 100_000


def member(name: str, seed: int, spread: float = 1.0) -> tuple[Family, td.Distribution]:
    """A family in float64, and a random member of it with a batch of one."""
    family = build({"part": f"family/{name}", **ARGUMENTS.get(name, {})}).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    sizes = family.raw(EVENTS.get(name, (2,)))
    return family, family(*(spread * torch.randn(1, *s, generator=generator, dtype=torch.float64) for s in sizes))


def comparable(q: Family, p: Family) -> bool:
    return type(q) is type(p) or q.support == p.support


def pairs() -> list[tuple[str, str, float]]:
    """The pairs of families with a registered closed form, found by trying all pairs."""
    found = []
    for one, other in itertools.product(sorted(set(parts()["family"]) - {"point_mass"}), repeat=2):
        for spread in (1.0, 0.0):  # p at random or, if only that has a closed form, the standard member
            (q_family, q), (p_family, p) = member(one, 1), member(other, 2, spread)
            if not comparable(q_family, p_family):
                break
            try:
                td.kl_divergence(q, p)
            except NotImplementedError:
                continue
            found.append((one, other, spread))
            break
    return found


def estimate(q: td.Distribution, p: td.Distribution) -> tuple[Tensor, Tensor]:
    """The mean of ``log q - log p`` over samples of q, and its standard error."""
    total, squares = torch.zeros(2, dtype=torch.float64)
    with seeded(0, "kl"):
        for _ in range(SAMPLES // PIECE):
            z = q.sample((PIECE,))
            ratio = sum_event(q.log_prob(z), 1) - sum_event(p.log_prob(z), 1)
            total, squares = total + ratio.sum(), squares + ratio.square().sum()
    mean = total / SAMPLES
    return mean, ((squares / SAMPLES - mean.square()).clamp_min(0) / SAMPLES).sqrt()


@pytest.mark.parametrize("one, other, spread", pairs())
def test_closed_forms(one: str, other: str, spread: float) -> None:
    """Within 4 standard errors of 10^6 samples: one false alarm in 16,000 pairs."""
    (_, q), (_, p) = member(one, 1), member(other, 2, spread)
    mean, error = estimate(q, p)
    closed = sum_event(td.kl_divergence(q, p), 1)
    assert closed.shape == (1,)
    assert abs(float(closed - mean)) <= 4 * float(error) + 1e-9
    assert one == other or float(closed) > 20 * float(error), (
        "the KL is too small for the comparison to detect an error"
    )
    unknown = torch.full((1,), math.nan, dtype=torch.float64)
    torch.testing.assert_close(kl(q, p, unknown, unknown), closed)  # the function that the walk uses


def test_closed_forms_are_registered() -> None:
    """These closed forms are registered, so that no pair above passes because one is missing."""
    found = {(one, other) for one, other, _ in pairs()}
    itself = {"normal", "full_normal", "laplace", "beta", "continuous_bernoulli", "bernoulli", "categorical", "one_hot"}
    itself |= {"dirichlet", "logistic_normal", "von_mises", "power_spherical"}
    assert found >= {(name, name) for name in itself} | {
        ("normal", "full_normal"),
        ("full_normal", "normal"),
        ("normal", "laplace"),
        ("dirichlet", "logistic_normal"),
    }


def test_a_wrong_closed_form_is_found() -> None:
    """The standard error is small enough to detect a deviation of 1 %."""
    for name in ("normal", "full_normal"):
        (_, q), (_, p) = member(name, 1), member(name, 2)
        mean, error = estimate(q, p)
        assert abs(float(1.01 * sum_event(td.kl_divergence(q, p), 1) - mean)) > 4 * float(error)
