"""Compress data with a model, and decompress it elsewhere: the same on every machine, or an error that says why."""

from __future__ import annotations

import json
import lzma
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ladle import __version__
from ladle.coding.codec import BitsBack
from ladle.coding.container import CODED, LARGEST_CHUNK, STORED, XZ, Chunk, Reader, Writer, digest, inflated
from ladle.coding.convert import exact as rewritten
from ladle.coding.errors import Damaged, Desynchronised, NotCodable, NumericsError, WrongModel
from ladle.coding.exact import Exact
from ladle.coding.pieces import ArrayPieces, FolderPieces, Pieces, counted, restored, understood
from ladle.coding.store import NAME, fingerprint, load_exact, probe, save_exact
from ladle.data import DataError, Dataset, atomic_file, is_name
from ladle.folder import Model, load
from ladle.tasks.run import Progress, explained, items
from ladle.tasks.sample import sample

PAYLOAD = 1 << 17  # bytes of a chunk, about
RAW = 1 << 25  # bytes of pixels of a chunk, at most
LOOK = 256  # items that a model is rewritten by


class Compressed(NamedTuple):
    """What was written.

    Attributes:
        items: of the model: images, or tiles of them.
        raw: bytes of the user's pixels.
        bytes: of the file.
        bits_per_dim: of the file, for each of the user's numbers.
        chunks: how many.
        fallback: how many of them xz made smaller than the model, or nothing did.
    """

    items: int
    raw: int
    bytes: int
    bits_per_dim: float
    chunks: int
    fallback: int


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


def exact(model: str | Path, device: str = "cpu") -> Exact:
    """The model of a folder in whole numbers: made the first time, from samples of the model itself, and kept there.

    Args:
        model: the folder.
        device: where to compute.

    Raises:
        ModelError: when the folder cannot be read.
        NotCodable, InexactError: for a part that cannot be coded with; it is named.
        NumericsError: when this machine computes something else than the one that made it.
    """
    path = Path(model) / NAME
    if not path.exists():
        opened = load(model, "cpu")
        check_codable(opened)
        x = torch.from_numpy(sample(opened, LOOK, noise=True))
        made = rewritten(opened.vae, x)
        made.probe = probe(made)
        save_exact(made, path)
    return load_exact(path, device)


def check_codable(model: Model) -> int:
    """The largest level that a model explains: 1 or 255.

    Raises:
        NotCodable: where there are no levels, or no prior.
    """
    top = {"binary": 1, "bytes": 255}.get(model.schema.support)
    if top is None or not model.vae.latents.has_prior:
        what = f"the model explains {model.schema.describe()}" if top is None else "a plain autoencoder has no prior"
        raise NotCodable(f"what can be compressed are whole numbers 0..255, by a model with a prior; {what}")
    return top


# ---------------------------------------------------------------------------------------------- there


