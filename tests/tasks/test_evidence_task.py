"""``evidence`` and ``measure``: the result of every item, a time limit, and invalid input."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ladle
from ladle.html.elements import number
from ladle.inference import annealed, quadrature
from ladle.inference.evidence import Items
from ladle.model.vae import VAE
from ladle.tasks import common
from ladle.tasks.score import measure
from toys import narrow


@pytest.fixture(scope="module")
def digits() -> tuple[ladle.Model, ladle.Dataset]:
    data = ladle.read("digits", binarize="dynamic")
    vae = ladle.assemble(data.schema, narrow("vae", data.schema), seed=3).model.eval().requires_grad_(False)
    return ladle.Model(vae, data.schema, {}, "cpu"), data


def test_every_item_is_told_of(digits: tuple[ladle.Model, ladle.Dataset]) -> None:
    model, data = digits
    found = measure(model, data, samples=30)
    n = len(data.test)
    assert all(len(getattr(found, name)) == n for name in ("index", "nats", "ess", "k_hat", "curve"))
    assert (found.index == np.arange(n)).all()
    assert np.isfinite(found.k_hat).all()
    assert ((found.ess > 1 / 31) & (found.ess <= 1)).all()
    np.testing.assert_array_equal(found.curve[:, -1], found.nats)
    np.testing.assert_array_equal(ladle.score(model, data, samples=30), found.nats)
    told = ladle.evidence(model, data, samples=30).to_json()
    assert list(told) == [
        "method", "kind", "samples", "items", "of", "nats", "se", "bits_per_dim", "ess", "k_hat_bad", "curve",
    ]  # fmt: skip
    assert [k for k, _ in told["curve"]] == [1, 2, 5, 10, 20, 30]
    assert (np.diff([nats for _, nats in told["curve"]]) < 0).all(), "the bound falls as samples grow"
    assert ladle.evidence(model, data, samples=3).to_json()["k_hat_bad"] is None, "too few samples for a tail"


def test_bits_per_dimension_count_observed_values_only() -> None:
    """The nats of an item are those of its observed values, so the bits are per observed value."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((50, 4)) < 0.3, np.nan, rng.normal(size=(50, 4))).astype(np.float32)
    data = ladle.read(x, missing="nan")
    vae = ladle.assemble(data.schema, narrow("vae", data.schema), seed=3).model.eval().requires_grad_(False)
    model = ladle.Model(vae, data.schema, {}, "cpu")
    given = measure(model, x, samples=5)
    np.testing.assert_array_equal(given.observed, (~np.isnan(x)).sum(1))
    bits = ladle.evidence(model, x, samples=5).bits_per_dim
    np.testing.assert_allclose(bits, given.nats.sum() / np.log(2) / (~np.isnan(x)).sum(), rtol=1e-12)


