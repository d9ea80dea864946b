"""``check(model, data)`` runs every registered check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ladle.data import DataError, Dataset, Split, read
from ladle.families import NotAvailable
from ladle.health.findings import PREREQUISITES, Check, Context, Finding, Health
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
    """Diagnose a model: every check reports what it measured and what that means, with a remedy for a problem.

    Args:
        model: from :func:`ladle.load`, or its folder. A folder whose weights contain NaN, which ``load`` refuses, is
            opened here and reported as a problem.
        data: the data that the model was fitted to. With a data set, test items are compared with training items; with
            an array or a single split, over-fitting cannot be detected.
        most: the maximum number of items of each split to use, chosen at random.
        seed: the seed of that choice and of all noise.
        progress: called with (checks done, checks in total).

    Returns:
        The findings. ``str()`` formats them as text.

    Raises:
        DataError: if the data do not match the data that the model was fitted to, or if ``most`` is less than 1.
        ModelError: if the folder is not a model.
    """
    if most < 1:
        raise DataError(f"most must be at least 1 item, got {most}")
    if not isinstance(model, Model):
        model = load(model, finite=False)
    context = Context(model, *_splits(model, data, most, seed), seed)
    checks = all_checks()
    findings: list[Finding] = []
    failed = ""
    for done, (name, run) in enumerate(checks):
        if progress:
            progress(done, len(checks))
        if failed:
            finding = Finding(name, None, {}, f"not run, because the check '{failed}' found a problem")
        else:
            finding = _run(name, run, context)
        if finding.ok is False and run.stage <= PREREQUISITES:  # type: ignore[attr-defined]
            failed = name
        findings.append(finding)
    if progress:
        progress(len(checks), len(checks))
    counts = {"test": len(context.test)} | ({} if context.train is None else {"training": len(context.train)})
    return Health(tuple(findings), counts)


def all_checks() -> list[tuple[str, Check]]:
    """Every registered check with its name, in the order of the stages."""
    return sorted(registered("check").items(), key=lambda item: item[1].stage)


def _run(name: str, run: Check, context: Context) -> Finding:
    try:
        return run(context)
    except NotAvailable as error:
        return Finding(name, None, {}, str(error))


def _splits(model: Model, data: Source, most: int, seed: int) -> tuple[Split, Split | None]:
    """The test items, and the training items if the model is known to have been trained on them."""
    if isinstance(data, (Split, np.ndarray)):
        return _subset(items(model, data), most, seed), None
    dataset = data if isinstance(data, Dataset) else read(data, like=model.schema)
    if not {"train", "test"} <= set(dataset.names):
        return _subset(items(model, dataset), most, seed), None
    test, train = (items(model, dataset, name) for name in ("test", "train"))
    fitted = model.config.get("data", {}).get("items", {})
    if fitted and fitted.get("train") != len(train):  # the model was fitted to other data
        return _subset(items(model, dataset), most, seed), None
    return _subset(test, most, seed), _subset(train, most, seed)


def _subset(split: Split, most: int, seed: int) -> Split:
    """At most ``most`` items, chosen at random and kept in order."""
    if len(split) <= most:
        return split
    return split.take(np.sort(np.random.default_rng(seed).choice(len(split), most, replace=False)))
