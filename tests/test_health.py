"""``ladle check`` reports planted problems by their cause, without false alarms, and passes healthy models."""

from __future__ import annotations

import copy
import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints

import ladle
from ladle.cli import main
from ladle.data import Dataset
from ladle.families.pixels import DiscretisedLogistic
from ladle.health import predicted_units
from ladle.health.check import all_checks
from ladle.store.files import read_tensors, write_tensors

Fitted = tuple[ladle.Model, Dataset]


def fitted(data: Dataset, recipe: str, epochs: float, **objective: Any) -> Fitted:
    """A small model, trained for some seconds."""
    plan = ladle.recipe(recipe, data.schema, "xs")
    plan["objective"] = {**plan["objective"], **objective}
    assembly = ladle.assemble(data.schema, plan)
    for _ in ladle.fit(assembly, data, epochs=epochs):
        pass
    return ladle.Model(assembly.model.eval().requires_grad_(False), data.schema, {}, "cpu"), data


def few(data: Dataset, n: int) -> Dataset:
    """A data set with n training items, which are also the validation items, to provoke over-fitting."""
    train = data.train.take(np.arange(n))
    return Dataset(data.schema, {"train": train, "valid": train, "test": data.test}, default="test")


def cancer() -> Dataset:
    """569 rows of 30 real numbers of very different scales."""
    return ladle.read(load_breast_cancer().data.astype(np.float32))


HEALTHY: dict[str, Callable[[], Fitted]] = {
    "digits": lambda: fitted(ladle.read("digits"), "sigma_vae", 20),
    "binary digits": lambda: fitted(ladle.read("digits", binarize="dynamic"), "learned_prior", 12),
    "table": lambda: fitted(cancer(), "vae", 25),
    "autoencoder": lambda: fitted(ladle.read("digits"), "ae", 5),
}


@functools.cache
def healthy(name: str) -> Fitted:
    return HEALTHY[name]()


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_model_passes(name: str) -> None:
    health = ladle.check(*healthy(name))
    assert health.ok, str(health)
    assert [f.name for f in health.findings] == [name for name, _ in all_checks()]
    checked = {f.name for f in health.findings if f.ok}
    density = {"collapse", "active units", "information", "prior", "samples", "amortisation", "generalisation"}
    if name == "autoencoder":
        assert not checked & density
        assert health["collapse"].reason == "no prior: not applicable"
    else:
        assert density <= checked
        gap = health["amortisation"].measured
        assert gap["gap"] > -3 * gap["se"], "refinement cannot make the bound worse"
        assert 0 < health["information"].measured["nats"] <= health["information"].measured["ceiling"]
    assert {"weights", "supports", "neighbours", "normalisation", "shuffle"} <= checked


def test_a_joint_posterior_is_summed_as_a_whole() -> None:
    data = ladle.read("digits")
    plan = ladle.recipe("vae", data.schema, "xs")
    plan["latents"]["posterior"] = {"part": "family/one_hot", "classes": 4}
    model = ladle.Model(ladle.assemble(data.schema, plan).model.eval(), data.schema, {}, "cpu")
    health = ladle.check(model, data, most=100)
    assert health["collapse"].measured["latents"] == 1
    assert health["active units"].ok is None
    assert "not reparameterised" in health["amortisation"].reason
    assert "p(x|z) sum to 1" in health["normalisation"].reason
    with torch.no_grad():
        (batch,) = [ladle.data.make_batch(data.test, data.schema, np.arange(180))]
        kl = model.vae(batch).kl.mean()
    assert health["collapse"].measured["kl"] == pytest.approx(float(kl), rel=0.3)


# ------------------------------------------------------------------------------------------ planted problems


def changed(name: str, change: Callable[[Any], None]) -> Fitted:
    """A copy of a healthy model, modified by ``change``."""
    model, data = healthy(name)
    vae = copy.deepcopy(model.vae)
    with torch.no_grad():
        change(vae)
    return ladle.Model(vae.eval(), model.schema, {}, "cpu"), data


