"""Items to look at: images on sheets with transparent gaps, rows of tables as charts."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
from PIL import Image

from ladle.data import Schema, grey_levels
from ladle.html.charts import Marks, heat, limits, multiples, outline, plot
from ladle.html.elements import Markup, element, number

VISIBLE = 56  # pixels: the side up to which small images are enlarged
LARGEST = 112  # pixels of an image's longer side
GAP = 4
LOSSLESS = 200_000  # bytes of a picture that is kept as it is
MOST_COLUMNS = 12  # of a table


def look(x: np.ndarray, schema: Schema, binarised: bool = True) -> np.ndarray:
    """Images ``(N, C, H, W)`` in the data's own units as grey levels ``(N, h, w, C)``, of a size to look at.

    Args:
        x: the images.
        schema: what they are.
        binarised: whether ``x`` holds the 0..1 that the model explains, and not the grey values it was drawn from.
    """
    if schema.binarize and not binarised:
        schema = replace(schema, support="bytes", binarize=None)
    levels = grey_levels(x, schema)
    longest = max(levels.shape[1:3])
    if longest <= LARGEST:
        return enlarged(levels)
    size = [max(1, round(side * LARGEST / longest)) for side in levels.shape[2:0:-1]]
    small = [np.asarray(Image.fromarray(one.squeeze()).resize(size, Image.Resampling.LANCZOS)) for one in levels]
    return np.stack(small).reshape(len(small), size[1], size[0], -1)


def sheet(levels: np.ndarray, columns: int, alt: str, together: int = 1) -> Markup:
    """Images ``(N, H, W, C)`` row by row on one picture.

    Args:
        levels: the images.
        columns: in a row.
        alt: what is to be seen, for those who cannot.
        together: rows that belong together: the gap after as many is wider.
    """
    n, height, width, channels = levels.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    tops = [r * (height + GAP) + (r // together) * 2 * GAP * (together > 1) for r in range(rows)]
    canvas = np.zeros((tops[-1] + height, columns * (width + GAP) - GAP, channels + 1), np.uint8)
    for i in range(n):
        top, left = tops[i // columns], (i % columns) * (width + GAP)
        canvas[top : top + height, left : left + width, :channels] = levels[i]
        canvas[top : top + height, left : left + width, channels] = 255
    return picture(Image.fromarray(canvas), alt, max(height, width) <= LARGEST // 2 + 8)


def picture(image: Image.Image, alt: str, small: bool) -> Markup:
    """A picture inside the page, lossless while it is not too many bytes; one of small images keeps its pixels."""
    coded = io.BytesIO()
    image.convert("RGBA").save(coded, "WEBP", lossless=True, method=3)
    if coded.tell() > LOSSLESS:
        coded = io.BytesIO()
        image.convert("RGBA").save(coded, "WEBP", quality=88, method=3)
    source = "data:image/webp;base64," + base64.b64encode(coded.getvalue()).decode()
    return element(
        "img",
        src=source,
        alt=alt,
        width=image.width,
        height=image.height,
        class_="pixels" if small else None,
        style=f"max-width:{round(1.5 * image.width)}px",
    )


def histograms(columns: list[str], sets: list[tuple[str, str, np.ndarray]], words: list[str] | None = None) -> Markup:
    """For every column the density of the values of several sets.

    Args:
        columns: names.
        sets: name, look and values ``(N, D)`` of each; the first one is filled. NaN is left out.
        words: a word for each column.
    """
    charts = []
    for i, column in enumerate(columns[:MOST_COLUMNS]):
        first = sets[0][2][:, i]
        first = first[np.isfinite(first)]
        low, high = np.quantile(first, [0.002, 0.998]) if len(first) else (0.0, 1.0)
        low, high = limits(np.array([low, high]), room=0.15)
        edges = np.linspace(low, high, 31)
        marks = [
            Marks(*outline(np.clip(x[:, i][np.isfinite(x[:, i])], low, high), edges), look, "line" if n else "area")
            for n, (_, look, x) in enumerate(sets)
        ]
        top = max(float(np.max(m.y)) for m in marks)
        alt = f"Histograms of {column}: {', '.join(name for name, _, _ in sets)}"
        charts.append((column, words[i] if words else "",
                       plot(marks, alt, x=(low, high), y=(0, top * 1.05 or 1), height="6rem", bare=True)))  # fmt: skip
    return multiples(charts)


def scatters(columns: list[str], x: np.ndarray, again: np.ndarray, words: list[str]) -> Markup:
    """For every column the reconstruction over the original."""
    charts = []
    for i, column in enumerate(columns[:MOST_COLUMNS]):
        both = limits(x[:, i])
        seen = np.isfinite(x[:, i])
        marks = [
            Marks(both, both, "base"),
            Marks(x[seen, i][:400], np.clip(again[seen, i][:400], *both), "c0", "dots"),
        ]
        alt = f"Reconstruction over original of {column}"
        charts.append((column, words[i], plot(marks, alt, x=both, y=both, height="8rem", bare=True, look="many")))
    return multiples(charts)


def heat_of(values: np.ndarray, start: np.ndarray, columns: list[str], schema: Schema, alt: str, ends: tuple[str, str]
            ) -> Markup:  # fmt: skip
    """Rows of a table ``(steps, D)`` as a map: how far each column is from ``start``, in two standard deviations."""
    scale = np.array(schema.scale or [1.0] * schema.size, np.float64)
    change = (values - start) / (2 * scale)
    order = np.sort(np.argsort(-np.abs(change).max(0), kind="stable")[:MOST_COLUMNS])
    return heat([columns[i] for i in order], np.nan_to_num(change[:, order].T).clip(-1, 1), alt, ends)


def fits(x: np.ndarray, again: np.ndarray) -> np.ndarray:
    """R² of every column, ``(D,)``; NaN entries of ``x`` are left out, and a constant column has NaN."""
    error = np.nansum((x - again) ** 2, 0)
    spread = np.nansum((x - np.nanmean(x, 0)) ** 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, 1 - error / spread, np.nan)


def told(r2: float) -> str:
    """R² in words."""
    return f"R² {r2:.2f}" if np.isfinite(r2) else "constant"


def level_word(value: float) -> str:
    """A quantile's name.

    >>> level_word(0.02), level_word(0.5)
    ('2 %', '50 %')
    """
    return f"{number(100 * value, 3)} %"


def enlarged(levels: np.ndarray) -> np.ndarray:
    """Small images are enlarged, pixel by pixel, until they can be seen: ``(N, H, W, C)`` to ``(N, kH, kW, C)``."""
    zoom = max(1, round(VISIBLE / max(levels.shape[1:3])))
    return levels.repeat(zoom, 1).repeat(zoom, 2)
