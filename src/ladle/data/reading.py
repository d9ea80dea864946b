"""``read``: read a data set from an array, a path or a name."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from ladle.data.arrays import arrange
from ladle.data.conform import finish
from ladle.data.content import Content, Format, Request
from ladle.data.dataset import Dataset
from ladle.data.errors import DataError
from ladle.data.schema import Schema
from ladle.spec import registered


def read(
    source: str | os.PathLike[str] | np.ndarray,
    *,
    labels: str | None = None,
    binarize: str | None = None,
    missing: str | None = None,
    strict: bool = False,
    like: Schema | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    r"""Read a data set.

    Args:
        source: an array, a file, a folder or the name of a known data set. A string that is a known name denotes the
            data set, even if a file has the same name; use ``./mnist`` or a ``Path`` for the file.
        labels: for tables, the column of the labels; for ``.npz``, the array of the labels; for folders of images, a
            pattern for the paths, such as ``(\d+)_.*`` (a regular expression; the label is its group) or ``*_*.png``
            (a glob; the label is the match of its first star).
        binarize: ``"dynamic"`` or ``"threshold"`` to binarise 8-bit values; stored in the schema and applied to every
            batch.
        missing: ``"nan"`` to read NaN in arrays as missing values. This is always the case in ``.csv`` and
            ``.parquet``, and for a model that was fitted to data with missing values.
        strict: raise an error at an unreadable image instead of skipping it.
        like: the schema of a model, to which the data are made to conform: images get its size and channels, tables its
            columns.
        progress: called with (done, total) while images are read: first for their sizes, then for their pixels.

    Returns:
        The data set. Its ``notes`` report what was done to the data during reading.

    Raises:
        DataError: if the source cannot be read or used.

        >>> read("digits").schema.describe()
        'digits: images of 1 x 8 x 8, bytes, 10 classes'
    """
    if missing not in (None, "nan"):
        raise DataError(f"--missing must be nan, got '{missing}'")
    if like is not None and like.missing:
        missing = "nan"
    request = Request(labels, missing, strict, like, progress)
    if isinstance(source, np.ndarray):
        return finish(arrange(source, "the array", request), "array", binarize, like, "all")
    if is_name(source):
        return _named(str(source), request, binarize)
    path = Path(source)
    try:
        content = _folder(path, request) if path.is_dir() else _file(path, request)
    except OSError as error:
        raise DataError(f"'{source}' must be a readable file or folder: {error.strerror or error}") from None
    return finish(content, path.resolve().name.replace("\\", "_") or "data", binarize, like, "all")


def is_name(source: str | os.PathLike[str]) -> bool:
    """Whether ``source`` is the name of a known data set (and not a path)."""
    return isinstance(source, str) and source in registered("dataset")


def _named(name: str, request: Request, binarize: str | None) -> Dataset:
    if request.labels is not None:
        raise DataError(f"--labels must be left out for '{name}': a named data set has its own labels")
    content, own = registered("dataset")[name](request)
    if own and binarize not in (None, own):
        raise DataError(f"--binarize must be left out for '{name}', which has {own} binarisation; got {binarize}")
    return finish(content, name, own or binarize, request.like, "test")


def formats() -> dict[str, Format]:
    """The known formats by file suffix."""
    return {suffix: made for made in (kind() for kind in registered("format").values()) for suffix in made.suffixes}


def _format(name: str, known: dict[str, Format]) -> Format | None:
    """The format of a file, by its longest known suffix, or ``None``."""
    fits = [suffix for suffix in known if name.lower().endswith(suffix)]
    return known[max(fits, key=len)] if fits else None


def _file(path: Path, request: Request) -> Content:
    if not path.exists():
        names = ", ".join(sorted(registered("dataset")))
        raise DataError(f"no such file or folder, and no data set of that name: '{path}'; known names: {names}")
    if not path.is_file():
        raise DataError(f"'{path}' must be a file or a folder, got something else (a device or a pipe)")
    known = formats()
    form = _format(path.name, known)
    if form is None:
        got = f"'{path.suffix}'" if path.suffix else "no suffix"
        raise DataError(f"'{path.name}' must end in one of {' '.join(sorted(known))}; got {got}")
    return form.file(path, request)


def _folder(root: Path, request: Request) -> Content:
    known, found, others = formats(), dict[Format, list[str]](), Counter[str]()
    for name in walk(root):
        form = _format(name, known)
        if form is None:
            others[_suffix(name) or "no suffix"] += 1
        else:
            found.setdefault(form, []).append(name)
    if not found:
        got = ", ".join(f"{n} files ({suffix})" for suffix, n in others.most_common(5)) or "an empty folder"
        raise DataError(f"folder '{root.name}' must hold data, such as images; got {got}")
    chosen = max(found, key=lambda form: (form.in_folders, len(found[form])))
    others.update(_suffix(name) for form, names in found.items() if form is not chosen for name in names)
    content = chosen.folder(root, found[chosen], request)
    if not others:
        return content
    note = f"{sum(others.values())} other files ignored: " + ", ".join(f"{n} {s}" for s, n in others.most_common(5))
    return Content(**{**vars(content), "notes": (*content.notes, note)})


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()


def walk(folder: str | Path, prefix: str = "") -> Iterator[str]:
    """Iterate over the non-hidden files in a folder and its sub-folders: relative paths, sorted in each folder."""
    with os.scandir(folder) as scan:
        entries = sorted((e for e in scan if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path, f"{prefix}{entry.name}/")
        # Opening a pipe would block, so pipes are skipped. A broken link is kept, to be reported as unreadable.
        elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and not _leads_elsewhere(entry.path)):
            yield prefix + entry.name


def _leads_elsewhere(link: str) -> bool:
    """Whether a link points to something that exists but is not a file."""
    return os.path.exists(link) and not os.path.isfile(link)
