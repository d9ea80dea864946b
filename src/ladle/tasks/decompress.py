"""Decompress, describe and verify the files that :mod:`ladle.tasks.compress` writes."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ladle.coding.bits_back import Codec
from ladle.coding.chunks import MODES, make_codec, unpack
from ladle.coding.container import Chunk, Reader
from ladle.coding.errors import Damaged, Newer, NotALadleFile, NumericsError, WrongModel
from ladle.coding.items import count_items, parse_contents, restore_to, select_range
from ladle.coding.model_file import fingerprint, load_integer_model
from ladle.data import DataError
from ladle.machine import choose
from ladle.tasks.common import Progress, side_by_side
from ladle.tasks.compress import integer_model


class Verified(NamedTuple):
    """The result of verifying a file.

    Attributes:
        items: the number of items in undamaged chunks.
        chunks: the number of chunks.
        damaged: one line for each damaged part; empty for an undamaged file.
    """

    items: int
    chunks: int
    damaged: tuple[str, ...]


def decompress(
    file: str | Path,
    out: str | Path | None = None,
    *,
    model: str | Path,
    items: tuple[int, int] | None = None,
    force: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> np.ndarray | None:
    """Restore the items of a compressed file, bit for bit unless it is lossy.

    Args:
        file: a file written by :func:`compress`.
        out: a ``.npy`` file for an array, a folder for images; without it the items are returned.
        model: the folder of the model that the file was compressed with.
        items: restore only this range, from the first number to before the second: items of an array, or images.
        force: replace an existing output.
        device: the device to run the networks on.
        progress: called with (items done, items in all).

    Returns:
        ``(N, *shape)`` of uint8 without ``out``: the items, or the tiles that images were cut into.

    Raises:
        NotALadleFile, Newer, Damaged: for a file that cannot be read; the message gives the number of the chunk.
        WrongModel: for another model.
        NumericsError: when this machine computes other numbers than the model's file requires.
    """
    device = choose(device).device
    with opened(file) as reader:
        if reader.broken and items is None:
            raise Damaged(f"{reader.broken}; a range of items may still be intact (--range)")
        codec, shape = _matching(reader, model, device)
        contents, available = _available(reader, shape)
        start, stop = 0, available
        if items is not None:
            contents, start, stop = select_range(contents, shape, *items)
        if stop > available:
            raise Damaged(f"only the first {available} items can be found: {reader.broken}")
        blocks = _blocks(reader, codec, shape, start, stop, device, progress)
        if out is None:
            return np.concatenate([np.zeros((0, *shape), np.uint8), *blocks])
        with restore_to(contents, shape, Path(out), force) as sink:
            for block in blocks:
                sink.write(block)
    return None


@contextmanager
def opened(file: str | Path) -> Iterator[Reader]:
    """Open a compressed file; errors name it."""
    try:
        with Path(file).open("rb") as stream:
            yield Reader(stream)
    except (NotALadleFile, Newer, Damaged) as error:
        error.args = (f"'{file}': {error}",)
        raise


def _matching(reader: Reader, model: str | Path, device: str) -> tuple[Codec, tuple[int, ...]]:
    """The codec of a file and the shape of its items, given the model that it was compressed with."""
    mode = reader.header.get("mode")
    if mode not in MODES:
        raise Damaged(f"the header's mode must be {' or '.join(MODES)}, got {str(mode)[:40]!r}")
    if Path(model).is_file():
        coding_model = load_integer_model(Path(model), device)
    else:
        coding_model = integer_model(model, device, make=False)
    if coding_model.probe is None and mode == "bitsback":
        raise WrongModel(
            f"the file was compressed with bits back, which needs the whole model; '{model}' holds its decoder only"
        )
    needed, found = str(reader.header.get("model"))[:80], fingerprint(coding_model, decoder=mode == "random-access")
    if needed != found:
        name = str(reader.header.get("name", ""))[:80]
        raise WrongModel(
            f"the file was compressed with the model {name!r} ({needed!r}), and '{model}' is another one ({found})"
        )
    return make_codec(coding_model, mode, reader.header), coding_model.shape


def _available(reader: Reader, shape: tuple[int, ...]) -> tuple[dict[str, Any], int]:
    """The table of contents, and the number of items that can be found, counted from the first.

    A file whose end is missing has no table of contents. Its items are read as an array of the model's items.
    """
    available = sum(n for _, n in itertools.takewhile(lambda entry: entry[0], reader.index))
    if reader.broken and reader.contents_at is None:
        return {"kind": "array", "dtype": "|u1", "shape": [available, *shape]}, available
    contents = parse_contents(reader.contents())
    listed = count_items(contents, shape)
    if not reader.broken and listed != available:
        raise Damaged(f"the table of contents lists {listed} items, and the file holds {available}")
    return contents, available


def _blocks(
    reader: Reader, codec: Codec, shape: tuple[int, ...], start: int, stop: int, device: str, progress: Progress | None
) -> Iterator[np.ndarray]:
    """The decoded items of a range, one block for each chunk."""

    def chunks() -> Iterator[tuple[Chunk, slice]]:
        end = 0
        for number, (_, count) in enumerate(reader.index):
            first, end = end, end + count
            if first < stop and end > start:
                yield reader.chunk(number), slice(max(0, start - first), min(stop - first, count))

    done = 0
    for block in side_by_side(lambda part: unpack(codec, part[0], shape, part[1]), chunks(), device):
        yield block
        done += len(block)
        if progress:
            progress(done, stop - start)


def info(file: str | Path) -> dict[str, Any]:
    """The header of a compressed file, and the kind, number and size of its contents.

    Raises:
        NotALadleFile, Newer, Damaged: for a file that cannot be read.
    """
    with opened(file) as reader:
        if reader.broken:
            raise Damaged(reader.broken)
        contents = parse_contents(reader.contents())
        listed = {k: v for k, v in contents.items() if k != "files"}
        files = {"files": len(contents["files"])} if "files" in contents else {}
        return {
            **reader.header, **listed, **files, "items": sum(n for _, n in reader.index), "chunks": len(reader.index),
            "bytes": os.path.getsize(file),
        }  # fmt: skip


def verify(file: str | Path, model: str | Path | None = None, device: str = "cpu",
           progress: Progress | None = None) -> Verified:  # fmt: skip
    """Check every part of a file: the checksums and, given a model, that every chunk decodes to what was compressed.

    Raises:
        NotALadleFile, Newer, Damaged: for a header that cannot be read.
        WrongModel: for another model.
    """
    device = choose(device).device
    with opened(file) as reader:
        damaged = [reader.broken] if reader.broken else []
        codec, shape = (None, ()) if model is None else _matching(reader, model, device)
        try:
            if codec is None:
                parse_contents(reader.contents())
            else:
                _available(reader, shape)
        except (Damaged, DataError) as error:
            damaged.append(str(error))

        def chunks() -> Iterator[Chunk | str]:
            """Every chunk, or the error in its bytes. One thread reads the file, in order."""
            for number in range(len(reader.index)):
                try:
                    yield reader.chunk(number)
                except Damaged as error:
                    yield str(error)

        def find_error(chunk: Chunk | str) -> str:
            if isinstance(chunk, str):
                return chunk
            try:
                if codec is not None:
                    unpack(codec, chunk, shape)
            except (Damaged, NumericsError) as error:
                return str(error)
            return ""

        items = 0
        for number, message in enumerate(side_by_side(find_error, chunks(), device)):
            if message:
                damaged.append(message)
            else:
                items += reader.index[number][1]
            if progress:
                progress(number + 1, len(reader.index))
    return Verified(items, len(reader.index), tuple(damaged))
