"""What a report is about: the model, its data where it can be had, its log."""

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
from ladle.store.folder import Model
from ladle.tasks.common import Telling, items, silent
from ladle.tasks.encode import encode
from ladle.training.records import read_log

ITEMS, QUICK, UNITS = 3000, 1000, 1000  # looked at, at most
LARGE = 1 << 21  # numbers in those items together, at most (but 500 items in any case)


@dataclass
class Subject:
    """What the panels draw.

    Attributes:
        folder: of the run.
        model: finished, or that of a checkpoint.
        data: what it was fitted to, if it can be had.
        why: if not, why.
        step: of the checkpoint, for a run that has not ended.
        quick: nothing is trained, and little time taken.
        progress: gives the progress function of a piece of work, by its name.
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
        """Whether it is a plain autoencoder, which has no prior."""
        return not self.model.vae.latents.has_prior

    def some(self, split: str) -> Split:
        """Items of a split as the model wants them, in a random order that is always the same."""
        if self.data is None:
            raise Absent(self.why)
        given = items(self.model, self.data, split if split in self.data.names else "all")
        most = max(500, min(QUICK if self.quick else ITEMS, LARGE // self.model.schema.size))
        return given.take(np.random.default_rng(0).permutation(len(given))[:most])

    @cached_property
    def held(self) -> Split:
        """Items that nothing was chosen by (all, where there is no test split)."""
        return self.some("test")

    @cached_property
    def codes(self) -> np.ndarray:
        """The centres of q(z|x) of the held items, ``(N, D)``."""
        return encode(self.model, self.held, progress=self.progress("encode"))

    @cached_property
    def units(self) -> Units:
        """What each latent carries, over at most 1,000 of the held items."""
        return units(self.model, self.held.take(np.arange(min(UNITS, len(self.held)))))

    def setting(self, *path: str) -> Any:
        """What ``config.json`` says at a path, ``None`` where it says nothing."""
        here: Any = self.model.config
        for name in path:
            here = here.get(name) if isinstance(here, Mapping) else None
        return here

    def figure(self, *path: str) -> float | None:
        """The number that ``config.json`` holds at a path, if it is one."""
        value = self.setting(*path)
        return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None

    def name_of(self, label: int) -> str:
        """A class's name, or its number."""
        names = self.model.schema.label_names
        return names[label] if 0 <= label < len(names) else str(label)

    @property
    def columns(self) -> list[str]:
        """The names of a table's columns."""
        schema = self.model.schema
        return list(schema.names) or [f"column {i}" for i in range(schema.size)]
