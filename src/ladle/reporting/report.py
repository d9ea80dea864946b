"""The report: an HTML page that shows what a model has learned, and how well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ladle.data import DataError, Dataset, atomic_file, read
from ladle.families import NotAvailable
from ladle.html.elements import Absent, Panel, element, page, prose
from ladle.reporting import autoencoder_baseline, compression, families, graph, panels, summary
from ladle.reporting.subject import Subject
from ladle.store.files import ModelError
from ladle.store.folder import Model, load, load_unfinished
from ladle.store.hub import is_hub
from ladle.tasks.common import Telling, fitted_to, silent

PANELS: dict[str, Callable[[Subject], Panel | None]] = {
    "Training": panels.training,
    "Reconstructions": panels.reconstructions,
    "Samples": panels.samples,
    "Map of the latents": panels.latent_map,
    "One latent at a time": panels.traversals,
    "Between two items": panels.interpolation,
    "Use of the latents": panels.usage,
    "What the prior is for": autoencoder_baseline.prior,
    "Compression": compression.compression,
    "Latent families": families.families,
    "Architecture": graph.architecture,
    "The model as a graph": graph.graph,
    "How to use it": summary.use,
}


class Report(NamedTuple):
    """A written report.

    Attributes:
        path: the file.
        numbers: the numbers in its panels.
        notes: remarks on how the data were read.
    """

    path: Path
    numbers: dict[str, Any]
    notes: tuple[str, ...]


def report(
    folder: str | Path,
    data: str | Path | np.ndarray | Dataset | None = None,
    *,
    labels: str | None = None,
    device: str = "auto",
    quick: bool = False,
    progress: Telling = silent,
) -> Report:
    """Write ``report.html`` into a model folder: a single file that works offline.

    Args:
        folder: the folder of a run, finished or not.
        data: the data that the model was fitted to, by default the named data set. If it is not available, panels that
            need data say so.
        labels: the labels that colour the map, as for :func:`ladle.read`.
        device: ``auto``, ``cpu`` or ``cuda``.
        quick: take only a few seconds, and do not train an autoencoder for comparison.
        progress: called with the name of a piece of work; returns a function that is called with (done, total).

    Raises:
        ModelError: if the folder contains neither a model nor a checkpoint.
        DataError: if the data is not of the shape or type that the model was fitted to.
    """
    if is_hub(folder):
        raise ModelError(f"a report must be written into a folder of this machine, got '{folder}', a model on the Hub")
    folder = Path(folder)
    model, step = _model(folder, device)
    found, why = _data(model, data, labels)
    subject = Subject(folder.resolve(), model, found, why, step, quick, progress)
    top, numbers = summary.head(subject)
    drawn = []
    for i, (title, draw) in enumerate(PANELS.items()):
        progress(f"report: {title.lower()},")(i + 1, len(PANELS))
        panel = _drawn(title, draw, subject)
        if panel is None:
            continue
        drawn.append(panel)
        if panel.numbers:
            numbers[title.lower()] = panel.numbers
    path = folder / "report.html"
    with atomic_file(path, force=True) as temporary:
        temporary.write_text(page(f"{model.schema.source or 'data'}: Ladle report", top, drawn), encoding="utf-8")
    return Report(path, numbers, found.notes if found else ())


def _drawn(title: str, draw: Callable[[Subject], Panel | None], subject: Subject) -> Panel | None:
    """A panel, or in its place the reason why it cannot be drawn; ``None`` if the panel does not apply."""
    try:
        return draw(subject)
    except (Absent, NotAvailable, DataError) as error:
        reason = str(error)
        return Panel(title, (), element("p", prose(reason[:1].upper() + reason[1:]), class_="empty"))


def _model(folder: Path, device: str) -> tuple[Model, int | None]:
    if (folder / "config.json").is_file() and not (folder / "model.safetensors").exists():
        try:
            return load_unfinished(folder, device)
        except ModelError:
            if not (folder / "model.safetensors").exists():  # otherwise training has just ended
                raise
    return load(folder, device), None


def _data(model: Model, data: str | Path | np.ndarray | Dataset | None, labels: str | None
          ) -> tuple[Dataset | None, str]:  # fmt: skip
    """The data set, or ``None`` and the reason why it is not available."""
    if isinstance(data, Dataset):
        return data, ""
    if data is not None:
        return read(data, labels=labels, like=model.schema), ""
    source = fitted_to(model)
    if source is None:
        return None, ("This panel needs the data. The model was fitted to a file or folder, whose path is not stored: "
                      "`ladle report RUN DATA` adds the panel.")  # fmt: skip
    try:
        return read(source, like=model.schema), ""
    except (DataError, OSError) as error:
        return None, f"This panel needs the data, which cannot be read: {error}"
