"""The file format: a header, chunks that stand by themselves, an index. It is specified in ``docs/format.md``.

Everything is little-endian. A reader trusts nothing: every length is held against the size of the file and against its
own limits before anything is allocated, every part has a checksum, and every chunk the hash of what it decodes to.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import lzma
import math
import os
import struct
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

from ladle.coding.errors import Damaged, Newer, NotALadleFile

SIGNATURE = b"\x89LADLE\r\n\x1a\n"
MAJOR, MINOR = 1, 0
LARGEST_HEADER = 1 << 20
LARGEST_CONTENTS = 1 << 25  # bytes of the table of contents
LARGEST_CHUNK = 1 << 25  # bytes of pixels of a chunk
SEARCH = 4, 1 << 24  # bytes that are read to find chunks in a damaged file: so many times its own, and as many more
BLOCK = 1 << 14  # bytes that are searched for a mark at a time
STORED, XZ, CODED = 0, 1, 2
DATA, CONTENTS = b"CHNK", b"NAME"
FORMS = {  # how each may be coded, and the bytes of its payload at most: of what it decodes to, as it is never longer
    DATA: ((STORED, XZ, CODED), LARGEST_CHUNK),
    CONTENTS: ((STORED, XZ), LARGEST_CONTENTS),
}

_HEAD = struct.Struct("<HHI")
_CHUNK = struct.Struct("<4sIIBQ16s")  # mark, number, items, how, length of the payload, hash of what it decodes to
_ENTRY = struct.Struct("<QI")  # offset, items
_TAIL = struct.Struct("<QII8s")  # offset of the index, its length, checksum of it and of these, mark
END = b"LADLEEND"


class Chunk(NamedTuple):
    """One chunk: where it lies, how many items it holds, how it is coded."""

    number: int
    offset: int
    items: int
    how: int
    payload: bytes
    digest: bytes


def digest(data: bytes | memoryview) -> bytes:
    """The hash of decoded data, 16 bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def strict(text: bytes | str) -> Any:
    """JSON whose numbers are finite, and whose whole numbers have at most 64 bits.

    Raises:
        ValueError: for any other.
    """

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"numbers must be finite, got {number[:40]}")
        return float(number)

    def whole(number: str) -> int:
        if not -(1 << 63) <= int(number) < 1 << 63:
            raise ValueError(f"whole numbers must have at most 64 bits, got {number[:40]}")
        return int(number)

    return json.loads(text, parse_float=finite, parse_int=whole, parse_constant=finite)


def inflated(data: bytes, most: int) -> bytes:
    """Data that was compressed with xz, at most so many bytes of it.

    Raises:
        Damaged: for more, or for none.
    """
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28)
    try:
        found = decompressor.decompress(data, most + 1)
    except lzma.LZMAError as error:
        raise Damaged(f"what was packed with xz cannot be unpacked: {error}") from None
    if len(found) > most or not decompressor.eof:
        raise Damaged(f"what was packed with xz is longer than {most} bytes, or cut")
    return found


class Writer:
    """Writes a file from front to back, to anything that bytes can be written to.

    Args:
        file: where to.
        header: plain JSON.
    """

    def __init__(self, file: BinaryIO, header: Mapping[str, Any]) -> None:
        self.file, self.at = file, 0
        self.index: list[tuple[int, int]] = []
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        if len(text) > LARGEST_HEADER:
            raise ValueError(f"a header must be at most {LARGEST_HEADER} bytes, this one has {len(text)}")
        self._write(_sealed(SIGNATURE + _HEAD.pack(MAJOR, MINOR, len(text)) + text))

    def chunk(self, items: int, how: int, payload: bytes, content: bytes) -> None:
        """Append a chunk; ``content`` is the hash of what it decodes to."""
        self.index.append((self.at, items))
        self._write(_sealed(_CHUNK.pack(DATA, len(self.index) - 1, items, how, len(payload), content) + payload))

    def finish(self, contents: bytes) -> None:
        """Append what the items are, the index and the end.

        Raises:
            ValueError: for more than a reader would take.
        """
        if len(contents) > LARGEST_CONTENTS:
            raise ValueError(
                f"a table of contents must be at most {LARGEST_CONTENTS} bytes, this one has {len(contents)}; "
                "compress the images in several parts"
            )
        place, packed = self.at, lzma.compress(contents, lzma.FORMAT_XZ, preset=6)
        how, payload = min((STORED, contents), (XZ, packed), key=lambda form: len(form[1]))
        self._write(_sealed(_CHUNK.pack(CONTENTS, 0, 0, how, len(payload), digest(contents)) + payload))
        index = b"".join(_ENTRY.pack(*entry) for entry in [*self.index, (place, 0)])
        tail = struct.pack("<QI", self.at, len(index))
        self._write(index + tail + struct.pack("<I", zlib.crc32(index + tail)) + END)

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.at += len(data)


