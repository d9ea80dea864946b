"""The pictures that stand in a model folder: training curves, reconstructions and samples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ladle.data import Dataset, Schema, atomic_file
from ladle.families import NotAvailable
from ladle.folder import Model
from ladle.tasks.reconstruct import reconstruct
from ladle.tasks.run import items
from ladle.tasks.sample import sample

PAIRS, SAMPLES = 32, 64
GAP, MARGIN = 2, 8
PAPER, ACCENT, SOFT = "#ffffff", "#c2410c", "#2563eb"


def draw(model: Model, data: Dataset, folder: Path) -> list[Path]:
    """Draw what can be drawn of a model, into its folder.

    Returns:
        The files written: ``training.png`` always; for images ``reconstructions.png``, and ``samples.png`` where
        there is a prior to draw from.
    """
    written = [training_curve(folder / "log.jsonl", model.schema, folder / "training.png")]
    if model.schema.kind != "image":
        return written
    split = items(model, data, "test" if "test" in data.names else "all")
    some = split.take(np.linspace(0, len(split) - 1, min(PAIRS, len(split))).astype(int))
    again = reconstruct(model, some)
    written.append(pairs(shown(some.x, model.schema), to_bytes(again, model.schema), folder / "reconstructions.png"))
    try:
        drawn = sample(model, SAMPLES)
    except NotAvailable:
        return written
    written.append(grid(to_bytes(drawn, model.schema), folder / "samples.png"))
    return written


def shown(x: np.ndarray, schema: Schema) -> np.ndarray:
    """The items of a split as 8-bit pictures: grey values stay grey although the model reads them binarised."""
    if schema.support == "binary" and x.max(initial=0) > 1:
        return x.astype(np.uint8)
    return to_bytes(x, schema)


def to_bytes(x: np.ndarray, schema: Schema) -> np.ndarray:
    """Values in the data's own units as 8-bit pictures, ``(N, C, H, W)`` uint8."""
    if schema.support == "binary":
        x = x * 255.0
    elif schema.support == "real":
        loc, scale = schema.loc[0], schema.scale[0]
        x = (np.asarray(x, dtype=np.float64) - loc) / scale * 64.0 + 128.0
    return np.clip(np.rint(x), 0, 255).astype(np.uint8)


def tiles(x: np.ndarray, columns: int, zoom: int) -> np.ndarray:
    """Images on a sheet: ``(N, C, H, W)`` uint8 to ``(height, width, 3)``."""
    n, c, h, w = x.shape
    colour = x[:, [0, 0, 0] if c < 3 else [0, 1, 2]].transpose(0, 2, 3, 1)
    colour = colour.repeat(zoom, 1).repeat(zoom, 2)
    h, w = h * zoom, w * zoom
    rows = -(-n // columns)
    sheet = np.full((rows * (h + GAP) - GAP, columns * (w + GAP) - GAP, 3), 255, np.uint8)
    for i, image in enumerate(colour):
        top, left = i // columns * (h + GAP), i % columns * (w + GAP)
        sheet[top : top + h, left : left + w] = image
    return sheet


def _zoom(x: np.ndarray) -> int:
    """Small images are enlarged, pixel by pixel, until they can be seen."""
    return max(1, round(56 / max(x.shape[2:])))


def _write(sheet: np.ndarray, path: Path) -> Path:
    framed = np.pad(sheet, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), constant_values=255)
    with atomic_file(path, force=True) as temporary:
        Image.fromarray(framed).save(temporary, format="PNG")
    return path


def grid(x: np.ndarray, path: Path, columns: int | None = None) -> Path:
    """Write images as one sheet."""
    return _write(tiles(x, columns or max(1, round(len(x) ** 0.5)), _zoom(x)), path)


def pairs(x: np.ndarray, again: np.ndarray, path: Path, columns: int = 8) -> Path:
    """Write images with their reconstructions below them, a wider gap between the rows of pairs."""
    columns = min(columns, len(x))
    bands = []
    for start in range(0, len(x), columns):
        part = slice(start, start + columns)
        band = [tiles(a[part], columns, _zoom(x)) for a in (x, again)]
        gap = np.full((GAP, band[0].shape[1], 3), 255, np.uint8)
        bands += [band[0], gap, band[1], np.repeat(gap, 5, axis=0)]
    return _write(np.concatenate(bands[:-1]), path)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def training_curve(log: Path, schema: Schema, path: Path) -> Path:
    """Draw the bound over the run, in nats, in training and on the validation split."""
    from matplotlib.figure import Figure  # slow to import, and needed here alone

    records = read_log(log)
    figure = Figure(figsize=(7, 3.6), dpi=110, facecolor=PAPER, layout="constrained")
    axes = figure.add_subplot()
    for kind, colour, name, style in (("train", SOFT, "training batches", "-"), ("valid", ACCENT, "validation", "o-")):
        points = [(r["seconds"] / 60, r["nats"]) for r in records if r["kind"] == kind and r["nats"] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, label=name, lw=1.4, ms=3.5)
            if kind == "valid":
                axes.annotate(f"{points[-1][1]:.2f}", points[-1], textcoords="offset points", xytext=(0, 8),
                              color=colour, ha="right")  # fmt: skip
    values = sorted(r["nats"] for r in records if r["nats"] is not None)
    if values:
        low, high = values[0], values[min(int(0.9 * len(values)), len(values) - 1)]
        room = max(high - low, 1e-3 * abs(low), 1e-6)
        axes.set_ylim(low - 0.08 * room, high + 0.3 * room)
        axes.legend(frameon=False)
    axes.set(xlabel="minutes", ylabel="bound on −log p(x), nats per item", title=schema.describe())
    axes.title.set_fontsize(10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(alpha=0.25)
    with atomic_file(path, force=True) as temporary:
        figure.savefig(temporary, format="png")
    return path
