"""Each check of ``checks.py`` finds a fault that is planted for it."""

from __future__ import annotations

import math
from typing import Any

import checks
import pytest
import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints

from ladle.families import Family, centre, draw, mean, quantile, tempered
from ladle.families.pixels import DiscretisedLogistic
from ladle.families.real import Logistic, positive
from ladle.spec import part, registered


class Healthy(td.Normal):
    """A normal distribution without faults; each subclass plants one fault."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale, validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Healthy:
        return type(self)(self.loc.expand(batch_shape), self.scale.expand(batch_shape))


@tempered.register
def _(d: Healthy, t: float) -> Healthy:
    if t <= 0:
        raise ValueError
    return type(d)(d.loc, d.scale * t)


class NormalLike(Family):
    """A family of distributions of type ``member``."""

    support = constraints.real
    member: type[td.Distribution] = Healthy

    def raw(self, event: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
        return (event, event)

    def forward(self, *raw: Tensor) -> td.Distribution:
        return self.member(raw[0], positive(raw[1], 1e-3))


def family_of(distribution: type[td.Distribution]) -> Family:
    return type("Planted", (NormalLike,), {"member": distribution})()


HEALTHY = [
    checks.density_sums_to_one,
    checks.sampler_agrees_with_density,
    checks.gradients_reach_every_parameter,
    checks.masks_add_up,
    checks.zeros_are_standard,
    checks.mapped_agrees,
    checks.expand_agrees,
    checks.cdf_agrees_with_density,
    checks.quantile_inverts_cdf,
    checks.temperature_acts,
    checks.centre_in_support,
    checks.draw_carries_gradient,
    checks.read_fits_its_size,
]


@pytest.mark.parametrize("check", HEALTHY, ids=lambda c: c.__name__)
def test_no_check_fails_without_a_fault(check: Any) -> None:
    check(NormalLike(), (2,))


def fails(check: Any, family: Family, message: str, event: tuple[int, ...] = (2,)) -> None:
    with pytest.raises(AssertionError, match=message):
        check(family, event)


def test_a_dropped_constant() -> None:
    class Dropped(Healthy):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value) + 0.5 * math.log(2 * math.pi)

    fails(checks.density_sums_to_one, family_of(Dropped), "integrates to")


def test_bins_without_their_tails() -> None:
    class Tailless(DiscretisedLogistic):
        def log_prob(self, value: Tensor) -> Tensor:
            y = (value - self.loc) / self.scale
            return torch.log(torch.sigmoid(y + 0.5 / self.scale) - torch.sigmoid(y - 0.5 / self.scale))

    class Pixels(NormalLike):
        support = constraints.integer_interval(0, 15)

        def forward(self, *raw: Tensor) -> td.Distribution:
            return Tailless(7.5 * (1 + raw[0]), 2 * positive(raw[1], 1e-2), 16)

    fails(checks.density_sums_to_one, Pixels(), "integrates to")


def test_a_sampler_with_the_wrong_scale() -> None:
    class Wide(Healthy):
        def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
            return self.loc + 1.15 * (super().sample(sample_shape) - self.loc)

    fails(checks.sampler_agrees_with_density, family_of(Wide), "another distribution")


def test_a_discrete_sampler_that_is_off_by_one() -> None:
    class Shifted(DiscretisedLogistic):
        def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
            return (super().sample(sample_shape) + 1).clamp(max=self.levels - 1)

    class Pixels(NormalLike):
        support = constraints.integer_interval(0, 15)

        def forward(self, *raw: Tensor) -> td.Distribution:
            return Shifted(7.5 * (1 + raw[0]), 2 * positive(raw[1], 1e-2), 16)

    fails(checks.sampler_agrees_with_density, Pixels(), "another distribution")


class WrongKL(Healthy):
    """A healthy distribution with a wrong registered KL."""


@td.register_kl(WrongKL, WrongKL)
def _(q: WrongKL, p: WrongKL) -> Tensor:
    return torch.log(p.scale / q.scale) + ((q.loc - p.loc) ** 2 + q.scale**2) / (2 * p.scale**2) - 0.45


def test_a_wrong_kl() -> None:
    family = family_of(WrongKL)
    q, p = (family(*checks.raws(family, (2,), 1.0, seed=seed)) for seed in (1, 2))
    with pytest.raises(AssertionError, match="closed form"):
        checks.kl_equals_monte_carlo(q, p)


def test_a_parameter_that_no_gradient_reaches() -> None:
    class Idle(NormalLike):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.ones(()))

    class Detached(NormalLike):
        def forward(self, *raw: Tensor) -> td.Distribution:
            return super().forward(raw[0], raw[1].detach())

    fails(checks.gradients_reach_every_parameter, Idle(), "no gradient reaches idle")
    fails(checks.gradients_reach_every_parameter, Detached(), r"no gradient reaches raw\[1\]")
    fails(checks.draw_carries_gradient, Detached(), r"no gradient reaches raw\[1\]")


def test_an_exponential_that_overflows() -> None:
    class Exponential(NormalLike):
        def forward(self, *raw: Tensor) -> td.Distribution:
            return Healthy(raw[0], raw[1].exp())

    fails(checks.gradients_reach_every_parameter, Exponential(), "finite")


def test_a_draw_without_a_gradient() -> None:
    class Hard(Healthy):
        pass

    draw.register(Hard)(lambda d: d.sample())
    fails(checks.draw_carries_gradient, family_of(Hard), "has no gradient")


def test_a_mask_that_leaks() -> None:
    class Leaky(NormalLike):
        def forward(self, *raw: Tensor) -> td.Distribution:
            return super().forward(raw[0] - raw[0].mean(1, keepdim=True), raw[1])

    class Neighbourly(Healthy):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value + 0.1 * value.roll(1, dims=1))

    fails(checks.masks_add_up, Leaky(), "not close")
    fails(checks.masks_add_up, family_of(Neighbourly), "not close")


class Forgetful(NormalLike):
    """A family with a scale that is not part of its spec."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = float(torch.rand(()))

    def forward(self, *raw: Tensor) -> td.Distribution:
        return Healthy(raw[0], self.unit * positive(raw[1], 1e-3))


