"""Data larger than memory: the cache of decoded images, memory-mapped arrays, and bounded memory use."""

import errno
import io
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

import ladle.data as data
from ladle.data import DataError, Dataset, cache, content, images, read
from ladle.store.folder import Model
from ladle.tasks.common import items

RNG = np.random.default_rng(0)
FORK = multiprocessing.get_context("fork")


def slowly(folder, pipe):
    """Read a folder in another process at a hundred images per second, and report the progress through a pipe."""
    decode, count = images._pixels, []
    cache._SYNC_SECONDS, cache._POLL_SECONDS = 0, 0.02

    def counted(*arguments):
        count.append(1)
        time.sleep(0.01)
        return decode(*arguments)

    images._pixels = counted
    x = read(folder, progress=lambda *counts: pipe.send(counts)).all.x
    pipe.send((len(count), int(x.astype(np.int64).sum())))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The folder of the cache, with every folder of images treated as large."""
    monkeypatch.setenv("LADLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "_LARGE", 0)
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """The names of the images that are decoded."""
    seen, lock, decode = [], threading.Lock(), images._pixels

    def counted(path, shape):
        with lock:
            seen.append(os.path.basename(path))
        return decode(path, shape)

    monkeypatch.setattr(images, "_pixels", counted)
    return seen


def save(path, mode="RGB", size=(8, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    Image.fromarray(RNG.integers(0, 256, (size[1], size[0], *([bands] if bands > 1 else [])), dtype=np.uint8)).save(
        path
    )


def plain(folder, n=40):
    for i in range(n):
        save(folder / f"{i:03d}.png")
    return folder


def mixed(folder):
    """Images of many kinds, readable and unreadable, in classes and splits."""
    for split, n in (("train", 30), ("test", 8)):
        for i in range(n):
            mode, size = ("RGB", "L", "RGBA")[i % 7 % 3], (8, 6) if i % 5 else (13, 9)
            save(folder / split / f"k{i % 2}" / f"{i}.png", mode, size)
    Image.fromarray(RNG.integers(0, 2**16, (6, 8), dtype=np.uint16)).save(folder / "train" / "k0" / "deep.png")
    (folder / "train" / "k0" / "a.png").write_text("not an image")
    save(folder / "test" / "k1" / "cut.png", size=(64, 64))
    encoded = (folder / "test" / "k1" / "cut.png").read_bytes()
    (folder / "test" / "k1" / "cut.png").write_bytes(encoded[: len(encoded) // 2])
    (folder / "train" / "k1" / "nowhere.png").symlink_to("gone.png")
    return folder


def direct(folder, monkeypatch, **options):
    """Read without the cache."""
    with monkeypatch.context() as patch:
        patch.setattr(content, "_LARGE", 1 << 60)
        patch.setattr(cache.Entry, "finished", lambda entry: None)
        return read(folder, **options)


def assert_same(a: Dataset, b: Dataset) -> None:
    assert (a.schema, a.notes, a.names, a.default) == (b.schema, b.notes, b.names, b.default)
    for name in a.names:
        one, two = a.split(name), b.split(name)
        assert one.names == two.names
        assert one.x.dtype == two.x.dtype
        assert np.array_equal(one.x, two.x)
        assert np.array_equal(one.labels, two.labels) if two.labels is not None else one.labels is None


def entries(place):
    return sorted(path for path in place.glob("images/*/*") if path.is_dir())


def test_results_with_and_without_the_cache_are_equal(tmp_path, place, decoded, monkeypatch):
    folder = mixed(tmp_path / "in")
    like = direct(plain(tmp_path / "model", 5), monkeypatch).schema
    for options in ({}, {"labels": r"(\d+)\.png"}, {"binarize": "dynamic"}, {"like": like}):
        expected = direct(folder, monkeypatch, **options)
        assert not place.exists() or len(entries(place)) < 2
        assert_same(read(folder, **options), expected)
        decoded.clear()
        cached = read(folder, **options)
        assert not decoded
        assert_same(cached, expected)
        assert not cached.all._x.flags.writeable
        assert str(place) not in f"{cached.schema} {cached.notes}"
    assert len(entries(place)) == 2  # decoding depends on the size that a model needs, not on labels and binarisation
    assert "3 of 42 images are unreadable" in " ".join(expected.notes)
    with pytest.raises(DataError) as strictly:
        direct(folder, monkeypatch, strict=True)
    with pytest.raises(DataError) as from_cache:
        read(folder, strict=True)
    assert str(from_cache.value) == str(strictly.value)


def test_a_small_folder_and_a_single_image_are_not_cached(tmp_path, place, monkeypatch):
    folder = plain(tmp_path / "in", 3)
    read(folder / "000.png")
    direct(folder, monkeypatch)
    assert not place.exists()


def test_killed_decoding_is_resumed(tmp_path, place, decoded, monkeypatch):
    folder = plain(tmp_path / "in", 150)
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=slowly, args=(folder, theirs))
    process.start()
    assert all(ours.recv() == (i + 1, 150) for i in range(150))  # the sizes
    while ours.recv()[0] < 60:
        pass
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    (entry,) = entries(place)
    marks = np.load(entry / "marks.npy")
    assert 50 <= np.count_nonzero(marks) < 150
    x = np.load(entry / "x.npy", mmap_mode="r+")
    x[marks == 0] = 77  # partially written rows
    x.flush()
    resumed = read(folder)
    assert len(decoded) == 150 - np.count_nonzero(marks)
    assert_same(resumed, direct(folder, monkeypatch))


def test_an_interruption_keeps_the_decoded_images(tmp_path, place, decoded, monkeypatch):
    folder, seen = plain(tmp_path / "in", 60), []

    def stop(done, total):
        seen.append(done)
        if len(seen) == 60 + 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(folder, progress=stop)
    expected = direct(folder, monkeypatch)
    decoded.clear()
    assert_same(read(folder), expected)
    assert (min(decoded), len(decoded)) == ("025.png", 35)


def test_two_processes_decode_one_folder_once(tmp_path, place, monkeypatch):
    folder = plain(tmp_path / "in", 100)
    pipes = [FORK.Pipe(duplex=False) for _ in range(2)]
    both = [FORK.Process(target=slowly, args=(folder, theirs)) for _, theirs in pipes]
    for process in both:
        process.start()
    results = [drain(ours, process) for (ours, _), process in zip(pipes, both, strict=True)]
    assert [process.exitcode for process in both] == [0, 0]
    assert sorted(count for count, _ in results) == [0, 100]
    assert {total for _, total in results} == {int(direct(folder, monkeypatch).all.x.astype(int).sum())}


def drain(pipe, process):
    """The last object that a process sent."""
    last = None
    while process.is_alive() or pipe.poll():
        last = pipe.recv() if pipe.poll(0.02) else last
    return last


def test_a_changed_folder_is_decoded_again_and_the_old_entry_deleted(tmp_path, place, monkeypatch):
    folder = plain(tmp_path / "in")
    old = read(folder)
    (before,) = entries(place)
    kept = old.all.x[:3].copy()
    target = folder / "001.png"
    status = target.stat()
    save(folder / "other.png")
    (folder / "other.png").replace(target)
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))  # even if the modification time is unchanged
    assert_same(read(folder), direct(folder, monkeypatch))
    (after,) = entries(place)
    assert after != before
    assert (old.all.x[:3] == kept).all()  # memory-mapped arrays stay readable
    (folder / "002.png").rename(folder / "zzz.png")
    assert_same(read(folder), direct(folder, monkeypatch))
    assert len(entries(place)) == 1


def cut(path, to):
    with path.open("r+b") as file:
        file.truncate(to)


DAMAGE = {
    "x cut": lambda e: cut(e / "x.npy", (e / "x.npy").stat().st_size - 1),
    "x longer": lambda e: cut(e / "x.npy", (e / "x.npy").stat().st_size + 1),
    "x empty": lambda e: cut(e / "x.npy", 0),
    "x gone": lambda e: (e / "x.npy").unlink(),
    "x of another kind": lambda e: np.save(e / "x.npy", np.zeros((40, 3, 6, 8), np.float32)),
    "x in another order": lambda e: np.save(e / "x.npy", np.asfortranarray(np.zeros((40, 3, 6, 8), np.uint8))),
    "x of objects": lambda e: np.save(e / "x.npy", np.array([{}]), allow_pickle=True),
    "marks cut": lambda e: cut(e / "marks.npy", 140),
    "a mark lost": lambda e: np.save(e / "marks.npy", np.array([0] + [1] * 39, np.uint8)),
    "index cut": lambda e: cut(e / "index.json", 20),
    "index of another form": lambda e: (e / "index.json").write_text('{"finished": true, "shape": [3, 6]}'),
    "index is a list": lambda e: (e / "index.json").write_text("[" * 100_000),
    "index of numbers": lambda e: (e / "index.json").write_text(
        json.dumps({"finished": True, "shape": [-3, 6, 8], "notes": [], "broken": []})
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_recreated(tmp_path, place, decoded, monkeypatch, damage):
    folder = plain(tmp_path / "in")
    expected = direct(folder, monkeypatch)
    read(folder)
    DAMAGE[damage](entries(place)[0])
    decoded.clear()
    assert_same(read(folder), expected)
    assert len(decoded) == 40
    decoded.clear()
    assert_same(read(folder), expected)
    assert not decoded


def test_too_little_disk_space_is_reported_before_decoding(tmp_path, place, decoded, monkeypatch):
    folder = plain(tmp_path / "in")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 5000, 5000))
    with pytest.raises(DataError, match=r"needs 0\.00 GB in '.*', which has 0\.00 GB free; set LADLE_CACHE"):
        read(folder)
    assert not decoded
    assert not entries(place)


def test_an_unwritable_cache_is_named(tmp_path, place, decoded, monkeypatch):
    folder = plain(tmp_path / "in")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(DataError, match=r"must be written to .*No space left on device; set LADLE_CACHE to"):
            read(folder)
    assert_same(read(folder), direct(folder, monkeypatch))
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LADLE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="set LADLE_CACHE to another folder"):
        read(folder)


def test_transient_read_errors_are_not_cached(tmp_path, place, monkeypatch):
    folder, decode = plain(tmp_path / "in"), images._pixels
    expected = direct(folder, monkeypatch)

    def failing(path, shape):
        if path.endswith("007.png"):
            raise OSError(errno.EIO, "Input/output error", path)
        return decode(path, shape)

    with monkeypatch.context() as patch:
        patch.setattr(images, "_pixels", failing)
        assert "1 of 40 images are unreadable and skipped: 007.png" in " ".join(read(folder).notes)
    assert_same(read(folder), expected)


def test_the_cache_is_private(tmp_path, place):
    read(plain(tmp_path / "in", 3))
    assert all(path.stat().st_mode & 0o077 == 0 for path in place.glob("images/*"))


ARRAYS = {
    "grey": RNG.integers(0, 256, (50, 6, 5), dtype=np.uint8),
    "colour": RNG.integers(0, 256, (50, 6, 5, 3), dtype=np.uint8),
    "alpha": RNG.integers(0, 256, (50, 6, 5, 4), dtype=np.uint8),
    "bits": RNG.integers(0, 2, (50, 6, 5)) > 0,
    "real": RNG.normal(3, 2, (50, 7)).astype(np.float32),
    "wide": RNG.normal(3, 2, (50, 7)),
    "long": RNG.integers(-5, 1000, (50, 7)),
    "fortran": np.asfortranarray(RNG.integers(0, 256, (50, 6, 5), dtype=np.uint8)),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_a_mapped_array_gives_the_same_data(tmp_path, place, monkeypatch, name):
    np.save(tmp_path / "a.npy", ARRAYS[name])
    expected = direct(tmp_path / "a.npy", monkeypatch)
    mapped = read(tmp_path / "a.npy")
    assert_same(mapped, expected)
    pick = np.array([4, 0, 9])
    one, two = (data.make_batch(d.train, d.schema, pick) for d in (mapped, expected))
    assert (one.x == two.x).all()
    assert one.x.is_contiguous()
    assert not place.exists()


def test_the_array_of_the_caller_is_copied():
    x = np.zeros((5, 3), np.float32)
    dataset = read(x)
    x += 7
    assert not dataset.all.x.any()


def folder_of(place, n):
    """A folder of ``n`` copies of an image of 96 x 96."""
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(file, "bmp")
    place.mkdir()
    for i in range(n):
        (place / f"{i:05d}.bmp").write_bytes(file.getvalue())
    return place


def array_of(place, n):
    np.save(place.with_suffix(".npy"), RNG.integers(0, 256, (n, 96, 96, 3), dtype=np.uint8))
    return place.with_suffix(".npy")


def peak(source) -> float:
    """The peak memory, in MB, of reading, of a pass over the training items and of selecting the items of a task."""
    tracemalloc.start()
    dataset = read(source)
    for _ in data.batches(dataset.train, dataset.schema, 16, seed=0):
        pass
    items(Model(None, dataset.schema, {}, "cpu"), dataset, "test")
    found = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return found


@pytest.mark.parametrize("make", [folder_of, array_of])
def test_memory_does_not_grow_with_the_data(tmp_path, place, monkeypatch, make):
    few, many = make(tmp_path / "few", 300), make(tmp_path / "many", 1200)  # 8 MB and 33 MB
    assert peak(few) < 60
    assert abs(peak(many) - peak(few)) < 3  # file names, orders and marks
    monkeypatch.setenv("LADLE_CACHE", str(tmp_path / "unused"))
    monkeypatch.setattr(content, "_LARGE", 1 << 60)
    assert peak(many) - peak(few) > 20  # without memory-mapping the growth is visible


def test_an_entry_of_another_version_is_not_used(tmp_path, place, decoded, monkeypatch):
    folder = plain(tmp_path / "in", 5)
    read(folder)
    monkeypatch.setattr(cache, "_FORMAT", cache._FORMAT + 1)
    decoded.clear()
    read(folder)
    assert len(decoded) == 5
    assert len(entries(place)) == 1
