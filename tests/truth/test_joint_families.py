"""Families of vectors, angles, directions and points of a simplex, against scipy, quadrature and closed forms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from ladle.families import Family, NotAvailable, centre, chain, draw, mean, quantile
from ladle.families.directional import PowerSpherical, VonMises, sphere
from ladle.seeds import seeded
from ladle.shapes import sum_event
from ladle.spec import build


def family(name: str, **arguments: Any) -> Family:
    return build({"part": f"family/{name}", **arguments}).double()


def raws(f: Family, *event: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*size, generator=generator, dtype=torch.float64) for size in f.raw(event)]


def agree(found: Tensor, expected: Any, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=rtol, atol=atol)


# ------------------------------------------------------------------------------------------------ full covariance


def test_full_normal() -> None:
    f = family("full_normal")
    d = f(*raws(f, 4))
    cov = (d.scale_tril @ d.scale_tril.T).numpy()
    oracle = stats.multivariate_normal(d.loc.numpy(), cov)
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 3
    agree(d.log_prob(x), oracle.logpdf(x.numpy()))
    agree(d.entropy(), oracle.entropy())
    agree(d.variance, np.diag(cov))
    agree(chain(d, x).sum(-1), oracle.logpdf(x.numpy()))
    first = stats.multivariate_normal(d.loc.numpy()[:2], cov[:2, :2])  # the beginning of a chain gives a marginal
    agree(chain(d, x)[:, :2].sum(-1), first.logpdf(x.numpy()[:, :2]))
    with pytest.raises(NotAvailable, match="quantile"):
        quantile(d, torch.full((4,), 0.5))


def test_one_dimension_has_no_covariance_parameters() -> None:
    f = family("full_normal")
    assert f.raw((3, 1)) == ((3, 1), (3, 1))
    loc, raw = raws(f, 3, 1)
    x = torch.linspace(-2, 2, 3, dtype=torch.float64).reshape(3, 1)
    agree(f(loc, raw).log_prob(x), family("normal")(loc, raw).log_prob(x).squeeze(-1))


def test_a_joint_family_in_the_units_of_data() -> None:
    """``N(loc + scale * m, scale L L' scale)``."""
    scale = np.array([50.0, 0.02, 1.0])
    f = family("affine", family={"part": "family/full_normal"}, loc=[100.0, -3.0, 0.0], scale=scale.tolist())
    d = f(*raws(f, 3))
    inner = d.base.scale_tril.numpy()
    oracle = stats.multivariate_normal(mean(d).numpy(), scale[:, None] * (inner @ inner.T) * scale, allow_singular=True)
    x = d.sample((20,))
    agree(d.log_prob(x), oracle.logpdf(x.numpy()), rtol=1e-6, atol=1e-5)
    agree(d.entropy(), oracle.entropy(), rtol=1e-6)
    agree(chain(d, x).sum(-1), d.log_prob(x))


# ------------------------------------------------------------------------------------------------------- simplex


def test_dirichlet() -> None:
    f = family("dirichlet", floor=0.2)
    (raw,) = raws(f, 5)
    d, oracle = f(raw), stats.dirichlet(0.2 + 0.8 * np.log2(1 + 2.0 ** raw.numpy()))
    x = torch.from_numpy(oracle.rvs(20, random_state=0))
    agree(d.log_prob(x), [oracle.logpdf(row / row.sum()) for row in x.numpy()])
    agree(mean(d), oracle.mean())
    agree(d.entropy(), oracle.entropy())


def test_logistic_normal_is_the_normal_of_its_log_ratios() -> None:
    """With a Jacobian computed by autograd."""
    f = family("logistic_normal")
    d = f(*raws(f, 4))
    y = torch.randn(3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def first(y: Tensor) -> Tensor:
        return torch.cat([y, torch.zeros(1)]).softmax(-1)[:-1]

    x = torch.cat([first(y), 1 - first(y).sum(-1, keepdim=True)])
    jacobian = torch.linalg.slogdet(torch.autograd.functional.jacobian(first, y)).logabsdet
    oracle = stats.norm(d.loc.numpy(), d.scale.numpy()).logpdf(y.numpy()).sum() - float(jacobian)
    agree(d.log_prob(x), oracle)
    agree(centre(d), torch.cat([d.loc, torch.zeros(1)]).softmax(-1))


@pytest.mark.parametrize("name", ["dirichlet", "logistic_normal"])
def test_the_boundary_of_the_simplex_is_never_reached(name: str) -> None:
    """In float32, with members that have nearly all their mass near the boundary."""
    f = build({"part": f"family/{name}"})
    raw = [(-40.0 + 200 * i * torch.ones(1000, *size)).requires_grad_() for i, size in enumerate(f.raw((3,)))]
    with seeded(0):
        z = draw(f(*raw))
    assert bool(f.support.check(z).all())
    found = torch.autograd.grad(f(*raw).log_prob(z).sum(), raw)
    assert all(bool(g.isfinite().all()) for g in found)


# -------------------------------------------------------------------------------------------------------- circle

KAPPAS = (0.0, 1e-6, 0.05, 0.7, 5.0, 60.0, 1e3, 1e5)


def integral(density: Any, loc: float, to: float) -> float:
    """The integral from -pi, divided at the location and at the opposite angle."""
    if to < loc - math.pi:
        return integrate.quad(density, -math.pi, to)[0]
    tail, rest = (integrate.quad(density, a, b, epsabs=1e-12)[0] for a, b in ((-math.pi, loc - math.pi), (loc, to)))
    return tail + 0.5 + rest


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-8), (torch.float32, 1e-4)])
def test_von_mises(kappa: float, dtype: torch.dtype, rtol: float) -> None:
    loc = 2.5
    v = torch.tensor([kappa * math.cos(loc), kappa * math.sin(loc)], dtype=dtype)
    kappa, loc = (float(n) for n in (v.double().norm(), torch.atan2(*v.double().flip(-1))))
    d, oracle = VonMises(v), stats.vonmises(max(kappa, 1e-12), loc=loc)
    x = loc + torch.linspace(-3, 3, 13, dtype=torch.float64) / max(1.0, math.sqrt(kappa))
    x = torch.remainder(x + math.pi, 2 * math.pi) - math.pi
    agree(d.log_prob(x), oracle.logpdf(x.numpy()), rtol=rtol, atol=rtol)
    agree(d.entropy(), oracle.entropy(), rtol=rtol, atol=rtol)
    # The cdf of scipy is accurate only to 3e-6 for kappa >= 50.
    mass = np.array([integral(oracle.pdf, loc, float(to)) for to in x])
    agree(d.cdf(x), mass, rtol=0, atol=max(rtol, 1e-8))
    agree(quantile(VonMises(v.double()), torch.from_numpy(mass)), x.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kappa", [0.01, 0.7, 5.0, 60.0, 1e3, 1e5])
def test_the_velocity_along_the_concentration_is_that_of_the_quantile(kappa: float) -> None:
    x = torch.linspace(-3, 3, 25, dtype=torch.float64) / max(1.0, math.sqrt(kappa))
    u = stats.vonmises(kappa).cdf(x.numpy())
    h = 1e-3 * kappa
    here, more, less = (VonMises(torch.tensor([k, 0.0]).double()) for k in (kappa, kappa + h, kappa - h))
    slope = (quantile(more, torch.from_numpy(u)) - quantile(less, torch.from_numpy(u))) / (2 * h)
    agree(here.velocity(x)[:, 0], slope, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("kappa", KAPPAS)
def test_gradients_of_draws_of_angles_are_those_of_expectations(kappa: float) -> None:
    """``E[f'(x) dx/dv] = d/dv E[f(x)]``, both by quadrature, for the first harmonics."""
    v = torch.tensor([kappa * math.cos(2.5), kappa * math.sin(2.5)], dtype=torch.float64, requires_grad=True)
    n = 5_000
    x = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n - math.pi
    p = VonMises(v).log_prob(x).exp() * 2 * math.pi / n
    for order, shift in itertools.product((1, 2, 3), (0.0, 0.5 * math.pi)):
        (expected,) = torch.autograd.grad((p * torch.cos(order * x + shift)).sum(), v, retain_graph=True)
        slope = -order * torch.sin(order * x + shift)
        found = (p * slope) @ VonMises(v).velocity(x)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_gradients_of_draws_of_uniform_angles_are_bounded() -> None:
    v = torch.zeros(10_000, 2, requires_grad=True)
    with seeded(0):
        z = draw(VonMises(v))
    (found,) = torch.autograd.grad(z.sum(), v)
    assert float(found.norm(dim=-1).max()) < 1.01  # (-sin, cos) of the angle


# -------------------------------------------------------------------------------------------------------- sphere


@pytest.mark.parametrize("size", [2, 3, 10])
@pytest.mark.parametrize("kappa", [0.0, 0.3, 4.0, 200.0])
def test_power_spherical(size: int, kappa: float) -> None:
    """Along the axis the distribution is a beta distribution, up to the area of the sphere orthogonal to it."""
    b = (size - 1) / 2
    oracle = stats.beta(b + kappa, b)
    y = np.linspace(0.05, 0.95, 7)
    m, w = np.eye(size)[0], np.eye(size)[1]
    x = torch.from_numpy((2 * y - 1)[:, None] * m + 2 * np.sqrt(y * (1 - y))[:, None] * w)
    d = PowerSpherical(torch.from_numpy(kappa * m))
    area = math.log(2) + b * math.log(math.pi) - special.gammaln(b)  # of the sphere S^(D-2)
    # p(y) = p(x) |dt/dy| (1 - t^2)^((D - 3) / 2) area, with t = 2 y - 1
    agree(
        d.log_prob(x), oracle.logpdf(y) - math.log(2) - (b - 1) * np.log(4 * y * (1 - y)) - area, rtol=1e-7, atol=1e-6
    )
    agree(mean(d), (2 * oracle.mean() - 1) * m, rtol=1e-7)
    with seeded(0):
        z = d.sample((100_000,))
    log_q = d.log_prob(z)
    assert bool(sphere.check(z).all())
    assert abs(float(d.entropy() + log_q.mean())) <= 4.5 * float(log_q.std()) / math.sqrt(len(z)) + 1e-6
    assert stats.kstest(((z[:, 0] + 1) / 2).numpy(), oracle.cdf).pvalue > 1e-5


def test_float32_directions_are_accurate() -> None:
    """At high concentrations, at zero, and opposite to the axis."""
    for kappa in (0.0, 1e-12, 1e4):
        v = torch.tensor([0.6, 0.0, -0.8]) * kappa
        d, exact = PowerSpherical(v), PowerSpherical(v.double())
        with seeded(0):
            z = d.sample((1000,))
        agree(d.log_prob(z), exact.log_prob(z.double()), rtol=1e-5, atol=1e-4)
        agree(d.entropy(), exact.entropy(), rtol=1e-5)
        assert bool(d.log_prob(-centre(d)).isfinite())


@pytest.mark.parametrize("size", [2, 4, 16])
@pytest.mark.parametrize("length", [0.0, 0.2, 1.0, 30.0])
def test_gradients_of_draws_of_directions_are_those_of_expectations(size: int, length: float) -> None:
    """The gradients of the mean and of the mean square, which have closed forms, to 5 standard errors each (one false
    alarm in 10,000 runs of all 12 cases)."""
    axis = torch.nn.functional.normalize(torch.cos(torch.arange(size, dtype=torch.float64) + 1), dim=0)
    w = torch.sin(torch.arange(size, dtype=torch.float64))
    v = (length * axis).requires_grad_()
    n = 40_000

    def moments(v: Tensor) -> tuple[Tensor, Tensor]:
        """``E[w'x]`` and ``E[(w'x)^2]``: ``E[x x'] = E[t^2] m m' + (1 - E[t^2]) / (D - 1) (I - m m')``, t = m'x."""
        m, k = v / v.norm(), v.norm()
        b = (size - 1) / 2
        a = b + k
        along = (a - b) / (a + b)
        square = along**2 + 4 * a * b / ((a + b) ** 2 * (a + b + 1))
        parallel = (w @ m) ** 2
        return (w @ m) * along, square * parallel + (1 - square) / (size - 1) * (w @ w - parallel)

    each = v.detach().expand(n, size).clone().requires_grad_()
    with seeded(0):
        x = PowerSpherical(each).rsample() @ w
    # At 0 the gradient depends on the direction of approach, here along the first axis.
    safe = (v.detach() if length else 1e-7 * torch.eye(size, dtype=torch.float64)[0]).requires_grad_()
    for found, expected in zip((x, x.square()), moments(safe), strict=True):
        (gradients,) = torch.autograd.grad(found.sum(), each, retain_graph=True)
        (exact,) = torch.autograd.grad(expected, safe, retain_graph=True)
        error = gradients.std(0) / math.sqrt(n)
        assert bool(((gradients.mean(0) - exact).abs() <= 5 * error + 1e-6).all())
        assert float(gradients.abs().max()) < 1e4


def test_a_learned_prior_leaves_the_uniform_distribution() -> None:
    """At raw zeros, where the location is undefined, the likelihood has a non-zero gradient."""
    for name, event in (("power_spherical", (4,)), ("von_mises", (2,))):
        f = build({"part": f"family/{name}"})
        raw = [torch.zeros(size, requires_grad=True) for size in f.raw(event)]
        optimizer = torch.optim.Adam(raw, lr=0.1)
        with seeded(0):
            x = f(*(torch.ones(500, *size) for size in f.raw(event))).sample()
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = -sum_event(f(*raw).log_prob(x), 1).mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] - 0.1
        torch.testing.assert_close(raw[0].detach(), torch.ones(f.raw(event)[0]), atol=0.4, rtol=0.0)