def test_a_lossy_spec() -> None:
    part("family", "forgetful")(Forgetful)
    try:
        fails(checks.spec_round_trips, Forgetful(), "incomplete")
    finally:
        registered("family").pop("forgetful")  # type: ignore[attr-defined]


def test_zeros_that_are_not_standard() -> None:
    class Moved(NormalLike):
        def forward(self, *raw: Tensor) -> td.Distribution:
            return super().forward(raw[0] + 0.1, raw[1])

    class Wide(NormalLike):
        def forward(self, *raw: Tensor) -> td.Distribution:
            return super().forward(raw[0], raw[1] + 2)

    class Loaded(NormalLike):
        support = constraints.boolean

        def forward(self, *raw: Tensor) -> td.Distribution:
            return td.Bernoulli(logits=raw[0] + raw[1] + 1)

    fails(checks.zeros_are_standard, Moved(), "not close")
    fails(checks.zeros_are_standard, Wide(), "standard scale")
    fails(checks.zeros_are_standard, Loaded(), "not close")


class Turned(Logistic):
    """A distribution that stores its location with permuted leading dimensions."""

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__(loc, scale)
        self.turned = loc.movedim(0, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        return Logistic(self.turned.movedim(-1, 0), self.scale).log_prob(value)


def test_leading_dimensions_that_are_permuted() -> None:
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        checks.mapped_agrees(family_of(Turned), (2,))


def test_a_tensor_without_all_leading_dimensions() -> None:
    class Scalar(NormalLike):
        def forward(self, *raw: Tensor) -> td.Distribution:
            d = Logistic(raw[0], positive(raw[1], 1e-3))
            d.scale = torch.ones(3, 1)  # broadcasts, but has one leading dimension too few
            return d

    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        checks.mapped_agrees(Scalar(), (2,))


def test_an_expand_that_drops_the_scale() -> None:
    class Narrow(Healthy):
        def expand(self, batch_shape: Any, _instance: Any = None) -> Healthy:
            return Healthy(self.loc.expand(batch_shape), torch.ones(()).expand(batch_shape))

    fails(checks.expand_agrees, family_of(Narrow), "not close")


def test_a_wrong_cdf_and_a_wrong_quantile() -> None:
    class Off(Healthy):
        def cdf(self, value: Tensor) -> Tensor:
            return super().cdf(value + 0.01)

    quantile.register(Off)(lambda d, u: d.loc + d.scale * 1.01 * torch.special.ndtri(u))
    fails(checks.cdf_agrees_with_density, family_of(Off), "integral")
    fails(checks.quantile_inverts_cdf, family_of(Off), "inverse")


def test_temperatures_that_do_nothing_or_the_wrong_thing() -> None:
    class Still(Healthy):
        pass

    class Unguarded(Healthy):
        pass

    class Shifting(Healthy):
        pass

    tempered.register(Still)(lambda d, t: Healthy(d.loc, d.scale) if t > 0 else tempered(Healthy(d.loc, d.scale), t))
    tempered.register(Unguarded)(lambda d, t: Healthy(d.loc, d.scale * t))
    tempered.register(Shifting)(lambda d, t: tempered(Healthy(d.loc, d.scale * 1.1), t))
    fails(checks.temperature_acts, family_of(Still), "does not narrow")
    fails(checks.temperature_acts, family_of(Unguarded), "is accepted")
    fails(checks.temperature_acts, family_of(Shifting), "not close")


def test_a_centre_outside_the_support_and_a_mean_that_is_nan() -> None:
    class Outside(Healthy):
        pass

    class Meanless(Healthy):
        pass

    centre.register(Outside)(lambda d: d.loc / 0)
    mean.register(Meanless)(lambda d: d.loc * math.nan)
    fails(checks.centre_in_support, family_of(Outside), "outside the support")
    fails(checks.centre_in_support, family_of(Meanless), "mean is not finite")


def test_a_reading_of_the_wrong_size() -> None:
    class Doubled(NormalLike):
        def read(self, z: Tensor) -> Tensor:
            return torch.cat([z, z], -1)

    fails(checks.read_fits_its_size, Doubled(), "differs from read_size")


def test_bytes_that_wrap_around() -> None:
    class Wrapping(DiscretisedLogistic):
        def log_prob(self, value: Tensor) -> Tensor:
            return super().log_prob(value - 1 + 1 if value.is_floating_point() else (value - 1).float() + 1)

    class Pixels(NormalLike):
        support = constraints.integer_interval(0, 15)

        def forward(self, *raw: Tensor) -> td.Distribution:
            return Wrapping(2 * raw[0], 2 * positive(raw[1], 1e-2), 16)

    fails(checks.bytes_are_numbers, Pixels(), "not close")


def test_a_support_that_the_checks_cannot_cover() -> None:
    class Odd(NormalLike):
        support = constraints.lower_cholesky

    fails(checks.density_sums_to_one, Odd(), "extend covers.cover")
