"""Signals, drawn as waveforms: each channel has a lane of its own, on its own scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from ladle.html.charts import Marks, legend, plot
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
)

MOST_CHANNELS = 4
MOST_POINTS = 240  # of a waveform: longer ones are reduced to the range of the values in each of half as many intervals
COMPARED = 6  # signals of each set in a comparison
OUTER = 0.001  # the share of values on either side that may leave a lane


@draws("signal")
class Signals(View):
    """Signals ``(C, T)``. The first four channels are drawn."""

    suffix: ClassVar[str] = "npy"
    most_pairs: ClassVar[int | None] = 12
    most_latents: ClassVar[int] = 6
    samples_drawn: ClassVar[int] = 12

    def _lanes(self, x: np.ndarray, most: int = MOST_CHANNELS) -> Lanes:
        """The lanes of signals ``(N, C, T)``; each covers at least two standard deviations of the data."""
        return Lanes(x, 2 * self.schema.columns[0].units[1], most)

    @property
    def _selection(self) -> str:
        channels = self.schema.channels
        if channels == 1:
            return ""
        shown = f"The first {MOST_CHANNELS} of {channels}" if channels > MOST_CHANNELS else f"The {channels}"
        return f" {shown} channels are drawn one below the other, each on its own scale."

    def reconstructions(self, data: Originals, decoded: np.ndarray, latents: int) -> Drawing:
        """Waveforms of items, with their reconstructions drawn over them."""
        lanes = self._lanes(data.x)
        charts = [
            lanes.chart([(x, "soft"), (y, "accent")], f"Signal {i + 1} and its reconstruction")
            for i, (x, y) in enumerate(zip(data.x, decoded, strict=True))
        ]
        channels = self.schema.channels
        r2 = fits(*(v.astype(np.float64).swapaxes(1, 2).reshape(-1, channels) for v in (data.x, decoded)))
        listed = ", ".join(map(fit_word, r2[:MOST_CHANNELS])) + (", …" if channels > MOST_CHANNELS else "")
        per_channel = "" if channels == 1 else "; for the channels, from the top"
        words = (
            f"Held-out items (grey) and their reconstructions from {latents} latents (orange).{self._selection}",
            "R² is the share of the variance that is reconstructed, over the items that are shown"
            f"{per_channel}: {listed}. An orange line that follows only the average shape means that the latents do "
            "not encode what distinguishes the items.",
        )
        body = joined([_grid(charts), _legend(("soft", "data"), ("accent", "reconstruction"))])
        return Drawing(body, words, {"r2": {f"channel {i}": finite(v) for i, v in enumerate(r2)}})

    def samples(self, data: Originals | None, new: np.ndarray) -> Drawing:
        """Waveforms of new items."""
        lanes = self._lanes(new)
        words = (
            "New signals: z is drawn from the prior p(z), and the expectation of p(x|z) is shown. The samples are not "
            f"selected.{self._selection}",
            "Good samples are as varied as the data and could belong to it, apart from noise, which the expectation "
            "leaves out. Bad signs: flat lines, or many samples that look alike.",
        )
        return Drawing(_grid([lanes.chart([(x, "accent")], f"Sample {i + 1}") for i, x in enumerate(new)]), words)

    def interpolations(self, lines: np.ndarray) -> Drawing:
        """The first channel of the steps of each line, one below the other."""
        figures = []
        for i, line in enumerate(lines):
            steps = line[:, 0]  # (steps, T): the steps take the place of channels
            ranges = np.broadcast_to(steps.reshape(1, 1, -1), (1, len(steps), steps.size))  # the same for all lanes
            lanes = self._lanes(ranges, most=len(steps))
            looks = ["accent", *["soft"] * (len(steps) - 2), "accent"]
            chart = lanes.chart([(steps, looks)], f"{len(steps)} signals from item {i + 1} to another", lane=1.9)
            figures.append(captioned(f"line {i + 1}", "", chart))
        first = "" if self.schema.channels == 1 else " The first channel is drawn."
        words = (
            "Each column decodes points on the straight line from the latents of one item (top) to those of another "
            f"(bottom).{first}",
            "Good: every step looks like an item. Bad: two items superimposed, as when their values are averaged.",
        )
        return Drawing(element("div", *figures, class_="maps"), words)

    def traversals(self, start: np.ndarray, moved: Sequence[Traversal], ends: tuple[str, str]) -> Drawing:
        """The waveforms at the lowest, the middle and the highest value of each latent."""
        lanes = self._lanes(np.concatenate([latent.x for latent in moved]))
        looks = ("c1", "soft", "accent")
        figures = []
        for latent in moved:
            chosen = (latent.x[0], latent.x[len(latent.x) // 2], latent.x[-1])
            chart = lanes.chart(list(zip(chosen, looks, strict=True)), f"The effect of {latent.name}", lane=5)
            figures.append(captioned(latent.name, latent.word, chart))
        names = (f"{ends[0]} quantile of the prior", "median", f"{ends[1]} quantile")
        body = joined([element("div", *figures, class_="maps"), _legend(*zip(looks, names, strict=True))])
        words = (
            "A good latent changes one property. Where the three lines coincide, the latent has no effect."
            + self._selection,
        )
        return Drawing(body, words)

    def groups(self, groups: Sequence[Group]) -> Markup:
        """Some waveforms of each set: signals of the data, or expectations of p(x|z)."""
        lanes = self._lanes(np.concatenate([group.shown for group in groups if group.data]))
        figures = []
        for group in groups:
            word = "" if group.data else ", the expectation of p(x|z)"
            charts = [
                lanes.chart([(x, "accent")], f"Signal {i + 1}: {group.name}")
                for i, x in enumerate(group.shown[:COMPARED])
            ]
            figures.append(element("figure", element("figcaption", element("b", group.name), word), _grid(charts)))
        return element("div", joined(figures), class_="stack")


class Lanes:
    """The lanes of a chart, one below the other, and the range of the values in each.

    Args:
        x: ``(N, C, T)``, the signals that the ranges are taken from; NaN is left out.
        least: the smallest difference that a range may have, so that noise of flat signals is not magnified.
        most: the largest number of lanes.
    """

    def __init__(self, x: np.ndarray, least: float, most: int = MOST_CHANNELS) -> None:
        self.ranges = []
        for lane in range(min(x.shape[1], most)):
            values = x[:, lane][np.isfinite(x[:, lane])].astype(np.float64)
            low, high = np.quantile(values, [OUTER, 1 - OUTER]) if len(values) else (0.0, 1.0)
            room = 0.08 * (high - low) + max(least - (high - low), 0) / 2
            self.ranges.append((low - room, high + room))

    def chart(self, signals: Sequence[tuple[np.ndarray, str | Sequence[str]]], alt: str, lane: float = 4.0) -> Markup:
        """Signals ``(C, T)``, each with a look or one for every lane, the first one lowest.

        Args:
            signals: the signals and their looks.
            alt: a description of the chart, for screen readers.
            lane: the height of a lane in rem; of several lanes each has less.
        """
        count = len(self.ranges)
        marks = []
        for x, look in signals:
            for i, (low, high) in enumerate(self.ranges):
                at, values = reduced(x[i].astype(np.float64))
                share = (np.clip(values, low, high) - low) / (high - low)
                marks.append(Marks(at, share - 1 - i, look if isinstance(look, str) else look[i]))
        height = lane if count == 1 else max(lane * count * 0.7, lane)
        steps = signals[0][0].shape[-1]
        return plot(marks, alt, x=(0, max(steps - 1, 1)), y=(-count, 0), height=f"{height:g}rem", bare=True,
                    look="wave")  # fmt: skip


def reduced(values: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Positions and values of a waveform of at most ``most`` points. A longer one is divided into intervals, and
    each is drawn as a stroke between its least and its greatest value, in the direction in which the values change.

    >>> at, values = reduced(np.arange(10.0), 4)
    >>> at.tolist(), values.tolist()
    ([0.0, 4.0, 5.0, 9.0], [0.0, 4.0, 5.0, 9.0])
    >>> reduced(np.arange(3.0), 4)[1].tolist()
    [0.0, 1.0, 2.0]
    """
    count = len(values)
    if count <= most:
        return np.arange(float(count)), values
    starts = np.linspace(0, count, most // 2 + 1).astype(int)
    ends = np.stack([starts[:-1], starts[1:] - 1], 1).astype(np.float64)
    least, greatest = np.fmin.reduceat(values, starts[:-1]), np.fmax.reduceat(values, starts[:-1])
    falling = values[starts[:-1]] > values[starts[1:] - 1]
    first, second = np.where(falling, greatest, least), np.where(falling, least, greatest)
    return ends.ravel(), np.stack([first, second], 1).ravel()


def _grid(charts: Sequence[Markup]) -> Markup:
    return element("div", *charts, class_="waves")


def _legend(*looks: tuple[str, str]) -> Markup:
    return legend([Marks([], [], look, "line", name) for look, name in looks])
