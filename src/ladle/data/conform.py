"""Bringing what a reader found under a schema: the one a model already has, or a new one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from ladle.data.content import Content
from ladle.data.dataset import Dataset, Split, deal
from ladle.data.errors import DataError
from ladle.data.schema import BINARIZE, Schema, moments


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
    learned = content.items.take(members["train"]) if members else content.items
    loc, scale = moments(content.kind, learned.x, learned.observed)
    if binarize is not None:  # the moments of what is drawn, not of the grey values
        loc = tuple(m / 255 for m in loc)
        scale = tuple(math.sqrt(m * (1 - m)) or 1.0 for m in loc)
    return Schema(
        content.kind,
        content.items.x.shape[1:],
        support,
        binarize,
        content.names,
        loc,
        scale,
        content.label_names,
        source,
        content.policy,
        content.items.observed is not None and not content.items.observed.all(),
    )


def _filled(items: Split, schema: Schema) -> Split:
    """Missing entries of real data hold the mean, those of other data 0: inside the support in either case."""
    if items.observed is None or schema.support != "real":
        return items
    x = np.where(items.observed, items.x, np.array(schema.loc, np.float32))
    return replace(items, x=x)


def _fit(content: Content, like: Schema) -> tuple[Split, tuple[str, ...]]:
    """The items in the form of ``like``, with its class numbers."""
    items = content.items
    if content.kind != like.kind or items.x.shape[1:] != like.shape:
        got = f"{content.kind} items of shape {items.x.shape[1:]}"
        raise DataError(f"items must be as the model's, {like.describe()}; got {got}")
    x = as_held(items, content.support, like)
    labels = items.labels
    notes: tuple[str, ...] = ()
    if labels is not None and content.label_names != like.label_names:
        labels, notes = _renumber(labels, content.label_names, like.label_names)
    return replace(items, x=x, labels=labels), notes


def as_held(items: Split, support: str, like: Schema) -> np.ndarray:
    """The values of items in the form in which the splits of ``like`` hold them.

    Args:
        items: of the right shape.
        support: what they are: binary, bytes or real. What is binary already is 0 and 255 to a model that binarises:
            its draw leaves these as they are.
        like: a model's schema.

    Returns:
        ``(N, *event)`` float32 for real data, else uint8.

    Raises:
        DataError: for values outside the support.
    """
    held = "bytes" if like.binarize else like.support
    if held == "real":
        return items.x.astype(np.float32, copy=False)
    top = 1 if held == "binary" or support == "binary" else 255
    seen = items.x if items.observed is None else items.x[items.observed]
    if len(seen) and not (seen.min() >= 0 and seen.max() <= top and (seen == np.round(seen)).all()):
        raise DataError(f"values must be whole numbers 0..{top} as the model's, got {seen.min()}..{seen.max()}")
    x = items.x.astype(np.uint8, copy=False)
    return x * np.uint8(255) if like.binarize and support == "binary" else x


def _renumber(labels: np.ndarray, old: tuple[str, ...], new: tuple[str, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers by the model's class names; a class it does not know is unknown (-1)."""
    table = np.array([new.index(name) if name in new else -1 for name in old] + [-1], np.int64)  # -1 stays -1
    strange = [name for name in old if name not in new]
    return table[labels], (f"classes the model does not know: {', '.join(strange[:10])}",) if strange else ()
