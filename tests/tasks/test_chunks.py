"""Chunks of a compressed file, the recovery of damaged files, and interrupted work."""

from __future__ import annotations

import errno
import threading

import numpy as np
import pytest
import torch

import ladle
from commands import command, small_chunks
from ladle.coding.ans.stack import Stack
from ladle.coding.bits_back import BitsBack
from ladle.coding.chunks import initial_bytes
from ladle.coding.container import Reader, Writer
from ladle.tasks.compress import integer_model


@pytest.mark.parametrize("payload", [1 << 19, 1 << 11])
def test_noise_costs_no_more_than_its_pixels(run, tmp_path, monkeypatch, payload):
    """Data that do not fit the model take at most 300 bytes more than their pixels, for any number of chunks."""
    small_chunks(monkeypatch, payload)
    x = np.random.default_rng(0).integers(0, 256, (500, 8, 8), np.uint8)
    made = ladle.compress(run, x, tmp_path / "x.ladle")
    assert made.fallback == made.chunks == 1
    with (tmp_path / "x.ladle").open("rb") as file:
        names = len(Reader(file).contents())
    assert made.bytes <= x.size + 300 + names
    assert (ladle.decompress(tmp_path / "x.ladle", model=run)[:, 0] == x).all()


def test_a_chunk_is_so_large_that_its_first_item_borrows_little(run, digits, tmp_path, monkeypatch):
    monkeypatch.setattr("ladle.coding.chunks.PAYLOAD", 1 << 11)
    assert ladle.compress(run, digits, tmp_path / "many.ladle").chunks > 4
    found = integer_model(run)
    x = digits[-200:].astype(np.int64)
    stack, before = Stack(1, 1 << 12), 1 << 12
    found.walk(lambda _, q, p: q.pop(stack), len(x), x)
    assert initial_bytes(found) == pytest.approx(4 * (before - int(stack.top[0])) / len(x), rel=0.3)
    monkeypatch.setattr("ladle.coding.chunks.initial_bytes", lambda found: 1000)
    assert ladle.compress(run, digits, tmp_path / "x.ladle").chunks == 1


def test_what_is_whole_of_a_damaged_file_comes_back(run, digits, tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    np.save(tmp_path / "x.npy", digits[:600])
    whole = tmp_path / "x.ladle"
    ladle.compress(run, tmp_path / "x.npy", whole)
    data = whole.read_bytes()
    with whole.open("rb") as file:
        (_, first), (second, count), (third, _), *_ = Reader(file).index
    cut, hit, end = (tmp_path / f"{name}.ladle" for name in ("cut", "hit", "end"))
    cut.write_bytes(data[: third + 40])
    hit.write_bytes(data[: second + 60] + bytes([data[second + 60] ^ 1]) + data[second + 61 :])
    end.write_bytes(data[:-3])
    back = tmp_path / "y.npy"
    for file, start, stop in (
        (cut, 0, first + count), (hit, 0, first), (hit, first + count, 600), (end, 0, 600), (end, 300, 400),
    ):  # fmt: skip
        with pytest.raises(ladle.CodingError):
            ladle.decompress(file, tmp_path / "no.npy", model=run)
        assert command("decompress", file, back, "--model", run, "--range", f"{start}:{stop}", "--force") == 0
        assert (np.load(back) == digits[start:stop]).all()
    for file, start, stop in ((cut, 0, first + count + 1), (hit, 0, first + 1), (hit, 0, 600)):
        assert command("decompress", file, tmp_path / "no.npy", "--model", run, "--range", f"{start}:{stop}") == 2
    assert not (tmp_path / "no.npy").exists()


def test_chunks_are_coded_side_by_side(run, digits, tmp_path, monkeypatch):
    """With two threads the file is byte-identical, and its items decode in order."""
    small_chunks(monkeypatch)
    before, seen = torch.get_num_threads(), []
    decode = BitsBack.decode
    monkeypatch.setattr(BitsBack, "decode", lambda *given: (seen.append(threading.get_ident()), decode(*given))[1])
    files = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            seen.clear()
            made = ladle.compress(run, digits[:600], tmp_path / f"{threads}.ladle")
            files.append((tmp_path / f"{threads}.ladle").read_bytes())
            assert made.chunks > 4
            assert (ladle.decompress(tmp_path / "1.ladle", model=run) == digits[:600].reshape(600, 1, 8, 8)).all()
            assert ladle.verify(tmp_path / "1.ladle", run) == (600, made.chunks, ())
            assert len(set(seen)) >= threads
    finally:
        torch.set_num_threads(before)
    assert files[0] == files[1]


def test_a_full_disk_leaves_nothing_behind(run, digits, tmp_path, monkeypatch):
    def full(self, data):  # type: ignore[no-untyped-def]
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Writer, "finish", full)
    with pytest.raises(OSError, match="No space"):
        ladle.compress(run, digits[:20], tmp_path / "x.ladle")
    assert not list(tmp_path.iterdir())


def test_an_interrupt_leaves_nothing_behind(run, digits, tmp_path, monkeypatch):
    small_chunks(monkeypatch)
    (tmp_path / "y.ladle").write_bytes(b"older")

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ladle.compress(run, digits[:600], tmp_path / "y.ladle", force=True, progress=interrupted)
    ladle.compress(run, digits[:600], tmp_path / "x.ladle")
    with pytest.raises(KeyboardInterrupt):
        ladle.decompress(tmp_path / "x.ladle", tmp_path / "x.npy", model=run, progress=interrupted)
    assert (tmp_path / "y.ladle").read_bytes() == b"older"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.ladle", "y.ladle"]
