"""The schema: what one item of a data set is, as plain data that a model folder keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ladle.data.errors import DataError
from ladle.shapes import Size, numel

KINDS = {"image": 3, "table": 1}  # and the number of dimensions of an item
SUPPORTS = {"binary": "{0, 1}", "bytes": "{0..255}", "real": "the real numbers"}
BINARIZE = ("dynamic", "threshold")
_LONGEST_TEXT = 4096
_MOST_ELEMENTS = 2**31


@dataclass(frozen=True)
class Schema:
    """What one item is: its kind, size, support and names.

    Args:
        kind: ``"image"`` or ``"table"``.
        shape: the event: ``(C, H, W)`` for images, ``(D,)`` for tables.
        support: what a batch holds: ``"binary"`` {0, 1}, ``"bytes"`` {0..255} or ``"real"``.
        binarize: ``None``, or how 8-bit values become the {0, 1} of ``support="binary"``: ``"dynamic"`` (drawn anew
            with probability x / 255) or ``"threshold"`` (x >= 128). The splits then hold the 8-bit values.
        names: the columns' names (tables) or ``()``.
        loc: the mean of the observed training values, of what a batch holds: one number for each column of a table,
            a single one for images. It may be left out, ``()``, unless the data is real.
        scale: likewise the standard deviation; a constant column gets scale 1.
        label_names: the classes' names, or ``()``.
        source: a short name for people; never a path.
        policy: what was done to make the items alike, in words, or ``""``.
        missing: whether values may be missing, so that a model is shown which ones are observed.

    Raises:
        DataError: for values that do not fit together. They may come from a stranger's model folder.

    Example:
        >>> Schema("image", (1, 28, 28), "binary", binarize="dynamic", source="mnist").describe()
        'mnist: images of 1 x 28 x 28, binary (dynamic binarisation)'
    """

    kind: str
    shape: Size
    support: str
    binarize: str | None = None
    names: tuple[str, ...] = ()
    loc: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    label_names: tuple[str, ...] = ()
    source: str = ""
    policy: str = ""
    missing: bool = False

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        _need(isinstance(self.kind, str) and self.kind in KINDS, "kind", " or ".join(KINDS), self.kind)
        sizes = isinstance(self.shape, tuple) and all(type(n) is int and 0 < n <= _MOST_ELEMENTS for n in self.shape)
        dims = KINDS[self.kind]
        _need(sizes and len(self.shape) == dims, "shape", f"{dims} positive integers", self.shape)
        _need(math.prod(self.shape) <= _MOST_ELEMENTS, "shape", f"at most {_MOST_ELEMENTS} elements", self.shape)
        _need(isinstance(self.support, str) and self.support in SUPPORTS, "support", ", ".join(SUPPORTS), self.support)
        allowed = (None, *BINARIZE) if self.support == "binary" else (None,)
        _need(self.binarize in allowed, f"binarize of {self.support} data", str(allowed), self.binarize)
        columns = self.shape[0] if self.kind == "table" else 0
        _texts("names", self.names, (0, columns))
        _texts("label_names", self.label_names, None)
        count = columns or 1
        needed = self.support == "real" or bool(self.loc or self.scale)
        for field, values in (("loc", self.loc), ("scale", self.scale)):
            numbers = isinstance(values, tuple) and all(type(v) is float and math.isfinite(v) for v in values)
            _need(numbers and len(values) == count * needed, field, f"{count} finite numbers", values)
        _need(all(v > 0 for v in self.scale), "scale", "positive", self.scale)
        for field, text in (("source", self.source), ("policy", self.policy)):
            _need(isinstance(text, str) and len(text) <= _LONGEST_TEXT, field, "a short text", text)
        _need(type(self.missing) is bool, "missing", "true or false", self.missing)
        _need(not set("/\\") & set(self.source), "source", "a name without a path", self.source)

    @property
    def size(self) -> int:
        """The number of elements of one item."""
        return numel(self.shape)

    def describe(self) -> str:
        """One line for people."""
        size = " x ".join(map(str, self.shape))
        what = f"images of {size}" if self.kind == "image" else f"rows of {size} columns"
        drawn = f" ({self.binarize} binarisation)" if self.binarize else ""
        classes = f", {len(self.label_names)} classes" if self.label_names else ""
        return f"{self.source or 'data'}: {what}, {self.support}{drawn}{classes}"

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON data."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_json(cls, data: Any) -> Schema:
        """The schema written by :meth:`to_json`.

        Raises:
            DataError: for anything that :meth:`to_json` would not have written.
        """
        known = {f.name for f in fields(cls)}
        if not isinstance(data, Mapping) or set(data) != known:
            got = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
            raise DataError(f"a schema must be an object with the keys {sorted(known)}, got {got}")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        for field in ("loc", "scale"):  # JSON writers may turn 1.0 into 1
            if isinstance(values[field], tuple):
                values[field] = tuple(float(v) if type(v) is int and abs(v) < 2**53 else v for v in values[field])
        return cls(**values)


def _need(fits: bool, field: str, must: str, got: object) -> None:
    if not fits:
        raise DataError(f"schema: {field} must be {must}, got {str(got)[:200]}")


def _texts(field: str, values: object, counts: tuple[int, ...] | None) -> None:
    if not isinstance(values, tuple) or not all(isinstance(v, str) and len(v) <= _LONGEST_TEXT for v in values):
        raise DataError(f"schema: {field} must be a list of short texts, got {str(values)[:200]}")
    fits = counts is None or len(values) in counts
    _need(fits, field, f"one for each column ({counts[-1] if counts else 0}) or none", values)
    _need(len(set(values)) == len(values), field, "all different", values)
