"""The forest plot of a comparison: the difference of each family to the best, with its interval."""

from __future__ import annotations

import textwrap
from pathlib import Path

from ladle.comparison.selection import Row, Selection
from ladle.data import atomic_file

PAPER, INK, SOFT, LINE, ACCENT, BLUE = "#ffffff", "#1f2328", "#5b626a", "#e4e1db", "#b8430e", "#2f6690"
ROW, HEAD, FOOT = 0.34, 0.85, 0.75  # inches: the height of a row, and of the margins above and below the rows
WIDE = 118  # characters per line of the text below


def forest(selection: Selection, path: Path) -> Path:
    """Draw the difference of each finalist to the best, with its interval, evidence, Pareto k and training time.

    Args:
        selection: a selection with at least one finalist.
        path: the PNG file to write.
    """
    from matplotlib.figure import Figure  # slow to import, and only needed here

    finalists = [row for row in selection.rows if row.status == "finalist"]
    said = [textwrap.fill(text, WIDE) for text in (selection.verdict, *selection.failures)]
    prose = "\n".join(said)
    below = FOOT + 0.17 * (prose.count("\n") + 1)
    height = HEAD + ROW * len(finalists) + below
    figure = Figure(figsize=(8.4, height), dpi=120, facecolor=PAPER)
    axes = figure.add_axes((0.19, below / height, 0.45, ROW * len(finalists) / height))
    axes.axvline(0, color=LINE, lw=1.2, zorder=0)
    for place, row in enumerate(finalists):
        good = row.family in selection.supported
        colour = ACCENT if good else BLUE
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [place, place], color=colour, lw=2, solid_capstyle="round")
        axes.plot(row.difference or 0.0, place, "o", color=colour, ms=7)
        for x, text, hue in zip(
            (1.05, 1.3, 1.52), beside(row), (INK, ACCENT if row.doubtful else INK, INK), strict=True
        ):
            axes.text(x, place, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=hue)
    for x, text in zip((1.05, 1.3, 1.52), ("nats", "k > 0.7", "seconds"), strict=True):
        axes.text(x, -0.9, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, color=SOFT)
    axes.set_ylim(len(finalists) - 0.4, -0.6)
    axes.set_yticks(range(len(finalists)), [row.family for row in finalists], fontsize=10, color=INK)
    for label, row in zip(axes.get_yticklabels(), finalists, strict=True):
        label.set_fontweight("bold" if row.family in selection.supported else "normal")
    axes.set_xlabel("nats per item behind the best, 95 % intervals", fontsize=9, color=SOFT)
    axes.tick_params(axis="x", labelsize=8, colors=SOFT)
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(LINE)
    figure.text(0.03, 1 - 0.24 / height, f"Latent families of {selection.about['source']}", fontsize=12, color=INK,
                va="center", fontweight="bold")  # fmt: skip
    figure.text(0.03, 0.14 / height, prose, fontsize=8.5, color=SOFT, va="bottom", linespacing=1.4)
    with atomic_file(path, force=True) as temporary:
        figure.savefig(temporary, format="png")
    return path


def beside(row: Row) -> tuple[str, str, str]:
    """The texts beside an interval: nats, share of items with k > 0.7, and seconds."""
    return (
        "" if row.nats is None else f"{row.nats:,.2f}",
        "" if row.loose is None else f"{row.loose:.0%}",
        "" if row.seconds is None else f"{row.seconds:,.0f}",
    )
