"""Writers by suffix or folder. Nothing half-written is ever left behind."""

from __future__ import annotations

import math
import os
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from PIL import Image

from ladle.data.errors import DataError
from ladle.data.schema import Schema
from ladle.spec import part, registered

Values = np.ndarray | Mapping[str, np.ndarray]

_GAP = 2
_DIGITS = 6


def write(
    values: Values,
    out: str | os.PathLike[str],
    *,
    schema: Schema | None = None,
    names: Sequence[str] | None = None,
    force: bool = False,
) -> Path:
    """Write arrays to ``out``: ``.npy .npz .csv .parquet``, a ``.png`` sheet, or a folder of PNG files (no suffix).

    Args:
        values: one array, or arrays by name (``.npz``; columns of ``.csv`` and ``.parquet``). Several results for each
            item, ``(N, S, *event)`` with a schema, follow one another in files that cannot hold them as they are; on
            a sheet each item has a row.
        out: the file or folder.
        schema: what the items are: the columns' names, and how values become grey levels.
        names: for a table the columns' names instead of the schema's; for a folder the files' names.
        force: replace an existing output. Of folders only one that holds nothing but PNG files.

    Returns:
        The path written.

    Raises:
        DataError: for an existing output, an unknown suffix, or values that do not fit the format.
    """
    with _opened(Path(out), force) as put:
        put(values, schema, names)
    return Path(out)


def rehearse(
    values: Values,
    out: str | os.PathLike[str],
    *,
    schema: Schema | None = None,
    names: Sequence[str] | None = None,
    force: bool = False,
) -> None:
    """Write as :func:`write` does and take it back: with one item of zeros, what is wrong is said before the work.

    Raises:
        DataError: as :func:`write`.
    """
    with suppress(_Rehearsed), _opened(Path(out), force) as put:
        put(values, schema, names)
        raise _Rehearsed


class _Rehearsed(Exception):
    """Leaves the block that would put the output in its place."""


