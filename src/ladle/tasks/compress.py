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

from ladle.coding.bits_back import BitsBack, Codec
from ladle.coding.container import CODED, LARGEST_CHUNK, LARGEST_CONTENTS, STORED, XZ, Reader, Writer, digest
from ladle.coding.convert import exact as rewritten
from ladle.coding.errors import Damaged, Desynchronised, NotCodable, NumericsError
from ladle.coding.items import ArrayPieces, FolderPieces, Pieces, counted, understood
from ladle.coding.model import Exact
from ladle.coding.model_file import LARGEST, fingerprint, load_exact, probe, save_exact
from ladle.coding.random_access import COARSER, SHARPEST, STEPS, Direct, Settings, chosen
from ladle.data import DataError, Dataset, atomic_file, is_name, read
from ladle.data.images import Images
from ladle.machine import choose
from ladle.store.folder import Model, load
from ladle.store.hub import EXACT, Repository, is_hub
from ladle.tasks.common import Progress, explained, items, side_by_side
from ladle.tasks.sample import sample
from ladle.version import __version__

MODES = ("bitsback", "random-access")
PAYLOAD = 1 << 19  # bytes of a chunk, about
INITIAL = 0.003  # of a chunk's bytes may be what its first item borrows; a chunk is made larger where it is more
LOOK = 256  # items that a model is rewritten by, and that settings are chosen by


class Compressed(NamedTuple):
    """What was written.

    Attributes:
        items: of the model: images, or tiles of them.
        raw: bytes of the user's pixels.
        bytes: of the file.
        bits_per_dim: of the file, for each of the user's numbers.
        chunks: how many.
        fallback: how many of them xz made smaller than the model, or nothing did.
        decibels: the peak signal-to-noise ratio of all that comes back; None where nothing is lost.
    """

    items: int
    raw: int
    bytes: int
    bits_per_dim: float
    chunks: int
    fallback: int
    decibels: float | None


