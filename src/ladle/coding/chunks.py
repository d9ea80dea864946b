"""Chunks of a compressed file: encode a block of items, choose its shortest form, decode it again.

The functions work on models in whole numbers and on arrays. Files, folders and progress belong to
:mod:`ladle.tasks.compress` and :mod:`ladle.tasks.decompress`.
"""

from __future__ import annotations

import lzma
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ladle.coding.bits_back import BitsBack, Codec
from ladle.coding.container import CODED, LARGEST_CHUNK, STORED, XZ, Chunk, decompress_xz, digest
from ladle.coding.errors import Damaged, Desynchronised, NumericsError
from ladle.coding.model import IntegerModel
from ladle.coding.random_access import COARSER, SHARPEST, STEPS, Quantisation, RandomAccess

MODES = ("bitsback", "random-access")
PAYLOAD = 1 << 19  # approximate bytes of a chunk's payload
INITIAL = 0.003  # largest share of a chunk's bytes that its initial bits may take; larger chunks keep to it


class PackedChunk(NamedTuple):
    """An encoded chunk.

    Attributes:
        items: the number of items.
        method: how the payload is coded: stored, xz or by the model.
        payload: the encoded bytes.
        digest: the hash of the decoded bytes.
        error: the sum of squared errors of the decoded items; 0 where nothing is lost.
    """

    items: int
    method: int
    payload: bytes
    digest: bytes
    error: float


def make_codec(model: IntegerModel, mode: str, header: Mapping[str, Any]) -> Codec:
    """The codec of a mode.

    Args:
        model: the model in whole numbers.
        mode: one of ``MODES``.
        header: the file's header; in the mode ``random-access`` it holds the quantisation.

    Raises:
        Damaged: for a quantisation that this version does not support.
    """
    if mode == "bitsback":
        return BitsBack(model)
    fields = Quantisation(header.get("coarser"), header.get("step"), header.get("sharpest", 0))  # type: ignore[arg-type]
    supported = (
        all(type(number) is int for number in fields)  # first, as `in range` would try every number for other types
        and fields.coarser in COARSER and fields.step in STEPS and fields.sharpest in range(SHARPEST)
    )  # fmt: skip
    if not supported:
        raise Damaged(f"the header's settings for random access are not supported: {str(header)[:100]}")
    return RandomAccess(model, fields)


def initial_bytes(model: IntegerModel) -> float:
    """The approximate number of initial bytes that the first item of a stack borrows, derived from ``growth``."""
    return 0.8 * 256 * model.bits_per_item / model.growth / 8


def items_per_chunk(model: IntegerModel, mode: str) -> int:
    """The number of items in a chunk."""
    payload = max(PAYLOAD, initial_bytes(model) / INITIAL if mode == "bitsback" else 0)
    return max(1, int(min(payload * 8 / model.bits_per_item, LARGEST_CHUNK / math.prod(model.shape))))


def pack(codec: Codec, block: np.ndarray, verify: bool) -> PackedChunk:
    """Encode a block of items in its shortest form.

    Args:
        codec: the codec.
        block: ``(N, *shape)`` of uint8.
        verify: decode the payload and compare.

    Raises:
        NumericsError: when the payload does not decode to the expected items.
    """
    x = block.astype(np.int64)
    payload, decoded = codec.encode(x), codec.reconstruct(x)
    raw = decoded.astype(np.uint8).tobytes()
    if verify:
        try:
            same = bool((codec.decode(payload, len(x)) == decoded).all())
        except Desynchronised:
            same = False
        if not same:
            raise NumericsError(
                "a chunk does not decode to the items that were encoded on this machine; nothing was written"
            )
    forms = [(CODED, payload)]
    if len(payload) > len(raw) // 2:  # xz is slow and rarely better
        forms += [(XZ, lzma.compress(raw, lzma.FORMAT_XZ, preset=6)), (STORED, raw)]
    method, shortest = min(forms, key=lambda form: len(form[1]))
    return PackedChunk(len(x), method, shortest, digest(raw), float(np.square(x - decoded).sum()))


def merge_stored(chunks: Iterable[PackedChunk]) -> Iterator[PackedChunk]:
    """Merge neighbouring stored chunks, so that incompressible data cost little more than their own bytes."""
    stored: list[PackedChunk] = []
    for chunk in chunks:
        if stored and (chunk.method != STORED or sum(len(c.payload) for c in [*stored, chunk]) > LARGEST_CHUNK):
            yield _merged(stored)
            stored = []
        if chunk.method == STORED:
            stored.append(chunk)
        else:
            yield chunk
    if stored:
        yield _merged(stored)


def _merged(stored: list[PackedChunk]) -> PackedChunk:
    raw = b"".join(chunk.payload for chunk in stored)
    items, error = sum(chunk.items for chunk in stored), sum(chunk.error for chunk in stored)
    return PackedChunk(items, STORED, raw, digest(raw), error)


def unpack(codec: Codec, chunk: Chunk, shape: tuple[int, ...], selection: slice | None = None) -> np.ndarray:
    """Decode items of a chunk. The hash is compared whenever all items are decoded, as bits back always does.

    Args:
        codec: the codec.
        chunk: the chunk.
        shape: the shape of an item.
        selection: the items to return; all by default.

    Returns:
        ``(n, *shape)`` of uint8.

    Raises:
        Damaged: when the chunk is not valid.
        NumericsError: when its bytes are intact but decode to something else on this machine.
    """
    size = chunk.items * math.prod(shape)
    if not 0 < size <= LARGEST_CHUNK:
        raise Damaged(f"chunk {chunk.number} cannot hold {chunk.items} items", chunk.number)
    selection = selection or slice(0, chunk.items)
    partial = isinstance(codec, RandomAccess) and chunk.method == CODED and selection != slice(0, chunk.items)
    try:
        if partial:
            return codec.decode(chunk.payload, chunk.items, selection).astype(np.uint8)
        if chunk.method == CODED:
            raw = codec.decode(chunk.payload, chunk.items).astype(np.uint8).tobytes()
        else:
            raw = chunk.payload if chunk.method == STORED else decompress_xz(chunk.payload, size)
        if len(raw) != size:
            raise Damaged(f"its items must take {size} bytes, got {len(raw)}")
        if digest(raw) != chunk.digest:
            raise Desynchronised("the decoded items do not match their hash")
    except Desynchronised as error:
        raise NumericsError(
            f"chunk {chunk.number} is intact, but does not decode on this machine: {error}; try --device cpu"
        ) from None
    except Damaged as error:
        raise Damaged(f"chunk {chunk.number}: {error}", chunk.number) from None
    return np.frombuffer(raw, np.uint8).reshape(chunk.items, *shape)[selection]
