"""The Pareto k-hat of importance weights against known tails."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ladle.inference.pareto import k_hat, shape, tail


@pytest.mark.parametrize("k", [-0.4, 0.0, 0.3, 0.7, 1.2])
def test_the_fit_finds_a_planted_shape(k: float) -> None:
    """60 samples of 1,000 exceedances with sigma 3. An estimate has a standard deviation of about (1 + k) / sqrt(1000),
    and the mean of 60 one below 0.01; the tolerance is 4 of these plus a bias of 0.01."""
    e = np.random.default_rng(0).exponential(size=(60, 1000))
    x = np.sort(3 * (np.expm1(k * e) / k if k else e), axis=1)
    assert abs(shape(x).mean() - k) < 0.05
    assert shape(x).std() < 1.5 * (1 + abs(k)) / math.sqrt(1000)


@pytest.mark.parametrize("scale, expected", [(0.4, 0.84), (0.6, 0.64), (0.8, 0.36)])
def test_a_narrow_normal_proposal_has_the_theoretical_tail(scale: float, expected: float) -> None:
    """For the target N(0, 1) and the proposal N(0, s^2), log w = e^2 (1 - s^2) / 2. So P(w > t) falls like
    t^(-1 / (1 - s^2)) up to a logarithm, and k = 1 - s^2. The mean of 20 estimates from 50,000 weights each, seeded."""
    e = np.random.default_rng(1).normal(size=(50_000, 20))
    found = k_hat(e**2 * (1 - scale**2) / 2)
    assert abs(found.mean() - expected) < 0.1, found.mean()


def test_a_wide_proposal_has_no_heavy_tail() -> None:
    """For the proposal N(0, 1.5^2) and the target N(0, 1) the weights are bounded."""
    e = np.random.default_rng(2).normal(size=(2_000, 20))
    assert (k_hat(e**2 * (1 - 1.5**2) / 2) < 0.3).all()


def test_k_hat_does_not_depend_on_the_scale_of_the_weights() -> None:
    log_w = np.random.default_rng(3).normal(size=(500, 7)) * np.linspace(0.1, 6, 7)
    np.testing.assert_allclose(k_hat(log_w + 1000.0), k_hat(log_w), atol=1e-6)
    np.testing.assert_allclose(k_hat(log_w - 1000.0), k_hat(log_w), atol=1e-6)


def test_items_are_fitted_separately_and_the_order_of_samples_does_not_matter() -> None:
    log_w = np.random.default_rng(4).normal(size=(400, 5))
    together = k_hat(log_w)
    np.testing.assert_allclose([float(k_hat(column[::-1, None])[0]) for column in log_w.T], together, rtol=1e-12)


@pytest.mark.parametrize("samples, fits", [(1, False), (5, False), (20, False), (25, True), (100, True)])
def test_a_tail_needs_five_weights(samples: int, fits: bool) -> None:
    log_w = np.random.default_rng(5).normal(size=(samples, 3))
    assert (tail(samples) >= 5) == fits
    assert np.isfinite(k_hat(log_w)).all() == fits
    assert np.isnan(k_hat(log_w)).all() != fits


def test_degenerate_weights() -> None:
    """An exact proposal, a tail of ties as a discrete proposal has, and weights that are mostly 0."""
    assert (k_hat(np.full((200, 2), -80.0)) == -math.inf).all()
    ties = np.log(np.repeat([[1.0], [2.0], [3.0]], [300, 80, 20], axis=0))
    assert k_hat(ties)[0] < 0.5
    one = np.full((200, 1), -math.inf)
    one[7] = 0.0
    assert k_hat(one)[0] > 0.7
