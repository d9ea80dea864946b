"""The IDX format of MNIST, plain or compressed: single files, or the usual folder of four files."""

from __future__ import annotations

import gzip
import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ladle.data.arrays import arrange, gather
from ladle.data.content import Content, Format, Request, bounded
from ladle.data.errors import DataError
from ladle.spec import part

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
_CHUNK = 1 << 24


@part("format", "idx")
class Idx(Format):
    """Arrays in the format of MNIST, plain, ``.gz`` or ``.xz``."""

    suffixes = tuple(stem + packed for stem in (".idx", "-ubyte", ".idx3", ".idx1") for packed in ("", *_OPENERS))
    in_folders = True

    def file(self, path: Path, request: Request) -> Content:
        """Read the array."""
        return arrange(load_idx(path), path.name, request)

    def folder(self, root: Path, files: Sequence[str], request: Request) -> Content:
        """Read ``train-images``, ``train-labels``, ``t10k-images`` and ``t10k-labels`` (the labels are optional)."""
        return four(root, [root / name for name in files], request)


def four(root: Path, files: Sequence[Path], request: Request, label_names: tuple[str, ...] = ()) -> Content:
    """Read the usual four files, of which the labels are optional."""
    found = {(split, part_): _one(files, f"{name}-{part_}") for split, name in _STEMS for part_ in ("images", "labels")}
    data = {split: load_idx(path) for (split, kind), path in found.items() if path and kind == "images"}
    labels = {split: load_idx(path) for (split, kind), path in found.items() if path and kind == "labels"}
    if not data or set(labels) - set(data):
        raise DataError(
            "a folder of IDX files must contain train-images..., t10k-images... (and train-labels..., t10k-labels...), "
            f"got {', '.join(sorted(f.name for f in files)[:8]) or 'no files'} in '{root.name}'"
        )
    return gather(data, labels, root.name, request, (), label_names)


_STEMS = (("train", "train"), ("test", "t10k"))


def _one(files: Sequence[Path], start: str) -> Path | None:
    return next((f for f in sorted(files) if f.name.startswith(start)), None)


def load_idx(path: Path) -> np.ndarray:
    """Read the array of an IDX file. The sizes in the header are checked before memory is allocated.

    Raises:
        DataError: for an invalid header, too few or too many bytes, or corrupt compression.
    """
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            return _load(file, path)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"{path.name}: must be a complete compressed file; {error}") from None


def _load(file: BinaryIO, path: Path) -> np.ndarray:
    head = file.read(4)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _TYPES or not 1 <= head[3] <= 4:
        must = "start with 0, 0, a type and 1 to 4 dimensions"
        raise DataError(f"{path.name}: an IDX file must {must}, got {list(head)}")
    dtype = np.dtype(_TYPES[head[2]])
    sizes = file.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise DataError(f"{path.name}: the header must contain {head[3]} sizes, but the file ends before them")
    shape = struct.unpack(f">{head[3]}I", sizes)
    claimed, packed = prod(shape) * dtype.itemsize, path.stat().st_size
    bounded(path.name, packed, claimed)
    if path.suffix.lower() not in _OPENERS and claimed != packed - file.tell():
        raise DataError(f"{path.name}: the header claims {claimed} bytes, the file has {packed - file.tell()}")
    data = bytearray()
    while len(data) <= claimed:  # requests one byte more than claimed, to detect surplus bytes
        chunk = file.read(min(_CHUNK, claimed + 1 - len(data)))
        if not chunk:
            break
        data += chunk
    if len(data) != claimed:
        got = "more" if len(data) > claimed else len(data)
        raise DataError(f"{path.name}: the header claims {claimed} bytes, the file has {got}")
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)
