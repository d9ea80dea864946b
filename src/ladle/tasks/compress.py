"""Compress data with a model. :mod:`ladle.tasks.decompress` restores the data on any machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ladle.coding.bits_back import Codec
from ladle.coding.chunks import MODES, PackedChunk, items_per_chunk, make_codec, merge_stored, pack
from ladle.coding.container import CODED, LARGEST_CONTENTS, Reader, Writer
from ladle.coding.convert import convert
from ladle.coding.errors import NotCodable, NumericsError
from ladle.coding.items import ArraySource, ImageSource, ItemSource, count_items, parse_contents
from ladle.coding.model import IntegerModel
from ladle.coding.model_file import LARGEST, fingerprint, load_integer_model, probe_hash, save_integer_model
from ladle.coding.random_access import choose_quantisation
from ladle.data import DataError, Dataset, atomic_file, is_name, read
from ladle.data.images import Images
from ladle.machine import choose
from ladle.store.folder import Model, load
from ladle.store.hub import EXACT, Repository, is_hub
from ladle.tasks.common import Progress, explained, items, side_by_side
from ladle.tasks.sample import sample
from ladle.version import __version__

CALIBRATION = 256  # items by which a model is converted to whole numbers, and a quantisation is chosen


class Compressed(NamedTuple):
    """The size of a compressed file.

    Attributes:
        items: the number of the model's items: images, or tiles of them.
        raw: the bytes of the pixels in the input.
        bytes: the bytes of the file.
        bits_per_dim: the bits of the file for each number in the input.
        chunks: the number of chunks.
        fallback: the number of chunks that xz compressed better than the model, or that are stored uncompressed.
        decibels: the peak signal-to-noise ratio over all items; None without loss.
    """

    items: int
    raw: int
    bytes: int
    bits_per_dim: float
    chunks: int
    fallback: int
    decibels: float | None


def integer_model(model: str | Path, device: str = "cpu", make: bool = True) -> IntegerModel:
    """The whole-number form of a model. It is made once, from samples of the model, and kept in the model's folder.

    Args:
        model: the folder; or ``hub:user/name``, a repository that holds the whole-number form.
        device: the device to compute on.
        make: whether to make the form if the folder has none. Decompression needs the one that compressed the file.

    Raises:
        ModelError: when the folder cannot be read.
        NotCodable, InexactError: for a part that cannot be used for coding; the message names it.
        NumericsError: when this machine computes other numbers than the machine that made the form.
    """
    if is_hub(model):
        return load_integer_model(Repository(str(model)).fetch(EXACT, LARGEST), device)
    path = Path(model) / EXACT
    if make and not path.exists():
        loaded = load(model, "cpu")
        check_codable(loaded)
        x = torch.from_numpy(sample(loaded, CALIBRATION, noise=True))
        converted = convert(loaded.vae, x)
        converted.probe = probe_hash(converted)
        save_integer_model(converted, path)
    return load_integer_model(path, device)


def check_codable(model: Model) -> int:
    """The largest level in the support of the model's likelihood: 1 or 255.

    Raises:
        NotCodable: when the support is not whole numbers, or the model has no prior.
    """
    top = {"binary": 1, "bytes": 255}.get(model.schema.support)
    if top is None or not model.vae.latents.has_prior:
        found = f"the model's data are {model.schema.describe()}" if top is None else "a plain autoencoder has no prior"
        raise NotCodable(f"compression needs whole numbers in 0..255 and a model with a prior; {found}")
    return top


def export_decoder(model: str | Path, out: str | Path, *, force: bool = False) -> int:
    """Write the decoding half of a model, which suffices to decompress files of the mode ``random-access``.

    Args:
        model: the model folder.
        out: the file to write, ``.safetensors``.
        force: replace an existing file.

    Returns:
        The size of the file in bytes.

    Raises:
        NotCodable, InexactError: for a model that cannot be used for coding.
    """
    path = Path(out)
    if path.exists() and not force:
        raise DataError(f"'{path}' must not exist yet; --force replaces it")
    save_integer_model(integer_model(model), path, decoder=True)
    return path.stat().st_size


def compress(
    model: str | Path,
    data: str | Path | np.ndarray | Dataset,
    out: str | Path,
    *,
    mode: str = "bitsback",
    quality: float | None = None,
    split: str | None = None,
    verify: bool = True,
    force: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Compressed:
    """Compress data, by default without loss, with asymmetric numeral systems in independent chunks.

    Args:
        model: a model folder. The first call converts its networks to whole numbers and keeps the result there.
        data: a folder of 8-bit images of any size, an array, a file of one, or the name of a data set.
        out: the file to write.
        mode: ``bitsback`` gives the smallest files; ``random-access`` files are a few per cent larger, but any item can
            be decoded alone, with the decoding half of the model.
        quality: compress with loss, each item independently, to at least this peak signal-to-noise ratio in dB.
        split: the split of a named data set: train, valid, test or all.
        verify: decode every chunk before it is written.
        force: replace an existing file.
        device: the device to run the networks on: ``cpu``, ``cuda`` or ``auto``.
        progress: called with (items done, items in all).

    Raises:
        DataError: for data that do not fit the model.
        MachineError: for a device that is not available.
        NotCodable, InexactError: for a model that cannot be used for coding; the message names the part.
        NumericsError: when a chunk does not decode to the items that were encoded.
    """
    device = choose(device).device
    loaded = load(model, "cpu")
    shape, top = loaded.schema.shape, check_codable(loaded)
    source = _source(loaded, data, split, top)
    contents = _contents(source)
    if quality is not None and (top == 1 or not 0 < quality < 100):
        raise DataError(f"a quality must be in 0..100 dB, for data of more than two levels, got {quality}")
    if quality is not None and source.lossless_only():
        raise DataError(f"data to compress with loss must be grey levels or colours, got {source.lossless_only()}")
    if mode not in MODES:
        raise DataError(f"a mode must be {' or '.join(MODES)}, got '{mode}'")
    coding_model = integer_model(model, device)
    quantisation: dict[str, Any] = {}
    if mode == "random-access" or quality is not None:
        mode, quantisation = "random-access", {"coarser": 0, "step": 1}
        if source.items:
            x = source.sample(CALIBRATION).astype(np.int64)
            quantisation = choose_quantisation(coding_model, x, quality, top)._asdict()
    header = {
        "mode": mode, **quantisation, "shape": list(shape),
        "model": fingerprint(coding_model, decoder=mode == "random-access"),
        "name": Path(model).resolve().name[:200], "writer": f"ladle {__version__}",
    }  # fmt: skip
    codec, size = make_codec(coding_model, mode, quantisation), items_per_chunk(coding_model, mode)
    with atomic_file(out, force=force) as temporary, temporary.open("wb") as file:
        writer, fallback, error = Writer(file, header), 0, 0.0
        for chunk in merge_stored(_encoded(codec, source, size, verify, device, progress)):
            writer.chunk(chunk.items, chunk.method, chunk.payload, chunk.digest)
            fallback += chunk.method != CODED
            error += chunk.error
        writer.finish(contents)
        file.flush()
        _check_readable(temporary, source, shape)
    decibels = 10 * math.log10(top * top * source.items * math.prod(shape) / error) if error else None
    bits_per_dim = 8 * writer.at / max(source.raw, 1)
    return Compressed(source.items, source.raw, writer.at, bits_per_dim, len(writer.index), fallback, decibels)


def _encoded(
    codec: Codec, source: ItemSource, size: int, verify: bool, device: str, progress: Progress | None
) -> Iterator[PackedChunk]:
    """The chunks of a source, in order."""
    done = 0
    for chunk in side_by_side(lambda block: pack(codec, block, verify), source.blocks(size), device):
        done += chunk.items
        if progress:
            progress(done, source.items)
        yield chunk


def _contents(source: ItemSource) -> bytes:
    """The table of contents as JSON, in a form that readers accept.

    Raises:
        DataError: for names that are not valid, or too many.
    """
    text = json.dumps(source.contents(), separators=(",", ":")).encode()
    parse_contents(text)
    if len(text) > LARGEST_CONTENTS:
        raise DataError(
            f"the names (and palettes) must take at most {LARGEST_CONTENTS:,} bytes, got {len(text):,}; "
            "compress the images in several parts"
        )
    return text


def _check_readable(path: Path, source: ItemSource, shape: tuple[int, ...]) -> None:
    """Read the structure of the written file, as a reader will.

    Raises:
        NumericsError: when the file does not hold the items of the source.
    """
    with path.open("rb") as file:
        reader = Reader(file)
        total = count_items(parse_contents(reader.contents()), shape)
        if reader.broken or not total == source.items == sum(n for _, n in reader.index):
            raise NumericsError(
                f"the written file cannot be read on this machine: {reader.broken or 'items are missing'}"
            )


def _source(model: Model, data: str | Path | np.ndarray | Dataset, split: str | None, top: int) -> ItemSource:
    """The data as items of the model."""
    shape = model.schema.shape
    if isinstance(data, np.ndarray):
        return ArraySource(data, shape, top)
    if not isinstance(data, Dataset) and not is_name(data):
        path = Path(data)
        if not path.exists():
            raise DataError(f"data must be a file, a folder or the name of a data set, got '{data}'")
        if split not in (None, "all"):
            raise DataError(f"a split must be of a named data set; '{path}' can only be compressed entirely")
        if path.is_dir() or path.suffix.lower() in Images.suffixes:
            return ImageSource(path, shape, top)
        if path.suffix == ".npy":
            return ArraySource(_npy(path), shape, top)
        x = np.concatenate([x for x, _ in read(data).all.blocks()])
        x = x.astype(np.int64) if x.dtype.kind == "f" and (x == np.round(x)).all() else x  # a table
        return ArraySource(x[:, 0] if x.ndim == 4 and x.shape[1] == 1 else x, shape, top)
    values = explained(model, items(model, data, split))
    return ArraySource(values.astype(np.uint8).reshape(len(values), *shape[shape[0] == 1 :]), shape, top)


def _npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"'{path}' cannot be read as an array: {str(error)[:200]}") from None
