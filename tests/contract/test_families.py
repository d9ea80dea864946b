"""Every registered family satisfies the contract of ``checks.py``. Families are discovered in the registry."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import checks
import pytest
import torch

from ladle.families import Family
from ladle.families.local import LocalFamily
from ladle.shapes import Size
from ladle.spec import build, parts


class Case(NamedTuple):
    """A registered family to check: its arguments, the event, and the location and scale of its standard member."""

    name: str
    arguments: dict[str, Any] = {}
    event: Size = (2,)
    loc: Any = 0.0
    scale: Any = 1.0

    def family(self, fresh: bool = False) -> Family:
        """Build the family; unless ``fresh``, the kernel of a local family is randomised."""
        torch.manual_seed(0)
        family = build({"part": f"family/{self.name}", **self.arguments})
        if isinstance(family, LocalFamily) and not fresh:
            torch.nn.init.normal_(family.kernel, std=0.3)
        return family

    def __str__(self) -> str:
        varied = ",".join(k for k in self.arguments if k not in REQUIRED.get(self.name, {}))
        return f"{self.name}({varied})" if varied else self.name


# The arguments of families that cannot be built without arguments.
REQUIRED: dict[str, dict[str, Any]] = {
    "columns": {"families": [{"part": "family/normal"}, {"part": "family/logistic"}], "groups": [[1], [0]]},
    "affine": {"family": {"part": "family/normal"}, "loc": [100.0, -3.0], "scale": [50.0, 0.02]},
    "categorical": {"classes": 4},
    "one_hot": {"classes": 3},
    "mixture": {"family": {"part": "family/normal"}, "components": 3},
    "colour_mixture": {"levels": 4},
    "local_autoregressive": {"family": {"part": "family/discretised_logistic", "levels": 3}},
    "vq": {"classes": 3, "size": 2},
}
EVENTS: dict[str, Size] = {
    "one_hot": (6,),
    "vq": (6,),
    "power_spherical": (3,),
    "dirichlet": (3,),
    "logistic_normal": (3,),
    "colour_mixture": (2, 1, 1),
    "local_autoregressive": (1, 2, 2),
    "mixture": (),  # scalar, since components over a larger event may be too far apart for a grid
}
STANDARD = {"affine": {"loc": [100.0, -3.0], "scale": [50.0, 0.02]}}
SHARED = {"shared_scale": True}
MIXED = {"part": "family/discretised_logistic_mixture", "levels": 3, "components": 2}
VARIANTS = [
    *(Case(name, SHARED) for name in ("normal", "laplace", "logistic", "student_t", "discretised_logistic")),
    Case("normal", {"floor": 0.1}),
    Case("negative_binomial", {"unit": [3.0, 0.5]}),
    Case(
        "columns",
        {
            "families": [{"part": "family/bernoulli"}, {"part": "family/categorical", "classes": 2}],
            "groups": [[0, 2], [1]],
        },
        (3,),
    ),
    Case("student_t", {"df": 2.5}),
    Case("discretised_logistic", {"levels": 2, "floor": 0.01}),
    Case("discretised_logistic_mixture", {"levels": 5, "components": 2}),
    Case("fsq", {"levels": 3}),
    Case("colour_mixture", {"levels": 3, "components": 2}, (3, 1, 1)),
    Case("colour_mixture", {"levels": 2, "components": 2, "floor": 0.01}, (2, 1, 2)),
    Case("local_autoregressive", {"family": {"part": "family/bernoulli"}, "channels": 2, "reach": 1}, (2, 1, 3)),
    Case("local_autoregressive", {"family": MIXED, "channels": 2}, (2, 2, 1)),
    Case("mixture", {"family": {"part": "family/beta"}, "components": 2}, ()),
    Case("mixture", {"family": {"part": "family/categorical", "classes": 4}, "components": 2}, (1,)),
    Case("mixture", {"family": {"part": "family/one_hot", "classes": 3}, "components": 2}, (6,)),
    Case("mixture", {"family": {"part": "family/power_spherical"}, "components": 2}, (3,)),
    Case("affine", {"family": {"part": "family/logistic", **SHARED}, "loc": -2.0, "scale": 1e3}, loc=-2.0, scale=1e3),
    Case("affine", {**REQUIRED["affine"], "family": {"part": "family/full_normal"}}, **STANDARD["affine"]),
]


def required_arguments(maker: Any) -> list[str]:
    return [p.name for p in inspect.signature(maker).parameters.values() if p.default is inspect.Parameter.empty]


DISCOVERED = [
    Case(name, REQUIRED.get(name, {}), EVENTS.get(name, (2,)), **STANDARD.get(name, {}))
    for name in sorted(parts()["family"])
]
CASES = DISCOVERED + VARIANTS

every_family = pytest.mark.parametrize("case", CASES, ids=str)


@pytest.mark.parametrize("case", DISCOVERED, ids=str)
def test_can_be_built(case: Case) -> None:
    maker = parts()["family"][case.name]
    missing = [name for name in required_arguments(maker) if name not in case.arguments]
    assert not missing, f"family/{case.name} needs {missing}: add arguments to REQUIRED"
    assert isinstance(case.family(), Family)
    assert ">>>" in inspect.getdoc(maker), "no example in the docstring"


@every_family
def test_density(case: Case) -> None:
    family = case.family()
    assert checks.has_density(family, case.event) == (case.name != "point_mass")
    if case.name != "point_mass":
        checks.density_sums_to_one(family, case.event)
        checks.sampler_agrees_with_density(family, case.event)
        checks.cdf_agrees_with_density(family, case.event)
        checks.quantile_inverts_cdf(family, case.event)


@every_family
@pytest.mark.parametrize(
    "check",
    [
        checks.gradients_reach_every_parameter,
        checks.masks_add_up,
        checks.chain_adds_up,
        checks.spec_round_trips,
        checks.mapped_agrees,
        checks.expand_agrees,
        checks.temperature_acts,
        checks.centre_in_support,
        checks.draw_carries_gradient,
        checks.read_fits_its_size,
        checks.bytes_are_numbers,
    ],
    ids=lambda check: check.__name__,
)
def test_contract(case: Case, check: Any) -> None:
    if case.name == "point_mass" and check in (checks.masks_add_up, checks.chain_adds_up):
        return
    if case.name in ("colour_mixture", "local_autoregressive") and check is checks.masks_add_up:
        return  # joint over an image
    check(case.family(), case.event)


@every_family
def test_zeros_are_standard(case: Case) -> None:
    checks.zeros_are_standard(case.family(fresh=True), case.event, case.loc, case.scale)


@pytest.mark.parametrize("case", DISCOVERED, ids=str)
def test_closed_forms_of_the_kl(case: Case) -> None:
    """Every registered closed form, against families with the same support."""
    q_family = checks.exact(case.family())
    if not checks.has_density(q_family, case.event):
        return
    q = q_family(*checks.raws(q_family, case.event, 1.0, seed=1))
    for other in DISCOVERED:
        p_family = checks.exact(other.family())
        if p_family.support == q_family.support and checks.has_density(p_family, other.event):
            p = p_family(*checks.raws(p_family, other.event, 1.0, seed=2))
            found = checks.kl_equals_monte_carlo(q, p)
            assert found or not (case.name == other.name and case.name in CLOSED), "the closed form is missing"


CLOSED = {
    "normal", "laplace", "beta", "continuous_bernoulli", "bernoulli", "categorical", "one_hot",
    "full_normal", "von_mises", "dirichlet", "logistic_normal",
}  # fmt: skip


JOINT = {"full_normal", "power_spherical", "dirichlet", "logistic_normal"}


def _names_with(check: Any) -> set[str]:
    return {case.name for case in DISCOVERED if case.name != "point_mass" and check(case.family(), case.event)}


def test_functions_are_registered() -> None:
    """The functions that tasks rely on are registered, so that no check above passes because one is missing."""
    line = {"normal", "laplace", "logistic"}
    pixels = {"discretised_logistic", "discretised_logistic_mixture"}
    assert _names_with(checks.quantile_inverts_cdf) >= line | pixels | {
        "affine",
        "continuous_bernoulli",
        "bernoulli",
        "categorical",
        "von_mises",
    }
    assert _names_with(checks.draw_carries_gradient) >= line | {
        "student_t",
        "affine",
        "beta",
        "continuous_bernoulli",
        "bernoulli",
        "one_hot",
        *JOINT,
        "von_mises",
    }
    assert _names_with(checks.temperature_acts) >= line | pixels | {
        "student_t",
        "affine",
        "beta",
        "bernoulli",
        "one_hot",
        "continuous_bernoulli",
        "categorical",
        *JOINT,
        "von_mises",
    }
    assert _names_with(checks.chain_adds_up) >= line | pixels | {"colour_mixture"}
    assert _names_with(checks.cdf_agrees_with_density) >= line | pixels | {
        "affine",
        "continuous_bernoulli",
        "von_mises",
    }


@pytest.mark.parametrize(
    "spec, message",
    [
        ({"part": "family/normal", "floor": 0.0}, "floor"),
        ({"part": "family/normal", "ceiling": 1.0}, "ceiling"),
        ({"part": "family/student_t", "df": 0.0}, "df"),
        ({"part": "family/categorical", "classes": 1}, "classes"),
        ({"part": "family/discretised_logistic", "levels": 1}, "levels"),
        ({"part": "family/discretised_logistic", "floor": 1e3}, "floor"),
        ({"part": "family/discretised_logistic_mixture", "components": 0}, "components"),
        ({"part": "family/mixture", **REQUIRED["mixture"], "components": 0}, "components"),
        ({"part": "family/colour_mixture", "components": 0}, "components"),
        ({"part": "family/local_autoregressive", "family": {"part": "family/normal"}}, "discretised_logistic"),
        ({"part": "family/local_autoregressive", "family": {"part": "family/bernoulli"}, "reach": 0}, "reach"),
        (
            {"part": "family/affine", "family": {"part": "family/bernoulli"}, "loc": 0.0, "scale": 1.0},
            "families that fit",
        ),
        ({"part": "family/affine", "family": {"part": "family/normal"}, "loc": 0.0, "scale": [1.0, 0.0]}, "scale"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_bad_arguments_are_named(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(spec)


def test_events_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        build({"part": "family/one_hot", "classes": 3}).raw((7,))
    with pytest.raises(ValueError, match="broadcast"):
        build({"part": "family/affine", **REQUIRED["affine"]}).raw((3,))
    for name in ("power_spherical", "dirichlet", "logistic_normal"):
        for event in ((), (5, 1)):
            with pytest.raises(ValueError, match="at least 2"):
                build({"part": f"family/{name}"}).raw(event)
    with pytest.raises(ValueError, match="none"):
        build({"part": "family/full_normal"}).raw(())
    for name, arguments in (("categorical", {"classes": 3}), ("von_mises", {})):
        with pytest.raises(ValueError, match="none"):
            build({"part": f"family/{name}", **arguments}).read_size(())
