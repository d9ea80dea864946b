"""Score items, and measure the evidence of a data set."""

from __future__ import annotations

import math
import time

import numpy as np

from ladle.data import DataError, order
from ladle.evidence import Evidence, Items, importance, joined, rows, summary
from ladle.folder import Model
from ladle.shapes import numel
from ladle.tasks.run import Progress, Source, each_batch, items

METHODS = {"iwae": importance}


def score(
    model: Model,
    data: Source,
    *,
    samples: int = 100,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """How unlikely the model finds each item: the importance-weighted bound on -log p(x).

    Args:
        model: from :func:`ladle.load`; a plain autoencoder has no density.
        data: what to score; see :func:`ladle.tasks.run.items`.
        samples: importance samples per item.
        split: of a data set that has splits.
        seed: of the noise, keyed by item: an item's score does not depend on its neighbours.
        batch: items at a time.
        progress: called with (items done, items in all).

    Returns:
        ``(N,)`` nats, lower is likelier.
    """
    return measure(model, data, samples=samples, split=split, seed=seed, batch=batch, progress=progress).nats


def evidence(
    model: Model,
    data: Source,
    *,
    method: str = "iwae",
    samples: int = 500,
    proposal: str = "q",
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
    minutes: float | None = None,
) -> Evidence:
    """The evidence of a data set: the importance-weighted bound on -log p(x), the mean over items.

    Arguments as for :func:`measure`.
    """
    chosen = items(model, data, split)
    found = measure(
        model, chosen, method=method, samples=samples, proposal=proposal, seed=seed, batch=batch,
        progress=progress, minutes=minutes,
    )  # fmt: skip
    return summary(found, numel(model.schema.shape), len(chosen))


def measure(
    model: Model,
    data: Source,
    *,
    method: str = "iwae",
    samples: int = 500,
    proposal: str = "q",
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
    minutes: float | None = None,
) -> Items:
    """The evidence of every item, and how good its importance weights are.

    Args:
        model: from :func:`ladle.load`; a plain autoencoder has no density.
        data: what to look at; see :func:`ladle.tasks.run.items`.
        method: ``iwae``, the importance-weighted bound.
        samples: importance samples per item.
        proposal: what they are drawn from: ``q``; ``inflated``, q at temperature 1.2; or ``defensive``, 95 % q and 5 %
            the prior.
        split: of a data set that has splits.
        seed: of the noise, keyed by item, and of the order of items under a time limit.
        batch: items at a time.
        progress: called with (items done, items in all).
        minutes: stop after so many. Items are then taken in random order, so that those that were reached stand for
            all; ``index`` says which they are.

    Returns:
        What was found of each item, in the order of the data.

    Raises:
        DataError: for fewer than 1 sample, an unknown method, or no time.
    """
    if method not in METHODS:
        raise DataError(f"unknown method '{method}'; known: {', '.join(METHODS)}")
    if samples < 1:
        raise DataError(f"the number of importance samples must be at least 1, got {samples}")
    if minutes is not None and not 0 < minutes < math.inf:
        raise DataError(f"minutes must be above 0, got {minutes}")
    started = time.monotonic()
    chosen = items(model, data, split)
    if progress:
        progress(0, len(chosen))
    size = batch or rows(samples, numel(model.schema.shape))
    turn = None if minutes is None else order(len(chosen), seed, 0)
    found = []
    for some in METHODS[method](
        model.vae, each_batch(model, chosen, size, progress, turn), samples=samples, seed=seed, proposal=proposal
    ):
        found.append(some)
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            break
    whole = joined(found)
    if turn is None:
        return whole
    back = np.argsort(whole.index)
    return whole._replace(**{name: getattr(whole, name)[back] for name in ("index", "nats", "ess", "k_hat", "curve")})
