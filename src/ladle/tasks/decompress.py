"""Bring back what :mod:`ladle.tasks.compress` wrote; what a compressed file says of itself, and whether it is whole."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ladle.coding.bits_back import Codec
from ladle.coding.container import CODED, LARGEST_CHUNK, STORED, Chunk, Reader, digest, inflated
from ladle.coding.errors import Damaged, Desynchronised, Newer, NotALadleFile, NumericsError, WrongModel
from ladle.coding.items import counted, part_of, restored, understood
from ladle.coding.model_file import fingerprint, load_exact
from ladle.coding.random_access import Direct
from ladle.data import DataError
from ladle.machine import choose
from ladle.tasks.common import Progress, side_by_side
from ladle.tasks.compress import MODES, codec_of, exact


class Verified(NamedTuple):
    """What was found in a file.

    Attributes:
        items: the number of them.
        chunks: the number of them.
        damaged: what is wrong, a line for each part; empty for a sound file.
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
    """What was compressed, to the last bit.

    Args:
        file: what :func:`compress` wrote.
        out: a ``.npy`` for an array, a folder for images; without it the items are given back.
        model: the folder of the model that it was compressed with.
        items: only these, from the first to before the second: items of an array, or images.
        force: replace an existing output.
        device: where the nets are computed.
        progress: told of items done, of all.

    Returns:
        ``(N, *shape)`` of uint8, when there is no ``out``: the items, or the tiles that images were cut into.

    Raises:
        NotALadleFile, Newer, Damaged: for a file that cannot be read; a chunk is named by its number.
        WrongModel: for another model.
        NumericsError: when this machine computes something else than the model's file says.
    """
    device = choose(device).device
    with opened(file) as reader:
        if reader.broken and items is None:
            raise Damaged(f"{reader.broken}; a range of items may still be whole (--range)")
        codec, shape = _matching(reader, model, device)
        contents, there = _held(reader, shape)
        start, stop = 0, there
        if items is not None:
            contents, start, stop = part_of(contents, shape, *items)
        if stop > there:
            raise Damaged(f"only what the first {there} items make can be found: {reader.broken}")
        blocks = _blocks(reader, codec, shape, start, stop, device, progress)
        if out is None:
            return np.concatenate([np.zeros((0, *shape), np.uint8), *blocks])
        with restored(contents, shape, Path(out), force) as sink:
            for block in blocks:
                sink.put(block)
    return None


@contextmanager
def opened(file: str | Path) -> Iterator[Reader]:
    """A compressed file, named where something is wrong with it."""
    try:
        with Path(file).open("rb") as bytes_of:
            yield Reader(bytes_of)
    except (NotALadleFile, Newer, Damaged) as error:
        error.args = (f"'{file}': {error}",)
        raise


def _matching(reader: Reader, model: str | Path, device: str) -> tuple[Codec, tuple[int, ...]]:
    """What decodes a file, when the model is the one that it was compressed with; and the shape of an item."""
    mode = reader.header.get("mode")
    if mode not in MODES:
        raise Damaged(f"the header names a mode that is not known here: {str(mode)[:40]!r}")
    found = load_exact(Path(model), device) if Path(model).is_file() else exact(model, device, make=False)
    if found.probe is None and mode == "bitsback":
        raise WrongModel(
            f"it was compressed with bits back, which needs the whole model, and '{model}' is a decoder alone"
        )
    wanted, have = str(reader.header.get("model"))[:80], fingerprint(found, decoder=mode == "random-access")
    if wanted != have:
        name = str(reader.header.get("name", ""))[:80]
        raise WrongModel(
            f"it was compressed with the model {name!r} ({wanted!r}), and '{model}' is another one ({have})"
        )
    return codec_of(found, mode, reader.header), found.shape


def _held(reader: Reader, shape: tuple[int, ...]) -> tuple[dict[str, Any], int]:
    """What the items are, and how many can be found, from the first on. A file whose end is missing does not say what
    they were: they are an array as the model has it."""
    there = sum(n for _, n in itertools.takewhile(lambda entry: entry[0], reader.index))
    if reader.broken and reader.contents_at is None:
        return {"kind": "array", "dtype": "|u1", "shape": [there, *shape]}, there
    contents = understood(reader.contents())
    if not reader.broken and counted(contents, shape) != there:
        raise Damaged(f"the table of contents speaks of {counted(contents, shape)} items, there are {there}")
    return contents, there


