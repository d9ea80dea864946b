"""Malicious data files must be refused without running their code or allocating the memory that they claim."""

import gzip
import io
import lzma
import os
import pickle
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ladle.data import DataError, read


class Payload:
    """Unpickling this class sets ``fired``."""

    fired = False

    def __reduce__(self):
        return (setattr, (Payload, "fired", True))


def header(shape, descr="|u1"):
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def idx(*sizes):
    return struct.pack(f">BBBB{len(sizes)}I", 0, 0, 8, len(sizes), *sizes)


def npz(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def pickled():
    file = io.BytesIO()
    np.save(file, np.array([[Payload(), Payload()]]), allow_pickle=True)
    return file.getvalue()


HOSTILE = {
    "huge.idx": (idx(2**20, 2**20, 1), "at most 32 GiB|claims"),
    "large.idx": (idx(1000, 1000, 1000) + bytes(100), "claims"),
    "cut.idx": (idx(10, 5, 5) + bytes(200), "claims 250 bytes, the file has 200"),
    "long.idx": (idx(10, 5, 5) + bytes(300), "claims 250 bytes, the file has 300"),
    "cut.idx.gz": (gzip.compress(idx(10, 5, 5) + bytes(250))[:-20], "complete compressed"),
    "short.idx.gz": (gzip.compress(idx(10, 5, 5) + bytes(249)), "the file has 249"),
    "long.idx.gz": (gzip.compress(idx(10, 5, 5) + bytes(10**6)), "the file has more"),
    "bomb.idx.gz": (gzip.compress(idx(2**11, 2**10, 2**10) + bytes(10**6)), "200 times"),
    "noise.idx.gz": (b"\x1f\x8b" + bytes(range(50)), "complete compressed"),
    "noise.idx.xz": (bytes(range(50)), "complete compressed"),
    "cut.idx.xz": (lzma.compress(idx(10, 5, 5) + bytes(250))[:-20], "complete compressed"),
    "head.idx": (b"\0\0", "must start with"),
    "sizes.idx": (b"\0\0\x08\x03\0\0", "ends before"),
    "type.idx": (b"\0\0\x77\x01\0\0\0\1\0", "must start with"),
    "dims.idx": (b"\0\0\x08\xff\0\0\0\1\0", "must start with"),
    "huge.npy": (header((2**40, 4)), "the file has 0"),
    "wrap.npy": (header((2**32, 2**32)), "the file has 0"),
    "minus.npy": (header((-1, 4)) + bytes(100), "claims"),
    "giant.npy": (header((2**80, 0)), "at least one item"),
    "code.npy": (header("__import__('os').getcwd()"), "NumPy array"),
    "deep.npy": (header("(" * 5000), "NumPy array"),
    "type.npy": (header((3, 3), "nonsense") + bytes(9), "NumPy array"),
    "object.npy": (pickled(), "Python objects"),
    "pickle.npy": (pickle.dumps(Payload()), "NumPy array"),
    "record.npy": (header((3,), [("a", "<i4"), ("b", "<f4")]) + bytes(24), "records"),
    "cut.npy": (header((10, 10)) + bytes(50), "the file has 50"),
    "empty.npy": (b"", "NumPy array"),
    "object.npz": (npz({"x.npy": pickled()}), "Python objects"),
    "huge.npz": (npz({"x.npy": header((2**40, 4))}), "the file has 0"),
    "none.npz": (npz({"readme.txt": b"hello"}), "no arrays"),
    "noise.npz": (b"PK" + bytes(range(100)), "archive"),
    "cut.npz": (npz({"x.npy": header((10, 10)) + bytes(100)})[:-30], "archive"),
    "noise.parquet": (b"PAR1" + bytes(range(100)) + b"PAR1", "Parquet"),
    "empty.parquet": (b"", "Parquet"),
    "latin.csv": ("a,b\n1,\xe9\n".encode("latin-1"), "UTF-8"),
    "nul.csv": (b"\0" * 100, "must"),
    "noise.csv": (bytes(range(256)) * 4, "UTF-8"),
    "empty.csv": (b"", "at least one row"),
    "noise.png": (b"\x89PNG\r\n\x1a\n" + bytes(range(100)), "readable"),
    "empty.jpg": (b"", "readable"),
}


@pytest.fixture
def bounded_memory():
    """Limit the memory of the process, so that the test fails if the size that a file claims is allocated."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the memory in use is read from /proc, which this system does not have")
    used = int(next(x for x in status.read_text().splitlines() if x.startswith("VmSize")).split()[1]) << 10
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(tmp_path, bounded_memory, name):
    content, message = HOSTILE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / name)
    assert not Payload.fired


def test_a_zip_bomb_is_refused(tmp_path, bounded_memory):
    count = (1 << 30) + 1
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w") as file,
    ):
        file.write(header((count // 4 + 1, 4)))
        chunk = bytes(1 << 24)
        for _ in range(65):
            file.write(chunk)
    with pytest.raises(DataError, match="200 times"):
        read(tmp_path / "bomb.npz")


def test_a_member_with_a_wrong_size(tmp_path, bounded_memory):
    content = bytearray(npz({"x.npy": header((100, 100)) + bytes(100)}))
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = struct.pack("<I", 20_000)
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"archive|claims"):
        read(tmp_path / "a.npz")


def test_arrays_that_are_not_needed_are_not_read(tmp_path):
    x = io.BytesIO()
    np.save(x, np.arange(12.0).reshape(4, 3))
    (tmp_path / "a.npz").write_bytes(npz({"x.npy": x.getvalue(), "meta.npy": pickled()}))
    assert len(read(tmp_path / "a.npz").all) == 4
    assert not Payload.fired


def test_an_image_of_too_many_pixels_is_skipped(tmp_path, bounded_memory):
    for i in range(3):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{i}.png")
    content = bytearray((tmp_path / "0.png").read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    (tmp_path / "0.png").write_bytes(content)
    dataset = read(tmp_path)
    assert len(dataset.all) == 2
    assert "0.png" in dataset.notes[0]


def test_a_bool_array_of_other_bytes_stays_binary(tmp_path):
    (tmp_path / "a.npy").write_bytes(header((4, 2), "|b1") + bytes([0, 1, 2, 255] * 2))
    assert set(np.unique(read(tmp_path / "a.npy").all.x)) == {0, 1}


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(DataError, match="empty folder"):
        read(tmp_path)
    with pytest.raises(DataError, match="a device or a pipe"):
        read(tmp_path / "a.png")