@contextmanager
def _opened(path: Path, force: bool) -> Iterator[Callable[[Values, Schema | None, Sequence[str] | None], None]]:
    """What writes values to ``path``; they appear there when the block ends well."""
    if not path.suffix:
        with atomic_folder(path, force=force) as folder:
            yield lambda values, schema, names: _pictures(_one(values, "a folder of images"), folder, schema, names)
        return
    known = registered("writer")
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in known:
        endings = " ".join(f".{name}" for name in sorted(known))
        raise DataError(f"an output must end in {endings}, or have no suffix for a folder of images; got '{path.name}'")
    with atomic_file(path, force=force) as temporary:
        yield lambda values, schema, names: known[suffix](values, temporary, schema, names)


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """A temporary file beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    Args:
        path: the file to be.
        force: replace an existing file; without it one is refused.

    Yields:
        The path to write to; its suffix is that of ``path``.

    Raises:
        DataError: if the file exists and ``force`` is not given, or its folder does not.
    """
    path = Path(path)
    temporary = _beside(path, force)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``path`` that takes its place when the block ends well, and vanishes otherwise.

    With ``force`` an existing folder is replaced only if it holds nothing but PNG files.
    """
    path = Path(path)
    empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    temporary = _beside(path, force or empty)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise DataError(f"'{path}' must be a folder, got a file or a link; it is not replaced")
    if path.is_dir() and any(p.suffix.lower() != ".png" for p in path.rglob("*") if not p.is_dir()):
        raise DataError(f"'{path}' holds other things than PNG files and is not replaced, even with --force")
    temporary.mkdir()
    old = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        try:
            if path.exists():
                path.rename(old)
            temporary.rename(path)
        except BaseException:  # an interruption too
            if old.exists() and not path.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, force: bool) -> Path:
    """A new hidden name in the folder of ``path``, which must be there and hold no ``path`` yet."""
    if not path.name or not path.parent.is_dir():
        raise DataError(f"the folder to write into must exist, got '{path.parent}'")
    if not force and (path.exists() or path.is_symlink()):
        raise DataError(f"'{path}' must not exist yet; --force replaces it")
    return path.with_name(f".{path.stem[:80]}.{secrets.token_hex(6)}{path.suffix}")


def _one(values: Values, what: str) -> np.ndarray:
    if isinstance(values, Mapping):
        raise DataError(f"{what} must be given one array, got {', '.join(values)}; .npz holds several")
    return np.asarray(values)


@part("writer", "npy")
def npy(values: Values, path: Path, schema: Schema | None, names: Sequence[str] | None) -> None:
    """One array."""
    array = np.asarray(_one(values, ".npy"), order="C")
    if array.dtype.hasobject:
        raise DataError("an .npy file must hold numbers or fixed-width text, got Python objects")
    with path.open("wb") as file:  # np.save does not say why a file could not be written
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.tobytes())


@part("writer", "npz")
def npz(values: Values, path: Path, schema: Schema | None, names: Sequence[str] | None) -> None:
    """Arrays by name; a single one is called ``x``."""
    arrays = dict(values) if isinstance(values, Mapping) else {"x": np.asarray(values)}
    if any(np.asarray(array).dtype.hasobject for array in arrays.values()):
        raise DataError("an .npz file must hold numbers or fixed-width text, got Python objects")
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


@part("writer", "csv")
def csv(values: Values, path: Path, schema: Schema | None, names: Sequence[str] | None) -> None:
    """Columns as text, their names in the first line."""
    pa.csv.write_csv(_table(values, schema, names), path)


@part("writer", "parquet")
def parquet(values: Values, path: Path, schema: Schema | None, names: Sequence[str] | None) -> None:
    """Columns."""
    pq.write_table(_table(values, schema, names), path)


@part("writer", "png")
def png(values: Values, path: Path, schema: Schema | None, names: Sequence[str] | None) -> None:
    """All images on one sheet."""
    images = _one(values, "a sheet of images")
    columns = images.shape[1] if images.ndim == 5 else None
    Image.fromarray(sheet(grey_levels(_in_a_row(images, schema), schema), columns)).save(path, format="PNG")


def _in_a_row(array: np.ndarray, schema: Schema | None) -> np.ndarray:
    """Several results for each item, ``(N, S, *event)``, one after the other."""
    several = schema is not None and array.ndim == 2 + len(schema.shape)
    return array.reshape(-1, *array.shape[2:]) if several else array


def _table(values: Values, schema: Schema | None, names: Sequence[str] | None) -> pa.Table:
    if isinstance(values, Mapping):
        columns = {str(name): np.asarray(column) for name, column in values.items()}
        if any(column.ndim != 1 for column in columns.values()) or len({len(c) for c in columns.values()}) != 1:
            shapes = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
            raise DataError(f"the columns of a table must be 1-D and equally long, got {shapes}; .npz holds any shape")
        return pa.table(columns)
    array = _in_a_row(np.asarray(values), schema)
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2:
        raise DataError(f"a table must be (N, D), got shape {array.shape}; .npy and .npz hold any shape")
    own = schema.names if schema is not None and len(schema.names) == array.shape[1] else ()
    found = list(names or own or [f"c{i}" for i in range(array.shape[1])])
    if len(found) != array.shape[1] or len(set(found)) < len(found):
        raise DataError(f"there must be a different name for each of {array.shape[1]} columns, got {found[:20]}")
    return pa.table([np.ascontiguousarray(column) for column in array.T], names=found)


def grey_levels(images: np.ndarray, schema: Schema | None = None) -> np.ndarray:
    """Images as 8-bit ``(N, H, W, C)``, from ``(N, C, H, W)`` with C = 1 or 3 in the data's own units.

    Bytes are rounded; binary values and probabilities are times 255. Real values within 0..1 are times 255 too, others
    are stretched from their least to their greatest value. Without a schema uint8 counts as bytes, the rest as real.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise DataError(f"images must be (N, C, H, W) with C = 1 or 3 and at least one item, got shape {images.shape}")
    support = schema.support if schema is not None else "bytes" if images.dtype == np.uint8 else "real"
    values = images.astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("images to be written must be finite, got NaN or infinity")
    low, high = _RANGES.get(support) or _stretch(values)
    levels = np.round((values - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1))


_RANGES = {"bytes": (0.0, 255.0), "binary": (0.0, 1.0)}


def _stretch(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high if high > low else low + 1)


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


def _pictures(images: np.ndarray, folder: Path, schema: Schema | None, names: Sequence[str] | None) -> None:
    levels = grey_levels(_in_a_row(images, schema), schema)
    for picture, name in zip(levels, file_names(len(levels), names), strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(path, format="PNG")


def file_names(n: int, names: Sequence[str] | None) -> list[str]:
    """A safe and different PNG name for each image; sub-folders are kept."""
    if names is None:
        return [f"{i:0{_DIGITS}d}.png" for i in range(n)]
    if len(names) != n:
        raise DataError(f"there must be a name for each of {n} images, got {len(names)}")
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
