"""Score items, and measure the evidence of a data set."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ladle.data import Batch, DataError, order
from ladle.inference.annealed import CHAINS, TEMPERATURES, Sandwich, annealed, unconstrained
from ladle.inference.annealed import rows as annealed_rows
from ladle.inference.annealed import sandwich as annealed_sandwich
from ladle.inference.evidence import Evidence, Items, joined, summary
from ladle.inference.importance import importance, rows
from ladle.inference.quadrature import exact, solvable
from ladle.inference.quadrature import rows as exact_rows
from ladle.model.vae import VAE
from ladle.store.folder import Model
from ladle.tasks.common import Progress, Source, each_batch, items, side_by_side


class Settings(NamedTuple):
    """What a method may be told: see :func:`measure`."""

    samples: int
    temperatures: int
    seed: int
    proposal: str


class Method(NamedTuple):
    """A way to log p(x).

    Attributes:
        run: from a model and batches to what is found of each.
        samples: as many by default.
        rows: how many items to take at a time, from the model and the samples.
        serves: whether the model is one for it.
        instead: what is used where it is not.
    """

    run: Callable[[VAE, Iterable[Batch], Settings], Iterator[Items]]
    samples: int
    rows: Callable[[VAE, int], int]
    serves: Callable[[VAE], bool]
    instead: tuple[str, ...] = ()


METHODS = {
    "iwae": Method(
        lambda vae, batches, s: importance(vae, batches, samples=s.samples, seed=s.seed, proposal=s.proposal),
        500,
        rows,
        lambda vae: True,
    ),
    "ais": Method(
        lambda vae, batches, s: annealed(vae, batches, **s._asdict()),
        CHAINS,
        annealed_rows,
        unconstrained,
        ("exact", "iwae"),
    ),
    "exact": Method(lambda vae, batches, s: exact(vae, batches), 1, exact_rows, solvable),
}


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
        data: what to score; see :func:`ladle.tasks.common.items`.
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

    Arguments as for :func:`measure`.
    """
    chosen = items(model, data, split)
    found = measure(
        model, chosen, method=method, samples=samples, temperatures=temperatures, proposal=proposal, at_most=at_most,
        seed=seed, batch=batch, progress=progress, minutes=minutes,
    )  # fmt: skip
    return summary(found, model.schema.size, len(chosen))


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
    """The evidence of every item, and how good its importance weights are.

    Args:
        model: from :func:`ladle.load`; a plain autoencoder has no density.
        data: what to look at; see :func:`ladle.tasks.common.items`.
        method: ``iwae``, the importance-weighted bound; ``ais``, annealed importance sampling, a tighter and slower
            one; or ``exact``, where the latents are at most two or have few configurations. Where latents are not on
            the real line, ``ais`` is exact if it can be, else ``iwae``: the result says which.
        samples: importance samples per item, by default 500; of ``ais`` chains, by default 16.
        temperatures: of ``ais``.
        proposal: what they are drawn from: ``q``; ``inflated``, q at temperature 1.2; or ``defensive``, 95 % q and 5 %
            the prior.
        at_most: so many items, drawn at random, stand for all.
        split: of a data set that has splits.
        seed: of the noise, keyed by item, and of which items are taken where not all are.
        batch: items at a time.
        progress: called with (items done, items in all).
        minutes: stop after so many. Items are then taken in random order, so that those that were reached stand for
            all; ``index`` says which they are.

    Returns:
        What was found of each item, in the order of the data.

    Raises:
        DataError: for fewer than 1 sample, temperature or item, an unknown method, or no time.
    """
    if method not in METHODS:
        raise DataError(f"unknown method '{method}'; known: {', '.join(METHODS)}")
    ways = (method, *METHODS[method].instead)
    way = METHODS[next((name for name in ways if METHODS[name].serves(model.vae)), method)]
    samples = way.samples if samples is None else samples
    for name, number in (("samples", samples), ("temperatures", temperatures), ("items", at_most)):
        if number is not None and number < 1:
            raise DataError(f"the number of {name} must be at least 1, got {number}")
    if minutes is not None and not 0 < minutes < math.inf:
        raise DataError(f"minutes must be above 0, got {minutes}")
    started = time.monotonic()
    chosen = items(model, data, split)
    if progress:
        progress(0, min(len(chosen), at_most or len(chosen)))
    size = batch or way.rows(model.vae, samples)
    turn = None if minutes is None and at_most is None else order(len(chosen), seed, 0)[:at_most]
    settings = Settings(samples, temperatures, seed, proposal)
    found: list[Items] = []
    batches, done = each_batch(model, chosen, size, turn=turn), 0
    for some in side_by_side(lambda batch: next(way.run(model.vae, [batch], settings)), batches, model.device):
        found.append(some)
        done += len(some.nats)
        if progress:
            progress(done, len(chosen) if turn is None else len(turn))
        if minutes is not None and time.monotonic() - started > 60 * minutes:
            break
    whole = joined(found)
    if turn is None:
        return whole
    back = np.argsort(whole.index)
    return whole._replace(**{name: getattr(whole, name)[back] for name in ("index", "nats", "ess", "k_hat", "curve")})


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
    """log p(x) between two bounds, on items simulated from the model: see :func:`ladle.inference.annealed.sandwich`.

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
