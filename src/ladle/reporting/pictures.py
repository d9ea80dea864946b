"""The pictures that stand in a model folder: training curves, reconstructions and samples."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ladle.data import Dataset, Schema, atomic_file, grey_levels, sheet
from ladle.families import NotAvailable
from ladle.html.items import enlarged
from ladle.store.folder import Model
from ladle.tasks.common import items
from ladle.tasks.reconstruct import reconstruct
from ladle.tasks.sample import sample
from ladle.training.records import read_log

PAIRS, COLUMNS, SAMPLES = 32, 8, 64
GAP, MARGIN = 2, 8
PAPER, ACCENT, SOFT = "#ffffff", "#c2410c", "#2563eb"


def draw(model: Model, data: Dataset, folder: Path) -> list[Path]:
    """Draw what can be drawn of a model, into its folder.

    Returns:
        The files written: ``training.png`` always; for images ``reconstructions.png``, and ``samples.png`` where
        there is a prior to draw from.
    """
    schema = model.schema
    written = []
    if schema.kind == "image":
        split = items(model, data, "test" if "test" in data.names else "all")
        some = split.take(np.linspace(0, len(split) - 1, min(PAIRS, len(split))).astype(int))
        # Grey values stay grey although a model reads them binarised: what it gives back are probabilities.
        again = reconstruct(model, some) * (255 if schema.binarize else 1)
        shown = replace(schema, support="bytes", binarize=None) if schema.binarize else schema
        levels = grey_levels(np.concatenate([some.x, again]), shown)
        written.append(_write(sheet(pairs(*np.split(levels, 2)), COLUMNS), folder / "reconstructions.png"))
        with suppress(NotAvailable):
            drawn = enlarged(grey_levels(sample(model, SAMPLES), schema))
            written.append(_write(sheet(drawn), folder / "samples.png"))
    return [*written, training_curve(folder / "log.jsonl", schema, folder / "training.png")]


def curve(records: list[dict[str, Any]], kind: str) -> list[tuple[float, float]]:
    """Minutes and nats of the records of a kind in which the bound was measured."""
    return [(r["seconds"] / 60, r["nats"]) for r in records if r["kind"] == kind and r["nats"] is not None]


def visible(nats: Iterable[float]) -> tuple[float, float]:
    """The range to draw: the first batches would flatten all that follows, so the highest tenth may leave it."""
    values = sorted(nats)
    low, high = values[0], values[min(int(0.9 * len(values)), len(values) - 1)]
    room = max(high - low, 1e-3 * abs(low), 1e-6)
    return low - 0.08 * room, high + 0.25 * room


def pairs(x: np.ndarray, again: np.ndarray) -> np.ndarray:
    """Images with their reconstructions below them, as one image each, a wider gap between the pairs."""
    x, again = enlarged(x), enlarged(again)
    gap = np.full_like(x[:, :1], 255)
    return np.concatenate([x, gap.repeat(GAP, 1), again, gap.repeat(3 * GAP, 1)], axis=1)


def _write(page: np.ndarray, path: Path) -> Path:
    framed = np.pad(page, [(MARGIN, MARGIN)] * 2 + [(0, 0)] * (page.ndim - 2), constant_values=255)
    with atomic_file(path, force=True) as temporary:
        Image.fromarray(framed).save(temporary, format="PNG")
    return path


def training_curve(log: Path, schema: Schema, path: Path) -> Path:
    """Draw the bound over the run, in nats, in training and on the validation split."""
    from matplotlib.figure import Figure  # slow to import, and needed here alone

    records = read_log(log)
    figure = Figure(figsize=(7, 3.6), dpi=110, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    for kind, colour, name, style in (("train", SOFT, "training batches", "-"), ("valid", ACCENT, "validation", "o-")):
        points = curve(records, kind)
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, label=name, lw=1.4, ms=3.5)
            if kind == "valid":
                axes.annotate(f"{points[-1][1]:.2f}", points[-1], textcoords="offset points", xytext=(0, 8),
                              color=colour, ha="right")  # fmt: skip
    values = [r["nats"] for r in records if r["nats"] is not None]
    if values:
        axes.set_ylim(*visible(values))
        axes.legend(frameon=False)
    axes.set(xlabel="minutes", ylabel="bound on −log p(x), nats per item", title=schema.describe())
    axes.title.set_fontsize(10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25)
    with atomic_file(path, force=True) as temporary:
        figure.savefig(temporary, format="png")
    return path
