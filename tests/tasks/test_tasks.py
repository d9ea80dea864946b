"""Every task with every recipe, on small data sets of every kind."""

from __future__ import annotations

import functools
import gc
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import ladle
from ladle.data import DataError, Split
from ladle.families import NotAvailable
from ladle.inference import importance
from ladle.shapes import numel
from ladle.store.folder import Model
from toys import narrow, toy_data

toys = functools.cache(toy_data)
RECIPES = sorted(ladle.parts()["recipe"])
TOYS = ("digits", "grey", "table", "bits", "colour")
PLAIN = ("ae",)  # without a prior: no density, and no samples

# Float32 sums in different orders. The largest differences observed between batches of 1, 7 and 512 are 9e-8 in
# encodings, 2e-5 nats in scores up to 270 nats, and 1.3e-4 nats in the 5,828 nats of the colour images.
ATOL_Z, ATOL_NATS, RTOL = 1e-5, 1e-4, 1e-7
RTOL_NATS = 1e-5  # 3,435.0001 nats and 3,435 are the same in float32


@functools.cache
def model_of(recipe: str, toy: str) -> Model:
    """A model after one epoch of training."""
    data = toys()[toy]
    try:
        plan = narrow(recipe, data.schema)
    except ladle.SpecError as error:
        pytest.skip(str(error))
    if toy == "colour":
        for place, net in (("encoder", "conv_down"), ("decoder", "conv_up")):
            if "encoder" in plan:
                plan[place] = {"part": f"net/{net}", "width": 4, "blocks": 1}
    assembly = ladle.assemble(data.schema, plan, seed=3)
    for _ in ladle.fit(assembly, data, epochs=1, seed=3):
        pass
    return Model(assembly.model.eval().requires_grad_(False), data.schema, {}, "cpu")


def some(toy: str, n: int = 12) -> Split:
    return toys()[toy].all.take(np.arange(n))


def in_units(x: np.ndarray, schema: ladle.Schema) -> bool:
    top = {"binary": 1.0, "bytes": 255.0}.get(schema.support)
    return bool(np.isfinite(x).all()) and (top is None or bool(x.min() >= 0 and x.max() <= top))


def unit_of(items: Split) -> float:
    """The scale of the data, such as 255 for pixels, which rounding errors are relative to."""
    return max(1.0, float(np.abs(items.x).max()))


