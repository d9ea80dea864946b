"""Rows of a table, drawn as one small chart for each column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ladle.data import Column
from ladle.html.charts import Marks, heat, legend, limits, multiples, outline, plot
from ladle.html.elements import Markup, element, joined
from ladle.html.items import (
    Drawing,
    Group,
    Originals,
    Traversal,
    View,
    captioned,
    draws,
    finite,
    fit_word,
    fits,
    percent,
)

MOST_COLUMNS = 12
MOST_VALUES = 30  # of a column whose histogram has a bar for each value
MOST_DOTS = 400


@draws("table")
class Rows(View):
    """Rows ``(D,)`` of a table, with columns of any kinds."""

    suffix: ClassVar[str] = "csv"
    most_latents: ClassVar[int] = 6
    samples_drawn: ClassVar[int] = 2000
    beside_data: ClassVar[bool] = True
    with_noise: ClassVar[bool] = True

    @property
    def names(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names) or [f"column {i}" for i in range(self.schema.size)]

    @property
    def _selection(self) -> str:
        count = self.schema.size
        return f" The first {MOST_COLUMNS} of {count} columns are shown." if count > MOST_COLUMNS else ""

    def reconstructions(self, data: Originals, decoded: np.ndarray, latents: int) -> Drawing:
        """For every column the reconstruction over the original."""
        x, decoded = _flat(data.x), _flat(decoded)
        r2 = [np.nan if c.kind == "category" else v for c, v in zip(self.schema.columns, fits(x, decoded), strict=True)]
        charts = []
        columns = zip(self.schema.columns, self.names, r2, strict=True)
        for i, (column, name, value) in enumerate(columns):
            if i == MOST_COLUMNS:
                break
            both = limits(x[:, i])
            seen = np.isfinite(x[:, i])
            marks = [
                Marks(both, both, "base"),
                Marks(x[seen, i][:MOST_DOTS], np.clip(decoded[seen, i][:MOST_DOTS], *both), "c0", "dots"),
            ]
            if column.kind == "category":
                word = f"{percent(float(np.mean(x[seen, i] == np.rint(decoded[seen, i]))))} equal" if seen.any() else ""
            else:
                word = fit_word(value)
            chart = plot(marks, f"Reconstruction over original of {name}", x=both, y=both, height="8rem", bare=True,
                         look="many", ends=_ends(column))  # fmt: skip
            charts.append((name, word, chart))
        categories = any(column.kind == "category" for column in self.schema.columns)
        words = (
            f"Each dot is a held-out item: its value along the horizontal axis, its reconstruction from {latents} "
            "latents along the vertical axis. Dots on the diagonal are reconstructed exactly.",
            "R² is the share of a column's variance that is reconstructed. A cloud without a slope, with R² near 0, "
            "means that the latents do not encode that column."
            + (" For a column of categories, the share of items whose category is reconstructed." if categories else "")
            + self._selection,
        )
        return Drawing(multiples(charts), words, {"r2": dict(zip(self.names, map(finite, r2), strict=True))})

    def samples(self, data: Originals | None, new: np.ndarray) -> Drawing:
        """For every column the distribution of new values over that of the data."""
        assert data is not None
        body = joined([
            self._histograms([("data", "filled", _flat(data.x)), ("samples", "accent", _flat(new))]),
            legend([Marks([], [], "filled", "area", "data"), Marks([], [], "accent", "line", "samples")]),
        ])  # fmt: skip
        words = (
            f"The distribution of each column: in held-out items (filled), and in {len(new):,} new rows drawn from the "
            "model (line). The first and last bins include all values beyond them.",
            "The two should coincide. A line that is too broad or lacks a peak shows what the model has not learned."
            + self._selection,
        )
        return Drawing(body, words)

    def interpolations(self, lines: np.ndarray) -> Drawing:
        """A map for each line: how far each column is from the start."""
        maps = []
        for i, line in enumerate(lines.reshape(*lines.shape[:2], -1).astype(np.float64)):
            alt = f"How the columns change from item {i} to another"
            maps.append(captioned(f"line {i + 1}", "", self._heat(line, line[0], alt, ("from", "to"))))
        words = (
            "The points on the straight line from the latents of one item to those of another, decoded. Each row of a "
            "map is a column: orange means that its value is above that at the start, blue that it is below (full "
            f"colour: {self._full_colour}).",
            "Good: gradual changes. Bad: jumps from one step to the next.",
        )
        return Drawing(element("div", *maps, class_="maps"), words)

    def traversals(self, start: np.ndarray, moved: Sequence[Traversal], ends: tuple[str, str]) -> Drawing:
        """A map for each latent: how far each column is from the item."""
        start = start.astype(np.float64).ravel()
        maps = []
        for latent in moved:
            drawing = self._heat(_flat(latent.x), start, f"The effect of {latent.name}", ends)
            maps.append(captioned(latent.name, latent.word, drawing))
        words = (
            "A good latent changes one property. Rows are columns of the table: orange means above the value of the "
            f"item, blue below (full colour: {self._full_colour}). A pale map is a latent that carries little "
            "information.",
        )
        return Drawing(element("div", *maps, class_="maps"), words)

    def groups(self, groups: Sequence[Group]) -> Markup:
        """The distribution of every column in each set."""
        looks = [Marks([], [], g.look, "area" if g.look == "filled" else "line", g.name) for g in groups]
        charts = self._histograms([(group.name, group.look, _flat(group.drawn)) for group in groups])
        return joined([charts, legend(looks)])

    @property
    def _full_colour(self) -> str:
        measured = all(column.scale is not None for column in self.schema.columns)
        return "two standard deviations" if measured else "two standard deviations, or the range of the values"

    def _histograms(self, sets: Sequence[tuple[str, str, np.ndarray]]) -> Markup:
        """For every column the distribution of the values ``(N, D)`` of several sets, each with a name and a look. The
        first one is filled. NaN is left out."""
        charts = []
        for i, (column, name) in enumerate(zip(self.schema.columns[:MOST_COLUMNS], self.names, strict=False)):
            first = sets[0][2][:, i]
            edges = _edges(column, first[np.isfinite(first)])
            low, high = float(edges[0]), float(edges[-1])
            marks = [
                Marks(*outline(np.clip(x[:, i][np.isfinite(x[:, i])], low, high), edges), look, "line" if n else "area")
                for n, (_, look, x) in enumerate(sets)
            ]
            top = max(float(np.max(m.y)) for m in marks)
            alt = f"Histograms of {name}: {', '.join(name_of_set for name_of_set, _, _ in sets)}"
            chart = plot(marks, alt, x=(low, high), y=(0, top * 1.05 or 1), height="6rem", bare=True,
                         ends=_ends(column))  # fmt: skip
            charts.append((name, "", chart))
        return multiples(charts)

    def _heat(self, values: np.ndarray, start: np.ndarray, alt: str, ends: tuple[str, str]) -> Markup:
        """Rows ``(steps, D)`` as a map: how far each column is from ``start``, in two standard deviations."""
        scale = np.array([column.units[1] for column in self.schema.columns])
        change = (values - start) / (2 * scale)
        order = np.sort(np.argsort(-np.abs(change).max(0), kind="stable")[:MOST_COLUMNS])
        return heat([self.names[i] for i in order], np.nan_to_num(change[:, order].T).clip(-1, 1), alt, ends)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float64)


def _edges(column: Column, first: np.ndarray) -> np.ndarray:
    """The edges of a histogram: one bin for each of a few whole numbers, otherwise 30 bins over the range of the values
    of the first set."""
    if column.top is not None and column.top < MOST_VALUES:
        return np.arange(column.top + 2) - 0.5
    low, high = np.quantile(first, [0.002, 0.998]) if len(first) else (0.0, 1.0)
    if column.kind != "real" and high - low < MOST_VALUES:
        return np.arange(np.floor(low), np.ceil(high) + 2) - 0.5
    return np.linspace(*limits(np.array([low, high]), room=0.15), 31)


def _ends(column: Column) -> tuple[str, str] | None:
    """The names of the first and last value of a column with few values."""
    if column.values:
        return column.values[0], column.values[-1]
    return ("0", str(column.top)) if column.top is not None and column.top < MOST_VALUES else None
