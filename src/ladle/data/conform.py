"""Bringing what a reader found under a schema: the one a model already has, or a new one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ladle.data.content import Content
from ladle.data.dataset import Dataset, Split, deal
from ladle.data.errors import DataError
from ladle.data.schema import BINARIZE, RANKS, Column, Schema


def finish(content: Content, source: str, binarize: str | None, like: Schema | None, default: str) -> Dataset:
    """The data set of what a reader found: items dealt to splits, missing entries filled, the schema made.

    Args:
        content: what the reader found.
        source: a short name for people.
        binarize: ``None``, ``"dynamic"`` or ``"threshold"``.
        like: the schema to keep to, when a model already has one.
        default: the data set's default split.

    Raises:
        DataError: where the content cannot be binarised, or does not fit ``like``.
    """
    members = deal(len(content.items), content.official)
    notes = content.notes
    if like is None:
        schema = _schema(content, source, binarize, members)
        items = content.items
    else:
        if binarize not in (None, like.binarize):
            raise DataError(f"--binarize must be the model's ({like.binarize or 'none'}), got {binarize}")
        items, more = _fit(content, like)
        schema, notes = replace(like, source=source), notes + more
    items = _filled(items, schema)
    return Dataset(schema, {"all": items}, members, notes, default)


def _schema(content: Content, source: str, binarize: str | None, members: dict[str, np.ndarray]) -> Schema:
    support = content.support
    if binarize is not None:
        if binarize not in BINARIZE:
            raise DataError(f"--binarize must be one of {', '.join(BINARIZE)}, got '{binarize}'")
        if support != "bytes":
            raise DataError(f"--binarize must be given 8-bit values (0..255), but '{source}' holds {support} values")
        support = "binary"
    loc, scale = moments(content.kind, content.items.take(members["train"]) if members else content.items)
    if binarize is not None:  # the moments of what is drawn, not of the grey values
        loc = tuple(m / 255 for m in loc)
        scale = tuple(math.sqrt(m * (1 - m)) or 1.0 for m in loc)
    names = content.names or ("",) * len(loc)
    return Schema(
        content.kind,
        content.items.shape[1:],
        [Column(support, *of) for of in zip(names, loc, scale, strict=True)],
        binarize,
        content.label_names,
        source,
        content.policy,
        content.items.observed is not None and not content.items.observed.all(),
    )


def _filled(items: Split, schema: Schema) -> Split:
    """Missing entries of real columns hold the mean, those of other columns 0: inside the support in either case."""
    if items.observed is None or not any(column.kind == "real" for column in schema.columns):
        return items
    middle = [column.loc if column.kind == "real" and column.loc is not None else 0.0 for column in schema.columns]
    x = np.where(items.observed, items.x, np.array(middle, np.float32))
    return Split(x, items.observed, items.labels, items.names)


def _fit(content: Content, like: Schema) -> tuple[Split, tuple[str, ...]]:
    """The items in the form of ``like``, with its class numbers."""
    items = content.items
    if content.kind != like.kind or items.shape[1:] != like.shape:
        got = f"{content.kind} items of shape {items.shape[1:]}"
        raise DataError(f"items must be as the model's, {like.describe()}; got {got}")
    items = as_held(items, content.support, like)
    if items.labels is None or content.label_names == like.label_names:
        return items, ()
    labels, notes = _renumber(items.labels, content.label_names, like.label_names)
    return items.relabelled(labels), notes


def as_held(items: Split, support: str, like: Schema) -> Split:
    """Items with their values in the form in which the splits of ``like`` hold them.

    Args:
        items: of the right shape. They are looked at a block at a time, and copied only where their form changes.
        support: what they are: binary, bytes or real, or the kinds of ``like`` itself. Values that are binary already
            become 0 and 255 for a model that binarises: its draw leaves these as they are.
        like: a model's schema.

    Returns:
        Items of uint8 where all columns of ``like`` are binary or bytes, else of float32.

    Raises:
        DataError: for values outside the support of their column.
    """
    small = all(column.kind in ("binary", "bytes") for column in like.columns)
    form = np.dtype(np.uint8 if small else np.float32)
    doubled = like.binarize is not None and support == "binary"
    _check_columns(items, like, 1 if doubled else None)
    if items.dtype == form and not doubled:
        return items
    x = items.x.astype(form)
    return Split(x * np.uint8(255) if doubled else x, items.observed, items.labels, items.names)


def _check_columns(items: Split, like: Schema, top: int | None) -> None:
    """Refuse observed values that lie outside the support of their column.

    Args:
        items: looked at a block at a time.
        like: the columns.
        top: the largest value where it is not the column's own.
    """
    columns = [replace(column, kind="bytes") if like.binarize else column for column in like.columns]
    tops = [column.top if top is None else top for column in columns]
    whole = np.array([column.kind != "real" for column in columns])
    if not whole.any() or (items.dtype == np.uint8 and all(t == 255 for t in tops)):
        return
    highest = np.array([np.inf if t is None else t for t in tops])
    shape = (-1,) + (1,) * (len(items.shape) - 2) if like.rank else (-1,)  # of a table the columns come last
    highest, whole = highest.reshape(shape), whole.reshape(shape)
    for x, observed in items.blocks():
        wrong = whole & ~((x >= 0) & (x <= highest) & (x == np.round(x)))
        wrong = wrong if observed is None else wrong & observed
        if wrong.any():
            at = tuple(axis[0] for axis in np.nonzero(wrong))
            column = columns[0 if like.rank else at[1]]
            most = tops[0 if like.rank else at[1]]
            named = f" of column '{column.name}'" if column.name else ""
            last = "" if most is None else most
            raise DataError(f"values{named} must be whole numbers 0..{last} as the model's, got {x[at]}")


def moments(kind: str, items: Split) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The mean and standard deviation of the observed values: a pair for each column of a table, else one pair.

    A column that is constant, or has no observed value among these rows, gets scale 1 (and mean 0 in the latter case).

    Args:
        kind: of the schema.
        items: they are looked at a block at a time. Entries that are not observed may hold anything.

    Returns:
        ``loc`` and ``scale``.

        >>> moments("table", Split(np.array([[1, 5], [3, 5]], np.float32)))
        ((2.0, 5.0), (1.0, 1.0))
    """
    if RANKS[kind] and items.dtype == np.uint8 and items.observed is None:  # by the histogram: exact, in one pass
        counts = np.zeros(256, np.int64)
        for x, _ in items.blocks():
            counts += np.bincount(x.reshape(-1), minlength=256)
        share = counts / max(counts.sum(), 1)
        middle = float(share @ np.arange(256))
        return (middle,), (math.sqrt(float(share @ np.square(np.arange(256) - middle))) or 1.0,)
    axis = None if RANKS[kind] else 0

    def total(of: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        found = ((x, np.ones(x.shape, bool) if seen is None else seen) for x, seen in items.blocks())
        return sum((of(x, seen).sum(axis, dtype=np.float64) for x, seen in found), np.zeros(()))

    n = np.maximum(total(lambda x, seen: seen), 1)
    loc = total(lambda x, seen: np.where(seen, x, 0)) / n
    scale = np.sqrt(total(lambda x, seen: np.square(np.where(seen, x - loc, 0.0))) / n)
    scale = np.where(scale > 1e-7 * np.abs(loc), scale, 1.0)  # below float32's resolution: constant
    return tuple(np.atleast_1d(loc).tolist()), tuple(np.atleast_1d(scale).tolist())


def _renumber(labels: np.ndarray, old: tuple[str, ...], new: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers by the model's class names; a class it does not know is unknown (-1)."""
    table = np.array([new.index(name) if name in new else -1 for name in old] + [-1], np.int64)  # -1 stays -1
    strange = [name for name in old if name not in new]
    return table[labels], (f"classes the model does not know: {', '.join(strange[:10])}",) if strange else ()
