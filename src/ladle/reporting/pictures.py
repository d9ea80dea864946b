"""The picture files in a model folder: the training curve, reconstructions and samples."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ladle.data import Dataset, Schema, atomic_file
from ladle.families import NotAvailable
from ladle.html.items import view
from ladle.store.folder import Model
from ladle.tasks.common import items
from ladle.tasks.reconstruct import reconstruct
from ladle.tasks.sample import sample
from ladle.training.records import read_log

MARGIN = 8  # pixels around a picture
PAPER, ACCENT, SOFT = "#ffffff", "#c2410c", "#2563eb"


def draw(model: Model, data: Dataset, folder: Path) -> list[Path]:
    """Write the pictures of a model into its folder.

    Returns:
        The files written: ``training.png`` always; for images also ``reconstructions.png``, and ``samples.png`` if the
        model has a prior.
    """
    items_view = view(model.schema)
    written = []
    if items_view.files_drawn:
        split = items(model, data, "test" if "test" in data.names else "all")
        shown = split.take(np.linspace(0, len(split) - 1, min(items_view.files_drawn, len(split))).astype(int))
        page = items_view.sheets(shown.x, reconstruct(model, shown))
        written.append(_write(page, folder / "reconstructions.png"))
        with suppress(NotAvailable):
            page = items_view.sheet_of_samples(sample(model, items_view.samples_drawn))
            written.append(_write(page, folder / "samples.png"))
    return [*written, training_curve(folder / "log.jsonl", model.schema, folder / "training.png")]


def curve(records: list[dict[str, Any]], kind: str) -> list[tuple[float, float]]:
    """Minutes and nats of the records of a kind in which the bound was measured."""
    return [(r["seconds"] / 60, r["nats"]) for r in records if r["kind"] == kind and r["nats"] is not None]


def visible(nats: Iterable[float]) -> tuple[float, float]:
    """The range of the vertical axis. The highest tenth of the values may lie outside it: the values of the first
    batches are so high that they would flatten the rest of the curve."""
    values = sorted(nats)
    low, high = values[0], values[min(int(0.9 * len(values)), len(values) - 1)]
    room = max(high - low, 1e-3 * abs(low), 1e-6)
    return low - 0.08 * room, high + 0.25 * room


def _write(page: np.ndarray, path: Path) -> Path:
    framed = np.pad(page, [(MARGIN, MARGIN)] * 2 + [(0, 0)] * (page.ndim - 2), constant_values=255)
    with atomic_file(path, force=True) as temporary:
        Image.fromarray(framed).save(temporary, format="PNG")
    return path


def training_curve(log: Path, schema: Schema, path: Path) -> Path:
    """Draw the bound during training, in nats, on the training batches and on the validation split."""
    from matplotlib.figure import Figure  # imported here because it is slow to import

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
