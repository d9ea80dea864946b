"""The ladder is climbed: ``check(model, data)`` runs every registered check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ladle.data import DataError, Dataset, Split, read
from ladle.families import NotAvailable
from ladle.health.findings import GROUND, Check, Context, Finding, Health
from ladle.spec import registered
from ladle.store.folder import Model, load
from ladle.tasks.common import Source, items

MOST = 1000  # items of each split: enough for standard errors of a few percent, in seconds


def check(
    model: Model | str | Path,
    data: Source,
    *,
    most: int = MOST,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Health:
    """Whether a model is well: a ladder of checks, each with its number, its reason and a remedy.

    Args:
        model: from :func:`ladle.load`, or its folder. A folder whose weights hold NaN, which ``load`` refuses, is
            opened here, to be named ill.
        data: what it was fitted to. With a data set, the test items are looked at beside the training items; with
            an array or one split, there is no over-fitting to be seen.
        most: items of each split to look at, chosen at random.
        seed: of that choice and of all noise.
        progress: called with (checks done, checks in all).

    Returns:
        The findings. ``str()`` of it is the ladder in words.

    Raises:
        DataError: for data that is not what the model was fitted to, or fewer than 20 items to look at.
        ModelError: for a folder that is no model.
    """
    if most < 1:
        raise DataError(f"there must be at least 1 item to look at, got {most}")
    if not isinstance(model, Model):
        model = load(model, finite=False)
    context = Context(model, *_chosen(model, data, most, seed), seed)
    known = rungs()
    findings: list[Finding] = []
    broken = ""
    for done, (name, one) in enumerate(known):
        if progress:
            progress(done, len(known))
        finding = Finding(name, None, {}, f"not run, for '{broken}' is ill") if broken else _run(name, one, context)
        if finding.ok is False and one.rung <= GROUND:  # type: ignore[attr-defined]
            broken = name
        findings.append(finding)
    if progress:
        progress(len(known), len(known))
    seen = {"test": len(context.test)} | ({} if context.train is None else {"training": len(context.train)})
    return Health(tuple(findings), seen)


def rungs() -> list[tuple[str, Check]]:
    """Every check by name, from the ground up."""
    return sorted(registered("check").items(), key=lambda item: item[1].rung)


def _run(name: str, one: Check, context: Context) -> Finding:
    try:
        return one(context)
    except NotAvailable as why:
        return Finding(name, None, {}, str(why))


def _chosen(model: Model, data: Source, most: int, seed: int) -> tuple[Split, Split | None]:
    """Test items, and training items where they are known to be those of the model."""
    if isinstance(data, (Split, np.ndarray)):
        return _some(items(model, data), most, seed), None
    dataset = data if isinstance(data, Dataset) else read(data, like=model.schema)
    if not {"train", "test"} <= set(dataset.names):
        return _some(items(model, dataset), most, seed), None
    test, train = (items(model, dataset, name) for name in ("test", "train"))
    fitted = model.config.get("data", {}).get("items", {})
    if fitted and fitted.get("train") != len(train):  # other data than it was fitted to: none of it is known to it
        return _some(items(model, dataset), most, seed), None
    return _some(test, most, seed), _some(train, most, seed)


def _some(split: Split, most: int, seed: int) -> Split:
    """At most so many items, chosen at random, in their own order."""
    if len(split) <= most:
        return split
    return split.take(np.sort(np.random.default_rng(seed).choice(len(split), most, replace=False)))
