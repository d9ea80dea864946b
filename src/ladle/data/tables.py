"""Tables of numbers: ``.csv`` and ``.parquet``."""

from __future__ import annotations

import csv
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ladle.data.arrays import real
from ladle.data.content import Content, Format, Request, bounded, classes
from ladle.data.dataset import Split
from ladle.data.errors import DataError
from ladle.spec import part

_MISSING = ["", " ", "?", "NA", "N/A", "n/a", "na", "NaN", "nan", "null", "NULL", "None"]
_DELIMITERS = ",;\t"
_INDEX = re.compile(r"__index_level_\d+__")


@part("format", "csv")
class Csv(Format):
    """Columns of numbers in UTF-8 text, separated by comma, semicolon or tab; the first line may contain names."""

    suffixes = (".csv", ".tsv")

    def file(self, path: Path, request: Request) -> Content:
        """Read the table."""
        try:
            return columns(_table(path), path.name, request)
        except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{path.name}: must be UTF-8 text with the same columns in every line; {reason}") from None


@part("format", "parquet")
class Parquet(Format):
    """Numeric columns of a Parquet file; bool is read as 0 and 1."""

    suffixes = (".parquet", ".pq")

    def file(self, path: Path, request: Request) -> Content:
        """Read the table."""
        try:
            with pq.ParquetFile(path) as file:
                meta = file.metadata
                bounded(path.name, path.stat().st_size, max(meta.num_rows, 0) * max(meta.num_columns, 0) * 4)
                return columns(file.read(), path.name, request)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError | PermissionError):
                raise
            raise DataError(f"{path.name}: must be a complete Parquet file; {str(error).splitlines()[0]}") from None


def _table(path: Path) -> pa.Table:
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = [line for line in islice((x[: 1 << 20] for x in file), 20) if line.strip()]
    if not lines:
        raise DataError(f"{path.name}: there must be at least one row, got an empty file")
    delimiter = max(_DELIMITERS, key=lambda d: _width(lines, d))
    first, *rest = list(csv.reader(lines[:2], delimiter=delimiter))
    second = rest[0] if rest else first
    comma = delimiter == ";" and any(re.fullmatch(r"\s*-?\d+,\d+\s*", cell) for cell in second)
    named = _is_header(first, second, comma)
    return pa.csv.read_csv(
        path,
        pa.csv.ReadOptions(use_threads=False, autogenerate_column_names=not named),
        pa.csv.ParseOptions(delimiter=delimiter),
        pa.csv.ConvertOptions(
            null_values=_MISSING, strings_can_be_null=True, decimal_point="," if comma else ".", check_utf8=True
        ),
    ).replace_schema_metadata({"ladle_named": str(int(named))})


def _width(lines: list[str], delimiter: str) -> int:
    """The number of columns with this delimiter, or 1 if the lines have different numbers of columns."""
    widths = {len(row) for row in csv.reader(lines, delimiter=delimiter)}
    return widths.pop() if len(widths) == 1 else 1


def _is_header(first: list[str], second: list[str], comma: bool) -> bool:
    """Whether the first line contains column names: it has no number, or a word where the next line has a number."""
    words = [not _is_number(cell, comma) for cell in first]
    values = [_is_number(cell, comma) for cell in second]
    return all(words) or any(
        w and v and cell.strip() not in _MISSING for w, v, cell in zip(words, values, first, strict=False)
    )


def _is_number(cell: str, comma: bool) -> bool:
    try:
        float(cell.replace(",", ".") if comma else cell)
    except ValueError:
        return False
    return True


def columns(table: pa.Table, what: str, request: Request) -> Content:
    """Turn a table into items, one for each row, without the label column.

    Raises:
        DataError: for text columns, columns without any value, infinities, duplicate names, or a table without rows.
    """
    named = (table.schema.metadata or {}).get(b"ladle_named", b"1") == b"1"
    names = [str(name) for name in table.column_names]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{what}: the names of the columns must differ, got {', '.join(twice)} more than once")
    if table.num_rows == 0 or not names:
        raise DataError(f"{what}: there must be at least one row, got none")
    numbers = None
    label_names: tuple[str, ...] = ()
    if request.labels is not None:
        if request.labels not in names:
            raise DataError(f"{what}: --labels must name a column ({', '.join(names[:20])}), got '{request.labels}'")
        numbers, label_names = classes(_texts(table.column(request.labels), request.labels, what))
    keep, notes = _select(names, what, request)
    _all_numeric(table, keep, what)
    if not keep:
        raise DataError(f"{what}: there must be a numeric column besides '{request.labels}', got none")
    support = _support([table.column(name) for name in keep])
    values = np.stack([_numbers(table.column(name)) for name in keep], 1)
    empty = [name for name, lost in zip(keep, np.isnan(values).all(0), strict=True) if lost]
    if empty and request.like is None:
        raise DataError(f"{what}: every column must have at least one value, got none in {', '.join(empty)}; remove it")
    x, observed = real(values, what, missing=True)
    items = Split(x.astype(np.uint8) if support != "real" else x, observed, numbers)
    return Content(items, "table", support, {}, tuple(keep) if named else (), label_names, "", notes)


def _select(names: list[str], what: str, request: Request) -> tuple[list[str], tuple[str, ...]]:
    """The columns to read, in order, and notes about ignored columns."""
    like = request.like.names if request.like else ()
    if like and not set(like) <= set(names):
        absent = [name for name in like if name not in names]
        raise DataError(f"{what}: must have the columns of the model, {', '.join(like)}; missing: {', '.join(absent)}")
    keep = list(like) or [name for name in names if name != request.labels and not _INDEX.fullmatch(name)]
    others = [name for name in names if name not in keep and name != request.labels]
    return keep, (f"{what}: columns ignored: {', '.join(others)}",) if others else ()


def _all_numeric(table: pa.Table, names: list[str], what: str) -> None:
    wrong = {name: table.schema.field(name).type for name in names if not _is_numeric(table.schema.field(name).type)}
    if wrong:
        found = ", ".join(f"'{name}' ({kind})" for name, kind in wrong.items())
        raise DataError(
            f"{what}: columns must contain numbers, got {found}; use --labels {next(iter(wrong))} to read it as labels"
        )


def _is_numeric(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)
    return any(test(kind) for test in tests)


def _support(found: list[pa.ChunkedArray]) -> str:
    if all(pa.types.is_boolean(c.type) or (pa.types.is_integer(c.type) and _zero_one(c)) for c in found):
        return "binary"
    return "bytes" if all(c.type == pa.uint8() for c in found) else "real"


def _zero_one(column: pa.ChunkedArray) -> bool:
    ends = pc.min_max(column).as_py()
    return ends["min"] is None or (ends["min"] >= 0 and ends["max"] <= 1)


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64, with NaN for missing values."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    return column.cast(pa.float64(), safe=False).to_numpy()


def _texts(column: pa.ChunkedArray, name: str, what: str) -> list[str | None]:
    """The values of a label column as text, with ``None`` for missing values."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        seen = values[~np.isnan(values)]
        if not (np.isfinite(seen).all() and (seen == np.round(seen)).all()):
            raise DataError(f"{what}: labels must be text or whole numbers, but column '{name}' contains real numbers")
        return [None if np.isnan(v) else str(int(v)) for v in values]
    return [None if v is None else str(v) for v in column.to_pylist()]
