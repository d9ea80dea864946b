"""The subject of a report: the model, its data if available, and its log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ladle.data import Dataset, Split
from ladle.health.measures import Units, units
from ladle.html.elements import Absent
from ladle.html.items import Originals, View, view
from ladle.store.folder import Model
from ladle.tasks.common import Telling, explained, items, silent
from ladle.tasks.encode import encode
from ladle.training.records import read_log

ITEMS, QUICK, UNITS = 3000, 1000, 1000  # the largest numbers of items
LARGE = 1 << 21  # the largest number of values in these items together (but 500 items in any case)


@dataclass
class Subject:
    """The input of every panel.

    Attributes:
        folder: the folder of the run.
        model: the trained model, or the model in the last checkpoint.
        data: the data that the model was fitted to, if available.
        why: why the data is not available.
        step: the step of the checkpoint, if the run has not ended.
        quick: take little time, and train nothing.
        progress: returns the progress function of a piece of work, given its name.
    """

    folder: Path
    model: Model
    data: Dataset | None
    why: str = ""
    step: int | None = None
    quick: bool = False
    progress: Telling = silent

    @cached_property
    def log(self) -> list[dict[str, Any]]:
        """The records of the run."""
        return read_log(self.folder / "log.jsonl")

    @property
    def plain(self) -> bool:
        """Whether the model is a plain autoencoder, which has no prior."""
        return not self.model.vae.latents.has_prior

    @cached_property
    def view(self) -> View:
        """How the items are drawn."""
        return view(self.model.schema)

    def some(self, split: str) -> Split:
        """Items of a split in the model's form, in a random order that is always the same."""
        if self.data is None:
            raise Absent(self.why)
        found = items(self.model, self.data, split if split in self.data.names else "all")
        most = max(500, min(QUICK if self.quick else ITEMS, LARGE // self.model.schema.size))
        return found.take(np.random.default_rng(0).permutation(len(found))[:most])

    @cached_property
    def held(self) -> Split:
        """Items of the test split, which no decision in training depended on; all items if there is no test split."""
        return self.some("test")

    @cached_property
    def originals(self) -> Originals:
        """The held-out items as the data set holds them and as the likelihood models them."""
        held = self.held
        x = explained(self.model, held)
        return Originals(held.x, x if held.observed is None else np.where(held.observed, x, np.nan))

    @cached_property
    def codes(self) -> np.ndarray:
        """The centres of q(z|x) of the held-out items, ``(N, D)``."""
        return encode(self.model, self.held, progress=self.progress("encode"))

    @cached_property
    def units(self) -> Units:
        """The information in each latent, over at most 1,000 of the held-out items."""
        return units(self.model, self.held.take(np.arange(min(UNITS, len(self.held)))))

    def setting(self, *path: str) -> Any:
        """The value at a path of ``config.json``, or ``None`` if there is none."""
        here: Any = self.model.config
        for name in path:
            here = here.get(name) if isinstance(here, Mapping) else None
        return here

    def figure(self, *path: str) -> float | None:
        """The value at a path of ``config.json`` if it is a number, otherwise ``None``."""
        value = self.setting(*path)
        return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None

    def name_of(self, label: int) -> str:
        """The name of a class, or its number if it has no name."""
        names = self.model.schema.label_names
        return names[label] if 0 <= label < len(names) else str(label)
