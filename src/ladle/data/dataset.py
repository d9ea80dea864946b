"""A data set: a schema and the items of each split, in memory or in a memory-mapped file."""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ladle.data.errors import DataError
from ladle.data.noise import shuffle
from ladle.data.schema import Schema

SPLITS = ("train", "valid", "test")

# A constant, independent of the user's seed: otherwise test items of one run would be training items of another.
_SPLIT_SEED = 20130112
FEWEST = 3
_BLOCK = 4 << 20  # bytes of items that are processed at once


def pieces(x: np.ndarray, n: int | None = None) -> Iterator[slice]:
    """Slices that cover ``n`` rows of the size of those of ``x`` (default: ``len(x)``), a few megabytes each.

    After each slice, the pages of a memory-mapped file are released, see :func:`release`.
    """
    step = max(1, _BLOCK // max(1, x[:1].nbytes))
    for start in range(0, len(x) if n is None else n, step):
        yield slice(start, start + step)
        release(x)


def release(x: np.ndarray) -> None:
    """Release the pages of a memory-mapped file from the memory of this process, if ``x`` is a read-only view of one.

    Without this, the resident memory of a process grows to the size of the file that it reads. Released pages are read
    again when they are needed, usually from the cache of the operating system.
    """
    base: object = x
    while base is not None:
        if isinstance(base, np.memmap) and base.mode != "r":
            return
        if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            base.madvise(mmap.MADV_DONTNEED)
        base = getattr(base, "base", None)


class Split:
    """The items of a split, or any other subset of a data set.

    A subset of a split shares its arrays, which are in memory or in a memory-mapped file: it stores only row indices,
    and :meth:`rows` and :meth:`blocks` gather the rows on demand. So a data set may be larger than memory.

    Args:
        x: ``(N, *event)``: uint8 or float32, in the units of the data (8-bit values where the schema binarises).
        observed: ``(N, *event)`` bool, False where a value is missing; ``None`` if no value is missing.
        labels: ``(N,)`` int64, -1 where unknown, or ``None``.
        names: the names of the items (for files: paths relative to the folder), or ``None``.
        index: ``(M,)`` int64, the rows of ``x`` and ``observed`` that are the items, in order; labels and names then
            have M elements. ``None``: all rows.

    Raises:
        DataError: if types or shapes do not fit together.

    Example:
        >>> part = Split(np.array([[5], [6], [7]], np.uint8)).take(np.array([2, 0]))
        >>> len(part), part.rows(np.array([0]))[0].tolist(), part.x.tolist()
        (2, [[7]], [[7], [5]])
    """

    def __init__(
        self,
        x: np.ndarray,
        observed: np.ndarray | None = None,
        labels: np.ndarray | None = None,
        names: tuple[str, ...] | None = None,
        *,
        index: np.ndarray | None = None,
    ) -> None:
        if x.dtype not in (np.dtype(np.uint8), np.dtype(np.float32)):
            raise DataError(f"a split's x must be uint8 or float32, got {x.dtype}")
        if observed is not None and (observed.dtype != bool or observed.shape != x.shape):
            raise DataError(f"observed must be bool of shape {x.shape}, got {observed.dtype} {observed.shape}")
        n = len(x) if index is None else len(index)
        if labels is not None and (labels.dtype != np.int64 or labels.shape != (n,)):
            raise DataError(f"labels must be {n} integers (int64), got {labels.dtype} {labels.shape}")
        if names is not None and len(names) != n:
            raise DataError(f"names must have one element for each of the {n} items, got {len(names)}")
        self.labels, self.names = labels, names
        self._x, self._observed, self._index, self._n = x, observed, index, n

    def __len__(self) -> int:
        """The number of items."""
        return self._n

    @property
    def shape(self) -> tuple[int, ...]:
        """``(N, *event)``."""
        return (self._n, *self._x.shape[1:])

    @property
    def dtype(self) -> np.dtype:
        """The type of the values: uint8 or float32."""
        return self._x.dtype

    @cached_property
    def x(self) -> np.ndarray:
        """All items in one array, ``(N, *event)``; for a subset it is gathered in memory on first use."""
        return self._x if self._index is None else self._x[self._index]

    @cached_property
    def observed(self) -> np.ndarray | None:
        """The mask of observed values, ``(N, *event)`` bool, or ``None`` if all are observed; gathered like ``x``."""
        return self._observed if self._observed is None or self._index is None else self._observed[self._index]

    @cached_property
    def values_per_item(self) -> float:
        """The mean number of observed values of an item; NaN if no value is observed."""
        if self._observed is None:
            return float(math.prod(self.shape[1:]))
        counts = np.count_nonzero(self._observed, axis=tuple(range(1, self._observed.ndim)))
        observed = int((counts if self._index is None else counts[self._index]).sum())
        return observed / len(self) if observed else math.nan

    def rows(self, items: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray | None]:
        """``x`` and ``observed`` of the items with these indices."""
        at = items if self._index is None else self._index[items]
        return np.ascontiguousarray(self._x[at]), None if self._observed is None else self._observed[at]

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Iterate over ``x`` and ``observed`` of all items, a few megabytes at a time."""
        for piece in pieces(self._x, self._n):
            yield self.rows(piece)

    def release(self) -> None:
        """Release the pages of a memory-mapped file, see :func:`release`."""
        release(self._x)

    def take(self, index: np.ndarray) -> Split:
        """The subset of the items at ``index``, in that order; the values are not copied."""
        at = np.arange(self._n)[index]
        labels = None if self.labels is None else self.labels[at]
        names = None if self.names is None else tuple(self.names[i] for i in at)
        return Split(self._x, self._observed, labels, names, index=at if self._index is None else self._index[at])

    def relabelled(self, labels: np.ndarray | None) -> Split:
        """The same items with other labels."""
        return Split(self._x, self._observed, labels, self.names, index=self._index)


@dataclass(frozen=True)
class Dataset:
    """A schema and the items of each split.

    Args:
        schema: the description of one item.
        splits: items by split: ``train``, ``valid``, ``test``, or ``all`` (in the order of the source).
        members: for each split that is not in ``splits``, the indices of its items in ``all``.
        notes: notes for the user about the reading, such as files skipped or images resized.
        default: the split that tasks use by default: ``test`` for a named set, else ``all``.

    Raises:
        DataError: for unknown splits, or items that do not fit the schema.

    Example:
        >>> rows = Split(np.zeros((4, 2), np.uint8))
        >>> data = Dataset(Schema("table", (2,), "binary"), {"all": rows}, members={"train": np.array([0, 3])})
        >>> len(data.train), len(data.all)
        (2, 4)
    """

    schema: Schema
    splits: Mapping[str, Split]
    members: Mapping[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    default: str = "all"
    _taken: dict[str, Split] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the names of the splits and that the items fit the schema."""
        unknown = sorted((set(self.splits) | set(self.members)) - {*SPLITS, "all"})
        if unknown or not self.splits or (self.members and "all" not in self.splits):
            raise DataError(f"the splits of a data set must be among {', '.join(SPLITS)}, all; got {unknown or 'none'}")
        for name, split in self.splits.items():
            if split.shape[1:] != self.schema.shape:
                raise DataError(f"items of '{name}' must be of shape {self.schema.shape}, got {split.shape[1:]}")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the available splits."""
        return tuple(n for n in (*SPLITS, "all") if n in self.splits or n in self.members or n == "all")

    @property
    def train(self) -> Split:
        """The training items."""
        return self.split("train")

    @property
    def valid(self) -> Split:
        """The validation items, used to choose weights and to stop training."""
        return self.split("valid")

    @property
    def test(self) -> Split:
        """The test items, which no choice depends on."""
        return self.split("test")

    @property
    def all(self) -> Split:
        """All items, in the order of the source."""
        return self.split("all")

    def split(self, name: str) -> Split:
        """The split called ``name``.

        Raises:
            DataError: for an unknown split, or if the data set is too small to have this split.
        """
        if name in self.splits:
            return self.splits[name]
        if name not in self._taken:
            self._taken[name] = self._take(name)
        return self._taken[name]

    def _take(self, name: str) -> Split:
        if name in self.members:
            return self.splits["all"].take(self.members[name])
        if name == "all":
            return concatenate([self.splits[n] for n in SPLITS if n in self.splits])
        if name in SPLITS:
            got = len(self.all)
            raise DataError(
                f"split '{name}' needs a data set of at least {FEWEST} items (one each for train, valid and test), "
                f"got {got}; use split 'all'"
            )
        raise DataError(f"unknown split '{name}'; known: {', '.join(self.names)}")


def concatenate(splits: list[Split]) -> Split:
    """Several splits as one.

    If only some of them have a mask or labels, the others are filled with True or -1. The result has names only if all
    of them have names.
    """
    x = np.concatenate([s.x for s in splits])
    observed = labels = names = None
    if any(s.observed is not None for s in splits):
        observed = np.concatenate([np.ones(s.x.shape, bool) if s.observed is None else s.observed for s in splits])
    if any(s.labels is not None for s in splits):
        labels = np.concatenate([np.full(len(s), -1, np.int64) if s.labels is None else s.labels for s in splits])
    if all(s.names is not None for s in splits):
        names = tuple(name for s in splits for name in s.names or ())
    return Split(x, observed, labels, names)


def deal(n: int, official: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Assign items to splits.

    Official splits are kept. A missing validation split is taken from train: 5 % of it (at most 5,000 items); a missing
    test split likewise: 10 %. Without an official ``train``, all items are divided 80 / 10 / 10. The assignment depends
    only on the number of items, and every split gets at least one item; fewer than 3 items are not assigned.

    Args:
        n: the number of items.
        official: the indices of the items of the splits that the source itself defines.

    Returns:
        Sorted item indices by split; empty if there are fewer than 3 items.

    Raises:
        DataError: if an official ``train`` is too small to give one item to each missing split.

        >>> {name: len(items) for name, items in deal(100, {}).items()}
        {'train': 80, 'valid': 10, 'test': 10}
        >>> [len(items) for items in deal(3, {}).values()], deal(2, {})
        ([1, 1, 1], {})
    """
    if n < FEWEST:
        return {}
    given = {name: items for name, items in official.items() if len(items)}
    shares = {"test": (0.1, n), "valid": (0.05, 5000)}
    if "train" not in given or len(given) == 1:
        given, shares = {"train": np.arange(n)}, {"test": (0.1, n), "valid": (0.1, n)}
    train = given["train"]
    train = train[shuffle(len(train), _SPLIT_SEED)]
    absent = {name: share for name, share in shares.items() if name not in given}
    if len(train) <= len(absent):
        raise DataError(
            f"split 'train' must have more than {len(absent)} items, so that {' and '.join(absent)} get one each; "
            f"got {len(train)}"
        )
    total = len(train)
    for name, (share, most) in absent.items():
        count = max(1, min(round(total * share), most))
        train, given[name] = train[:-count], np.sort(train[-count:])
    given["train"] = np.sort(train)
    return {name: given[name] for name in SPLITS}
