"""NumPy arrays (``.npy`` and ``.npz``), and the rules that turn an array into items."""

from __future__ import annotations

import lzma
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from ladle.data.content import Content, Format, Request, bounded, large, ranges
from ladle.data.dataset import Split, pieces
from ladle.data.errors import DataError
from ladle.spec import part

_SPLIT_WORDS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_LABEL_WORDS = {"y", "label", "labels", "target", "targets"}
_DATA_WORDS = {"x", "data", "image", "images"}
_FITS = "(N, D) rows, (N, H, W) grey images, (N, H, W, C) or (N, C, H, W) images with C = 1, 3 or 4"


@part("format", "npy")
class Npy(Format):
    """A NumPy array. From 128 MiB on it is memory-mapped; uint8 and finite float32 stay on disk."""

    suffixes = (".npy",)

    def file(self, path: Path, request: Request) -> Content:
        """Read the array."""
        with path.open("rb") as file:
            array = load_npy(file, os.fstat(file.fileno()).st_size, path.name, mapped=True)
        return arrange(array, path.name, request)


@part("format", "npz")
class Npz(Format):
    """Named NumPy arrays: items in a single array (or train, valid, test; x_train, ...), labels in y."""

    suffixes = (".npz",)

    def file(self, path: Path, request: Request) -> Content:
        """Read the arrays whose names denote items or labels."""
        data_names, label_names, others = _roles(npz_names(path), request.labels, path.name)
        arrays = load_npz(path, (*data_names.values(), *label_names.values()))
        data = {split: arrays[name] for split, name in data_names.items()}
        labels = {split: arrays[name] for split, name in label_names.items()}
        notes = tuple(f"{path.name}: array '{name}' ignored" for name in others)
        return gather(data, labels, path.name, request, notes)


def load_npy(file: BinaryIO, size: int, what: str, *, mapped: bool = False) -> np.ndarray:
    """Read a read-only array from an ``.npy`` stream.

    Nothing is unpickled, and no memory beyond ``size`` is allocated.

    Args:
        file: the stream, at its start.
        size: the size of the stream in bytes.
        what: the name of the stream for error messages.
        mapped: whether the stream is a regular file, so that a large array can be memory-mapped instead of read.

    Raises:
        DataError: if the stream is not a valid numeric array, or shorter than its header claims.
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version}")
        shape, fortran, dtype = _HEADERS[version](file)
    except Exception as error:  # NumPy parses the header as Python and may raise any exception on a malicious one
        raise DataError(f"{what}: must be a NumPy array (.npy, version 1 or 2); {error}") from None
    _numeric(dtype, what)
    count = 1
    for n in shape:
        count *= int(n)
    left = size - file.tell()
    claimed = count * dtype.itemsize
    if min(shape, default=0) < 0 or claimed > left:
        raise DataError(f"{what}: the header claims shape {shape} ({claimed} bytes), the file has {left}")
    if count == 0:
        raise DataError(f"{what}: there must be at least one item, got an empty array of shape {shape}")
    if mapped and large(claimed):
        return np.asarray(np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C"))
    packed = file.read(claimed)
    if len(packed) != claimed:
        raise DataError(f"{what}: the header claims {claimed} bytes, the file has {len(packed)}")
    data = np.frombuffer(packed, dtype)
    return data.reshape(shape[::-1]).T if fortran else data.reshape(shape)


_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in an ``.npz`` file."""
    with _archive(path) as archive:
        return list(_members(archive))