@pytest.mark.parametrize("toy", TOYS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_task(recipe: str, toy: str) -> None:
    model, items = model_of(recipe, toy), some(toy)
    schema, shape = model.schema, model.schema.shape
    z = ladle.encode(model, items)
    assert z.shape == (12, sum(numel(event) for event in model.vae.latents.events))
    assert z.dtype == np.float32
    assert np.array_equal(z, ladle.encode(model, items)), "encoding is not deterministic"

    x = ladle.reconstruct(model, items)
    assert x.shape == (12, *shape)
    assert x.dtype == np.float32
    assert in_units(x, schema)
    np.testing.assert_allclose(ladle.decode(model, z), x, rtol=RTOL, atol=ATOL_Z * unit_of(items))

    drawn = ladle.reconstruct(model, items, draws=2, seed=4)
    assert drawn.shape == (12, 2, *shape)
    assert np.array_equal(drawn, ladle.reconstruct(model, items, draws=2, seed=4))
    assert recipe in PLAIN or not np.array_equal(drawn, ladle.reconstruct(model, items, draws=2, seed=5))

    a, b = items.take(np.arange(3)), items.take(np.arange(3, 6))
    line = ladle.interpolate(model, a, b, steps=4)
    assert line.shape == (3, 4, *shape)
    for end, at in ((a, 0), (b, -1)):
        np.testing.assert_allclose(line[:, at], ladle.reconstruct(model, end), rtol=1e-5, atol=1e-3)

    if recipe in PLAIN:
        for refused in (
            lambda: ladle.sample(model, 2),
            lambda: ladle.score(model, items),
            lambda: ladle.evidence(model, items),
        ):
            with pytest.raises(NotAvailable, match="plain autoencoder"):
                refused()
        return
    for noise in (False, True):
        sampled = ladle.sample(model, 5, seed=1, noise=noise)
        assert sampled.shape == (5, *shape)
        assert in_units(sampled, schema)
        assert np.array_equal(sampled, ladle.sample(model, 5, seed=1, noise=noise))
        assert not np.array_equal(sampled, ladle.sample(model, 5, seed=2, noise=noise))
        if noise and schema.support != "real":
            assert np.array_equal(sampled, np.round(sampled)), "sampled data must be in the support"
    if recipe != "vq":  # equal probabilities are the same at every temperature
        cold = np.ptp(ladle.sample(model, 64, temperature=0.01), axis=0).max()
        assert cold < np.ptp(ladle.sample(model, 64), axis=0).max()

    nats = ladle.score(model, items, samples=3)
    assert nats.shape == (12,)
    assert np.isfinite(nats).all()
    found = ladle.evidence(model, items, samples=3)
    assert (found.items, found.samples, found.kind) == (12, 3, "bound")
    np.testing.assert_allclose(found.nats, nats.mean(), rtol=1e-12)
    numbers = np.prod(shape) if items.observed is None else items.observed.sum() / len(items)
    np.testing.assert_allclose(found.bits_per_dim, found.nats / numbers / np.log(2), rtol=1e-12)


# ------------------------------------------------------------------------------------ independence of items


def check_independence(model: Model, items: Split, changed: Split) -> None:
    """Check the results for an item in batches of 1, 7 and 512, and with other items in its batch."""
    density = model.vae.latents.prior is not None
    z = [ladle.encode(model, items, batch=n) for n in (1, 7, 512)]
    x = [ladle.reconstruct(model, items, batch=n, draws=1) for n in (1, 7, 512)]
    nats = [ladle.score(model, items, samples=3, batch=n) for n in (1, 7, 512)] if density else []
    z.append(ladle.encode(model, changed))
    x.append(ladle.reconstruct(model, changed, draws=1))
    nats += [ladle.score(model, changed, samples=3)] if density else []
    unit = unit_of(items)
    for values, atol, rtol in ((z, ATOL_Z, RTOL), (x, ATOL_Z * unit, RTOL), (nats, ATOL_NATS, RTOL_NATS)):
        for other in values[1:]:
            np.testing.assert_allclose(
                other[:5], values[0][:5], atol=atol, rtol=rtol, err_msg="results depend on the batch"
            )
    if density:
        for n in (1, 7):
            means = [ladle.evidence(model, items, samples=3, batch=b).nats for b in (n, 512)]
            np.testing.assert_allclose(*means, atol=ATOL_NATS, rtol=RTOL_NATS)


def with_other_neighbours(items: Split) -> Split:
    """The first five items with other items after them."""
    return items.take(np.r_[:5, len(items) - 1 : 4 : -1, 5:7])


@pytest.mark.parametrize(
    "recipe, toy",
    [*((r, t) for r in RECIPES for t in ("digits", "table")), ("vae", "grey"), ("learned_prior", "colour")],
)
def test_an_item_does_not_depend_on_its_neighbours(recipe: str, toy: str) -> None:
    items = some(toy, 10)
    check_independence(model_of(recipe, toy), items, with_other_neighbours(items))


class Centred(nn.Module):
    """Batch normalisation, the most common cause of results that depend on the batch."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.inputs, self.features = inner, inner.inputs, inner.features
        self.norm = nn.BatchNorm1d(inner.features[0], affine=False, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        return self.norm(y) if len(y) > 1 else y


@pytest.mark.parametrize("part", ["likelihood", "posterior"])
def test_batch_statistics_are_detected(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys()["digits"]
    vae = ladle.assemble(data.schema, narrow("vae", data.schema), seed=3).model.eval().requires_grad_(False)
    owner = vae.likelihood if part == "likelihood" else vae.latents.posterior
    owner.net = Centred(owner.net)
    with torch.no_grad():
        owner.head.weight.mul_(10)
    items = some("digits", 20)
    with pytest.raises(ladle.NotAvailable, match="batch normalisation"):
        ladle.score(Model(vae, data.schema, {}, "cpu"), items, samples=1)
    monkeypatch.setattr(importance, "check_density", lambda _: None)  # without the check that refuses it
    with pytest.raises(AssertionError, match="results depend on the batch"):
        check_independence(Model(vae, data.schema, {}, "cpu"), items, with_other_neighbours(items))


def test_noise_that_is_not_keyed_by_item_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "keyed", lambda *_: lambda i, q, p: ladle.families.draw(q))
    items = some("digits", 20)
    with pytest.raises(AssertionError, match="results depend on the batch"):
        check_independence(model_of("vae", "digits"), items, with_other_neighbours(items))


@pytest.mark.parametrize("recipe, toy", [("learned_prior", "digits"), ("vae", "colour"), ("ae", "table")])
def test_another_device_gives_the_same_results(recipe: str, toy: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    items, here = some(toy, 20), model_of(recipe, toy)
    import copy

    there = Model(copy.deepcopy(here.vae), here.schema, {}, "cpu").to("cuda")
    np.testing.assert_allclose(ladle.encode(there, items), ladle.encode(here, items), atol=1e-3, rtol=1e-3)
    if recipe not in PLAIN:
        nats = [ladle.score(m, items, samples=3) for m in (here, there)]
        np.testing.assert_allclose(*nats, atol=1e-2, rtol=1e-3)


def test_a_new_process_gives_bit_identical_results(digits_run: Path, tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np, ladle; m = ladle.load(sys.argv[1], 'cpu'); "
        "np.savez(sys.argv[2], z=ladle.encode(m, 'digits'), x=ladle.sample(m, 8, seed=3), "
        "s=ladle.score(m, 'digits', samples=2))"
    )
    subprocess.run([sys.executable, "-c", code, str(digits_run), str(tmp_path / "a.npz")], check=True)
    model, there = ladle.load(digits_run, "cpu"), np.load(tmp_path / "a.npz")
    assert np.array_equal(there["z"], ladle.encode(model, "digits"))
    assert np.array_equal(there["x"], ladle.sample(model, 8, seed=3))
    assert np.array_equal(there["s"], ladle.score(model, "digits", samples=2))


# ----------------------------------------------------------------------------------------------------- input


def test_binary_values_are_not_binarised_again() -> None:
    """A model of binarised grey images leaves binary values unchanged, in every form of input."""
    model = model_of("vae", "grey")
    bits = toys()["digits"].all.x[:9] >= 128
    as_bool, as_bytes = ladle.score(model, bits, samples=2), ladle.score(model, bits.astype(np.uint8), samples=2)
    assert np.array_equal(as_bool, as_bytes)
    assert np.array_equal(as_bool, ladle.score(model, bits * np.uint8(255), samples=2))
    assert np.array_equal(as_bool, ladle.score(model, Split(bits.astype(np.uint8)), samples=2))
    assert np.array_equal(as_bool, ladle.score(model, ladle.read(bits), samples=2))
    grey = ladle.score(model, "digits", samples=2, split="all")[:9]
    assert not np.array_equal(as_bool, grey)
    assert np.array_equal(grey, ladle.score(model, toys()["grey"], split="all", samples=2)[:9])


@pytest.mark.parametrize(
    "toy, data, message",
    [
        ("digits", np.zeros((3, 9, 9), np.uint8), "as the model's"),
        ("digits", np.full((3, 8, 8), 0.5, np.float32), "whole numbers"),
        ("digits", np.full((3, 8, 8), 300, np.int64), "whole numbers"),
        ("bits", np.full((3, 5, 4), 7, np.uint8), r"0\.\.1"),
        ("table", np.full((3, 4), np.inf, np.float32), "finite"),
        ("digits", Split(np.full((3, 1, 8, 8), 0.5, np.float32)), "whole numbers"),
        ("bits", Split(np.full((3, 1, 5, 4), 2, np.uint8)), r"0\.\.1"),
        ("digits", Split(np.zeros((0, 1, 8, 8), np.uint8)), "no item"),
    ],
)
def test_items_that_do_not_fit_the_model_are_refused(toy: str, data: np.ndarray | Split, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ladle.encode(model_of("vae", toy), data)


def test_missing_values_are_read_as_by_the_models_schema() -> None:
    model, x = model_of("vae", "table"), np.array(toys()["table"].all.x[:4])
    x[1, 2] = np.nan
    z = ladle.encode(model, x)
    assert np.isfinite(z).all()
    assert np.isfinite(ladle.score(model, x, samples=2)).all()
    x[1, 2] = 1e6  # the value of a missing entry has no effect
    observed = np.ones(x.shape, bool)
    observed[1, 2] = False
    assert np.array_equal(z, ladle.encode(model, Split(x, observed)))


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: ladle.sample(m, 0), "at least 1"),
        (lambda m: ladle.sample(m, 2, temperature=0.0), "above 0"),
        (lambda m: ladle.sample(m, 2, temperature=float("nan")), "above 0"),
        (lambda m: ladle.score(m, "digits", samples=0), "at least 1"),
        (lambda m: ladle.interpolate(m, "digits", "digits", steps=1), "at least 2"),
        (lambda m: ladle.interpolate(m, some("digits", 2), some("digits", 3)), "same number"),
        (lambda m: ladle.encode(m, "digits", split="nonsense"), "unknown split.*known: train, valid, test, all"),
        (lambda m: ladle.encode(m, "digits", batch=0), "at least 1"),
        (lambda m: ladle.decode(m, np.zeros((2, 4))), r"shape \(N, 3\)"),
        (lambda m: ladle.decode(m, np.zeros(3)), r"shape \(N, 3\)"),
        (lambda m: ladle.decode(m, np.full((2, 3), np.nan)), "finite"),
        (lambda m: ladle.decode(m, np.full((2, 3), 1e300)), "finite"),
        (lambda m: ladle.decode(m, np.array([["a", "b", "c"]])), "numbers"),
        (lambda m: ladle.decode(m, np.zeros((2, 3)), batch=0), "at least 1"),
        (lambda m: ladle.reconstruct(m, "digits", draws=-1), "at least 0"),
    ],
)
def test_wrong_arguments_are_refused(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message):
        call(model_of("vae", "digits"))


def test_decoding_no_rows_gives_no_items() -> None:
    assert ladle.decode(model_of("vae", "digits"), np.zeros((0, 3))).shape == (0, 1, 8, 8)


def test_progress_is_reported(digits_run: Path) -> None:
    shown: list[tuple[int, int]] = []
    ladle.encode(ladle.load(digits_run, "cpu"), some("digits"), batch=5, progress=lambda *p: shown.append(p))
    assert shown == [(5, 12), (10, 12), (12, 12)]


def test_gradients_are_enabled_after_a_task_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("vae", "digits")

    def fails(*_: object, **__: object) -> None:
        raise NotAvailable("not today")

    for owner, name in ((model.vae.latents, "walk"), (model.vae, "explain")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fails)
            for task in (ladle.score, ladle.evidence, ladle.reconstruct):
                with pytest.raises(NotAvailable):
                    task(model, some("digits"))
                gc.collect()
                assert torch.is_grad_enabled()