class DroppedConstant(td.Normal):
    """A squared error instead of a density."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + 0.5 * math.log(2 * math.pi)


class DroppedScale(td.Normal):
    """A density without its scale factor."""

    def log_prob(self, value: Tensor) -> Tensor:
        return super().log_prob(value) + self.scale.log()


class Tailless(DiscretisedLogistic):
    """The first and the last bin lack the tails."""

    def log_prob(self, value: Tensor) -> Tensor:
        loc, scale = self.loc.double(), self.scale.double()  # a difference of nearly equal numbers
        below, above = (torch.sigmoid((value + end - loc) / scale) for end in (-0.5, 0.5))
        return (above - below).clamp_min(1e-30).log().float()


class Pointwise(DiscretisedLogistic):
    """The density at an integer instead of the mass."""

    def log_prob(self, value: Tensor) -> Tensor:
        return td.Normal(self.loc, self.scale, validate_args=False).log_prob(value)


def member_is(member: type[td.Distribution]) -> Callable[[Any], None]:
    """Replace the distribution of every column of the table."""

    def change(vae: Any) -> None:
        vae.likelihood.family.family.member = lambda loc, scale: member(loc, scale, validate_args=False)

    return change


def pixels_are(member: type[DiscretisedLogistic]) -> Callable[[Any], None]:
    def change(vae: Any) -> None:
        family, kept = vae.likelihood.family, vae.likelihood.family.forward
        family.forward = lambda *raw: member(*(getattr(kept(*raw), name) for name in ("loc", "scale", "levels")))

    return change


class Around(nn.Module):
    """A network followed by another function."""

    def __init__(self, net: Any, after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.after, self.inputs, self.features = net, after, net.inputs, net.features

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.net(x))


def decoder_has(after: Callable[[int], Callable[[Tensor], Tensor]]) -> Callable[[Any], None]:
    def change(vae: Any) -> None:
        net = vae.likelihood.net
        vae.likelihood.net = Around(net, after(net.features[0]))

    return change


def a_weight_is_nan(vae: Any) -> None:
    vae.likelihood.head.weight[3, 5] = math.nan


def a_division_by_zero(vae: Any) -> None:
    vae.likelihood.net = Around(vae.likelihood.net, lambda h: h / (0 * h))


def a_positive_family_called_real(vae: Any) -> None:
    vae.likelihood.family.forward = lambda loc, scale: td.LogNormal(loc, scale.exp(), validate_args=False)


def a_family_of_reals_for_bytes(vae: Any) -> None:
    vae.likelihood.family.support = constraints.real


def a_prior_on_the_unit_interval(vae: Any) -> None:
    vae.latents.prior = ladle.build({"part": "prior/standard", "family": {"part": "family/beta"}, "event": [16]})


def the_same_posterior_for_all(vae: Any) -> None:
    head = vae.latents.posterior.head
    head.weight.zero_()
    head.bias[:16], head.bias[16:] = 1.0, 1.9  # locations, and scales of 1.6


def a_decoder_that_ignores_z(vae: Any) -> None:
    vae.likelihood.net.layers[0].weight.zero_()


def noise_above_all_variance(vae: Any) -> None:
    vae.likelihood.family.family.member = lambda loc, scale: td.Normal(loc, 50 + scale, validate_args=False)


COLLAPSE = {"collapse", "information", "shuffle"}
PRIOR = {"prior", "samples"}
PROBLEMS: dict[str, tuple[Callable[[], Fitted], set[str], str]] = {
    "a weight is NaN": (
        lambda: changed("table", a_weight_is_nan), {"weights"}, r"1 of [\d,]+ weights are NaN .*in 'likelihood.head"),
    "outputs are NaN": (
        lambda: changed("table", a_division_by_zero), {"weights"}, "finite, but the reconstructions"),
    "a real family for bytes": (
        lambda: changed("digits", a_family_of_reals_for_bytes), {"supports"}, r"has the support Real\(\)"),
    "a positive family, called real": (
        lambda: changed("table", a_positive_family_called_real), {"supports"}, "values of the data are outside"),
    "posterior outside the prior": (
        lambda: changed("digits", a_prior_on_the_unit_interval), {"supports"}, "posterior leave the support"),
    "batch normalisation": (
        lambda: changed("digits", decoder_has(nn.BatchNorm1d)), {"neighbours"}, r"in likelihood\.net"),
    "batch statistics by hand": (
        lambda: changed("table", decoder_has(lambda _: lambda h: h - h.mean(0))), {"neighbours"}, "mixes items"),
    "a dropped constant": (
        lambda: changed("table", member_is(DroppedConstant)), {"normalisation"}, r"p\(x\|z\) integrates to 2\.507 = √"),
    "a dropped log scale": (
        lambda: changed("table", member_is(DroppedScale)), {"normalisation"}, "depends on the parameters"),
    "edge bins without tails": (
        lambda: changed("digits", pixels_are(Tailless)), {"normalisation"}, r"p\(x\|z\) sums .* not a mass function"),
    "a density at the integers": (
        lambda: changed("digits", pixels_are(Pointwise)), {"normalisation"}, "not a mass function"),
    "beta is 50": (
        lambda: fitted(ladle.read("digits"), "vae", 16, beta=50.0), COLLAPSE | {"active units"},
        "posterior collapse: 16 latents"),
    "one posterior for all": (
        lambda: changed("digits", the_same_posterior_for_all), {"active units", "information", "shuffle", "prior"},
        "x and z share 0 nats, less than half a bit"),
    "a decoder that ignores z": (
        lambda: changed("digits", a_decoder_that_ignores_z), {"shuffle"}, "the decoder ignores z"),
    "noise above everything": (
        lambda: changed("table", noise_above_all_variance), {"predicted units", "shuffle"}, "no principal direction"),
    "next to no KL": (
        lambda: fitted(ladle.read("digits"), "sigma_vae", 12, beta=0.001), PRIOR, "draws latents far from the data"),
    "over-fitting": (
        lambda: fitted(few(ladle.read("digits"), 50), "learned_prior", 250), {"generalisation"}, "over-fitting: the"),
}  # fmt: skip


@functools.cache
def diagnosed(name: str) -> ladle.Health:
    return ladle.check(*PROBLEMS[name][0]())


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_planted_problem_is_reported_by_its_cause(name: str) -> None:
    _, names, pattern = PROBLEMS[name]
    health = diagnosed(name)
    assert {f.name for f in health.problems} == names, str(health)
    reasons = " ".join(f.reason for f in health.problems)
    assert re.search(pattern, reasons), reasons
    assert all(f.remedy for f in health.problems)
    assert not any(f.remedy for f in health.findings if f.ok)


INFORMS = {"amortisation"}  # never reports a problem; tests/truth/test_refine.py plants a gap and checks its size


def test_every_check_has_been_seen_to_fail() -> None:
    assert set().union(*(names for _, names, _ in PROBLEMS.values())) == {name for name, _ in all_checks()} - INFORMS


def test_a_failed_prerequisite_skips_the_later_checks() -> None:
    health = diagnosed("a weight is NaN")
    assert [f.ok for f in health.findings] == [False] + [None] * (len(health.findings) - 1)
    assert "not run, because the check 'weights' found a problem" in str(health)


def test_a_dropped_constant_is_distinguished_from_missing_mass() -> None:
    constant, mass = (diagnosed(n)["normalisation"].reason for n in ("a dropped constant", "edge bins without tails"))
    assert "a constant was dropped" in constant
    assert "a constant was dropped" not in mass


def test_a_density_with_batch_normalisation_is_refused() -> None:
    model, data = PROBLEMS["batch normalisation"][0]()
    for task in (ladle.evidence, ladle.score):
        with pytest.raises(ladle.NotAvailable, match=r"'likelihood\.net\.after' is a batch normalisation"):
            task(model, data)
    assert len(ladle.encode(model, data)) == len(data.test)


def test_units_predicted_before_training() -> None:
    x = np.random.default_rng(0).normal(size=(400, 4)) * [20, 10, 1, 0.1]
    assert [predicted_units(x, v) for v in (1e-3, 0.5, 50.0, 1e4)] == [4, 3, 2, 0]
    assert predicted_units(x, np.array([1e4, 1.0, 1e4, 1e-3])) == 2, "each element is scaled by its own noise"
    with pytest.raises(ValueError, match="positive variance"):
        predicted_units(x, 0.0)


def test_over_fitting_is_not_checked_on_data_that_the_model_was_not_fitted_to() -> None:
    model, data = healthy("table")
    assert ladle.check(model, data.test)["generalisation"].ok is None
    config = {"data": {"items": {"train": len(data.train) - 1}}}
    other = ladle.check(ladle.Model(model.vae, model.schema, config, "cpu"), data, most=60)
    assert other["generalisation"].ok is None
    assert other.items == {"test": 60}
    with pytest.raises(ladle.DataError, match="items must be as the model's"):
        ladle.check(model, np.zeros((30, 7), np.float32))


# ------------------------------------------------------------------------------------------ the command line


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return (int(left.value.code or 0), *capsys.readouterr())


def test_the_command_line(digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = call(capsys, "check", digits_run)
    health = ladle.check(digits_run, ladle.read("digits", like=ladle.load(digits_run).schema))
    assert status == (0 if health.ok else 1)
    assert out == f"{health}\n"
    assert "\x1b" not in out + err
    status, out, _ = call(capsys, "check", digits_run, "digits", "--json")
    printed = json.loads(out)
    assert printed == json.loads(json.dumps(health.to_json()))
    assert status == (0 if printed["ok"] else 1)


def test_a_damaged_folder_is_a_problem_and_not_a_crash(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_bytes((digits_run / "config.json").read_bytes())
    tensors = read_tensors(digits_run / "model.safetensors")
    name = next(n for n in tensors if n.endswith("head.weight"))
    tensors[name][0, 0] = math.nan
    write_tensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ladle.ModelError, match="NaN"):
        ladle.load(tmp_path)
    status, out, err = call(capsys, "check", tmp_path, "digits")
    assert status == 1
    assert "× weights" in out
    assert f"in '{name}'" in out
    assert "Traceback" not in err
    status, out, _ = call(capsys, "check", tmp_path, "digits", "--json")
    assert (status, json.loads(out)["findings"][0]["ok"]) == (1, False)
    status, out, err = call(capsys, "check", tmp_path / "nothing", "digits")
    assert (status, out) == (2, "")
