"""Charts as inline SVG that stretches to any width. Their text is HTML, so that it is legible on a phone.

All marks are paths whose strokes do not scale; a dot is a path of length zero with round ends. The colours are those of
the style sheet, in light and in dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ladle.html.elements import Markup, element, joined, number

SIDE = 1000  # the width and height of a drawing, in SVG units
Range = tuple[float, float]


class Marks(NamedTuple):
    """A series of points in a chart.

    Attributes:
        x, y: the points; those that are not finite are left out.
        look: a class of the style sheet.
        kind: ``line``, ``dots`` or ``area``.
        name: the text in the legend, or ``""`` for none.
    """

    x: Sequence[float] | np.ndarray
    y: Sequence[float] | np.ndarray
    look: str = "accent"
    kind: str = "line"
    name: str = ""


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``about`` + 1 of them.

    >>> ticks(0, 1), ticks(1878, 2012, 3)
    ([0.0, 0.5, 1.0], [1900.0, 1950.0, 2000.0])
    """
    rough = (high - low) / about
    if not (math.isfinite(rough) and rough > 0):
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) + 0.0 for i in range(first, math.floor(high / step + 1e-9) + 1)]


def limits(*values: Sequence[float] | np.ndarray, room: float = 0.04) -> Range:
    """The least and the greatest finite value, with a margin: the share ``room`` of their difference."""
    flat = np.concatenate([np.asarray(v, np.float64).ravel() for v in values]) if values else np.zeros(0)
    flat = flat[np.isfinite(flat)]
    if not len(flat):
        return 0.0, 1.0
    low, high = float(flat.min()), float(flat.max())
    more = room * (high - low) or max(abs(high), 1.0) * 0.05
    return low - more, high + more


def plot(
    marks: Sequence[Marks],
    alt: str,
    *,
    x: Range | None = None,
    y: Range | None = None,
    height: str = "17rem",
    axes: tuple[str, str] = ("", ""),
    bare: bool = False,
    events: Sequence[float] = (),
    look: str = "",
    ends: tuple[str, str] | None = None,
) -> Markup:
    """A chart with its axes and legend.

    Args:
        marks: the marks, drawn in this order.
        alt: a description of the chart, for screen readers.
        x, y: the ranges of the axes, by default those of the marks.
        height: the height of the drawing, in CSS.
        axes: the titles of the horizontal and the vertical axis.
        bare: draw no numbers on the vertical axis, and only the ends of the horizontal one.
        events: draw vertical lines at these x.
        look: further classes.
        ends: texts for the ends of the horizontal axis of a bare chart, by default the numbers.
    """
    x = x or limits(*(m.x for m in marks))
    y = y or limits(*(m.y for m in marks))
    along = list(x) if bare else ticks(*x, about=6)
    up = [] if bare else ticks(*y, about=6)
    grid = "".join(f"M0 {_place(v, y, True)}H{SIDE}" for v in up)
    inside = [element("path", d=grid, class_="grid") if grid else None]
    inside += [element("path", d=f"M{_place(v, x)} 0V{SIDE}", class_="event") for v in events]
    inside.append(element("path", d=f"M0 {SIDE}H{SIDE}", class_="base"))
    inside += [element("path", d=_path(m, x, y), class_=f"{m.look} {m.kind}") for m in marks]
    drawing = element("svg", *inside, viewBox=f"0 0 {SIDE} {SIDE}", preserveAspectRatio="none", role="img",
                      aria_label=alt)  # fmt: skip
    left = element("div", *(element("span", _tick(v, y), style=f"bottom:{_share(v, y)}%") for v in up), class_="up")
    texts = ends if bare and ends else [_tick(v, x) for v in along]
    classes = ("first", "last") if bare else (None,) * len(along)
    labels = zip(texts, along, classes, strict=True)
    below = element(
        "div",
        *(element("span", text, style=f"left:{_share(v, x)}%", class_=c) for text, v, c in labels),
        class_="along",
    )
    looks = " ".join(filter(None, ("plot", "bare" if bare else "", look)))
    box = element("div", left, drawing, below, class_=looks, style=f"--height:{height}")
    named = [m for m in marks if m.name]
    return joined([
        element("p", axes[1], class_="axis") if axes[1] else None,
        box,
        element("p", axes[0], class_="axis below") if axes[0] else None,
        legend(named) if named else None,
    ])  # fmt: skip


def legend(marks: Sequence[Marks]) -> Markup:
    """The legend: a sample of each look, with its name."""
    swatch = {"line": "M0 5H20", "dots": "M10 5h0", "area": "M0 0H20V10H0Z"}
    return element(
        "ul",
        *(
            element(
                "li",
                element("svg", element("path", d=swatch[m.kind], class_=f"{m.look} {m.kind}"), viewBox="0 0 20 10",
                        aria_hidden="true"),
                element("span", m.name),
            )
            for m in marks
        ),
        class_="legend",
    )  # fmt: skip