def load_npz(path: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays called ``names`` in an ``.npz`` file; other arrays are not read."""
    with _archive(path) as archive:
        members = _members(archive)
        if not set(names) <= set(members):
            got = ", ".join(members) or "none"
            raise DataError(f"{path.name}: must contain the arrays {', '.join(names)}, got {got}")
        bounded(path.name, path.stat().st_size, sum(members[name].file_size for name in names))
        arrays = {}
        for name in names:
            with archive.open(members[name]) as file:
                arrays[name] = load_npy(cast(BinaryIO, file), members[name].file_size, f"{path.name}: '{name}'")
        return arrays


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path.name}: must be an .npz archive of arrays; {error}") from None


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    return {m.filename.removesuffix(".npy"): m for m in archive.infolist() if m.filename.endswith(".npy")}


def _roles(
    arrays: Sequence[str], labels_name: str | None, what: str
) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Divide array names into those of items by split, those of labels by split, and others."""
    data: dict[str, str] = {}
    labels: dict[str, str] = {}
    others = []
    if labels_name is not None and labels_name not in arrays:
        raise DataError(f"{what}: --labels must name one of its arrays ({', '.join(arrays)}), got '{labels_name}'")
    for name in arrays:
        words = set(re.split(r"[^a-z0-9]+", name.lower()))
        split = next((_SPLIT_WORDS[w] for w in sorted(words) if w in _SPLIT_WORDS), "all")
        rest = words - set(_SPLIT_WORDS)
        if name == labels_name or (labels_name is None and rest & _LABEL_WORDS):
            labels[split] = name
        elif rest <= _DATA_WORDS and split not in data:
            data[split] = name
        else:
            others.append(name)
    if not data and len(others) == 1:
        data["all"] = others.pop()
    if not data or ("all" in data and len(data) > 1):
        raise DataError(
            f"{what}: must contain items under one name, such as x, images or data, or by split, such as train and "
            f"test or x_train and x_test; got {', '.join(arrays) or 'no arrays'}"
        )
    if set(labels) - set(data):
        got = f"items of {', '.join(sorted(data))} and labels of {', '.join(sorted(labels))}"
        raise DataError(f"{what}: labels must have items of the same split, got {got}")
    return data, labels, others


def gather(
    data: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    what: str,
    request: Request,
    notes: tuple[str, ...] = (),
    label_names: tuple[str, ...] = (),
) -> Content:
    """Combine the arrays of several splits, or of ``"all"`` alone, into one content."""
    if len({a.shape[1:] for a in data.values()}) > 1:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in data.items())
        raise DataError(f"{what}: the items of all splits must have the same shape, got {shapes}")
    arrays = list(data.values())
    content = arrange(np.concatenate(arrays) if len(arrays) > 1 else arrays[0], what, request)
    numbers = None
    if labels:
        numbers, names = _numbers([(labels.get(name), len(a)) for name, a in data.items()], what, label_names)
        label_names = names
    items = Split(content.items.x, content.items.observed, numbers)
    official = {} if "all" in data else ranges({name: len(a) for name, a in data.items()})
    return Content(
        items, content.kind, content.support, official, (), label_names, content.policy, (*content.notes, *notes)
    )


