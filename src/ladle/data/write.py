"""Write results to files and folders. Nothing half-written is ever left behind."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ladle.data.errors import DataError
from ladle.data.schema import Schema
from ladle.data.writers import Put, Values, file_names, grey_levels, png_files, sheet
from ladle.spec import registered

__all__ = ["atomic_file", "atomic_folder", "file_names", "grey_levels", "rehearse", "sheet", "write"]


def write(
    values: Values | Iterator[Values],
    out: str | os.PathLike[str],
    *,
    schema: Schema | None = None,
    names: Sequence[str] | None = None,
    force: bool = False,
) -> Path:
    """Write arrays to ``out``: ``.npy .npz .csv .parquet``, a ``.png`` sheet, or a folder of PNG files (no suffix).

    Args:
        values: one array, or arrays by name (for ``.npz``; columns of ``.csv`` and ``.parquet``). An iterator of
            arrays, such as :func:`ladle.tasks.encode.encode_batches` returns, is written as it goes: the pieces follow
            one another along the first axis, and are not held in memory. (An ``.npz`` file, a ``.png`` sheet and a
            folder of images of real values do hold all pieces.) If there are several results for each item,
            ``(N, S, *event)`` with a schema, they are written one after the other in tables and folders; on a sheet
            each item has a row.
        out: the file or folder.
        schema: the schema of the items: it gives the names of columns, and how values become grey levels.
        names: the names of a table's columns, instead of those of the schema; for a folder the names of the files.
        force: replace an existing output. A folder is replaced only if it holds nothing but PNG files.

    Returns:
        The path written.

    Raises:
        DataError: if the output exists, the suffix is unknown, or the values do not fit the format.
    """
    with _opened(Path(out), schema, names, force) as put:
        if not isinstance(values, Iterator):
            put(values)
        else:
            try:
                first = next(values, None)
                if first is None:
                    raise DataError(f"there must be something to write to '{out}', got no rows")
                put(first)
                del first
                for piece in values:
                    put(piece)
            finally:
                getattr(values, "close", lambda: None)()  # a generator may hold threads
    return Path(out)


def rehearse(
    values: Values,
    out: str | os.PathLike[str],
    *,
    schema: Schema | None = None,
    names: Sequence[str] | None = None,
    force: bool = False,
) -> None:
    """Write as :func:`write` does, and remove what was written. Called with one item of zeros before a long
    computation, it finds errors that would otherwise be raised after it.

    Raises:
        DataError: as :func:`write`.
    """
    with suppress(_Rehearsed), _opened(Path(out), schema, names, force, rehearsal=True) as put:
        put(values)


class _Rehearsed(Exception):
    """Leaves the block that would move the output to its place."""


@contextmanager
def _opened(
    path: Path, schema: Schema | None, names: Sequence[str] | None, force: bool, rehearsal: bool = False
) -> Iterator[Put]:
    """A function that writes rows to ``path``. The output appears there if the block ends without an error."""
    suffix = path.suffix.lower().removeprefix(".")
    known = registered("writer")
    if path.suffix and suffix not in known:
        endings = " ".join(f".{name}" for name in sorted(known))
        raise DataError(f"an output must end in {endings}, or have no suffix for a folder of images; got '{path.name}'")
    atomic, writer = (atomic_file, known[suffix]) if path.suffix else (atomic_folder, png_files)
    with atomic(path, force=force) as temporary:
        with writer(temporary, schema, names) as put:
            yield put
        if rehearsal:
            raise _Rehearsed


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, force: bool = False) -> Iterator[Path]:
    """Write a file completely or not at all: the block writes a temporary file in the same folder, which is renamed to
    ``path`` if the block ends without an error, and removed otherwise.

    Args:
        path: the file to write.
        force: replace an existing file instead of refusing it.

    Yields:
        The path of the temporary file; it has the suffix of ``path``.

    Raises:
        DataError: if the file exists and ``force`` is not given, or its folder does not exist.
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
    """Write a folder completely or not at all: the block fills a temporary folder beside ``path``, which is renamed to
    ``path`` if the block ends without an error, and removed otherwise.

    With ``force`` an existing folder is replaced only if it holds nothing but PNG files.
    """
    path = Path(path)
    empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    temporary = _beside(path, force or empty)
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise DataError(f"'{path}' must be a folder, got a file or a link; it is not replaced")
    if path.is_dir() and any(p.suffix.lower() != ".png" for p in path.rglob("*") if not p.is_dir()):
        raise DataError(f"'{path}' holds files other than PNG images and is not replaced, even with --force")
    temporary.mkdir()
    old = temporary.with_name(temporary.name + ".old")
    try:
        yield temporary
        try:
            if path.exists():
                path.rename(old)
            temporary.rename(path)
        except BaseException:  # including an interruption
            if old.exists() and not path.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path, force: bool) -> Path:
    """A new hidden name in the folder of ``path``. The folder must exist, and ``path`` must not, unless ``force``."""
    if not path.name or not path.parent.is_dir():
        raise DataError(f"the folder to write into must exist, got '{path.parent}'")
    if not force and (path.exists() or path.is_symlink()):
        raise DataError(f"'{path}' must not exist yet; --force replaces it")
    return path.with_name(f".{path.stem[:80]}.{secrets.token_hex(6)}{path.suffix}")
