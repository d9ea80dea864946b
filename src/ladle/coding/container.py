"""The container of compressed files: a header, independent chunks and an index, as specified in ``docs/format.md``.

All numbers are little-endian. The reader trusts nothing: it checks every length against the size of the file and its
own limits before it allocates memory; every part has a checksum, and every chunk a hash of its decoded bytes.
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
LARGEST_CONTENTS = 1 << 25  # bytes of a table of contents
LARGEST_CHUNK = 1 << 25  # bytes of a decoded chunk
SEARCH = 4, 1 << 24  # the most bytes read to find chunks in a damaged file: a multiple of its size, plus a constant
BLOCK = 1 << 14  # bytes read at a time to find a mark
STORED, XZ, CODED = 0, 1, 2
DATA, CONTENTS = b"CHNK", b"NAME"
FORMS = {  # methods, and the most bytes of a payload: those of the decoded content, as a payload is never longer
    DATA: ((STORED, XZ, CODED), LARGEST_CHUNK),
    CONTENTS: ((STORED, XZ), LARGEST_CONTENTS),
}

_HEAD = struct.Struct("<HHI")
_CHUNK = struct.Struct("<4sIIBQ16s")  # mark, number, items, method, length of the payload, hash of the decoded content
_ENTRY = struct.Struct("<QI")  # offset, items
_TAIL = struct.Struct("<QII8s")  # offset of the index, its length, checksum of all three, mark
END = b"LADLEEND"


class Chunk(NamedTuple):
    """One chunk of a file: its position, its number of items, its coding method and its bytes."""

    number: int
    offset: int
    items: int
    method: int
    payload: bytes
    digest: bytes


def digest(data: bytes | memoryview) -> bytes:
    """The hash of decoded content, 16 bytes."""
    return hashlib.blake2b(data, digest_size=16).digest()


def strict_json(text: bytes | str) -> Any:
    """Parse JSON whose numbers are finite, and whose whole numbers have at most 64 bits.

    Raises:
        ValueError: for any other text.
    """

    def finite(number: str) -> float:
        if not math.isfinite(float(number)):
            raise ValueError(f"numbers must be finite, got {number[:40]}")
        return float(number)

    def integer(number: str) -> int:
        if not -(1 << 63) <= int(number) < 1 << 63:
            raise ValueError(f"whole numbers must have at most 64 bits, got {number[:40]}")
        return int(number)

    return json.loads(text, parse_float=finite, parse_int=integer, parse_constant=finite)


def decompress_xz(data: bytes, most: int) -> bytes:
    """Decompress xz data.

    Args:
        data: one ``.xz`` stream.
        most: the most bytes to decompress to.

    Raises:
        Damaged: for data that are longer or not valid.
    """
    decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=1 << 28)
    try:
        found = decompressor.decompress(data, most + 1)
    except lzma.LZMAError as error:
        raise Damaged(f"the xz data cannot be decompressed: {error}") from None
    if len(found) > most or not decompressor.eof:
        raise Damaged(f"the xz data are longer than {most} bytes, or truncated")
    return found


class Writer:
    """Writes a file from front to back.

    Args:
        file: a binary stream, which need not be seekable.
        header: the header, plain JSON.
    """

    def __init__(self, file: BinaryIO, header: Mapping[str, Any]) -> None:
        self.file, self.at = file, 0
        self.index: list[tuple[int, int]] = []
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
        if len(text) > LARGEST_HEADER:
            raise ValueError(f"a header must have at most {LARGEST_HEADER} bytes, got {len(text)}")
        self._write(_with_checksum(SIGNATURE + _HEAD.pack(MAJOR, MINOR, len(text)) + text))

    def chunk(self, items: int, method: int, payload: bytes, content: bytes) -> None:
        """Append a chunk; ``content`` is the hash of the decoded content."""
        self.index.append((self.at, items))
        head = _CHUNK.pack(DATA, len(self.index) - 1, items, method, len(payload), content)
        self._write(_with_checksum(head + payload))

    def finish(self, contents: bytes) -> None:
        """Append the table of contents, the index and the end.

        Raises:
            ValueError: for a table of contents that is too large for readers.
        """
        if len(contents) > LARGEST_CONTENTS:
            raise ValueError(
                f"a table of contents must have at most {LARGEST_CONTENTS} bytes, got {len(contents)}; "
                "compress the images in several parts"
            )
        place, packed = self.at, lzma.compress(contents, lzma.FORMAT_XZ, preset=6)
        method, payload = min((STORED, contents), (XZ, packed), key=lambda form: len(form[1]))
        self._write(_with_checksum(_CHUNK.pack(CONTENTS, 0, 0, method, len(payload), digest(contents)) + payload))
        index = b"".join(_ENTRY.pack(*entry) for entry in [*self.index, (place, 0)])
        tail = struct.pack("<QI", self.at, len(index))
        self._write(index + tail + struct.pack("<I", zlib.crc32(index + tail)) + END)

    def _write(self, data: bytes) -> None:
        self.file.write(data)
        self.at += len(data)


def _with_checksum(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


class Reader:
    """Reads a file.

    Args:
        file: a seekable binary stream.

    Raises:
        NotALadleFile, Newer: for a file of another kind, or of a later format version.
        Damaged: when the header cannot be read. A damaged index is rebuilt by a search for chunks, see ``broken``.

    Attributes:
        header: the header, plain JSON.
        index: ``(offset, items)`` of every chunk; zeros for a chunk that was not found.
        contents_at: the offset of the table of contents, or None if it was not found.
        broken: the reason for which the index was rebuilt; empty if it could be read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.size, self._spent = file.seek(0, os.SEEK_END), 0
        file.seek(0)
        self.header, self.start = self._read_header()
        self.broken = ""
        self.contents_at: int | None
        try:
            self.index, self.contents_at = self._read_index()
        except Damaged as error:
            self.broken = str(error)
            self.index, self.contents_at = self._search()

    def _read_header(self) -> tuple[dict[str, Any], int]:
        head = self.file.read(len(SIGNATURE) + _HEAD.size)
        if not head.startswith(SIGNATURE):
            if head[:6] in (SIGNATURE[:6], bytes([SIGNATURE[0] & 127]) + SIGNATURE[1:6]):
                raise Damaged("the signature is damaged, as by a transfer in text mode")
            raise NotALadleFile("not a Ladle file")
        if len(head) < len(SIGNATURE) + _HEAD.size:
            raise Damaged("the file ends within its header")
        major, minor, length = _HEAD.unpack(head[len(SIGNATURE) :])
        if length > min(LARGEST_HEADER, self.size):
            raise Damaged(f"the header must fit in the file and in {LARGEST_HEADER} bytes, got {length}")
        text = self.file.read(length)
        seal = self.file.read(4)
        if len(text) < length or len(seal) < 4 or zlib.crc32(head + text) != struct.unpack("<I", seal)[0]:
            raise Damaged("the header is damaged: its checksum does not match")
        if major > MAJOR:
            raise Newer(f"the file has format {major}.{minor}, this version reads up to {MAJOR}.{MINOR}")
        try:
            header = strict_json(text)
        except (ValueError, RecursionError) as error:
            raise Damaged(f"the header is not valid JSON: {str(error)[:100]}") from None
        if not isinstance(header, dict):
            raise Damaged("the header must be a JSON object")
        return header, len(head) + length + 4

    def _read_index(self) -> tuple[list[tuple[int, int]], int]:
        if self.size < self.start + _TAIL.size:
            raise Damaged("the file was truncated: its end is missing")
        self.file.seek(self.size - _TAIL.size)
        tail = self.file.read(_TAIL.size)
        place, length, seal, mark = _TAIL.unpack(tail)
        if mark != END:
            raise Damaged("the file was truncated or extended: its end is missing")
        if place + length + _TAIL.size != self.size or length % _ENTRY.size or not length:
            raise Damaged("the index is damaged: its offset does not match")
        self.file.seek(place)
        index = self.file.read(length)
        if zlib.crc32(index + tail[:12]) != seal:
            raise Damaged("the index is damaged: its checksum does not match")
        *entries, (contents, _) = _ENTRY.iter_unpack(index)
        limits = [self.start, *(offset for offset, _ in entries), contents, place]
        if any(a > b for a, b in itertools.pairwise(limits)):
            raise Damaged("the index is damaged: its offsets are out of order")
        return entries, contents

    def _search(self) -> tuple[list[tuple[int, int]], int | None]:
        """Search for chunks and the table of contents from the start; after damage, from the next mark on.

        A false mark costs as many bytes as it claims to hold, so the search ends when it has read too much.
        """
        entries: dict[int, tuple[int, int]] = {}
        at: int | None = self.start
        contents = None
        times, more = SEARCH
        self._spent = 0
        while at is not None and at + _CHUNK.size + 4 <= self.size and self._spent <= times * self.size + more:
            try:
                mark, chunk = self._read_chunk(at)
            except Damaged:
                at = self._next_mark(at + 1)
                continue
            if mark == CONTENTS:
                contents = at
            else:
                entries.setdefault(chunk.number, (at, chunk.items))
            at += _CHUNK.size + len(chunk.payload) + 4
        last = max(entries, default=-1)
        return [entries.get(i, (0, 0)) for i in range(min(last + 1, self.size // _CHUNK.size))], contents

    def _next_mark(self, at: int) -> int | None:
        """The offset of the next mark."""
        self.file.seek(at)
        kept = b""
        while block := self.file.read(BLOCK):
            self._spent += len(block)
            places = [p for p in ((kept + block).find(m) for m in (DATA, CONTENTS)) if p >= 0]
            if places:
                return at - len(kept) + min(places)
            at, kept = at + len(block), (kept + block)[-3:]
        return None

    def _read_chunk(self, at: int) -> tuple[bytes, Chunk]:
        self.file.seek(at)
        head = self.file.read(_CHUNK.size)
        if len(head) < _CHUNK.size:
            raise Damaged("the file ends within the header of a chunk")
        mark, number, items, method, length, content = _CHUNK.unpack(head)
        methods, most = FORMS.get(mark, ((), 0))
        if method not in methods or length > min(most, self.size - at - _CHUNK.size - 4):
            raise Damaged("the header of a chunk is damaged")
        self._spent += length
        payload, seal = self.file.read(length), self.file.read(4)
        if zlib.crc32(payload, zlib.crc32(head)) != struct.unpack("<I", seal)[0]:
            raise Damaged("its checksum does not match")
        return mark, Chunk(number, at, items, method, payload, content)

    def chunk(self, number: int) -> Chunk:
        """Read one chunk and compare its checksum.

        Raises:
            Damaged: when the chunk is damaged; the message gives its number.
        """
        offset, items = self.index[number]
        try:
            if not offset:
                raise Damaged("it was not found")
            mark, chunk = self._read_chunk(offset)
            if mark != DATA or chunk.number != number or chunk.items != items:
                raise Damaged("another chunk is in its place")
        except Damaged as error:
            raise Damaged(f"chunk {number} at byte {offset} is damaged: {error}", number) from None
        return chunk

    def contents(self) -> bytes:
        """Read the table of contents.

        Raises:
            Damaged: when it is damaged.
        """
        if self.contents_at is None:
            raise Damaged("the table of contents is missing: the file was truncated")
        try:
            mark, chunk = self._read_chunk(self.contents_at)
            plain = decompress_xz(chunk.payload, LARGEST_CONTENTS) if chunk.method == XZ else chunk.payload
            if mark != CONTENTS or digest(plain) != chunk.digest:
                raise Damaged("another part is in its place")
        except Damaged as error:
            raise Damaged(f"the table of contents is damaged: {error}") from None
        return plain
