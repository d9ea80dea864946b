"""The contract of the parts other than families, as functions that raise ``AssertionError`` if it is violated.

``test_part_faults.py`` shows, for each check, a fault that it finds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from ladle.data import Batch
from ladle.model.conditional import Conditional
from ladle.model.latents import Level
from ladle.model.priors import Prior
from ladle.objectives import Progress
from ladle.recipes.assemble import Assembly
from ladle.seeds import seeded
from ladle.shapes import sum_event
from ladle.spec import build, to_spec
from toys import stirred

FALSE_ALARM = 1e-6  # the false-alarm probability of each test of a sampler


def spec_round_trips(thing: Any, output: Any) -> None:
    """An object built from the JSON of the spec of a part has the same spec, the same parameter shapes and, with the
    same parameter values, the same ``output``."""
    text = json.dumps(to_spec(thing), allow_nan=False)
    rebuilt = build(json.loads(text))
    assert type(rebuilt) is type(thing)
    assert json.loads(json.dumps(to_spec(rebuilt))) == json.loads(text)
    rebuilt.load_state_dict(thing.state_dict())
    with seeded(0):
        one = output(thing)
    with seeded(0):
        other = output(rebuilt)
    assert torch.equal(one, other), "the spec is incomplete"


def gradients_reach_every_parameter(assembly: Assembly, batch: Batch) -> None:
    """The gradient of a training step with respect to every parameter exists, is finite and is not all zero."""
    model = stirred(assembly.model)
    with seeded(0):
        terms = model(batch, assembly.objective.samples)
    assembly.objective(terms, Progress(1.0, 100)).scalar.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"no gradient reaches {name}"
        assert bool(parameter.grad.isfinite().all()), f"the gradient to {name} is not finite"
        assert bool(parameter.grad.any()), f"the gradient to {name} is zero"


def grid(dims: int, reach: float, points: int) -> tuple[Tensor, float]:
    """The points ``(N, dims)`` of a uniform grid over ``[-reach, reach]^dims``, and the volume of a cell."""
    line = torch.linspace(-reach, reach, points, dtype=torch.float64)
    cell = float(line[1] - line[0]) ** dims
    return torch.cartesian_prod(*[line] * dims).reshape(-1, dims), cell


def mass(d: Distribution, z: Tensor, cell: float) -> Tensor:
    """The probability of each cell."""
    return sum_event(d.log_prob(z), 1).exp() * cell


def wide_prior(prior: Prior, posterior: Conditional | None) -> Callable[[int], Distribution]:
    """The prior as a function of n, in float64."""
    prior, posterior = prior.double(), posterior.double() if posterior is not None else None
    return lambda n: prior(n, {}, posterior)


def prior_density_sums_to_one(prior: Prior, posterior: Conditional | None = None, reach: float = 30.0) -> None:
    """The density of a prior in one or two dimensions sums to one, by quadrature on a uniform grid in float64.

    The posterior is needed for priors that are built from it.
    """
    dims = prior.event[0]
    z, cell = grid(dims, reach, 20_001 if dims == 1 else 801)
    with torch.no_grad():
        total = float(mass(wide_prior(prior, posterior)(len(z)), z, cell).sum())
    assert abs(total - 1) < 1e-3, f"the density integrates to {total:.4f}"


def prior_sampler_agrees_with_density(
    prior: Prior, posterior: Conditional | None = None, n: int = 20_000, seed: int = 0, reach: float = 30.0
) -> None:
    """The empirical distribution functions of n samples, for each dimension and for the sum of all dimensions, are
    within the Dvoretzky-Kiefer-Wolfowitz bound of the integrals of the density."""
    dims = prior.event[0]
    z, cell = grid(dims, reach, 20_001 if dims == 1 else 801)
    with torch.no_grad(), seeded(seed):
        p = wide_prior(prior, posterior)
        masses = mass(p(len(z)), z, cell).numpy()
        samples = p(n).sample().double()
    assert samples.shape == (n, dims)
    bound = math.sqrt(math.log(2 * (dims + 1) / FALSE_ALARM) / (2 * n))
    directions = [*torch.eye(dims, dtype=torch.float64), torch.ones(dims, dtype=torch.float64)]
    for direction in directions:
        edges, values = (z @ direction).numpy(), np.sort((samples @ direction).numpy())
        order = np.argsort(edges, kind="stable")
        cumulative = np.cumsum(masses[order])
        width = float(direction.abs().sum()) * cell ** (1 / dims) / 2  # a sample is within half a cell of a point
        low, high = (np.searchsorted(edges[order], values + side * width) for side in (-1, 1))
        reached = np.concatenate([[0.0], cumulative])
        steps = np.arange(1, n + 1) / n
        gap = np.maximum(reached[low] - steps, steps - 1 / n - reached[high]).max()
        assert gap < bound + 1e-3, "the sampler follows another distribution"


def kl_is_the_mean_of_its_estimate(levels: Any, n: int) -> None:
    """``Level.kl`` over n draws agrees with the mean of ``log q - log p``, to 4.5 standard errors for each item (one
    false alarm in 100,000 items).

    Args:
        levels: the levels of a walk with ``samples=(n,)``.
        n: the number of draws.
    """
    for level in levels:
        assert isinstance(level, Level)
        ratio = (level.log_q - level.log_p).double()
        assert level.kl.shape == ratio.shape
        error = ratio.std(0) / math.sqrt(n)
        difference = (level.kl.double().mean(0) - ratio.mean(0)).abs()
        assert bool((difference <= 4.5 * error + 1e-5).all()), "the KL is not the mean of log q - log p"