def _share(value: float, over: Range) -> str:
    return f"{100 * (value - over[0]) / (over[1] - over[0]):.2f}"


def _place(value: float, over: Range, down: bool = False) -> str:
    share = (value - over[0]) / (over[1] - over[0])
    share = min(max(share, -0.5), 1.5)
    return f"{SIDE * (1 - share if down else share):.4g}"


def _tick(value: float, over: Range) -> str:
    """The text of a tick, rounded to the digits that its axis needs."""
    small = abs(value) < 1e-9 * max(abs(over[0]), abs(over[1]))
    return number(0.0 if small else value, 4 if max(map(abs, over)) < 1e4 else 5)


def _path(m: Marks, x: Range, y: Range) -> str:
    points = [
        (_place(float(a), x), _place(float(b), y, True))
        for a, b in zip(m.x, m.y, strict=True)
        if math.isfinite(a) and math.isfinite(b)
    ]
    if m.kind == "dots":
        return "".join(f"M{a} {b}h0" for a, b in points)
    line = "M" + "L".join(f"{a} {b}" for a, b in points) if points else "M0 0"
    if m.kind == "area" and points:
        floor = _place(y[0], y, True)
        return f"{line}L{points[-1][0]} {floor}L{points[0][0]} {floor}Z"
    return line


def outline(values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The outline of a histogram: x and y, from the first edge to the last. y is the share of the values in a bin."""
    counts, _ = np.histogram(values, edges)
    density = counts / max(counts.sum(), 1)
    return edges.repeat(2)[1:-1], density.repeat(2)


def bars(values: Sequence[float] | np.ndarray, active: Sequence[bool] | np.ndarray, alt: str, axes: tuple[str, str]
         ) -> Markup:  # fmt: skip
    """Vertical bars side by side; those that are not active are grey."""
    top = max([*(float(v) for v in values), 1e-6]) * 1.06
    up = ticks(0.0, top, 4)
    width = SIDE / max(len(values), 1)
    rects = [
        element("rect", x=f"{i * width + 0.15 * width:.1f}", width=f"{0.7 * width:.1f}",
                y=f"{SIDE * (1 - max(v, 0) / top):.1f}", height=f"{SIDE * max(v, 0) / top:.1f}",
                class_="bar" if live else "bar idle")
        for i, (v, live) in enumerate(zip(values, active, strict=True))
    ]  # fmt: skip
    grid = "".join(f"M0 {_place(v, (0, top), True)}H{SIDE}" for v in up)
    drawing = element("svg", element("path", d=grid, class_="grid"), *rects, viewBox=f"0 0 {SIDE} {SIDE}",
                      preserveAspectRatio="none", role="img", aria_label=alt)  # fmt: skip
    left = element(
        "div", *(element("span", number(v), style=f"bottom:{_share(v, (0, top))}%") for v in up), class_="up"
    )
    box = element("div", left, drawing, class_="plot", style="--height:13rem")
    return joined([element("p", axes[1], class_="axis"), box, element("p", axes[0], class_="axis below")])


def multiples(charts: Sequence[tuple[str, str, Markup]]) -> Markup:
    """Small charts side by side, each with a name and a word."""
    made = (
        element("figure", element("figcaption", element("b", name), f" {word}", title=f"{name} {word}"), chart)
        for name, word, chart in charts
    )
    return element("div", *made, class_="multiples")


def heat(names: Sequence[str], values: np.ndarray, alt: str, ends: tuple[str, str]) -> Markup:
    """A heat map of numbers in -1..1, ``(rows, columns)``: orange above zero, blue below, pale near zero."""
    rows, columns = values.shape
    cells = [
        element("rect", x=c, y=r, width=1.02, height=1.02, class_="above" if v > 0 else "under",
                fill_opacity=f"{min(abs(v), 1):.2f}")
        for (r, c), v in np.ndenumerate(values)
        if abs(v) > 0.005
    ]  # fmt: skip
    drawing = element("svg", *cells, viewBox=f"0 0 {columns} {rows}", preserveAspectRatio="none", role="img",
                      aria_label=alt, style=f"height:{1.25 * rows:g}rem")  # fmt: skip
    return element(
        "div",
        element("ol", *(element("li", name, title=name) for name in names)),
        drawing,
        element("div", element("span", ends[0]), element("span", ends[1]), class_="ends"),
        class_="heat",
    )


def gauge(rows: Sequence[tuple[str, str, float]]) -> Markup:
    """A table of shares in 0..1, each drawn as a bar: rows of name, text and share."""
    made = (
        element(
            "tr",
            element("td", name),
            element(
                "td",
                element("svg", element("rect", width=f"{max(share, 0.004):.4f}", height=1, class_="bar"),
                        viewBox="0 0 1 1", preserveAspectRatio="none", aria_hidden="true"),
                class_="track",
            ),
            element("td", text, class_="right"),
        )
        for name, text, share in rows
    )  # fmt: skip
    return element("table", *made, class_="gauge")