def _sealed(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


class Reader:
    """Reads a file.

    Args:
        file: one that can be sought in.

    Raises:
        NotALadleFile, Newer, Damaged: as their names say. A file whose end is missing or damaged can be read in order,
            see ``index``.

    Attributes:
        header: plain JSON.
        index: ``(offset, items)`` of every chunk.
        broken: why the index could not be read and was made by looking for chunks; empty for a sound file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size, self._spent = file.seek(0, os.SEEK_END), 0
        file.seek(0)
        self.header, self.start = self._header()
        self.broken = ""
        self.contents_at: int | None
        try:
            self.index, self.contents_at = self._index()
        except Damaged as error:
            self.broken = str(error)
            self.index, self.contents_at = self._found()

    def _header(self) -> tuple[dict[str, Any], int]:
        head = self.file.read(len(SIGNATURE) + _HEAD.size)
        if not head.startswith(SIGNATURE):
            if head[:6] in (SIGNATURE[:6], bytes([SIGNATURE[0] & 127]) + SIGNATURE[1:6]):
                raise Damaged("the signature is damaged, as by a transfer that takes the file for text")
            raise NotALadleFile("it does not begin as a file of Ladle does")
        if len(head) < len(SIGNATURE) + _HEAD.size:
            raise Damaged("the file ends in its header")
        major, minor, length = _HEAD.unpack(head[len(SIGNATURE) :])
        if length > min(LARGEST_HEADER, self.size):
            raise Damaged(f"the header cannot have {length} bytes")
        text = self.file.read(length)
        seal = self.file.read(4)
        if len(text) < length or len(seal) < 4 or zlib.crc32(head + text) != struct.unpack("<I", seal)[0]:
            raise Damaged("the header is damaged: its checksum does not agree")
        if major > MAJOR:
            raise Newer(f"it is of format {major}.{minor}, newer than the {MAJOR}.{MINOR} that is read here")
        try:
            header = strict(text)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"the header is no JSON: {str(error)[:100]}") from None
        if not isinstance(header, dict):
            raise Damaged("the header must be an object")
        return header, len(head) + length + 4

    def _index(self) -> tuple[list[tuple[int, int]], int]:
        if self.size < self.start + _TAIL.size:
            raise Damaged("the file was cut: its end is missing")
        self.file.seek(self.size - _TAIL.size)
        tail = self.file.read(_TAIL.size)
        place, length, seal, mark = _TAIL.unpack(tail)
        if mark != END:
            raise Damaged("the file was cut, or something was appended: its end is missing")
        if place + length + _TAIL.size != self.size or length % _ENTRY.size or not length:
            raise Damaged("the index is damaged: its place does not agree")
        self.file.seek(place)
        index = self.file.read(length)
        if zlib.crc32(index + tail[:12]) != seal:
            raise Damaged("the index is damaged: its checksum does not agree")
        *entries, (contents, _) = _ENTRY.iter_unpack(index)
        limits = [self.start, *(offset for offset, _ in entries), contents, place]
        if any(a > b for a, b in itertools.pairwise(limits)):
            raise Damaged("the index is damaged: its places are out of order")
        return entries, contents

    def _found(self) -> tuple[list[tuple[int, int]], int | None]:
        """Chunks one after the other from the start, and where one is damaged, from the next mark on: as many as are
        found before too much was read, as every false mark costs what it claims to be."""
        entries: dict[int, tuple[int, int]] = {}
        at: int | None = self.start
        contents = None
        times, more = SEARCH
        self._spent = 0
        while at is not None and at + _CHUNK.size + 4 <= self.size and self._spent <= times * self.size + more:
            try:
                mark, chunk = self._read(at)
            except Damaged:
                at = self._next(at + 1)
                continue
            if mark == CONTENTS:
                contents = at
            else:
                entries.setdefault(chunk.number, (at, chunk.items))
            at += _CHUNK.size + len(chunk.payload) + 4
        last = max(entries, default=-1)
        return [entries.get(i, (0, 0)) for i in range(min(last + 1, self.size // _CHUNK.size))], contents

    def _next(self, at: int) -> int | None:
        """Where the next mark is."""
        self.file.seek(at)
        kept = b""
        while block := self.file.read(BLOCK):
            self._spent += len(block)
            places = [p for p in ((kept + block).find(m) for m in (DATA, CONTENTS)) if p >= 0]
            if places:
                return at - len(kept) + min(places)
            at, kept = at + len(block), (kept + block)[-3:]
        return None

    def _read(self, at: int) -> tuple[bytes, Chunk]:
        self.file.seek(at)
        head = self.file.read(_CHUNK.size)
        if len(head) < _CHUNK.size:
            raise Damaged("the file ends in the head of a chunk")
        mark, number, items, how, length, content = _CHUNK.unpack(head)
        known, most = FORMS.get(mark, ((), 0))
        if how not in known or length > min(most, self.size - at - _CHUNK.size - 4):
            raise Damaged("the head of a chunk is damaged")
        self._spent += length
        payload, seal = self.file.read(length), self.file.read(4)
        if zlib.crc32(payload, zlib.crc32(head)) != struct.unpack("<I", seal)[0]:
            raise Damaged("its checksum does not agree")
        return mark, Chunk(number, at, items, how, payload, content)

    def chunk(self, number: int) -> Chunk:
        """One chunk, its checksum compared.

        Raises:
            Damaged: naming it.
        """
        offset, items = self.index[number]
        try:
            if not offset:
                raise Damaged("it was not found")
            mark, chunk = self._read(offset)
            if mark != DATA or chunk.number != number or chunk.items != items:
                raise Damaged("another one lies in its place")
        except Damaged as error:
            raise Damaged(f"chunk {number} at byte {offset} is damaged: {error}", number) from None
        return chunk

    def contents(self) -> bytes:
        """What the items are.

        Raises:
            Damaged: when it is.
        """
        if self.contents_at is None:
            raise Damaged("the table of contents is missing: the file was cut")
        try:
            mark, chunk = self._read(self.contents_at)
            plain = inflated(chunk.payload, LARGEST_CONTENTS) if chunk.how == XZ else chunk.payload
            if mark != CONTENTS or digest(plain) != chunk.digest:
                raise Damaged("another part lies in its place")
        except Damaged as error:
            raise Damaged(f"the table of contents is damaged: {error}") from None
        return plain