def _numbers(
    labels: Sequence[tuple[np.ndarray | None, int]], what: str, names: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class numbers of the items of all splits, ``(N,)``, and the class names."""
    columns = []
    for column, n in labels:
        column = np.full(n, -1) if column is None else column.reshape(-1) if column.size == n else column
        if column.dtype.kind not in "iub" or column.shape != (n,):
            raise DataError(f"{what}: labels must be {n} whole numbers, got {column.dtype} of shape {column.shape}")
        columns.append(column.astype(np.int64))
    values = np.concatenate(columns)
    if names:
        if len(values) and not -1 <= values.min() <= values.max() < len(names):
            raise DataError(f"{what}: labels must be 0..{len(names) - 1}, got {values.min()}..{values.max()}")
        return values, names
    found, inverse = np.unique(values, return_inverse=True)
    unknown = int(np.sum(found < 0)) if len(found) and found[0] == -1 else 0
    return inverse.reshape(-1).astype(np.int64) - unknown, tuple(str(v) for v in found[unknown:])


def arrange(array: np.ndarray, what: str, request: Request) -> Content:
    """Turn an array into items, by these rules.

    ===========================================  =================================================================
    array                                        result
    ===========================================  =================================================================
    ``(N, D)``                                   a table
    ``(N, H, W)``                                images, one channel; signals ``(N, C, T)`` for a model of signals
    ``(N, H, W, C)``, ``(N, C, H, W)``           images; with C = 4, alpha is composited on white
    bool, or integers that are all 0 or 1        binary
    uint8; integer images within 0..255          bytes
    other numbers                                real
    ===========================================  =================================================================

    A read-only array that already has the right type is not copied: it may be a memory-mapped file larger than memory.

    Raises:
        DataError: for other shapes and types, infinities, NaN (unless NaN denotes missing values), and empty arrays.
    """
    _numeric(array.dtype, what)
    if array.ndim not in (2, 3, 4):
        raise DataError(f"{what}: an array must be {_FITS}, got shape {array.shape}")
    if array.size == 0:
        raise DataError(f"{what}: there must be at least one item, got an empty array of shape {array.shape}")
    notes: tuple[str, ...] = ()
    observed = None
    if array.dtype == bool:
        array = array.view(np.uint8) != 0  # a file may contain bytes other than 0 and 1
    if array.dtype.kind == "f":
        array, observed = real(array, what, request.missing is not None)
        support = "real"
        if all(np.isin(array[piece], (0, 1)).all() for piece in pieces(array)):
            notes = (f"{what}: values read as real numbers although all are 0 or 1; save them as bool for binary data",)
    else:
        ends = [(int(array[piece].min()), int(array[piece].max())) for piece in pieces(array)]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        support = _whole(array, low, high)
        if support == "real":
            rounded = ", rounded to 32-bit floating point" if max(abs(low), abs(high)) > 2**24 else ""
            notes = (f"{what}: whole numbers {low}..{high} read as real numbers{rounded}",)
        array = array.astype(np.float32 if support == "real" else np.uint8, copy=array.flags.writeable)
    if array.ndim == 2:
        return Content(Split(array, observed), "table", support, notes=notes)
    if array.ndim == 3 and request.like is not None and request.like.kind == "signal":
        return Content(Split(array, observed), "signal", support, notes=notes)
    array, observed, policy = _channels(array, observed, support, what)
    return Content(Split(array, observed), "image", support, policy=policy, notes=notes)


def _whole(array: np.ndarray, low: int, high: int) -> str:
    if array.dtype.kind == "b" or (low >= 0 and high <= 1):
        return "binary"
    return "bytes" if array.dtype == np.uint8 or (array.ndim > 2 and low >= 0 and high <= 255) else "real"


def real(array: np.ndarray, what: str, missing: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """Real numbers as float32, and a bool array of the observed ones (``None``: all). Missing values become 0."""
    if (
        array.dtype == np.float32
        and not array.flags.writeable
        and all(np.isfinite(array[piece]).all() for piece in pieces(array))
    ):
        return array, None
    nan = np.isnan(array)
    if nan.any() and not missing:
        raise DataError(
            f"{what}: values must be finite numbers, got {int(nan.sum())} NaN, the first at {_where(nan)}; "
            "use --missing nan to read NaN as missing"
        )
    with np.errstate(over="ignore"):
        values = array.astype(np.float32)
    infinite = np.isinf(values)
    if infinite.any():
        raise DataError(
            f"{what}: values must be finite 32-bit numbers, got {int(infinite.sum())} infinite or larger than 3.4e38, "
            f"the first at {_where(infinite)}"
        )
    if not nan.any():
        return values, None
    values[nan] = 0
    return values, ~nan


def _where(bad: np.ndarray) -> str:
    first = np.unravel_index(int(bad.argmax()), bad.shape)
    return f"row {first[0]}, {'column' if bad.ndim == 2 else 'position'} {', '.join(str(i) for i in first[1:])}"


def _numeric(dtype: np.dtype, what: str) -> None:
    if dtype.kind not in "biuf":
        kinds = {"O": "Python objects", "U": "text", "S": "text", "c": "complex numbers", "V": "records"}
        raise DataError(
            f"{what}: an array must hold real numbers, whole numbers or bool, got {kinds.get(dtype.kind, str(dtype))} "
            f"({dtype})"
        )


def _channels(
    array: np.ndarray, observed: np.ndarray | None, support: str, what: str
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Images as ``(N, C, H, W)``, and a description of the treatment of their alpha channel, or ``""``."""
    if array.ndim == 3:
        return array[:, None], None if observed is None else observed[:, None], ""
    first, last = array.shape[1] in (1, 3, 4), array.shape[3] in (1, 3, 4)
    if first == last:
        got = f"{array.shape}, which {'could be either' if first else 'is neither'}"
        raise DataError(f"{what}: images must be (N, H, W, C) or (N, C, H, W) with C = 1, 3 or 4; got {got}")
    if last:
        array = np.moveaxis(array, 3, 1)
        observed = None if observed is None else np.moveaxis(observed, 3, 1)
    if array.shape[1] < 4:
        return array if large(array.nbytes) else np.ascontiguousarray(array), observed, ""
    if support != "bytes":
        raise DataError(f"{what}: an alpha channel (C = 4) must come with 8-bit images, got {support} values")
    colour, alpha = array[:, :3].astype(np.uint16), array[:, 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8), observed, "alpha composited on white"