def exact(model: str | Path, device: str = "cpu", make: bool = True) -> Exact:
    """The model of a folder in whole numbers: made the first time, from samples of the model itself, and kept there.

    Args:
        model: the folder; or ``hub:user/name``, where that was pushed.
        device: where to compute.
        make: whether it may be made. Whoever decompresses must have the one that was compressed with.

    Raises:
        ModelError: when the folder cannot be read.
        NotCodable, InexactError: for a part that cannot be coded with; it is named.
        NumericsError: when this machine computes something else than the one that made it.
    """
    if is_hub(model):
        return load_exact(Repository(str(model)).fetch(EXACT, LARGEST), device)
    path = Path(model) / EXACT
    if make and not path.exists():
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
        device: where the nets are computed: ``cpu``, ``cuda`` or ``auto``.
        progress: told of items done, of all.

    Raises:
        DataError: for data that is not as the model's.
        MachineError: for a device that is not there.
        NotCodable, InexactError: for a model that cannot be coded with; the part is named.
        NumericsError: when a chunk does not decode to what was encoded.
    """
    device = choose(device).device
    opened = load(model, "cpu")
    schema, top = opened.schema, check_codable(opened)
    given = _pieces(opened, data, split, top)
    contents = _told(given)
    if quality is not None and (top == 1 or not 0 < quality < 100):
        raise DataError(f"a quality must be between 0 and 100 dB, of data of more than two levels, got {quality}")
    if quality is not None and given.exact_alone():
        raise DataError(f"what is compressed with loss must be grey levels or colours, got {given.exact_alone()}")
    if mode not in MODES:
        raise DataError(f"a mode must be {' or '.join(MODES)}, got '{mode}'")
    found = exact(model, device)
    settings: dict[str, Any] = {}
    if mode == "random-access" or quality is not None:
        mode, settings = "random-access", {"coarser": 0, "step": 1}
        if given.items:
            settings = chosen(found, given.some(LOOK).astype(np.int64), quality, top)._asdict()
    codec = codec_of(found, mode, settings)
    with atomic_file(out, force=force) as temporary, temporary.open("wb") as file:
        header = {
            "mode": mode, **settings, "shape": list(schema.shape),
            "model": fingerprint(found, decoder=mode == "random-access"),
            "name": Path(model).resolve().name[:200], "writer": f"ladle {__version__}",
        }  # fmt: skip
        writer, fallback, error = Writer(file, header), 0, 0.0
        payload = max(PAYLOAD, borrowed(found) / INITIAL if mode == "bitsback" else 0)
        each = max(1, int(min(payload * 8 / found.bits_per_item, LARGEST_CHUNK / math.prod(schema.shape))))

        def coded() -> Iterator[_Packed]:
            done = 0
            for packed in side_by_side(lambda block: _packed(codec, block, verify), given.blocks(each), device):
                done += packed.items
                if progress:
                    progress(done, given.items)
                yield packed

        for packed in _gathered(coded()):
            writer.chunk(packed.items, packed.how, packed.payload, packed.digest)
            fallback += packed.how != CODED
            error += packed.error
        writer.finish(contents)
        size = writer.at
        file.flush()
        _check(temporary, given, schema.shape)
    decibels = 10 * math.log10(top * top * given.items * math.prod(schema.shape) / error) if error else None
    bits = 8 * size / max(given.raw, 1)
    return Compressed(given.items, given.raw, size, bits, len(writer.index), fallback, decibels)


def borrowed(found: Exact) -> float:
    """About how many bytes the first item of a stack borrows: ``growth`` was made of what an item takes and leaves."""
    return 0.8 * 256 * found.bits_per_item / found.growth / 8


def _told(given: Pieces) -> bytes:
    """The table of contents, which whoever reads the file will understand.

    Raises:
        DataError: for names that cannot be, or too many.
    """
    text = json.dumps(given.contents(), separators=(",", ":")).encode()
    understood(text)
    if len(text) > LARGEST_CONTENTS:
        raise DataError(
            f"the names (and palettes) must take at most {LARGEST_CONTENTS:,} bytes, these take {len(text):,}; "
            "compress them in several parts"
        )
    return text


def _check(path: Path, given: Pieces, shape: tuple[int, ...]) -> None:
    """Read what was written as its receiver will.

    Raises:
        NumericsError: where that finds something else.
    """
    with path.open("rb") as file:
        reader = Reader(file)
        total = counted(understood(reader.contents()), shape)
        if reader.broken or not total == given.items == sum(n for _, n in reader.index):
            raise NumericsError(
                f"the file cannot be read again on this machine: {reader.broken or 'items are missing'}"
            )


def _pieces(model: Model, data: str | Path | np.ndarray | Dataset, split: str | None, top: int) -> Pieces:
    """What is to be compressed, as items of the model."""
    shape = model.schema.shape
    if isinstance(data, np.ndarray):
        return ArrayPieces(data, shape, top)
    if not isinstance(data, Dataset) and not is_name(data):
        path = Path(data)
        if not path.exists():
            raise DataError(f"no such file or folder, and no data set of that name: '{data}'")
        if split not in (None, "all"):
            raise DataError(f"a split must be of a named data set; '{path}' is compressed as a whole")
        if path.is_dir() or path.suffix.lower() in Images.suffixes:
            return FolderPieces(path, shape, top)
        if path.suffix == ".npy":
            return ArrayPieces(_npy(path), shape, top)
        x = np.concatenate([x for x, _ in read(data).all.blocks()])
        x = x.astype(np.int64) if x.dtype.kind == "f" and (x == np.round(x)).all() else x  # of a table
        return ArrayPieces(x[:, 0] if x.ndim == 4 and x.shape[1] == 1 else x, shape, top)
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
    told = Settings(settings.get("coarser"), settings.get("step"), settings.get("sharpest", 0))  # type: ignore[arg-type]
    known = told.coarser in COARSER and told.step in STEPS and told.sharpest in range(SHARPEST)
    if not known or any(type(number) is not int for number in told):
        raise Damaged(f"the header names settings that are not known here: {str(settings)[:100]}")
    return Direct(found, told)


class _Packed(NamedTuple):
    """What a chunk is made of: see :meth:`Writer.chunk`; and the sum of the squared errors of what comes back."""

    items: int
    how: int
    payload: bytes
    digest: bytes
    error: float


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
    return _Packed(len(x), *min(forms, key=lambda form: len(form[1])), digest(raw), float(np.square(x - kept).sum()))


def _gathered(chunks: Iterable[_Packed]) -> Iterator[_Packed]:
    """Chunks, of which neighbours that are stored as they are have become one, so that what cannot be compressed costs
    little more than its own bytes."""
    stored: list[_Packed] = []
    for chunk in chunks:
        if stored and (chunk.how != STORED or sum(len(one.payload) for one in [*stored, chunk]) > LARGEST_CHUNK):
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
    items, error = sum(chunk.items for chunk in stored), sum(chunk.error for chunk in stored)
    return _Packed(items, STORED, raw, digest(raw), error)