def _blocks(
    reader: Reader, codec: Codec, shape: tuple[int, ...], start: int, stop: int, device: str, progress: Progress | None
) -> Iterator[np.ndarray]:
    """The items of a range, as they were."""

    def read() -> Iterator[tuple[Chunk, slice]]:
        at = 0
        for number, (_, count) in enumerate(reader.index):
            first, at = at, at + count
            if first < stop and at > start:
                yield reader.chunk(number), slice(max(0, start - first), min(stop - first, count))

    done = 0
    for part in side_by_side(lambda piece: _unpacked(codec, piece[0], shape, piece[1]), read(), device):
        yield part
        done += len(part)
        if progress:
            progress(done, stop - start)


def _unpacked(codec: Codec, chunk: Chunk, shape: tuple[int, ...], wanted: slice | None = None) -> np.ndarray:
    """Some items of a chunk. Where all are decoded, which bits back needs anyway, their hash is compared."""
    size = chunk.items * math.prod(shape)
    if not 0 < size <= LARGEST_CHUNK:
        raise Damaged(f"chunk {chunk.number} cannot hold {chunk.items} items", chunk.number)
    wanted = wanted or slice(0, chunk.items)
    alone = isinstance(codec, Direct) and chunk.how == CODED and wanted != slice(0, chunk.items)
    try:
        if alone:
            return codec.decode(chunk.payload, chunk.items, wanted).astype(np.uint8)
        if chunk.how == CODED:
            raw = codec.decode(chunk.payload, chunk.items).astype(np.uint8).tobytes()
        else:
            raw = chunk.payload if chunk.how == STORED else inflated(chunk.payload, size)
        if len(raw) != size:
            raise Damaged(f"it holds {len(raw)} bytes, which must be {size}")
        if digest(raw) != chunk.digest:
            raise Desynchronised("its content is not what was compressed")
    except Desynchronised as error:
        raise NumericsError(
            f"chunk {chunk.number} is whole, but does not decode on this machine: {error}; try --device cpu"
        ) from None
    except Damaged as error:
        raise Damaged(f"chunk {chunk.number}: {error}", chunk.number) from None
    return np.frombuffer(raw, np.uint8).reshape(chunk.items, *shape)[wanted]


def info(file: str | Path) -> dict[str, Any]:
    """What a file says of itself: mode, model, items, sizes.

    Raises:
        NotALadleFile, Newer, Damaged: for a file that cannot be read.
    """
    with opened(file) as reader:
        if reader.broken:
            raise Damaged(reader.broken)
        contents = understood(reader.contents())
        told: Mapping[str, Any] = {k: v for k, v in contents.items() if k != "files"}
        files = {"files": len(contents["files"])} if "files" in contents else {}
        return {
            **reader.header, **told, **files, "items": sum(n for _, n in reader.index), "chunks": len(reader.index),
            "bytes": os.path.getsize(file),
        }  # fmt: skip


def verify(file: str | Path, model: str | Path | None = None, device: str = "cpu",
           progress: Progress | None = None) -> Verified:  # fmt: skip
    """Look at every part of a file: its checksums, and with a model whether it decodes to what was compressed.

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
                understood(reader.contents())
            else:
                _held(reader, shape)
        except (Damaged, DataError) as error:
            damaged.append(str(error))

        def chunks() -> Iterator[Chunk | str]:
            """Every chunk, or what is wrong with its bytes: a file is read in order, by one thread."""
            for number in range(len(reader.index)):
                try:
                    yield reader.chunk(number)
                except Damaged as error:
                    yield str(error)

        def wrong_with(chunk: Chunk | str) -> str:
            if isinstance(chunk, str):
                return chunk
            try:
                if codec is not None:
                    _unpacked(codec, chunk, shape)
            except (Damaged, NumericsError) as error:
                return str(error)
            return ""

        items = 0
        for number, wrong in enumerate(side_by_side(wrong_with, chunks(), device)):
            if wrong:
                damaged.append(wrong)
            else:
                items += reader.index[number][1]
            if progress:
                progress(number + 1, len(reader.index))
    return Verified(items, len(reader.index), tuple(damaged))
