"""Which differences in evidence are significant, over items and over seeds.

The evidence of a model on N held-out items varies with the items and with the training seed. For families f and g, with
the nats of S seeds on the same N items::

    d_i = mean_s f_si - mean_s g_si                      paired by item
    SE^2 = var_i(d_i) / N + var_s(mean_i f_si) / S + var_s(mean_i g_si) / S

Resampling two or three seeds would underestimate their spread. Therefore each term keeps its own degrees of freedom
(N - 1 and S - 1), and the difference is tested with Student's t, with the Welch-Satterthwaite degrees of freedom of the
sum. All pairs are tested with Holm's procedure, so the probability of any false alarm among them is at most the stated
level, whichever family is best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np

LEVEL = 0.05


class Difference(NamedTuple):
    """The difference between two families.

    Attributes:
        nats: the difference of the mean -log p(x) per item; above 0 is worse.
        se: its standard error, over items and seeds.
        df: the degrees of freedom of that error.
        worse: the probability of being worse, for this pair alone: the probability of t below nats / se.
        p: the two-sided p-value, adjusted for all compared pairs.
        half: half the width of the 95 % interval around ``nats``, for this pair alone.
    """

    nats: float
    se: float
    df: float
    worse: float
    p: float
    half: float


def difference(f: np.ndarray, g: np.ndarray) -> Difference:
    """How much worse f is than g, with ``p`` not adjusted for other comparisons.

    Args:
        f: ``(S, N)``, the nats of each seed on each item.
        g: ``(T, N)``, on the same items.

    Reference:
        Satterthwaite: "An Approximate Distribution of Estimates of Variance Components", 1946.

    >>> noise = np.random.default_rng(0).normal(size=(2, 3, 500))
    >>> found = difference(noise[0] + 1, noise[1])
    >>> 0.9 < found.nats < 1.1, found.worse > 0.999
    (True, True)
    """
    # slow to import, and only needed here
    from scipy.stats import t as student

    d = f.mean(0) - g.mean(0)
    terms = [(d.var(ddof=1) / d.size, d.size - 1)]
    terms += [(x.mean(1).var(ddof=1) / len(x), len(x) - 1) for x in (f, g) if len(x) > 1]
    nats, se = float(d.mean()), math.sqrt(sum(v for v, _ in terms))
    if se == 0:
        return Difference(nats, 0.0, math.inf, 0.5 * (1 + float(np.sign(nats))), float(nats == 0), 0.0)
    df = se**4 / sum(v * v / n for v, n in terms)
    below = float(student.cdf(nats / se, df))
    half = se * float(student.ppf(1 - LEVEL / 2, df))
    return Difference(nats, se, df, below, float(2 * student.sf(abs(nats) / se, df)), half)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjusted p-values: if those below a level are rejected, the probability of any false rejection is at most that
    level.

    Reference:
        Holm: "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    held = np.empty(len(p))
    held[order] = np.minimum(stepped, 1.0)
    return held


class Comparison(NamedTuple):
    """The comparison of families on the same items.

    Attributes:
        best: the family with the lowest mean.
        differences: the difference of every family to the best.
        supported: the families that are not significantly worse than any other, the best first.
        pairs: the number of tested pairs.
    """

    best: str
    differences: dict[str, Difference]
    supported: tuple[str, ...]
    pairs: int


def compare(nats: Mapping[str, np.ndarray], level: float = LEVEL) -> Comparison:
    """Compare all families with each other.

    Args:
        nats: by family, -log p(x) of each seed on each item, ``(S, N)``; all families have the same items.
        level: the probability of at least one false alarm.
    """
    order = sorted(nats, key=lambda name: float(nats[name].mean()))
    found = {pair: difference(nats[pair[0]], nats[pair[1]]) for pair in combinations(order, 2)}
    held = holm(np.array([d.p for d in found.values()]))
    best, p = order[0], dict(zip(found, held, strict=True))
    differences = {best: Difference(0.0, 0.0, math.inf, 0.5, 1.0, 0.0)}
    for name in order[1:]:
        d = difference(nats[name], nats[best])
        differences[name] = d._replace(p=float(p[best, name]))
    worse = {b for (a, b), p_ab in p.items() if p_ab < level}  # than any other family, which need not be the best
    supported = tuple(name for name in order if name not in worse)
    return Comparison(best, differences, supported, len(found))
