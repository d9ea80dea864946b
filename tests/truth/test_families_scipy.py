"""The densities of families against scipy, and against closed forms where scipy has no counterpart."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from ladle.families import Family, NotAvailable, centre, draw, mean, positive, quantile
from ladle.families.bounded import ContinuousBernoulli
from ladle.families.discrete import Bernoulli
from ladle.families.family import total
from ladle.families.pixels import DiscretisedLogistic, DiscretisedLogisticMixture
from ladle.families.real import Logistic
from ladle.shapes import Size
from ladle.spec import build

SIZE = (50,)


def family(name: str, **arguments: Any) -> Family:
    return build({"part": f"family/{name}", **arguments}).double()


def raws(f: Family, size: Size = SIZE, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [1.5 * torch.randn(*s, generator=generator, dtype=torch.float64) for s in f.raw(size)]


def scale_of(raw: Tensor, floor: float = 1e-3) -> np.ndarray:
    """``positive``, implemented in NumPy."""
    return floor + (1 - floor) * np.log2(1 + 2.0 ** raw.numpy())


def agree(found: Tensor, expected: np.ndarray, rtol: float = 1e-6) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=rtol, atol=1e-8)


def test_positive() -> None:
    raw = torch.linspace(-30, 30, 61, dtype=torch.float64)
    agree(positive(raw, 0.01), scale_of(raw, 0.01))
    assert float(positive(torch.zeros(()), 0.3)) == 1.0


LINE = {
    "normal": (stats.norm, {}),
    "laplace": (stats.laplace, {}),
    "logistic": (stats.logistic, {}),
    "student_t": (stats.t, {"df": 3.5}),
}


@pytest.mark.parametrize("name", LINE)
def test_families_on_the_line(name: str) -> None:
    oracle, arguments = LINE[name]
    f = family(name, **arguments)
    loc, raw_scale = raws(f)
    x = torch.linspace(-40, 40, 50, dtype=torch.float64)
    d, true = f(loc, raw_scale), oracle(loc=loc.numpy(), scale=scale_of(raw_scale), **arguments)
    agree(d.log_prob(x), true.logpdf(x.numpy()))
    agree(mean(d), true.mean())
    agree(d.variance, true.var())
    agree(d.entropy(), true.entropy())
    if name != "student_t":
        u = torch.linspace(1e-9, 1 - 1e-9, 50, dtype=torch.float64)
        agree(quantile(d, u), true.ppf(u.numpy()))
        agree(d.cdf(x), true.cdf(x.numpy()))


def test_quantiles_of_small_probabilities_are_accurate_in_float32() -> None:
    u = torch.tensor([1e-30, 1e-10, 1e-4])
    for name in ("normal", "laplace", "logistic"):
        d = build({"part": f"family/{name}"})(torch.zeros(3), torch.zeros(3))
        np.testing.assert_allclose(quantile(d, u).numpy(), LINE[name][0].ppf(u.numpy()), rtol=1e-5)


@pytest.mark.parametrize("name", ["normal", "laplace", "logistic", "student_t"])
def test_a_ceiling_bounds_the_scale_and_keeps_raw_zero_at_one(name: str) -> None:
    """A ceiling keeps the scale at raw 0 and changes its slope there; small scales change by a constant factor."""
    free, bound = build({"part": f"family/{name}"}), build({"part": f"family/{name}", "ceiling": 3.0})
    raw = torch.tensor([-30.0, -5.0, 0.0, 5.0, 1e9])
    scale = bound(torch.zeros(5), raw).scale
    s = free(torch.zeros(5), raw).scale
    torch.testing.assert_close(scale, 1 / (1 / 3 + 2 / 3 / s))  # a harmonic mean of the ceiling and the free scale
    assert scale[2] == 1
    assert scale[-1] <= 3
    assert bool((scale.diff() > 0).all())


def test_a_shared_scale_is_fitted_to_the_residuals() -> None:
    """The best shared scale is the root mean square of the residuals."""
    f = build({"part": "family/normal", "shared_scale": True})
    x = torch.tensor([-2.0, 1.0, 3.0, -0.5])
    optimizer = torch.optim.LBFGS(f.parameters(), max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = -f(torch.zeros(4)).log_prob(x).sum()
        value.backward()
        return value

    optimizer.step(loss)
    torch.testing.assert_close(f(torch.zeros(4)).stddev[0], x.square().mean().sqrt(), rtol=1e-3, atol=0.0)


def test_affine() -> None:
    f = family("affine", family={"part": "family/laplace"}, loc=1e6, scale=2.5e5)
    loc, raw_scale = raws(f)
    x = torch.linspace(-1e6, 3e6, 50, dtype=torch.float64)
    true = stats.laplace(loc=1e6 + 2.5e5 * loc.numpy(), scale=2.5e5 * scale_of(raw_scale))
    d = f(loc, raw_scale)
    agree(d.log_prob(x), true.logpdf(x.numpy()))
    agree(d.cdf(x), true.cdf(x.numpy()))
    agree(mean(d), true.mean())
    agree(d.variance, true.var())
    agree(d.entropy(), true.entropy())
    agree(quantile(d, torch.full(SIZE, 0.2, dtype=torch.float64)), true.ppf(0.2))


def test_beta() -> None:
    f = family("beta", floor=0.2)
    a, b = raws(f)
    x = torch.linspace(0.001, 0.999, 50, dtype=torch.float64)
    true = stats.beta(scale_of(a, 0.2), scale_of(b, 0.2))
    agree(f(a, b).log_prob(x), true.logpdf(x.numpy()))
    agree(mean(f(a, b)), true.mean())


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_continuous_bernoulli_is_a_truncated_exponential(dtype: torch.dtype, rtol: float) -> None:
    """With logit -l the density is that of an exponential of rate l truncated at 1, also near l = 0."""
    l = torch.tensor([-300.0, -40.0, -2.0, -0.11, -0.09, -1e-3, -1e-5, 0.3, 7.0, 80.0], dtype=dtype)
    x = torch.linspace(0.05, 0.95, 10, dtype=dtype)
    rate, flip = l.abs().double().numpy(), (l > 0).numpy()
    at = np.where(flip, 1 - x.double().numpy(), x.double().numpy())
    true = stats.truncexpon(b=rate, scale=1 / rate)
    d = ContinuousBernoulli(l)
    np.testing.assert_allclose(d.log_prob(x).numpy(), true.logpdf(at), rtol=rtol, atol=10 * rtol)
    np.testing.assert_allclose(d.cdf(x).numpy(), np.where(flip, 1 - true.cdf(at), true.cdf(at)), rtol=0, atol=rtol)
    # The mean in scipy loses digits at small rates; there the series 1/2 -+ rate/12 is exact to rate^3 / 720.
    middle = np.where(rate > 0.05, true.mean(), 0.5 - rate / 12 + rate**3 / 720)
    np.testing.assert_allclose(d.mean.numpy(), np.where(flip, 1 - middle, middle), rtol=10 * rtol)


def test_continuous_bernoulli_at_exactly_one_half() -> None:
    l = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    d = ContinuousBernoulli(l)
    x = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64)
    assert d.log_prob(x).tolist() == [0.0, 0.0, 0.0]
    assert d.cdf(x).tolist() == d.icdf(x).tolist() == x.tolist()
    (slope,) = torch.autograd.grad(d.log_prob(x).sum(), l, retain_graph=True)
    torch.testing.assert_close(slope, x.detach() - 0.5)
    (slope,) = torch.autograd.grad(d.icdf(x).sum(), l)
    torch.testing.assert_close(slope, x * (1 - x) / 2)  # the derivative of the quantile, from that of the cdf


def test_bernoulli_and_categorical() -> None:
    f = family("bernoulli")
    (logits,) = raws(f)
    x = (torch.arange(50) % 2).double()
    agree(f(logits).log_prob(x), stats.bernoulli(torch.sigmoid(logits).numpy()).logpmf(x.numpy()))

    g = family("categorical", classes=4)
    (logits,) = raws(g)
    p, k = logits.softmax(-1).numpy(), torch.arange(50) % 4
    agree(g(logits).log_prob(k), np.log(p[np.arange(50), k.numpy()]))
    assert torch.equal(g(logits).log_prob(k.float()), g(logits).log_prob(k))

    h = family("one_hot", classes=4)
    z = torch.nn.functional.one_hot(k, 4).double().flatten()
    agree(h(logits.flatten()).log_prob(z), g(logits).log_prob(k).sum().numpy())
    assert torch.equal(g.read(k), z.to(torch.float32))


@pytest.mark.parametrize("spread", [1.0, 10.0, 500.0])
@pytest.mark.parametrize("size", [(5,), (3, 8), (2, 784), (17,)])
def test_the_total_of_bernoullis_is_the_sum_of_log_probs(size: Size, spread: float) -> None:
    """Sums by products of eight factors, or term by term if a product overflows, and the gradients of both."""
    generator = torch.Generator().manual_seed(0)
    logits = (spread * torch.randn(4, *size, generator=generator, dtype=torch.float64)).requires_grad_()
    x = torch.rand(4, *size, generator=generator).round().double()
    found = total(Bernoulli(logits=logits), x, 1)
    agree(found, stats.logistic.logcdf(((2 * x - 1) * logits).detach().numpy()).reshape(4, -1).sum(1))
    (slope,) = torch.autograd.grad(found.sum(), logits)
    agree(slope, (x - logits.sigmoid()).detach().numpy())
    single = total(Bernoulli(logits=logits.detach().float()), x.float(), 1)
    agree(single.double(), found.detach().numpy(), rtol=3e-6)


def test_the_kl_of_nearly_certain_bernoullis_is_finite() -> None:
    one, zero = (Bernoulli(logits=torch.tensor(l)) for l in (60.0, -60.0))
    torch.testing.assert_close(torch.distributions.kl_divergence(one, zero), torch.tensor(60.0))


@pytest.mark.parametrize("name, arguments, event", [("bernoulli", {}, (4,)), ("one_hot", {"classes": 2}, (4,))])
def test_straight_through(name: str, arguments: dict[str, Any], event: Size) -> None:
    """The value is that of a sample, and the gradient that of the probabilities."""
    f = family(name, **arguments)
    raw = raws(f, event)[0].requires_grad_()
    d = f(raw)
    torch.manual_seed(0)
    z = draw(d)
    assert set(z.tolist()) <= {0.0, 1.0}
    weights = torch.arange(4.0, dtype=torch.float64)
    (found,) = torch.autograd.grad((z * weights).sum(), raw)
    (expected,) = torch.autograd.grad((f(raw).mean * weights).sum(), raw)
    torch.testing.assert_close(found, expected)


def bins(loc: np.ndarray, scale: np.ndarray, levels: int) -> np.ndarray:
    """``(levels, *shape)``: differences of the logistic distribution function, or of the survival function above
    ``loc``, where differences of numbers near 1 would lose digits."""
    edges = np.concatenate([[-np.inf], np.arange(levels - 1) + 0.5, [np.inf]]).reshape(-1, *(1,) * loc.ndim)
    oracle = stats.logistic(loc=loc, scale=scale)
    return np.where(edges[1:] < loc, np.diff(oracle.cdf(edges), axis=0), -np.diff(oracle.sf(edges), axis=0))


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_discretised_logistic(levels: int) -> None:
    f = family("discretised_logistic", levels=levels, floor=0.01)
    raw_loc, raw_scale = raws(f)
    loc = (levels - 1) / 2 * (1 + raw_loc.numpy())
    unit = (levels - 1) / 8
    true = bins(loc, unit * scale_of(raw_scale, 0.01 / unit), levels)
    d, x = f(raw_loc, raw_scale), torch.arange(levels)[:, None]
    found = d.log_prob(x)
    np.testing.assert_allclose(found.exp().numpy(), true, rtol=1e-7, atol=1e-300)
    np.testing.assert_allclose(found.exp().sum(0).numpy(), 1.0, rtol=1e-12)
    agree(d.cdf(x), np.cumsum(true, 0))


def test_discretised_logistic_mixture() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, loc, raw = (torch.randn(6, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    loc, scale = 127.5 * (1 + loc), 20 * raw.exp()
    d = DiscretisedLogisticMixture(logits, loc, scale, 256)
    true = (bins(loc.numpy(), scale.numpy(), 256) * logits.softmax(-1).numpy()).sum(-1)
    x = torch.arange(256)[:, None]
    np.testing.assert_allclose(d.log_prob(x).exp().numpy(), true, rtol=1e-7)
    agree(d.mean, (true * np.arange(256)[:, None]).sum(0), rtol=1e-4)
    assert torch.equal(centre(d), torch.from_numpy((np.cumsum(true, 0) < 0.5).sum(0)).double())


def test_colour_mixture() -> None:
    """Against an explicit sum over components and product over channels."""
    generator = torch.Generator().manual_seed(0)
    family = build({"part": "family/colour_mixture", "levels": 6, "components": 2})
    raw = [torch.randn(1, *size, generator=generator, dtype=torch.float64) for size in family.raw((3, 1, 1))]
    d = family(*raw)
    weight, loc, scale, slopes = (t[0, :, 0, 0].numpy() for t in (d.logits.softmax(-1), d.loc, d.scale, d.slopes))
    np.testing.assert_allclose(slopes, raw[3][0, :, 0, 0].numpy() + np.array([[1], [0], [1]]))
    colours = torch.cartesian_prod(*[torch.arange(6)] * 3)
    true = np.zeros(216)
    for row, x in enumerate(colours.numpy()):
        for k in range(2):
            offset = x - loc[:, k]
            shift = [0.0, slopes[0, k] * offset[0], slopes[1, k] * offset[0] + slopes[2, k] * offset[1]]
            each = [bins(np.array([loc[c, k] + shift[c]]), scale[c, k : k + 1], 6)[x[c], 0] for c in range(3)]
            true[row] += weight[0, k] * np.prod(each)
    np.testing.assert_allclose(d.log_prob(colours.reshape(-1, 1, 3, 1, 1)).exp().numpy()[:, 0], true, rtol=1e-7)
    np.testing.assert_allclose(true.sum(), 1.0, rtol=1e-12)


def test_a_level_far_in_the_tail_has_an_accurate_log_probability_and_gradient() -> None:
    """In float32, where the difference of two distribution functions would round to zero."""
    loc = torch.tensor([10.0, 10.0], requires_grad=True)
    scale = torch.tensor([0.05, 3.0], requires_grad=True)
    d = DiscretisedLogistic(loc, scale, 256)
    log_p = d.log_prob(torch.tensor([200.0, 200.0]))
    expected = [-(199.5 - 10) / 0.05 + math.log1p(-math.exp(-20)), -(199.5 - 10) / 3 + math.log1p(-math.exp(-1 / 3))]
    torch.testing.assert_close(log_p, torch.tensor(expected), rtol=1e-5, atol=0.0)
    slope = torch.autograd.grad(log_p.sum(), loc)[0]
    torch.testing.assert_close(slope, torch.tensor([20.0, 1 / 3]), rtol=1e-5, atol=0.0)


def test_gradients_of_the_pixel_families() -> None:
    """Against finite differences in float64, including bin edges and the ends of the range."""
    loc = torch.tensor([3.5, 4.0, -2.0, 9.0, 0.5], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([0.3, 2.0, 0.7, 1.0, 0.2], dtype=torch.float64, requires_grad=True)
    for x in (0.0, 3.0, 4.0, 7.0):
        assert torch.autograd.gradcheck(
            lambda m, s, x=x: DiscretisedLogistic(m, s, 8).log_prob(torch.full((5,), x).double()), (loc, scale)
        )


def test_the_mean_of_the_discretised_logistic() -> None:
    """Within half a level for all scales, and within 1 / (80 scale) for scales above 0.35."""
    loc = torch.linspace(-20, 35, 500, dtype=torch.float64)
    for scale in (0.01, 0.1, 0.2, 0.36, 0.5, 1.0, 4.0):
        d = DiscretisedLogistic(loc, torch.full_like(loc, scale), 16)
        k = torch.arange(16.0, dtype=torch.float64)[:, None]
        exact = (d.log_prob(k).exp() * k).sum(0)
        assert float((d.mean - exact).abs().max()) <= (0.5 if scale < 0.35 else 1 / (80 * scale))


def test_a_sharp_black_pixel_is_nearly_certain() -> None:
    f = build({"part": "family/discretised_logistic_mixture"})
    d = f(torch.zeros(1, 5), torch.tensor([[-1.0, -3, -3, -3, -3]]), torch.full((1, 5), -30.0))
    assert float(d.log_prob(torch.zeros(1)).exp()) > 0.999


def test_components_receive_different_gradients() -> None:
    """At raw zeros the components differ, so their gradients differ."""
    f = build({"part": "family/discretised_logistic_mixture"})
    raw = [torch.zeros(1, 5, requires_grad=True) for _ in range(3)]
    found = torch.autograd.grad(f(*raw).log_prob(torch.tensor([40.0])).sum(), raw)
    assert all(len(set(g[0].tolist())) == 5 for g in found)


def test_logistic_cdf_inverts() -> None:
    d = Logistic(torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64))
    u = torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    torch.testing.assert_close(d.cdf(d.icdf(u)), u)


def test_a_point_has_no_density() -> None:
    d = build({"part": "family/point_mass"})(torch.ones(3))
    assert torch.equal(draw(d), torch.ones(3))
    with pytest.raises(NotAvailable, match="plain autoencoder"):
        d.log_prob(torch.ones(3))


def test_a_missing_gradient_estimator_is_reported() -> None:
    d = family("categorical", classes=3)(torch.zeros(2, 3))
    with pytest.raises(NotAvailable, match="posterior"):
        draw(d)


def test_loc_and_scale_of_affine_are_not_learned() -> None:
    f = build(
        {"part": "family/affine", "family": {"part": "family/normal", "shared_scale": True}, "loc": 1.0, "scale": 2.0}
    )
    assert [name for name, _ in f.named_parameters()] == ["family.raw_scale"]
    assert {name for name, _ in f.named_buffers()} == {"loc", "scale"}


def test_the_total_of_bernoullis_is_in_full_precision_under_autocast() -> None:
    """784 pixels are summed by a matrix product, which in bf16 under autocast would have an error of up to a nat."""
    logits = torch.linspace(-6, 6, 784).expand(8, -1)
    x = (torch.arange(8 * 784).reshape(8, 784) % 3 == 0).float()
    d = build({"part": "family/bernoulli"})(logits)
    exact = d.log_prob(x).double().sum(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = total(d, x, 1)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-3)
