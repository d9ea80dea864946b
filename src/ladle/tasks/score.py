"""Score items, and measure the evidence of a data set."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np

from ladle.data import DataError, Split, order
from ladle.inference.annealed import CHAINS, TEMPERATURES, Sandwich
from ladle.inference.annealed import sandwich as annealed_sandwich
from ladle.inference.evidence import Evidence, Items, subset, summary
from ladle.inference.methods import Prepared, prepare
from ladle.store.folder import Model
from ladle.tasks.common import Progress, Source, gather, items, map_batches


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
    """Score each item: the importance-weighted upper bound on -log p(x), in nats.

    Args:
        model: from :func:`ladle.load`; a plain autoencoder has no density.
        data: the items to score; see :func:`ladle.tasks.common.items`.
        samples: importance samples per item.
        split: the split of a data set that has splits.
        seed: of the noise, keyed by item: an item's score does not depend on the other items.
        batch: the number of items in a batch.
        progress: called with (items done, items in total).

    Returns:
        ``(N,)`` nats; lower is likelier.
    """
    return measure(model, data, samples=samples, split=split, seed=seed, batch=batch, progress=progress).nats


def score_batches(
    model: Model,
    data: Source,
    *,
    samples: int = 100,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
) -> Iterator[np.ndarray]:
    """The values of :func:`score`, batch by batch as they are computed: for :func:`ladle.write`.

    The arguments are those of :func:`score`.
    """
    ready = prepare(model.vae, samples=samples, seed=seed)
    return (found.nats for found in _measured(ready, model, items(model, data, split), batch, None, progress))


def evidence(
    model: Model,
    data: Source,
    *,
    method: str = "iwae",
    samples: int | None = None,
    temperatures: int = TEMPERATURES,
    proposal: str = "q",
    at_most: int | None = None,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
    minutes: float | None = None,
) -> Evidence:
    """The evidence of a data set: -log p(x) or a bound on it, the mean over items.

    The arguments are those of :func:`measure`.
    """
    chosen = items(model, data, split)
    found = measure(
        model, chosen, method=method, samples=samples, temperatures=temperatures, proposal=proposal, at_most=at_most,
        seed=seed, batch=batch, progress=progress, minutes=minutes,
    )  # fmt: skip
    return summary(found, len(chosen))


def measure(
    model: Model,
    data: Source,
    *,
    method: str = "iwae",
    samples: int | None = None,
    temperatures: int = TEMPERATURES,
    proposal: str = "q",
    at_most: int | None = None,
    split: str | None = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Progress | None = None,
    minutes: float | None = None,
) -> Items:
    """The evidence of every item, with diagnostics of the importance weights.

    Args:
        model: from :func:`ladle.load`; a plain autoencoder has no density.
        data: the items to measure; see :func:`ladle.tasks.common.items`.
        method: ``iwae``, the importance-weighted bound; ``ais``, annealed importance sampling, which is tighter and
            slower; or ``exact``, for linear models, at most two real latents, or discrete latents with few
            configurations. Where the latents are not on the real line, ``exact`` or else ``iwae`` replaces ``ais``; the
            result names the method.
        samples: importance samples per item, by default 500; for ``ais`` the number of chains, by default 16.
        temperatures: of ``ais``.
        proposal: the distribution that samples are drawn from: ``q``; ``inflated``, q at temperature 1.2; or
            ``defensive``, 95 % q and 5 % the prior.
        at_most: measure at most this many items, drawn at random.
        split: the split of a data set that has splits.
        seed: of the noise, keyed by item, and of the random choice of items.
        batch: the number of items in a batch.
        progress: called with (items done, items in total).
        minutes: stop after this time. Items are then measured in random order, so that those measured by then are a
            random sample; ``index`` lists them.

    Returns:
        The evidence of each item, in the order of the data.

    Raises:
        DataError: for fewer than 1 sample, temperature or item, an unknown method, or a time limit that is not above 0.
        NotAvailable: for a model without a density, or latents that the method does not serve.
        SpecError: for an unknown proposal.
    """
    if at_most is not None and at_most < 1:
        raise DataError(f"the number of items must be at least 1, got {at_most}")
    if minutes is not None and not 0 < minutes < math.inf:
        raise DataError(f"minutes must be above 0, got {minutes}")
    started = time.monotonic()
    ready = prepare(model.vae, method, samples=samples, temperatures=temperatures, seed=seed, proposal=proposal)
    chosen = items(model, data, split)
    total = min(len(chosen), at_most or len(chosen))
    if progress:
        progress(0, total)
    turn = None if minutes is None and at_most is None else order(len(chosen), seed, 0)[:at_most]
    parts = _measured(ready, model, chosen, batch, turn, progress)
    found = gather(parts if minutes is None else until(parts, started + 60 * minutes), total)
    return found if turn is None else subset(found, np.argsort(found.index))


def _measured(
    ready: Prepared, model: Model, chosen: Split, batch: int | None, turn: np.ndarray | None, progress: Progress | None
) -> Iterator[Items]:
    """The results of a prepared method, batch by batch."""
    return map_batches(
        lambda model, batch: ready.measure(batch), model, chosen, size=batch or ready.batch_size, turn=turn,
        progress=progress, parallel=True,
    )  # fmt: skip


def until(parts: Iterator[Items], deadline: float) -> Iterator[Items]:
    """The first part, and those that follow until the deadline has passed."""
    for part in parts:
        yield part
        if time.monotonic() > deadline:
            break


def sandwich(
    model: Model,
    items: int = 20,
    *,
    samples: int = CHAINS,
    temperatures: int = TEMPERATURES,
    proposal: str = "q",
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> Sandwich:
    """Two bounds on log p(x) of items simulated from the model: see :func:`ladle.inference.annealed.sandwich`.

    Raises:
        DataError: for fewer than 1 item, sample or temperature.
        NotAvailable: for a model without a density, or whose latents are not one level on the real line.
    """
    for name, number in (("items", items), ("samples", samples), ("temperatures", temperatures)):
        if number < 1:
            raise DataError(f"the number of {name} must be at least 1, got {number}")
    return annealed_sandwich(
        model.vae, items, samples=samples, temperatures=temperatures, seed=seed, proposal=proposal, progress=progress
    )
