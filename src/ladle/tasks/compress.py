"""Compress data with a model; :mod:`ladle.tasks.decompress` brings it back, on any machine, or says why not."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ladle import __version__
from ladle.coding.codec import BitsBack, Codec
from ladle.coding.container import CODED, STORED, XZ, Writer, digest
from ladle.coding.convert import exact as rewritten
from ladle.coding.direct import COARSER, STEPS, Direct, Settings, chosen
from ladle.coding.errors import Damaged, Desynchronised, NotCodable, NumericsError
from ladle.coding.exact import Exact
from ladle.coding.pieces import ArrayPieces, FolderPieces, Pieces
from ladle.coding.store import LARGEST, fingerprint, load_exact, probe, save_exact
from ladle.data import DataError, Dataset, atomic_file, is_name
from ladle.data.images import Images
from ladle.folder import Model, load
from ladle.hub import EXACT, Repository, is_hub
from ladle.tasks.run import Progress, explained, items, side_by_side
from ladle.tasks.sample import sample

MODES = ("bitsback", "random-access")
PAYLOAD = 1 << 19  # bytes of a chunk, about
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


def exact(model: str | Path, device: str = "cpu") -> Exact:
    """The model of a folder in whole numbers: made the first time, from samples of the model itself, and kept there.

    Args:
        model: the folder; or ``hub:user/name``, where that was pushed.
        device: where to compute.

    Raises:
        ModelError: when the folder cannot be read.
        NotCodable, InexactError: for a part that cannot be coded with; it is named.
        NumericsError: when this machine computes something else than the one that made it.
    """
    if is_hub(model):
        return load_exact(Repository(str(model)).fetch(EXACT, LARGEST), device)
    path = Path(model) / EXACT
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


def export_decoder(model: str | Path, out: str | Path, *, force: bool = False) -> int:
    """Write the half of a model that decodes: all that a partner needs for files of the mode ``random-access``.

    Args:
        model: the model folder.
        out: the file to write, ``.safetensors``.
        force: replace an existing file.

    Returns:
        Its size in bytes.

    Raises:
        NotCodable, InexactError: for a model that cannot be coded with.
    """
    path = Path(out)
    if path.exists() and not force:
        raise DataError(f"'{path}' must not exist yet; --force replaces it")
    save_exact(exact(model), path, decoder=True)
    return path.stat().st_size


# ---------------------------------------------------------------------------------------------- there


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
    """Compress data, by default without loss: bits back with asymmetric numeral systems, in chunks that stand by
    themselves.

    Args:
        model: a model folder. The first time, its nets are rewritten in whole numbers, and kept in it.
        data: a folder of 8-bit images of any size, an array, a file of one, or the name of a data set.
        out: the file to write.
        mode: ``bitsback``, the smallest; or ``random-access``: a few per cent larger, but every item can be read
            alone, by the decoder's half of the model.
        quality: with loss, at this peak signal-to-noise ratio in dB or a little more; each item by itself.
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
    if quality is not None and (top == 1 or not 0 < quality < 100):
        raise DataError(f"a quality must be between 0 and 100 dB, of data of more than two levels, got {quality}")
    if mode not in MODES:
        raise DataError(f"a mode must be {' or '.join(MODES)}, got '{mode}'")
    settings: dict[str, Any] = {}
    if mode == "random-access" or quality is not None:
        mode, some = "random-access", next(given.blocks(LOOK), np.zeros((0, *schema.shape), np.uint8))
        settings = (
            chosen(found, some.astype(np.int64), quality, top)._asdict() if len(some) else {"coarser": 0, "step": 1}
        )
    codec = codec_of(found, mode, settings)
    with atomic_file(out, force=force) as temporary, temporary.open("wb") as file:
        header = {
            "mode": mode, **settings, "shape": list(schema.shape),
            "model": fingerprint(found, decoder=mode == "random-access"),
            "name": Path(model).resolve().name[:200], "writer": f"ladle {__version__}",
        }  # fmt: skip
        writer, fallback = Writer(file, header), 0
        each = max(1, int(min(PAYLOAD * 8 / found.bits_per_item, RAW / math.prod(schema.shape))))

        def coded() -> Iterator[_Packed]:
            done = 0
            for packed in side_by_side(lambda block: _packed(codec, block, verify), given.blocks(each), device):
                done += packed.items
                if progress:
                    progress(done, given.items)
                yield packed

        for packed in _gathered(coded()):
            writer.chunk(*packed)
            fallback += packed.how != CODED
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
        if path.is_dir() or path.suffix.lower() in Images.suffixes:
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


def codec_of(found: Exact, mode: str, settings: Mapping[str, Any]) -> Codec:
    """What codes in a mode."""
    if mode == "bitsback":
        return BitsBack(found)
    coarser, step = settings.get("coarser"), settings.get("step")
    if type(coarser) is not int or type(step) is not int or coarser not in COARSER or step not in STEPS:
        raise Damaged(f"the header names settings that are not known here: {str(settings)[:100]}")
    return Direct(found, Settings(coarser, step))


class _Packed(NamedTuple):
    """What a chunk is made of: see :meth:`Writer.chunk`."""

    items: int
    how: int
    payload: bytes
    digest: bytes


def _packed(codec: Codec, block: np.ndarray, verify: bool) -> _Packed:
    """The shortest form of a block of items, and the digest of what comes back of it."""
    x = block.astype(np.int64)
    payload, kept = codec.encode(x), codec.kept(x)
    raw = kept.astype(np.uint8).tobytes()
    if verify:
        try:
            same = bool((codec.decode(payload, len(x)) == kept).all())
        except Desynchronised:
            same = False
        if not same:
            raise NumericsError("a chunk does not decode to what was encoded on this machine; nothing was written")
    forms = [(CODED, payload)]
    if len(payload) > len(raw) // 2:  # it is slow, and rarely better
        forms += [(XZ, lzma.compress(raw, lzma.FORMAT_XZ, preset=6)), (STORED, raw)]
    return _Packed(len(x), *min(forms, key=lambda form: len(form[1])), digest(raw))


def _gathered(chunks: Iterable[_Packed]) -> Iterator[_Packed]:
    """Chunks, of which neighbours that are stored as they are have become one, so that what cannot be compressed costs
    little more than its own bytes."""
    stored: list[_Packed] = []
    for chunk in chunks:
        if stored and (chunk.how != STORED or sum(len(one.payload) for one in [*stored, chunk]) > RAW):
            yield _joined(stored)
            stored = []
        if chunk.how == STORED:
            stored.append(chunk)
        else:
            yield chunk
    if stored:
        yield _joined(stored)


def _joined(stored: list[_Packed]) -> _Packed:
    raw = b"".join(chunk.payload for chunk in stored)
    return _Packed(sum(chunk.items for chunk in stored), STORED, raw, digest(raw))
