"""The tail of importance weights, measured by the shape k̂ of a generalised Pareto distribution fitted to it."""

from __future__ import annotations

import math

import numpy as np

BAD = 0.7  # above it, no affordable number of samples makes an importance-sampling estimate reliable
SHARE, ROOTS, FEWEST = 0.2, 3.0, 5  # the tail: SHARE of the samples, at most ROOTS √S, at least FEWEST
# The prior of Zhang & Stephens for the fit (grid points in addition to √M, and their spread), and the prior of Vehtari
# et al. for k, which is worth 10 more samples of a tail with k = 0.5.
POINTS, SPREAD = 30, 3.0
PRIOR_K, PRIOR_SAMPLES = 0.5, 10
TIE = 1e-3  # relative to the threshold: larger than the rounding error between equal weights


def tail(samples: int) -> int:
    """The number of the largest of ``samples`` weights that form the tail.

    >>> tail(25), tail(100), tail(5000)
    (5, 20, 213)
    """
    return math.ceil(min(SHARE * samples, ROOTS * math.sqrt(samples)))


def k_hat(log_w: np.ndarray) -> np.ndarray:
    """The Pareto k̂ of importance weights: about 1/k̂ of their moments are finite.

    Below 0.5 the variance is finite and the estimate good; up to 0.7 the estimate is usable; above 0.7, a few weights
    that were not drawn may matter more than all that were.

    Args:
        log_w: ``(S, N)`` log weights of N items, known up to a constant for each item.

    Returns:
        ``(N,)``; NaN for fewer than 25 samples; ``-inf`` where all weights of the tail are equal, as they are if the
        proposal is the posterior.

    Reference:
        Vehtari, Simpson, Gelman, Yao, Gabry: "Pareto Smoothed Importance Sampling", 2024.

    >>> uniform = np.random.default_rng(0).uniform(size=(10_000, 1))
    >>> k_hat(-0.9 * np.log(uniform)).round(1)  # weights u^-0.9: P(w > t) = t^(-1/0.9)
    array([0.9])
    """
    samples, items = log_w.shape
    size = tail(samples)
    if size < FEWEST or samples <= size:
        return np.full(items, math.nan)
    first = samples - size - 1  # the rank of the threshold, the largest weight that is not in the tail
    largest = np.sort(np.partition(log_w.astype(np.float64), first, axis=0)[first:], axis=0).T
    w = np.exp(largest - largest[:, -1:])
    x, tie = w[:, 1:] - w[:, :1], TIE * w[:, 0]
    found = shape(x, PRIOR_K, PRIOR_SAMPLES)
    for row in np.flatnonzero(x[:, _quartile(size)] < tie):  # discrete latents: fit only what exceeds the tie
        exceeds = x[row] >= tie[row]
        found[row] = shape(x[row : row + 1, exceeds], PRIOR_K, PRIOR_SAMPLES)[0] if exceeds.any() else -math.inf
    return found


def _quartile(size: int) -> int:
    return max(int(size / 4 + 0.5) - 1, 0)


def shape(x: np.ndarray, prior: float = 0.0, samples: int = 0) -> np.ndarray:
    """The shape k of the generalised Pareto distribution ``P(x > t) = (1 + k t / sigma)^(-1/k)`` of each row.

    With ``b = -k / sigma``, the profile likelihood is ``M (log(-b / k) - k - 1)`` at ``k = mean log(1 - b x)``. The
    estimate of b is its mean under that likelihood, over a grid of quantiles of a prior.

    Args:
        x: ``(N, M)`` exceedances over a threshold, at least 0, ascending in each row.
        prior: the value that k is shrunk towards.
        samples: the weight of the prior, in exceedances.

    Returns:
        ``(N,)``.

    Reference:
        Zhang, Stephens: "A New and Efficient Estimation Method for the Generalized Pareto Distribution", 2009.
    """
    size, most = x.shape[1], x[:, -1:]
    points = POINTS + int(math.sqrt(size))
    with np.errstate(all="ignore"):
        x = x / most
        quartile = np.maximum(x[:, _quartile(size)], 1e-30)[:, None]  # weights may be 0
        b = 1 + (1 - np.sqrt(points / (np.arange(points) + 0.5))) / (SPREAD * quartile)
        k = np.log1p(-b[:, :, None] * x[:, None, :]).mean(2)
        profile = size * (np.log(-b / k) - k - 1)
        profile = np.where(np.isnan(profile), -math.inf, profile)
        weight = np.exp(profile - profile.max(axis=1, keepdims=True))
        mean_b = (b * weight).sum(1, keepdims=True) / weight.sum(1, keepdims=True)
        found = np.log1p(-mean_b * x).mean(1)
    return (found * size + prior * samples) / (size + samples)
