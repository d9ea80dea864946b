"""Draw the packages of Ladle and their imports: ``docs/rooms.png``.

    python docs/rooms.py [--source src/ladle] [--out docs/rooms.png]

The picture is drawn from the ``import`` statements of the source. Each box is a package or a loose file, with its
number of files and lines. A box stands one level above the highest box that it imports from. Lines show the imports;
those that follow from others (a imports b, b imports c, so a may import c) are left out. Circular imports are red.
"""

from __future__ import annotations

import argparse
import ast
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PAPER, INK, SOFT, LINE, BOX, LOOSE, RED = "#fdfcfa", "#1f1d1a", "#6b665e", "#b9b2a6", "#f3e7dd", "#e8eef5", "#c2410c"
DOCS = Path(__file__).parent


def room(source: Path, path: Path) -> str:
    """The package or loose file that a file belongs to."""
    parts = path.relative_to(source).with_suffix("").parts
    return parts[0]


def imports(source: Path) -> dict[str, set[str]]:
    """For each room the rooms that it imports from; what only a type checker imports is not counted."""
    files = sorted(source.rglob("*.py"))
    rooms = {room(source, path) for path in files}
    found: dict[str, set[str]] = {name: set() for name in rooms}
    for path in files:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = [ast.Pass()]
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ladle":
                inner = node.module.split(".")[1:2]
                names = inner or [alias.name for alias in node.names]
            elif isinstance(node, ast.Import):
                whole = [alias.name.split(".") for alias in node.names if alias.name.split(".")[0] == "ladle"]
                names = [parts[1] if len(parts) > 1 else "__init__" for parts in whole]
            found[room(source, path)] |= {name if name in rooms else "__init__" for name in names}
    return {name: others - {name} for name, others in found.items()}


def levels(graph: dict[str, set[str]]) -> dict[str, int]:
    """The level of each room: 0 for one that imports no other, else one above the highest that it imports."""
    found: dict[str, int] = {}

    def level(name: str, above: tuple[str, ...]) -> int:
        if name in above:  # a circle
            return -1
        if name not in found:
            below = [level(other, (*above, name)) for other in graph[name]]
            found[name] = 1 + max(below, default=-1)
        return found[name]

    for name in sorted(graph):
        level(name, ())
    return found


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """All rooms that a room imports from, directly or through others."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += graph[name]
    return found


def draw(source: Path, out: Path) -> None:
    """Draw the rooms of a source tree."""
    graph = imports(source)
    level = levels(graph)
    rows = [sorted(name for name in graph if level[name] == row) for row in range(max(level.values()) + 1)]
    reach = {name: reachable(graph, name) for name in graph}
    place = {
        name: ((i + 0.5) / len(row), number) for number, row in enumerate(rows) for i, name in enumerate(row)
    }  # of the middle of each box
    figure = Figure(figsize=(11, 1.0 + 0.92 * len(rows)), dpi=110, facecolor=PAPER)
    axes = figure.add_axes((0.02, 0.01, 0.96, 0.93))
    axes.set(xlim=(0, 1), ylim=(-0.55, len(rows) - 0.45))
    axes.axis("off")
    for name, others in graph.items():
        for other in others:
            circle = name in reach[other]
            if not circle and any(other in reach[between] for between in others - {other}):
                continue
            (x, y), (u, v) = place[name], place[other]
            axes.plot([x, u], [y, v], color=RED if circle else LINE, lw=1.4 if circle else 1.1, zorder=1)
    for name, (x, y) in place.items():
        files = list((source / name).rglob("*.py")) if (source / name).is_dir() else [source / f"{name}.py"]
        lines = sum(len(path.read_text().splitlines()) for path in files)
        loose = not (source / name).is_dir()
        width = min(0.86 / len(rows[y]), 0.15)
        box = FancyBboxPatch(
            (x - width / 2, y - 0.27), width, 0.54, boxstyle="round,pad=0,rounding_size=0.012", mutation_aspect=12,
            facecolor=LOOSE if loose else BOX, edgecolor=LINE, zorder=2,
        )  # fmt: skip
        axes.add_patch(box)
        axes.text(x, y + 0.08, name, ha="center", va="center", fontsize=9.5, color=INK, zorder=3)
        told = f"{lines:,} lines" if loose else f"{len(files)} files, {lines:,} lines"
        axes.text(x, y - 0.14, told, ha="center", va="center", fontsize=6.5, color=SOFT, zorder=3)
    count = sum(not (source / name).is_dir() for name in graph)
    figure.text(
        0.02, 0.965, f"Packages and loose files by level: {len(rows)} levels, {count} loose files (blue)",
        fontsize=11, color=INK,
    )  # fmt: skip
    figure.savefig(out)


def main() -> None:
    """Read the arguments and draw."""
    parser = argparse.ArgumentParser(description="Draw the packages of Ladle and their imports.")
    parser.add_argument("--source", type=Path, default=DOCS.parent / "src" / "ladle", help="The package's folder.")
    parser.add_argument("--out", type=Path, default=DOCS / "rooms.png", help="The picture to write.")
    asked = parser.parse_args()
    draw(asked.source, asked.out)


if __name__ == "__main__":
    main()
