"""The panel of the comparison of latent families, if the model was selected by one."""

from __future__ import annotations

from ladle.comparison.selection import HEAD, Selection, cells
from ladle.html.charts import SIDE
from ladle.html.elements import Absent, Markup, Panel, element, joined
from ladle.reporting.subject import Subject
from ladle.store.files import ModelError, read_json

ROOM = 0.03  # the margin at either end, as a share of the width


def families(subject: Subject) -> Panel | None:
    """The difference of each latent family to the best one; ``None`` if the family was not selected by a comparison."""
    path = subject.folder / "select.json"
    if not path.is_file():
        return None
    try:
        selection = Selection.from_json(read_json(path))
        body = forest(selection)
    except (ModelError, KeyError, TypeError, ValueError, ArithmeticError):
        raise Absent("The comparison of latent families in this folder (select.json) cannot be read.") from None
    words = (
        str(selection.verdict),
        "Evidence is −log p(x) in nats per item, on test items that no decision depended on; lower is better. Each "
        "line is the 95 % interval of the difference between a family and the best one, over items and seeds, for this "
        "pair alone; the verdict holds for all pairs together. Families in bold are supported by the data.",
    )
    numbers = {"supported": list(selection.supported), "best": selection.best}
    return Panel("Latent families", words, body, numbers)


def forest(selection: Selection) -> Markup:
    """The table of the families, with the intervals drawn in it."""
    finalists = [row for row in selection.rows if row.status == "finalist"]
    ends = [float(v) for row in finalists for v in (row.low, row.high, row.difference) if v is not None] or [0.0]
    low, high = min(ends), max(ends)
    wide = (high - low) or 1.0

    def place(value: float) -> str:
        return f"{SIDE * (ROOM + (1 - 2 * ROOM) * (value - low) / wide):.1f}"

    rows = []
    for row in selection.rows:
        drawing = None
        if row.status == "finalist" and row.difference is not None:
            look = "accent" if row.family in selection.supported else "other solid"
            ends_at = "" if row.low is None or row.high is None else f"M{place(row.low)} 5H{place(row.high)}"
            drawing = element(
                "svg",
                element("path", d=f"M{place(0.0)} 0V10", class_="base"),
                element("path", d=ends_at, class_=f"{look} line") if ends_at else None,
                element("path", d=f"M{place(row.difference)} 5h0", class_=f"{look} dots"),
                viewBox=f"0 0 {SIDE} 10", preserveAspectRatio="none", role="img",
                aria_label=f"{row.family}: {row.difference:.3f} nats worse than the best",
            )  # fmt: skip
        name, *shown = cells(row)
        named = element("b", name) if row.family in selection.supported else name
        rows.append(
            element("tr", element("td", named), element("td", drawing, class_="track"),
                    *(element("td", text, class_="right") for text in shown))
        )  # fmt: skip
    head = [
        element("th", HEAD[0]),
        element("th", "difference to the best"),
        *(element("th", h, class_="right") for h in HEAD[1:]),
    ]
    table = element("table", element("tr", *head), *rows, class_="forest")
    failed = [element("li", text) for text in selection.failures]
    return joined([element("div", table, class_="wide"), element("ul", *failed, class_="notes") if failed else None])