def test_training_counts_observed_values_only(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = np.where(rng.random((50, 4)) < 0.3, np.nan, rng.normal(size=(50, 4))).astype(np.float32)
    data = ladle.read(x, missing="nan")
    assembly = ladle.assemble(data.schema, narrow("vae", data.schema), seed=3)
    *_, last = ladle.fit(assembly, data, epochs=2, run=tmp_path / "run")
    assert data.valid.observed is not None
    bits = last.nats / np.log(2) / data.valid.observed.sum(1).mean()
    assert last.bits_per_dim == pytest.approx(bits, rel=1e-12)
    log = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    for kind, split in (("train", data.train), ("valid", data.valid)):
        record = next(r for r in log if r["kind"] == kind)
        assert record["bits_per_dim"] == pytest.approx(record["nats"] / np.log(2) / split.observed.sum(1).mean())
    assert f"{bits:.4f} bits per dimension" in (tmp_path / "run/README.md").read_text()
    assert f"{number(bits)} bits per dimension" in ladle.report(tmp_path / "run", data, quick=True).path.read_text()


@pytest.mark.parametrize("method", ["ais", "exact"])
def test_a_method_is_prepared_once_for_all_batches_and_threads(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ladle.read("digits", binarize="dynamic")
    vae = ladle.assemble(data.schema, narrow("vae", data.schema, 1), seed=3).model.eval().requires_grad_(False)
    model, copies = ladle.Model(vae, data.schema, {}, "cpu"), []
    in_double_precision = quadrature.in_double_precision

    def counted(vae: VAE) -> VAE:
        copies.append(vae)
        return in_double_precision(vae)

    for module in (annealed, quadrature):
        monkeypatch.setattr(module, "in_double_precision", counted)
    threads = torch.get_num_threads()
    found = {}
    try:
        for workers in (1, 3):
            torch.set_num_threads(workers)
            found[workers] = measure(model, data, method=method, samples=2, temperatures=3, at_most=24, batch=4)
            assert len(copies) == 1
            copies.clear()
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(found[1].nats, found[3].nats, rtol=1e-9)


class Clock:
    """Every look at it is a second later."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def test_batches_side_by_side_are_the_same_in_the_same_order(
    digits: tuple[ladle.Model, ladle.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = digits
    threads = torch.get_num_threads()
    seen: list[tuple[int, int]] = []
    try:
        torch.set_num_threads(3)
        many = measure(model, data, samples=30, batch=16, progress=lambda done, total: seen.append((done, total)))
        monkeypatch.setattr(common, "WORKERS", 1)
        one = measure(model, data, samples=30, batch=16)
        assert torch.get_num_threads() == 3, "workers set threads of their own only"
    finally:
        torch.set_num_threads(threads)
    assert (many.index == one.index).all()
    np.testing.assert_allclose(many.nats, one.nats, rtol=1e-5)
    n = len(data.test)
    assert seen == [(min(done, n), n) for done in range(0, n + 16, 16)]


def test_side_by_side_takes_no_more_than_it_needs_and_tells_of_errors() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for i in range(100):
            taken.append(i)
            yield i

    def work(i: int) -> int:
        if i == 7:
            raise ValueError("seven")
        return i

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = common.side_by_side(work, numbers(), "cpu")
        assert next(found) == 0
        assert len(taken) == 3
        with pytest.raises(ValueError, match="seven"):
            list(found)
        assert len(taken) < 15
    finally:
        torch.set_num_threads(threads)


def test_a_time_limit_takes_items_at_random_and_says_so(
    digits: tuple[ladle.Model, ladle.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = digits
    whole = measure(model, data, samples=5)
    seen: list[tuple[int, int]] = []

    def limited(seed: int = 0) -> Items:
        monkeypatch.setattr(sys.modules["ladle.tasks.score"], "time", Clock())
        return measure(model, data, samples=5, batch=10, minutes=0.06, seed=seed, progress=lambda *at: seen.append(at))

    found = limited()
    n = len(data.test)
    assert seen[0] == (0, n), "progress from the first second"
    assert len(found.nats) == 40, "3.6 seconds: the fourth batch was the last"
    assert (np.diff(found.index) > 0).all(), "in the order of the data"
    assert found.index.max() - found.index.min() > n / 2, "from everywhere"
    np.testing.assert_allclose(found.nats, whole.nats[found.index], rtol=1e-5, err_msg="an item has its own noise")
    np.testing.assert_array_equal(limited().nats, found.nats)
    assert (limited(1).index != found.index).any()

    monkeypatch.setattr(sys.modules["ladle.tasks.score"], "time", Clock())
    told = ladle.evidence(model, data, samples=5, batch=10, minutes=0.06)
    assert (told.items, told.of) == (40, n)
    assert f"40 items of {n}, taken at random" in str(told)
    assert "at random" not in str(ladle.evidence(model, data, samples=5))


def test_every_item_within_the_limit_is_all_of_them(digits: tuple[ladle.Model, ladle.Dataset]) -> None:
    model, data = digits
    found = measure(model, data, samples=3, minutes=60.0)
    assert (found.index == np.arange(len(data.test))).all()


@pytest.mark.parametrize(
    "arguments, told",
    [
        ({"samples": 0}, "at least 1, got 0"),
        ({"samples": -3}, "at least 1, got -3"),
        ({"minutes": 0.0}, "minutes must be above 0, got 0"),
        ({"minutes": -1.0}, "minutes must be above 0, got -1"),
        ({"minutes": float("nan")}, "minutes must be above 0, got nan"),
        ({"method": "exactly"}, "unknown method 'exactly'; known: iwae"),
        ({"proposal": "prior"}, "unknown proposal 'prior'; known: q, inflated, defensive"),
    ],
)
def test_what_is_refused(digits: tuple[ladle.Model, ladle.Dataset], arguments: dict, told: str) -> None:
    with pytest.raises((ladle.DataError, ladle.SpecError), match=told):
        ladle.evidence(*digits, **arguments)
