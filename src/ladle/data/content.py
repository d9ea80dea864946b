"""What every reader gives, and what it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from ladle.data.dataset import Split
from ladle.data.errors import DataError
from ladle.data.schema import Schema

# A file may claim any size. What it unpacks to is bounded before memory is asked for.
MOST_BYTES = 32 << 30
_FREE_BYTES = 1 << 30
_LARGE = 128 << 20
_MOST_RATIO = 200


@dataclass(frozen=True)
class Request:
    """What a reader is asked.

    Args:
        labels: a column's name (tables, ``.npz``) or a pattern over paths (folders of images), or ``None``.
        missing: ``"nan"`` when NaN in an array means a missing value.
        strict: stop at the first unreadable file instead of skipping it.
        like: the schema to read by, when a model already has one.
        progress: called with (done, total) while many files are read.
    """

    labels: str | None = None
    missing: str | None = None
    strict: bool = False
    like: Schema | None = None
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True)
class Content:
    """What a reader found.

    Args:
        items: all of them, in the source's own order.
        kind: as in the schema.
        support: as in the schema, before any binarisation.
        official: the items of each split that the source itself names.
        names: the columns' names, or ``()``.
        label_names: the classes' names, or ``()``.
        policy: what was done to make the items alike, or ``""``.
        notes: what people should know.
    """

    items: Split
    kind: str
    support: str
    official: Mapping[str, np.ndarray] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    label_names: tuple[str, ...] = ()
    policy: str = ""
    notes: tuple[str, ...] = ()


class Format(ABC):
    """One format of files. A new one is one new file in this room, registered with ``@part("format", name)``."""

    suffixes: tuple[str, ...]  # ends of file names, in small letters
    in_folders = False  # whether :meth:`folder` can read many files at once

    @abstractmethod
    def file(self, path: Path, request: Request) -> Content:
        """Read one file."""

    def folder(self, root: Path, files: Sequence[str], request: Request) -> Content:
        """Read the files of this format under ``root``, given by their paths relative to it, in order."""
        raise DataError(
            f"a folder must hold images; '{root.name}' holds {PurePosixPath(files[0]).name}: give that file instead"
        )


def bounded(what: str, packed: int, unpacked: int) -> None:
    """Refuse what would unpack to too much.

    Raises:
        DataError: for more than 32 GiB, or for more than 1 GiB at more than 200 times its packed size.
    """
    if unpacked > MOST_BYTES or (unpacked > _FREE_BYTES and unpacked > packed * _MOST_RATIO):
        raise DataError(
            f"{what}: data must unpack to at most {MOST_BYTES >> 30} GiB and, beyond 1 GiB, to at most {_MOST_RATIO} "
            f"times the file's size; this one has {packed} bytes and claims {unpacked}"
        )


def large(size: int) -> bool:
    """Whether arrays of so many bytes stay on disk, mapped into memory: from 128 MiB on."""
    return size >= _LARGE


def classes(values: Sequence[str | None]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers and sorted class names from one text for each item; ``None`` is unknown (-1).

    Whole numbers are sorted as numbers.

    >>> classes(["b", None, "a"])
    (array([ 1, -1,  0]), ('a', 'b'))
    """
    found = {v for v in values if v is not None}
    numeric = all(v.lstrip("-").isdecimal() and len(v) < 19 for v in found)
    names = tuple(sorted(found, key=(lambda v: (int(v), v)) if numeric else None))
    number: dict[str | None, int] = {name: i for i, name in enumerate(names)}
    return np.array([number.get(v, -1) for v in values], np.int64), names


def ranges(counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Item numbers of splits that stand one after the other.

    >>> ranges({"train": 2, "test": 1})
    {'train': array([0, 1]), 'test': array([2])}
    """
    starts = np.cumsum([0, *counts.values()])
    return {name: np.arange(a, b) for name, a, b in zip(counts, starts[:-1], starts[1:], strict=True)}
