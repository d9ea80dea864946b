"""Files: every kind of damage is detected and named, and undamaged parts can still be read."""

from __future__ import annotations

import io
import json
import lzma
import struct
import zlib

import numpy as np
import pytest

import ladle
from coding_plans import things
from ladle.coding.container import END, SIGNATURE, Reader, Writer, decompress_xz, digest
from ladle.coding.errors import CodingError, Damaged, Newer, NotALadleFile, NumericsError, WrongModel
from ladle.coding.items import parse_contents
from ladle.tasks.compress import integer_model


@pytest.fixture(scope="module")
def packed(coding_runs, tmp_path_factory):  # type: ignore[no-untyped-def]
    """A model, items, and the bytes of a file with several chunks."""
    folder, data = coding_runs("grey")
    file = tmp_path_factory.mktemp("packed") / "x.ladle"
    monkey = pytest.MonkeyPatch()
    monkey.setattr("ladle.coding.chunks.PAYLOAD", 1 << 11)
    made = ladle.compress(folder, data[:400], file)
    monkey.undo()
    assert made.chunks >= 4
    return folder, data[:400], file.read_bytes()


def read(folder, file, data: bytes, tmp_path) -> np.ndarray | None:  # type: ignore[no-untyped-def]
    path = tmp_path / "y.ladle"
    path.write_bytes(data)
    return ladle.decompress(path, model=folder)


def test_every_flipped_bit_is_found(packed, tmp_path):
    """A thousand flipped bits, each of which raises a ``CodingError`` or is reported."""
    _, _, data = packed
    path = tmp_path / "y.ladle"
    rng = np.random.default_rng(0)
    for bit in [*range(8 * 64), *rng.integers(0, 8 * len(data), 500).tolist()]:
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        path.write_bytes(broken)
        try:
            found = ladle.verify(path).damaged
        except CodingError as error:
            found = (str(error),)
        assert any(found), f"bit {bit}"


def test_damage_is_named_and_the_rest_is_read(packed, tmp_path):
    folder, x, data = packed
    path = tmp_path / "y.ladle"
    reader = Reader(io.BytesIO(data))
    offset, items = reader.index[2]
    broken = bytearray(data)
    broken[offset + 60] ^= 4
    path.write_bytes(broken)
    found = ladle.verify(path, folder)
    assert len(found.damaged) == 1
    assert f"chunk 2 at byte {offset}" in found.damaged[0]
    assert found.items == len(x) - items
    with pytest.raises(Damaged, match="chunk 2") as error:
        ladle.decompress(path, model=folder)
    assert error.value.chunk == 2
    first = reader.index[0][1]
    assert (ladle.decompress(path, model=folder, items=(3, first + 5))[:, 0] == x[3 : first + 5, 0]).all()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_was_cut_is_named_and_what_is_left_is_found(packed, tmp_path, share):
    folder, x, data = packed
    path = tmp_path / "y.ladle"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises((Damaged, NotALadleFile)):
        ladle.decompress(path, model=folder)
    if share > 0.2:
        found = ladle.verify(path, folder)
        assert "truncated" in found.damaged[0]
        assert (share - 0.3) * len(x) < found.items < len(x) + 1


def test_exchanged_chunks_are_found(packed, tmp_path):
    folder, _, data = packed
    reader = Reader(io.BytesIO(data))
    (a, _), (b, _), (c, _) = reader.index[:3]
    path = tmp_path / "y.ladle"
    path.write_bytes(data[:a] + data[b:c] + data[a:b] + data[c:])
    found = ladle.verify(path, folder)
    assert len([line for line in found.damaged if "chunk 0" in line or "chunk 1" in line]) >= 1
    with pytest.raises(Damaged):
        ladle.decompress(path, model=folder)


def test_files_of_other_kinds(packed, coding_runs, tmp_path):
    folder, _, data = packed
    for other in (b"", b"\x89PNG\r\n\x1a\n" + data, b"PK\x03\x04", b"hello"):
        with pytest.raises(NotALadleFile):
            read(folder, None, other, tmp_path)
    text = data.replace(b"\r\n", b"\n", 1)
    with pytest.raises(Damaged, match="in text mode"):
        read(folder, None, text, tmp_path)
    head = len(SIGNATURE)
    (length,) = struct.unpack_from("<I", data, head + 4)
    newer = data[:head] + struct.pack("<H", 9) + data[head + 2 : head + 8 + length]
    with pytest.raises(Newer, match=r"format 9\.0"):
        read(folder, None, newer + struct.pack("<I", zlib.crc32(newer)) + data[head + 12 + length :], tmp_path)
    another, _ = coding_runs("learned_prior")
    integer_model(another)
    with pytest.raises(WrongModel, match="is another one"):
        read(another, None, data, tmp_path)


def test_a_chunk_that_decodes_to_something_else_is_blamed_on_the_machine(packed, tmp_path):
    """The checksum of the chunk matches, so the file is not damaged."""
    folder, _, data = packed
    source, out = Reader(io.BytesIO(data)), io.BytesIO()
    writer = Writer(out, source.header)
    for chunk in map(source.chunk, range(len(source.index))):
        writer.chunk(chunk.items, chunk.method, chunk.payload, digest(b"other") if chunk.number == 1 else chunk.digest)
    writer.finish(source.contents())
    with pytest.raises(NumericsError, match="chunk 1 is intact"):
        read(folder, None, out.getvalue(), tmp_path)


def test_lengths_are_held_against_the_file(tmp_path, packed):
    """Numbers that would need gigabytes are refused before memory is allocated."""
    folder, _, data = packed
    source = Reader(io.BytesIO(data))
    for items in (0, 1 << 31):
        out = io.BytesIO()
        writer = Writer(out, source.header)
        chunk = source.chunk(0)
        writer.chunk(items, chunk.method, chunk.payload, chunk.digest)
        writer.finish(source.contents())
        path = tmp_path / "y.ladle"
        path.write_bytes(out.getvalue())
        with pytest.raises(Damaged):
            ladle.decompress(path, tmp_path / "y.npy", model=folder)
    huge = json.dumps({"mode": "bitsback"}).encode()
    head = SIGNATURE + struct.pack("<HHI", 1, 0, 1 << 31) + huge
    with pytest.raises(Damaged, match="the header must fit in the file"):
        read(folder, None, head, tmp_path)


def test_a_table_of_contents_is_held_against_its_limits(packed, tmp_path):
    bomb = lzma.compress(b" " * (1 << 29), lzma.FORMAT_XZ, preset=0)
    with pytest.raises(Damaged, match="longer than"):
        decompress_xz(bomb, 1 << 20)
    for wrong in (
        b"none", b"[]", b'{"kind": "array", "dtype": "O", "shape": [1]}',
        b'{"kind": "images", "files": [["../../x", "L", 1, 1, ""]]}',
        b'{"kind": "images", "files": [["x", "L", 1000000, 1000000, ""]]}',
        b'{"kind": "images", "files": [["x", "CMYK", 10, 10, ""]]}',
    ):  # fmt: skip
        with pytest.raises(ladle.DataError):
            parse_contents(wrong)


def test_the_end_is_what_the_format_says(packed):
    _, _, data = packed
    assert data.startswith(SIGNATURE)
    assert data.endswith(END)
    assert things("grey").dtype == np.uint8
