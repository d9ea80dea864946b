"""How heavy the tail of importance weights is: the shape k̂ of a generalised Pareto distribution fitted to it."""

from __future__ import annotations

import math

import numpy as np

BAD = 0.7  # above it, no number of samples that one could afford makes an importance-sampling estimate reliable
SHARE, ROOTS, FEWEST = 0.2, 3.0, 5  # the tail: this share of the samples, at most so many times √S, at least so many
# The prior of Zhang & Stephens for the fit (grid points beyond √M, and their spread), and that of Vehtari et al. for k,
# which weighs as much as 10 more samples of a tail with k = 0.5.
POINTS, SPREAD = 30, 3.0
PRIOR_K, PRIOR_SAMPLES = 0.5, 10
TIE = 1e-3  # relative to the threshold: more than rounding makes of equal weights


def tail(samples: int) -> int:
    """How many of the largest of ``samples`` weights are the tail.

    >>> tail(25), tail(100), tail(5000)
    (5, 20, 213)
    """
    return math.ceil(min(SHARE * samples, ROOTS * math.sqrt(samples)))


def k_hat(log_w: np.ndarray) -> np.ndarray:
    """The Pareto k̂ of importance weights: they have about 1/k̂ moments.

    Below 0.5 the variance is finite and the estimate good; up to 0.7 it is usable; above, a few weights that were not
    drawn may matter more than all that were.

    Args:
        log_w: ``(S, N)`` log weights of N items, known up to a constant for each item.

    Returns:
        ``(N,)``; NaN for fewer than 25 samples; ``-inf`` where all of the tail is equal, as with an exact proposal.

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
    first = samples - size - 1  # the threshold, the largest weight that is not in the tail
    largest = np.sort(np.partition(log_w.astype(np.float64), first, axis=0)[first:], axis=0).T
    w = np.exp(largest - largest[:, -1:])
    x, tie = w[:, 1:] - w[:, :1], TIE * w[:, 0]
    found = shape(x, PRIOR_K, PRIOR_SAMPLES)
    for row in np.flatnonzero(x[:, _quartile(size)] < tie):  # of latents with few values: only what is above counts
        above = x[row] >= tie[row]
        found[row] = shape(x[row : row + 1, above], PRIOR_K, PRIOR_SAMPLES)[0] if above.any() else -math.inf
    return found


def _quartile(size: int) -> int:
    return max(int(size / 4 + 0.5) - 1, 0)


def shape(x: np.ndarray, prior: float = 0.0, samples: int = 0) -> np.ndarray:
    """The shape k of the generalised Pareto distribution ``P(x > t) = (1 + k t / sigma)^(-1/k)`` of each row.

    With ``b = -k / sigma``, the likelihood profiled over k is ``M (log(-b / k) - k - 1)`` at ``k = mean log(1 - b x)``;
    b is taken as its mean under that likelihood, over a grid of quantiles of a prior.

    Args:
        x: ``(N, M)`` exceedances over a threshold, at least 0, ascending in each row.
        prior: what k is drawn towards, as if
        samples: so many more exceedances had it.

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
