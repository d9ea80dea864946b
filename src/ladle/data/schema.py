"""The schema: what one item of a data set is, as plain data that a model folder keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from ladle.data.errors import DataError
from ladle.shapes import Size, numel

RANKS = {"image": 2, "signal": 1, "table": 0}  # the number of dimensions of the places of an item: (H, W), (T,), ()
COLUMN_KINDS = {
    "binary": "{0, 1}",
    "bytes": "{0..255}",
    "words": "{0..65535}",
    "real": "the real numbers",
    "count": "{0, 1, 2, ...}",
    "category": "the numbers of its categories",
    "ordinal": "the numbers of its ordered values",
}
NAMED_VALUES = ("category", "ordinal")  # the kinds whose values have names
MIXED = "mixed"
BINARIZE = ("dynamic", "threshold")
_LONGEST_TEXT = 4096
_MOST_ELEMENTS = 2**31
_MOST_COLUMNS = 1 << 20


@dataclass(frozen=True)
class Column:
    """One column of a table, or all elements of an image or a signal.

    Args:
        kind: ``binary`` {0, 1}, ``bytes`` {0..255}, ``words`` {0..65535}, ``real``, ``count`` {0, 1, 2, ...},
            ``category`` or ``ordinal`` {0..K-1}.
        name: of the column, or ``""``.
        loc: the mean of the observed training values, or ``None``. A real column needs one.
        scale: their standard deviation, positive, or ``None``; 1 for a constant column. A real column needs one.
        values: the names of the K values of a category or an ordinal column.

    Raises:
        DataError: for values that do not fit together.

    Example:
        >>> Column("category", "colour", values=("red", "green"))
        Column(kind='category', name='colour', loc=None, scale=None, values=('red', 'green'))
    """

    kind: str
    name: str = ""
    loc: float | None = None
    scale: float | None = None
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        known = isinstance(self.kind, str) and self.kind in COLUMN_KINDS
        _need(known, "kind of a column", " or ".join(COLUMN_KINDS), self.kind)
        _need(isinstance(self.name, str) and len(self.name) <= _LONGEST_TEXT, "name of a column", "a text", self.name)
        for field in ("loc", "scale"):
            number = getattr(self, field)
            finite = type(number) is float and math.isfinite(number)
            fits = finite or (number is None and self.kind != "real")
            _need(fits, f"{field} of a {self.kind} column", "a finite number", number)
        _need((self.loc is None) == (self.scale is None), "loc and scale of a column", "both given or neither", self)
        _need(self.scale is None or self.scale > 0, "scale of a column", "positive", self.scale)
        _texts("values of a column", self.values)
        named = self.kind in NAMED_VALUES
        fits = len(self.values) >= 2 if named else not self.values
        _need(fits, f"values of a {self.kind} column", "at least 2 names" if named else "left out", self.values)

    @property
    def top(self) -> int | None:
        """The largest value of a column of whole numbers; ``None`` where there is none."""
        return {"binary": 1, "bytes": 255, "words": 65535}.get(self.kind, len(self.values) - 1 if self.values else None)

    @property
    def units(self) -> tuple[float, float]:
        """Location and scale for what reads the values. Centred inputs are worth nats in a short run."""
        if self.loc is not None and self.scale is not None:
            return self.loc, self.scale
        half = 0.5 if self.top is None else self.top / 2
        return half, half


@dataclass(frozen=True)
class Schema:
    """What one item is: its kind, its size, and its columns.

    Args:
        kind: ``"image"``, ``"signal"`` or ``"table"``.
        shape: the event: ``(C, H, W)`` for images, ``(C, T)`` for signals, ``(D,)`` for tables.
        columns: one :class:`Column` for each column of a table, a single one for all elements of an image or signal. A
            kind, such as ``"binary"``, stands for columns of this kind without names, locations and scales.
        binarize: ``None``, or how 8-bit values become the {0, 1} of binary columns: ``"dynamic"`` (drawn anew with
            probability x / 255) or ``"threshold"`` (x >= 128). The splits then hold the 8-bit values.
        label_names: the classes' names, or ``()``.
        source: a short name for people; never a path.
        policy: what was done to make the items alike, in words, or ``""``.
        missing: whether values may be missing, so that a model is shown which ones are observed.

    Raises:
        DataError: for values that do not fit together. They may come from a stranger's model folder.

    Example:
        >>> Schema("image", (1, 28, 28), "binary", binarize="dynamic", source="mnist").describe()
        'mnist: images of 1 x 28 x 28, binary (dynamic binarisation)'
        >>> Schema("table", (2,), [Column("count", "age"), Column("category", "sex", values=("f", "m"))]).support
        'mixed'
    """

    kind: str
    shape: Size
    columns: tuple[Column, ...]
    binarize: str | None = None
    label_names: tuple[str, ...] = ()
    source: str = ""
    policy: str = ""
    missing: bool = False

    if TYPE_CHECKING:  # a dataclass cannot say that an argument has more types than its field

        def __init__(
            self,
            kind: str,
            shape: Size,
            columns: Sequence[Column] | str,
            binarize: str | None = None,
            label_names: tuple[str, ...] = (),
            source: str = "",
            policy: str = "",
            missing: bool = False,
        ) -> None: ...

    def __post_init__(self) -> None:
        """Check that the fields fit together."""
        _need(isinstance(self.kind, str) and self.kind in RANKS, "kind", " or ".join(RANKS), self.kind)
        sizes = isinstance(self.shape, tuple) and all(type(n) is int and 0 < n <= _MOST_ELEMENTS for n in self.shape)
        dims = 1 + RANKS[self.kind]
        _need(sizes and len(self.shape) == dims, "shape", f"{dims} positive integers", self.shape)
        _need(math.prod(self.shape) <= _MOST_ELEMENTS, "shape", f"at most {_MOST_ELEMENTS} elements", self.shape)
        count = 1 if self.rank else self.shape[0]
        _need(count <= _MOST_COLUMNS, "shape of a table", f"at most {_MOST_COLUMNS} columns", self.shape)
        columns: Any = (Column(self.columns),) * count if isinstance(self.columns, str) else self.columns
        sound = isinstance(columns, Sequence) and all(isinstance(column, Column) for column in columns)
        _need(sound and len(columns) == count, "columns", f"{count} columns, or a kind of column", self.columns)
        object.__setattr__(self, "columns", tuple(columns))
        named = [column.name for column in columns if column.name]
        _need(len(named) in (0, count), "names of columns", f"one for each column ({count}) or none", named)
        _need(len(set(named)) == len(named), "names of columns", "all different", named)
        allowed = (None, *BINARIZE) if self.support == "binary" else (None,)
        _need(self.binarize in allowed, f"binarize of {self.support} data", str(allowed), self.binarize)
        _texts("label_names", self.label_names)
        for field, text in (("source", self.source), ("policy", self.policy)):
            _need(isinstance(text, str) and len(text) <= _LONGEST_TEXT, field, "a short text", text)
        _need(type(self.missing) is bool, "missing", "true or false", self.missing)
        _need(not set("/\\") & set(self.source), "source", "a name without a path", self.source)

    @property
    def size(self) -> int:
        """The number of elements of one item."""
        return numel(self.shape)

    @property
    def rank(self) -> int:
        """The number of dimensions of an item's places: 2 for images, 1 for signals, 0 for the rows of a table."""
        return RANKS[self.kind]

    @property
    def places(self) -> Size:
        """``(H, W)`` of an image, ``(T,)`` of a signal, ``()`` of a table."""
        return self.shape[1:]

    @property
    def channels(self) -> int:
        """The number of values at each place of an image or a signal; 1 for a table."""
        return self.shape[0] if self.rank else 1

    @property
    def support(self) -> str:
        """The kind of all columns, or ``"mixed"`` where they are of different kinds."""
        kinds = {column.kind for column in self.columns}
        return kinds.pop() if len(kinds) == 1 else MIXED

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns of a table, or ``()``."""
        return tuple(column.name for column in self.columns) if self.columns[0].name else ()

    @property
    def loc(self) -> tuple[float, ...]:
        """The means of the columns; ``()`` where they are not known for all."""
        return tuple(column.loc for column in self.columns if column.loc is not None) if self._measured else ()

    @property
    def scale(self) -> tuple[float, ...]:
        """The standard deviations of the columns; ``()`` where they are not known for all."""
        return tuple(column.scale for column in self.columns if column.scale is not None) if self._measured else ()

    @property
    def _measured(self) -> bool:
        return all(column.loc is not None for column in self.columns)

    @property
    def units(self) -> tuple[float | list[float], float | list[float]]:
        """Location and scale for what reads an item: two numbers, or lists of one for each column of a table."""
        loc, scale = zip(*(column.units for column in self.columns), strict=True)
        alike = len(set(zip(loc, scale, strict=True))) == 1 and not self._measured
        if self.rank or alike:
            return loc[0], scale[0]
        return list(loc), list(scale)

    @property
    def held(self) -> str:
        """What the splits hold: the kind of the columns, or ``"bytes"`` where 8-bit values are binarised."""
        return "bytes" if self.binarize else self.support

    def unbinarised(self) -> Schema:
        """The schema of the 8-bit values that are binarised; the schema itself where none are."""
        if not self.binarize:
            return self
        return replace(self, columns=tuple(replace(c, kind="bytes") for c in self.columns), binarize=None)

    def context_sizes(self) -> dict[str, int]:
        """The context that items can bring, and the size of each: for ``label`` the number of classes."""
        return {"label": len(self.label_names)} if self.label_names else {}

    def describe(self) -> str:
        """One line for people."""
        size = " x ".join(map(str, self.shape))
        what = {"image": f"images of {size}", "signal": f"signals of {size}"}.get(self.kind, f"rows of {size} columns")
        drawn = f" ({self.binarize} binarisation)" if self.binarize else ""
        classes = f", {len(self.label_names)} classes" if self.label_names else ""
        return f"{self.source or 'data'}: {what}, {self.support}{drawn}{classes}"

    def to_json(self) -> dict[str, Any]:
        """The schema as plain JSON data."""
        columns = [{**asdict(column), "values": list(column.values)} for column in self.columns]
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "columns"}
        return {**{k: list(v) if isinstance(v, tuple) else v for k, v in rest.items()}, "columns": columns}

    @classmethod
    def from_json(cls, data: Any) -> Schema:
        """The schema written by :meth:`to_json`, or by the first version of the format, which had one support for all.

        Raises:
            DataError: for anything that :meth:`to_json` would not have written.
        """
        if isinstance(data, Mapping) and "support" in data:
            data = _of_first_format(data)
        values = _record("a schema", data, cls)
        columns = values["columns"]
        if not isinstance(columns, tuple):
            raise DataError(f"schema: columns must be a list, got {type(columns).__name__}")
        values["columns"] = tuple(Column(**_record("a column", column, Column)) for column in columns)
        return cls(**values)


def _of_first_format(data: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as it was written before it had columns, in today's form."""
    old = {f.name for f in fields(Schema)} - {"columns"} | {"support", "names", "loc", "scale"}
    if set(data) != old:
        raise DataError(f"a schema must be an object with the keys {sorted(old)}, got {sorted(map(str, data))}")
    kind, shape = data["kind"], data["shape"]
    _need(isinstance(kind, str) and kind in RANKS, "kind", " or ".join(RANKS), kind)
    fits = isinstance(shape, list) and len(shape) == 1 + RANKS[kind] and type(shape[0]) is int
    _need(fits, "shape", f"{1 + RANKS[kind]} positive integers", shape)
    count = 1 if RANKS[kind] else shape[0]
    _need(count <= _MOST_COLUMNS, "shape of a table", f"at most {_MOST_COLUMNS} columns", shape)
    fields_of = {}
    for field, missing in (("names", ""), ("loc", None), ("scale", None)):
        given = data[field]
        _need(isinstance(given, list) and len(given) in (0, count), field, f"a list of {count} or none", given)
        fields_of[field] = given or [missing] * count
    each = zip(*fields_of.values(), strict=True)
    columns = [{"kind": data["support"], "name": n, "loc": m, "scale": s, "values": []} for n, m, s in each]
    kept = ("kind", "shape", "binarize", "label_names", "source", "policy", "missing")
    return {**{field: data[field] for field in kept}, "columns": columns}


def _record(what: str, data: Any, cls: type) -> dict[str, Any]:
    """The fields of a JSON object, lists as tuples."""
    known = {f.name for f in fields(cls)}
    if not isinstance(data, Mapping) or set(data) != known:
        got = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
        raise DataError(f"{what} must be an object with the keys {sorted(known)}, got {str(got)[:500]}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    for field in ("loc", "scale"):  # JSON writers may turn 1.0 into 1
        number = values.get(field)
        if type(number) is int and abs(number) < 2**53:
            values[field] = float(number)
    return values


def _need(fits: bool, field: str, must: str, got: object) -> None:
    if not fits:
        raise DataError(f"schema: {field} must be {must}, got {str(got)[:200]}")


def _texts(field: str, values: object) -> None:
    if not isinstance(values, tuple) or not all(isinstance(v, str) and len(v) <= _LONGEST_TEXT for v in values):
        raise DataError(f"schema: {field} must be a list of short texts, got {str(values)[:200]}")
    _need(len(set(values)) == len(values), field, "all different", values)
