"""``read``: any source of data, by path or by name, as a data set."""

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
        source: an array, a file, a folder or the name of a known set. A text that is a known name is that name,
            even where a file is called the same; write ``./mnist`` or pass a ``Path`` for the file.
        labels: tables: the column that holds the labels. ``.npz``: the array that does. Folders of images: a pattern
            for the paths, as ``(\d+)_.*`` (a regular expression with one group) or ``*_*.png`` (its first star).
        binarize: ``"dynamic"`` or ``"threshold"`` to make 8-bit values binary; known by the schema and by every batch.
        missing: ``"nan"`` to read NaN in arrays as missing (in ``.csv`` and ``.parquet``, and for a model that was
            fitted to data with missing values, it always is).
        strict: stop at an unreadable image instead of skipping it.
        like: a model's schema, to which the data must keep: images get its size and channels, tables its columns.
        progress: called with (done, total) while images are read: first over their sizes, then over their pixels.

    Returns:
        The data set. What was done on the way is told in its ``notes``.

    Raises:
        DataError: for whatever cannot be read or used.

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
        raise DataError(f"--labels must be left out for '{name}': a named set brings its own")
    content, own = registered("dataset")[name](request)
    if own and binarize not in (None, own):
        raise DataError(f"--binarize must be left out for '{name}', which is binarised ({own}); got {binarize}")
    return finish(content, name, own or binarize, request.like, "test")


def formats() -> dict[str, Format]:
    """The known formats, by suffix."""
    return {suffix: made for made in (kind() for kind in registered("format").values()) for suffix in made.suffixes}


def _format(name: str, known: dict[str, Format]) -> Format | None:
    """The format of a file, by the longest suffix that fits."""
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


def walk(folder: str | Path, before: str = "") -> Iterator[str]:
    """The files under a folder, relative to it, sorted part by part, without hidden ones."""
    with os.scandir(folder) as scan:
        entries = sorted((e for e in scan if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path, f"{before}{entry.name}/")
        # A pipe would block whoever opens it; a link to nothing stays, to be named as unreadable.
        elif entry.is_file(follow_symlinks=False) or (entry.is_symlink() and not _leads_elsewhere(entry.path)):
            yield before + entry.name


def _leads_elsewhere(link: str) -> bool:
    """Whether a link leads to something that is there and no file."""
    return os.path.exists(link) and not os.path.isfile(link)
