"""The formats that :func:`ladle.write` writes: files of arrays, tables and images.

A writer is a context manager ``(path, schema, names)``. It gives a function that is called with the rows, piece after
piece, and completes the file when its block ends without an error. A new one is registered with
``@part("writer", suffix)``.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from ladle.data.dataset import pieces
from ladle.data.errors import DataError
from ladle.data.schema import Schema
from ladle.spec import part

Values = np.ndarray | Mapping[str, np.ndarray]
Put = Callable[[Values], None]
Columns = dict[str | None, np.ndarray]  # by name; an array without names of columns has the name None

_GAP = 2
_DIGITS = 6
_BLOCK = 4 << 20  # bytes that are converted at a time
_ROW_GROUP = 4 << 20  # bytes of rows that are collected before a part of a table is written


def _one(values: Values, what: str) -> np.ndarray:
    if isinstance(values, Mapping):
        raise DataError(f"{what} must be given one array, got {', '.join(values)}; .npz holds several")
    return np.asarray(values)


@part("writer", "npy")
@contextmanager
def npy(path: Path, schema: Schema | None, names: Sequence[str] | None) -> Iterator[Put]:
    """One array."""
    with path.open("wb") as file:  # np.save does not say why a file could not be written
        first: np.ndarray | None = None
        count = 0

        def header(array: np.ndarray, shape: tuple[int, ...]) -> None:
            """Its length does not depend on the number of rows: NumPy leaves space for 21 digits."""
            fields = np.lib.format.header_data_from_array_1_0(array)
            np.lib.format.write_array_header_1_0(file, {**fields, "shape": shape})

        def put(values: Values) -> None:
            nonlocal first, count
            array = np.asarray(_one(values, ".npy"), order="C")
            if array.dtype.hasobject:
                raise DataError("an .npy file must hold numbers or fixed-width text, got Python objects")
            if first is None:
                first = array[:0] if array.ndim else array
                header(array, array.shape)
            elif array.dtype != first.dtype or array.shape[1:] != first.shape[1:] or not first.ndim:
                raise DataError(
                    f"all rows of an .npy file must be {first.dtype} {first.shape[1:]}, got {array.dtype} "
                    f"{array.shape[1:]}"
                )
            flat, step = array.reshape(-1), max(1, _BLOCK // max(1, array.itemsize))
            for start in range(0, len(flat), step):
                file.write(flat[start : start + step].tobytes())
            count += len(array) if array.ndim else 0

        yield put
        if first is not None and first.ndim:
            file.seek(0)
            header(first, (count, *first.shape[1:]))


@part("writer", "npz")
@contextmanager
def npz(path: Path, schema: Schema | None, names: Sequence[str] | None) -> Iterator[Put]:
    """Arrays by name, compressed; a single one is called ``x``. They are held in memory until all have arrived."""
    parts: dict[str, list[np.ndarray]] = {}

    def put(values: Values) -> None:
        arrays = values if isinstance(values, Mapping) else {"x": values}
        for name, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise DataError("an .npz file must hold numbers or fixed-width text, got Python objects")
            parts.setdefault(str(name), []).append(np.asarray(array))

    yield put
    with path.open("wb") as file:
        np.savez_compressed(file, **{name: _joined(arrays) for name, arrays in parts.items()})  # type: ignore[arg-type]


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


@part("writer", "csv")
@contextmanager
def csv(path: Path, schema: Schema | None, names: Sequence[str] | None) -> Iterator[Put]:
    """Columns as text, with their names in the first line."""
    with _tables(lambda first: pa.csv.CSVWriter(path, first), schema, names) as put:
        yield put


@part("writer", "parquet")
@contextmanager
def parquet(path: Path, schema: Schema | None, names: Sequence[str] | None) -> Iterator[Put]:
    """Columns, in row groups of several megabytes."""
    with _tables(lambda first: pq.ParquetWriter(path, first), schema, names) as put:
        yield put


@contextmanager
def _tables(
    opened: Callable[[pa.Schema], pa.csv.CSVWriter | pq.ParquetWriter],
    schema: Schema | None,
    names: Sequence[str] | None,
) -> Iterator[Put]:
    """Collect rows, and write them as tables of several megabytes."""
    rows = _Rows()
    with ExitStack() as stack:
        writer: pa.csv.CSVWriter | pq.ParquetWriter | None = None

        def flush() -> None:
            nonlocal writer
            columns = rows.take()
            table = _table(columns[None], schema, names) if None in columns else pa.table(columns)
            if writer is None:
                writer = stack.enter_context(opened(table.schema))
            writer.write_table(table)

        def put(values: Values) -> None:
            columns: Columns = (
                _columns(values) if isinstance(values, Mapping) else {None: _in_a_row(np.asarray(values), schema)}
            )
            if rows.columns and not rows.fits(columns):
                flush()
            rows.add(columns)

        yield put
        if rows.columns:
            flush()


class _Rows:
    """Rows of named columns, or of one array without a name, collected in arrays that are allocated once.

    If the small arrays of many batches were kept instead, the large arrays of a computation could not use the gaps
    between them, and the memory of the process would grow.
    """

    def __init__(self) -> None:
        self.columns: Columns = {}
        self.n = 0

    def fits(self, columns: Columns) -> bool:
        """Whether there is room for more rows.

        Raises:
            DataError: for other columns than those of the rows before.
        """
        if columns.keys() != self.columns.keys():
            expected, got = (", ".join(map(str, c)) for c in (self.columns, columns))
            raise DataError(f"all rows of a table must have the same columns, {expected}; got {got}")
        return all(self.n + len(column) <= len(self.columns[name]) for name, column in columns.items())

    def add(self, columns: Columns) -> None:
        """Add rows. There must be room for them, unless they are the first."""
        if not self.columns:
            row = sum(column.itemsize * math.prod(column.shape[1:]) for column in columns.values())
            n = max(_ROW_GROUP // max(1, row), *(len(column) for column in columns.values()))
            self.columns = {name: np.empty((n, *column.shape[1:]), column.dtype) for name, column in columns.items()}
        for name, column in columns.items():
            if column.dtype != self.columns[name].dtype:  # such as longer texts
                self.columns[name] = self.columns[name].astype(np.result_type(self.columns[name], column))
            self.columns[name][self.n : self.n + len(column)] = column
        self.n += len(column)

    def take(self) -> Columns:
        """Remove all rows and return them."""
        columns = {name: column[: self.n] for name, column in self.columns.items()}
        self.columns, self.n = {}, 0
        return columns


def _columns(values: Mapping[str, np.ndarray]) -> Columns:
    columns: Columns = {str(name): np.asarray(column) for name, column in values.items()}
    if any(column.ndim != 1 for column in columns.values()) or len({len(c) for c in columns.values()}) != 1:
        shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        raise DataError(f"the columns of a table must be 1-D and equally long, got {shapes}; .npz holds any shape")
    return columns


def _table(array: np.ndarray, schema: Schema | None, names: Sequence[str] | None) -> pa.Table:
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise DataError(f"a table must be (N, D), got shape {array.shape}; .npy and .npz hold any shape")
    from_schema = schema.names if schema is not None and len(schema.names) == array.shape[1] else ()
    found = list(names or from_schema or [f"c{i}" for i in range(array.shape[1])])
    if len(found) != array.shape[1] or len(set(found)) < len(found):
        raise DataError(f"there must be a different name for each of {array.shape[1]} columns, got {found[:20]}")
    return pa.table([np.ascontiguousarray(column) for column in array.T], names=found)


def _in_a_row(array: np.ndarray, schema: Schema | None) -> np.ndarray:
    """Several results for each item, ``(N, S, *event)``, one after the other."""
    several = schema is not None and array.ndim == 2 + len(schema.shape)
    return array.reshape(-1, *array.shape[2:]) if several else array


# -------------------------------------------------------------------------------------------------------- images


@part("writer", "png")
@contextmanager
def png(path: Path, schema: Schema | None, names: Sequence[str] | None) -> Iterator[Put]:
    """All images on one sheet, which is made in memory."""
    columns: int | None = None
    levels: list[np.ndarray] = []
    with _levels(levels.append, schema) as put_images:

        def put(values: Values) -> None:
            nonlocal columns
            images = _one(values, "a sheet of images")
            columns = images.shape[1] if images.ndim == 5 else None
            put_images(images)

        yield put
    if levels:
        Image.fromarray(sheet(_joined(levels), columns)).save(path, format="PNG")


@contextmanager
def png_files(path: Path, schema: Schema | None, names: Sequence[str] | None) -> Iterator[Put]:
    """A folder of PNG files, one for each image."""
    given = None if names is None else file_names(len(names), names)
    count = 0

    def save(levels: np.ndarray) -> None:
        nonlocal count
        for picture in levels:
            name = f"{count:0{_DIGITS}d}.png" if given is None else given[count]
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(file, format="PNG")
            count += 1

    with _levels(save, schema) as put_images:
        arrived = 0

        def put(values: Values) -> None:
            nonlocal arrived
            images = _in_a_row(_one(values, "a folder of images"), schema)
            arrived += len(images)
            if given is not None and arrived > len(given):
                raise _unnamed(arrived, given)
            put_images(images)

        yield put
    if given is not None and count < len(given):
        raise _unnamed(count, given)


@contextmanager
def _levels(save: Callable[[np.ndarray], None], schema: Schema | None) -> Iterator[Callable[[np.ndarray], None]]:
    """Convert images to grey levels and save them as they arrive. Real values are stretched from the least to the
    greatest one of all images, so that they are held in memory until all have arrived."""
    waiting: list[np.ndarray] = []

    def put(images: np.ndarray) -> None:
        images = _in_a_row(images, schema)
        _check_images(images)
        if _support(images, schema) in _RANGES:
            _save(images)
        else:
            waiting.append(images)

    def _save(images: np.ndarray) -> None:
        low, high = _RANGES[_support(images, schema)]
        for block in pieces(images):
            save(_scaled(images[block], low, high))

    yield put
    if waiting:
        low, high = _stretch(waiting)
        for images in waiting:
            for block in pieces(images):
                save(_scaled(images[block], low, high))


def grey_levels(images: np.ndarray, schema: Schema | None = None) -> np.ndarray:
    """Images as 8-bit ``(N, H, W, C)``, from ``(N, C, H, W)`` with C = 1 or 3 in the data's own units.

    Bytes are rounded; binary values and probabilities are multiplied by 255. Real values within 0..1 are multiplied by
    255 too; others are stretched from the least to the greatest value. Without a schema, uint8 is taken to be bytes
    and any other type to be real.
    """
    _check_images(images)
    low, high = _RANGES.get(_support(images, schema)) or _stretch([images])
    return _scaled(images, low, high)


_RANGES = {"bytes": (0.0, 255.0), "binary": (0.0, 1.0)}


def _support(images: np.ndarray, schema: Schema | None) -> str:
    return schema.support if schema is not None else "bytes" if images.dtype == np.uint8 else "real"


def _check_images(images: np.ndarray) -> None:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise DataError(f"images must be (N, C, H, W) with C = 1 or 3 and at least one item, got shape {images.shape}")
    if not all(np.isfinite(images[block]).all() for block in pieces(images)):
        raise DataError("images to be written must be finite, got NaN or infinity")


def _stretch(parts: Sequence[np.ndarray]) -> tuple[float, float]:
    """The values of black and white, for real values."""
    low, high = min(float(x.min()) for x in parts), max(float(x.max()) for x in parts)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high if high > low else low + 1)


def _scaled(images: np.ndarray, low: float, high: float) -> np.ndarray:
    values = images.astype(np.float64)
    levels = np.round((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


def sheet(levels: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Images ``(N, H, W, C)`` on one sheet, row by row, with white gaps of 2 pixels: ``(H', W')`` or ``(H', W', 3)``.

    >>> sheet(np.zeros((4, 8, 8, 1), np.uint8)).shape
    (18, 18)
    """
    n, height, width, channels = levels.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    size = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, channels)
    page = np.full(size, 255, np.uint8)
    for i in range(n):
        top, left = (i // columns) * (height + _GAP), (i % columns) * (width + _GAP)
        page[top : top + height, left : left + width] = levels[i]
    return page[..., 0] if channels == 1 else page


def file_names(n: int, names: Sequence[str] | None) -> list[str]:
    """A safe PNG file name for each image, all of them different; sub-folders are kept."""
    if names is None:
        return [f"{i:0{_DIGITS}d}.png" for i in range(n)]
    if len(names) != n:
        raise _unnamed(n, names)
    paths = [_inside(name) for name in names]
    taken = {str(folder).lower() for path in paths for folder in path.parents}
    copies: Counter[str] = Counter()
    found = []
    for path in paths:
        stem = str(path.with_suffix(""))
        unique = f"{stem}.png"
        while unique.lower() in taken:  # a.jpg beside a.png, be that a file or a folder
            copies[stem.lower()] += 1
            unique = f"{stem}-{copies[stem.lower()]}.png"
        taken.add(unique.lower())
        found.append(unique)
    return found


def _unnamed(n: int, names: Sequence[str]) -> DataError:
    return DataError(f"there must be a name for each of {n} images, got {len(names)}")


def _inside(name: str) -> PurePosixPath:
    """A name as a path inside a folder, on this system."""
    path, apart = PurePosixPath(name), set("\\:\0" if os.name == "nt" else "\0")
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        apart.update(name)
    if not path.name or path.is_absolute() or ".." in path.parts or apart & set(name):
        raise DataError(f"a name must be a path inside the folder, got {name!r}")
    return path