def compress(
    model: str | Path,
    data: str | Path | np.ndarray | Dataset,
    out: str | Path,
    *,
    split: str | None = None,
    verify: bool = True,
    force: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Compressed:
    """Compress data without loss: bits back with asymmetric numeral systems, in chunks that stand by themselves.

    Args:
        model: a model folder. The first time, its nets are rewritten in whole numbers, and kept in it.
        data: a folder of 8-bit images of any size, an array, a file of one, or the name of a data set.
        out: the file to write.
        split: of a name: train, valid, test or all.
        verify: decode every chunk again before it is written.
        force: replace an existing file.
        device: where the nets are computed.
        progress: told of items done, of all.

    Raises:
        DataError: for data that is not as the model's.
        NotCodable, InexactError: for a model that cannot be coded with; the part is named.
        NumericsError: when a chunk does not decode to what was encoded.
    """
    opened = load(model, "cpu")
    schema, top = opened.schema, check_codable(opened)
    given = _pieces(opened, data, split, top)
    found = exact(model, device)
    codec = BitsBack(found)
    with atomic_file(out, force=force) as temporary, temporary.open("wb") as file:
        header = {
            "mode": "bitsback", "shape": list(schema.shape), "top": top, "model": fingerprint(found),
            "name": Path(model).resolve().name[:200], "writer": f"ladle {__version__}",
        }  # fmt: skip
        writer, fallback, done = Writer(file, header), 0, 0
        each = max(1, int(min(PAYLOAD * 8 / found.bits_per_item, RAW / math.prod(schema.shape))))
        for block in given.blocks(each):
            how, payload = _packed(codec, block, verify)
            writer.chunk(len(block), how, payload, digest(block.tobytes()))
            fallback += how != CODED
            done += len(block)
            if progress:
                progress(done, given.items)
        writer.finish(json.dumps(given.contents(), separators=(",", ":")).encode())
        size = writer.at
    return Compressed(given.items, given.raw, size, 8 * size / max(given.raw, 1), len(writer.index), fallback)


def _pieces(model: Model, data: str | Path | np.ndarray | Dataset, split: str | None, top: int) -> Pieces:
    """What is to be compressed, as items of the model."""
    shape = model.schema.shape
    if isinstance(data, np.ndarray):
        return ArrayPieces(data, shape, top)
    if not isinstance(data, Dataset):
        path = Path(data)
        if path.is_dir() or path.suffix.lower() in (".png", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"):
            return FolderPieces(path, shape, top)
        if path.suffix == ".npy" and path.is_file():
            return ArrayPieces(_npy(path), shape, top)
        if not path.exists() and not is_name(str(data)):
            raise DataError(f"no such file or folder, and no data set of that name: '{data}'")
    values = explained(model, items(model, data, split))
    return ArrayPieces(values.astype(np.uint8).reshape(len(values), *shape[shape[0] == 1 :]), shape, top)


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"'{path}' cannot be read as an array: {str(error)[:200]}") from None


def _packed(codec: BitsBack, block: np.ndarray, verify: bool) -> tuple[int, bytes]:
    """The shortest form of a block of items."""
    raw, x = block.tobytes(), block.astype(np.int64)
    payload = codec.encode(x)
    if verify:
        try:
            same = bool((codec.decode(payload, len(x)) == x).all())
        except Desynchronised:
            same = False
        if not same:
            raise NumericsError("a chunk does not decode to what was encoded on this machine; nothing was written")
    forms = [(CODED, payload)]
    if len(payload) > len(raw) // 2:  # it is slow, and rarely better
        forms += [(XZ, lzma.compress(raw, lzma.FORMAT_XZ, preset=6)), (STORED, raw)]
    return min(forms, key=lambda form: len(form[1]))


# -------------------------------------------------------------------------------------------- and back


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
        items: only these, from the first to before the second.
        force: replace an existing output.
        device: where the nets are computed.
        progress: told of items done, of all.

    Returns:
        ``(N, *shape)`` of uint8, when there is no ``out``.

    Raises:
        NotALadleFile, Newer, Damaged: for a file that cannot be read; a chunk is named by its number.
        WrongModel: for another model.
        NumericsError: when this machine computes something else than the model's file says.
    """
    with Path(file).open("rb") as opened:
        reader = Reader(opened)
        if reader.broken:
            raise Damaged(reader.broken)
        found = _matching(reader, model, device)
        shape = found.shape
        total = sum(n for _, n in reader.index)
        start, stop = (0, total) if items is None else items
        if not 0 <= start < max(stop, 1) <= max(total, 1):
            raise DataError(f"items must be a range within 0..{total}, got {start}..{stop}")
        blocks = _blocks(reader, found, start, stop, progress)
        if out is None:
            return np.concatenate([np.zeros((0, *shape), np.uint8), *blocks])
        contents = understood(reader.contents())
        if counted(contents, shape) != total:
            raise Damaged(f"the table of contents speaks of {counted(contents, shape)} items, there are {total}")
        if items is not None:
            contents = {"kind": "array", "dtype": "|u1", "shape": [stop - start, *shape[shape[0] == 1 :]]}
        with restored(contents, shape, Path(out), force) as sink:
            for block in blocks:
                sink.put(block)
    return None


def _matching(reader: Reader, model: str | Path, device: str) -> Exact:
    """The model, when it is the one that the file was compressed with."""
    found = exact(model, device)
    wanted, mode = str(reader.header.get("model")), reader.header.get("mode")
    if mode != "bitsback":
        raise Damaged(f"the header names a mode that is not known here: '{str(mode)[:40]}'")
    have = fingerprint(found)
    if wanted != have:
        name = str(reader.header.get("name", ""))[:80]
        raise WrongModel(f"it was compressed with the model '{name}' ({wanted}), and '{model}' is another one ({have})")
    return found


def _blocks(reader: Reader, found: Exact, start: int, stop: int, progress: Progress | None) -> Iterator[np.ndarray]:
    """The items of a range, as they were."""
    codec, at, done = BitsBack(found), 0, 0
    for number, (_, count) in enumerate(reader.index):
        first, at = at, at + count
        if first >= stop or at <= start:
            continue
        block = _unpacked(codec, reader.chunk(number), found.shape)
        part = block[max(0, start - first) : stop - first]
        yield part
        done += len(part)
        if progress:
            progress(done, stop - start)


def _unpacked(codec: BitsBack, chunk: Chunk, shape: tuple[int, ...]) -> np.ndarray:
    """The items of a chunk, their hash compared."""
    size = chunk.items * math.prod(shape)
    if not 0 < size <= LARGEST_CHUNK:
        raise Damaged(f"chunk {chunk.number} cannot hold {chunk.items} items", chunk.number)
    try:
        if chunk.how == CODED:
            raw = codec.decode(chunk.payload, chunk.items).astype(np.uint8).tobytes()
        else:
            raw = chunk.payload if chunk.how == STORED else inflated(chunk.payload, size)
        if len(raw) != size:
            raise Damaged(f"chunk {chunk.number} holds {len(raw)} bytes, which must be {size}", chunk.number)
        if digest(raw) != chunk.digest:
            raise Desynchronised("its content is not what was compressed")
    except Desynchronised as error:
        raise NumericsError(
            f"chunk {chunk.number} is whole, but does not decode on this machine: {error}; try --device cpu"
        ) from None
    except ValueError as error:
        raise Damaged(f"chunk {chunk.number}: {error}", chunk.number) from None
    return np.frombuffer(raw, np.uint8).reshape(chunk.items, *shape)


def info(file: str | Path) -> dict[str, Any]:
    """What a file says of itself: mode, model, items, sizes.

    Raises:
        NotALadleFile, Newer, Damaged: for a file that cannot be read.
    """
    with Path(file).open("rb") as opened:
        reader = Reader(opened)
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
    with Path(file).open("rb") as opened:
        reader = Reader(opened)
        damaged = [reader.broken] if reader.broken else []
        try:
            understood(reader.contents())
        except (Damaged, DataError) as error:
            damaged.append(str(error))
        codec = None if model is None else BitsBack(_matching(reader, model, device))
        items = 0
        for number, (_, count) in enumerate(reader.index):
            try:
                chunk = reader.chunk(number)
                if codec is not None:
                    _unpacked(codec, chunk, codec.exact.shape)
                items += count
            except (Damaged, NumericsError) as error:
                damaged.append(str(error))
            if progress:
                progress(number + 1, len(reader.index))
    return Verified(items, len(reader.index), tuple(damaged))
