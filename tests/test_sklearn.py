"""The scikit-learn estimator: scikit-learn's own checks, its numbers, and its use in pipelines and searches."""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, ShuffleSplit, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks

import ladle
import ladle.sklearn
from ladle.sklearn import VAE

SMALL: dict[str, Any] = {"recipe": "vae", "size": "xs"}
TINY: dict[str, Any] = {**SMALL, "epochs": 2, "importance_samples": 5}


def plane(n: int = 400, columns: int = 12, hidden: int = 5, seed: int = 0) -> np.ndarray:
    """Rows near a plane of ``hidden`` dimensions: ``(n, columns)``, every column of unit scale."""
    rng = np.random.default_rng(seed)
    turn = np.random.default_rng(99).normal(size=(hidden, columns)) / np.sqrt(hidden)
    return rng.normal(size=(n, hidden)) @ turn + 0.1 * rng.normal(size=(n, columns))


@pytest.fixture(scope="module")
def fitted() -> VAE:
    return VAE(3, **{**TINY, "epochs": 20}, random_state=0).fit(plane())


# ------------------------------------------------------------------------------------------ scikit-learn's own checks


@estimator_checks.parametrize_with_checks(
    [VAE(**TINY), VAE(**{**TINY, "recipe": "learned_prior"}), VAE(missing="nan", **TINY)]
)
def test_checks_of_scikit_learn(estimator: VAE, check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIPY_ARRAY_API", "1")  # otherwise one check is skipped
    check(estimator)


@pytest.mark.parametrize(
    "check", [estimator_checks.check_transformer_get_feature_names_out, estimator_checks.check_set_output_transform]
)
def test_checks_that_scikit_learn_runs_on_its_own_transformers(check: Any) -> None:
    check("VAE", VAE(**TINY))


@pytest.mark.parametrize(
    "check", [estimator_checks.check_methods_sample_order_invariance, estimator_checks.check_methods_subset_invariance]
)
def test_the_checks_detect_noise_that_depends_on_the_position(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladle.sklearn, "keyed_by_content", lambda batch: batch)
    with pytest.raises(AssertionError, match="score_samples"):
        check("VAE", VAE(**TINY))


def test_it_is_imported_only_on_demand() -> None:
    code = "import sys, ladle; print('ladle.sklearn' in sys.modules); import ladle.sklearn as s; print(s.VAE.__name__)"
    completed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert completed.stdout.split() == ["False", "VAE"]


# ------------------------------------------------------------------------------------------ numbers


def test_the_same_numbers_as_the_rest_of_ladle(fitted: VAE) -> None:
    X = plane(50, seed=1)
    assert isinstance(fitted.model_, ladle.Model)
    z = fitted.transform(X)
    assert np.array_equal(z, ladle.encode(fitted.model_, X))
    assert np.array_equal(fitted.inverse_transform(z), ladle.decode(fitted.model_, z))
    found = ladle.evidence(fitted.model_, X, samples=500)
    assert fitted.set_params(importance_samples=500).score(X) == pytest.approx(-found.nats, abs=0.3)  # other noise
    assert list(fitted.get_feature_names_out()) == ["vae0", "vae1", "vae2"]
    assert fitted.n_iter_ == 20
    assert fitted.bound_ < 0


def test_the_density_is_close_to_the_true_density() -> None:
    rng = np.random.default_rng(5)
    sigma = np.array([[4.0, 1.2], [1.2, 1.0]])
    X, new = (rng.multivariate_normal([10.0, -3.0], sigma, n) for n in (1000, 500))
    vae = VAE(2, **SMALL, epochs=30, random_state=0).fit(X)
    far = new - [10.0, -3.0]
    truth = -0.5 * np.einsum("ni,ij,nj->n", far, np.linalg.inv(sigma), far)
    truth -= 0.5 * np.log(np.linalg.det(2 * np.pi * sigma))
    assert vae.score(new) == pytest.approx(truth.mean(), abs=0.1)
    assert np.corrcoef(vae.score_samples(new), truth)[0, 1] > 0.95
    drawn = vae.sample(4000, random_state=1)
    np.testing.assert_allclose(drawn.mean(axis=0), [10.0, -3.0], atol=0.25)
    np.testing.assert_allclose(np.cov(drawn.T), sigma, atol=0.8)


def test_the_score_of_a_row_depends_only_on_the_row(fitted: VAE) -> None:
    X = plane(40, seed=2)
    X[7] = X[31]
    X[3, 0], X[4] = 0.0, X[3]
    X[4, 0] = -0.0
    s = fitted.score_samples(X)
    np.testing.assert_allclose(s[[7, 3]], s[[31, 4]], rtol=1e-5)
    np.testing.assert_allclose(fitted.score_samples(X[::-1])[::-1], s, rtol=1e-5)
    assert len(np.unique(s.round(4))) == 38


@pytest.mark.parametrize("state", [7, np.random.RandomState(7)])
def test_a_random_state_repeats_everything(state: Any) -> None:
    X = plane(60)
    a, b = (VAE(2, **TINY, random_state=copy.deepcopy(state)).fit(X) for _ in range(2))
    assert np.array_equal(a.transform(X), b.transform(X))
    assert np.array_equal(a.sample(5), b.sample(5))
    other = VAE(2, **TINY).fit(X)
    assert not np.array_equal(other.transform(X), a.transform(X))
    assert not np.array_equal(other.sample(5), other.sample(5))
    assert np.array_equal(other.sample(5, random_state=1), other.sample(5, random_state=1))


def test_a_pickle_restores_the_model_and_is_small(fitted: VAE) -> None:
    X, packed = plane(20), pickle.dumps(fitted)
    again = pickle.loads(packed)
    assert np.array_equal(again.transform(X), fitted.transform(X))
    assert np.array_equal(again.score_samples(X), fitted.score_samples(X))
    weights = sum(p.numel() * p.element_size() for p in fitted.model_.vae.parameters())
    assert len(packed) < weights + 50_000


def test_a_pickle_is_on_the_cpu(fitted: VAE) -> None:
    moved = copy.copy(fitted)
    moved.model_ = dataclasses.replace(fitted.model_, device="cuda")  # only the name: there may be no GPU
    again = pickle.loads(pickle.dumps(moved))
    assert again.model_.device == "cpu"
    assert np.array_equal(again.transform(plane(5)), fitted.transform(plane(5)))
    assert moved.model_.device == "cuda"


# ------------------------------------------------------------------------------------------ kinds of data


def test_the_support_is_detected() -> None:
    rng = np.random.default_rng(0)
    bits = (rng.random((80, 6)) < rng.random((80, 1))).astype(float)
    grey = rng.integers(0, 256, (80, 6)).astype(np.uint8)
    for X, support in ((bits, "binary"), (bits > 0, "binary"), (grey, "bytes"), (grey.astype(float), "real")):
        vae = VAE(2, **TINY, random_state=0).fit(X)
        assert vae.model_.schema.support == support
        assert np.isfinite(vae.score_samples(X)).all()
        assert vae.sample(4).shape == (4, 6)
    assert VAE(2, support="bytes", **TINY).fit(grey.astype(float)).model_.schema.support == "bytes"
    assert VAE(2, support="real", **TINY).fit(bits).model_.schema.support == "real"

    vae = VAE(2, **TINY, random_state=0).fit(bits)
    chance = vae.inverse_transform(vae.transform(bits))
    assert 0 <= chance.min() <= chance.max() <= 1
    assert set(np.unique(vae.sample(50))) == {0.0, 1.0}
    assert vae.score_samples(bits).max() <= 0
    with pytest.raises(ValueError, match=r"whole numbers 0\.\.1"):
        vae.score_samples(bits + 0.5)


def test_missing_values_are_filled_in() -> None:
    X = plane(500, columns=8, hidden=2)
    holes = np.random.default_rng(1).random(X.shape) < 0.15
    holed = np.where(holes, np.nan, X)
    vae = VAE(4, recipe="sigma_vae", size="xs", epochs=15, missing="nan", random_state=0).fit(holed)
    filled = vae.inverse_transform(vae.transform(holed))
    assert np.square(filled - X)[holes].mean() < 0.5 * np.square(X)[holes].mean()
    assert np.isfinite(vae.score_samples(holed)).all()
    whole = VAE(2, **TINY, missing="nan").fit(X)  # no missing values in training, but in later data
    assert np.isfinite(whole.transform(holed)).all()
    with pytest.raises(ValueError, match="NaN"):
        VAE(2, **TINY).fit(holed)


# ------------------------------------------------------------------------------------------ invalid input


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n_components": 0}, "n_components == 0, must be >= 1"),
        ({"n_components": 2.5}, "n_components must be an instance of int"),
        ({"recipe": "vea"}, r"unknown recipe 'vea' \(did you mean 'vae'\?\); known: "),
        ({"size": "xxl"}, "unknown size 'xxl'"),
        ({"support": "counts"}, "support must be auto, binary"),
        ({"support": "binary"}, r"whole numbers 0\.\.1"),
        ({"missing": "none"}, "missing must be None or 'nan'"),
        ({"epochs": 0}, "above 0"),
        ({"batch_size": 0}, "batch_size == 0, must be >= 1"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
        ({"device": "tpu"}, "device must be auto"),
    ],
)
def test_wrong_parameters(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        VAE(**{**TINY, **wrong}).fit(plane(20))


def test_wrong_calls(fitted: VAE) -> None:
    with pytest.raises(NotFittedError):
        VAE().sample()
    with pytest.raises(ValueError, match="n_samples"):
        fitted.sample(0)
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        fitted.inverse_transform(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="importance_samples"):
        copy.copy(fitted).set_params(importance_samples=0).score(plane(5))
    with pytest.raises(ladle.DataError, match="32-bit"):
        VAE(**TINY).fit(plane(20) * 1e40)
    plain = VAE(2, **{**TINY, "recipe": "ae"}).fit(plane(20))
    assert plain.transform(plane(20)).shape == (20, 2)
    with pytest.raises(ladle.NotAvailable, match="plain autoencoder"):
        plain.score(plane(20))


def test_two_rows_are_enough() -> None:
    vae = VAE(**TINY, random_state=0).fit([[1.0, 5.0], [2.0, 5.0]])
    assert vae.transform([[1.0, 5.0]]).shape == (1, 2)
    with pytest.raises(ValueError, match="1 sample"):
        VAE(**TINY).fit([[1.0, 5.0]])


# ------------------------------------------------------------------------------------------ in use


def test_a_recipe_may_be_a_function() -> None:
    def slow(schema: ladle.Schema, size: str, rate: float = 1e-4) -> Mapping[str, Any]:
        return {**ladle.recipe("vae", schema, size), "training": {"batch": 16, "rate": rate}}

    vae = VAE(2, recipe=slow, size="xs", epochs=1).fit(plane(40))
    assert vae.model_.config["training"]["rate"] == 1e-4
    assert vae.model_.config["fit"]["recipe"] == "slow"
    again = clone(vae).set_params(recipe=functools.partial(slow, rate=1e-3)).fit(plane(40))
    assert again.model_.config["training"]["rate"] == 1e-3


def test_the_batch_size_depends_on_the_number_of_rows() -> None:
    def batch(n: int, **settings: Any) -> int:
        return VAE(2, **{**TINY, "epochs": 0.01, **settings}).fit(plane(n)).model_.config["training"]["batch"]

    assert [batch(n) for n in (20, 1000, 4000)] == [16, 56, 128]
    assert batch(1000, batch_size=10) == 10


def test_verbose_prints_progress(capfd: pytest.CaptureFixture[str]) -> None:
    VAE(2, **TINY).fit(plane(40))
    assert capfd.readouterr() == ("", "")
    VAE(2, **TINY, verbose=True).fit(plane(40))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "nats" in captured.err


def test_a_pipeline() -> None:
    X, y = load_digits(return_X_y=True)
    train, test, y_train, y_test = train_test_split(X, y, random_state=0)
    vae = VAE(16, recipe="sigma_vae", size="xs", epochs=20, random_state=0)
    pipe = make_pipeline(StandardScaler(), vae, LogisticRegression(max_iter=1000)).fit(train, y_train)
    assert pipe.score(test, y_test) > 0.75  # ten classes: chance is 0.1
    assert list(pipe[:-1].get_feature_names_out())[:2] == ["vae0", "vae1"]


def test_a_grid_search_finds_the_number_of_latents() -> None:
    held_out = ShuffleSplit(1, test_size=0.2, random_state=0)
    search = GridSearchCV(VAE(**SMALL, epochs=30, random_state=0), {"n_components": [1, 5]}, cv=held_out).fit(plane())
    one, five = search.cv_results_["mean_test_score"]
    assert search.best_params_ == {"n_components": 5}
    assert five > one + 1
    assert search.best_estimator_.transform(plane(3)).shape == (3, 5)
