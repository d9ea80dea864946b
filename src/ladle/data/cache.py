"""A cache of decoded images on disk. Each image is decoded once, and the images are memory-mapped, not loaded.

An entry is a folder ``images/PLACE/KEY`` in the cache, where PLACE is a hash of the path of the folder of images and
KEY a hash of the state of its files and of the decoding options. It contains

- ``x.npy``, ``(N, C, H, W)`` uint8: a row for each file, in the order of the file names;
- ``marks.npy``, ``(N,)`` uint8: 0 for a missing row, otherwise bits that record how the image was treated;
- ``index.json``: further information about the images, and whether the entry is finished.

A mark is written after its row has reached the disk. So rows with a mark are valid after a crash at any time, and
decoding resumes with the rows without one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from ladle.data.errors import DataError
from ladle.data.fetch import cache_folder
from ladle.data.write import atomic_file

_FORMAT = 1  # version of the entries; increase it when the format or the output of the decoder changes
_SYNC_SECONDS = 1.0  # an interruption loses at most this much work
_POLL_SECONDS = 0.2
_MOST_INDEX = 1 << 28


@dataclass(frozen=True)
class About:
    """Information about the images of a folder.

    Args:
        shape: ``(C, H, W)`` of all images.
        notes: notes for the user about the choice of the shape.
        broken: the row and the reason of each unreadable file.
    """

    shape: tuple[int, int, int]
    notes: tuple[str, ...]
    broken: tuple[tuple[int, str], ...]


class Rows:
    """Decoded images with their marks, in memory.

    Args:
        x: ``(N, C, H, W)`` uint8.
        marks: ``(N,)`` uint8.
    """

    def __init__(self, x: np.ndarray, marks: np.ndarray) -> None:
        self.x, self.marks = x, marks

    def put(self, row: int, image: np.ndarray, mark: int) -> None:
        """Store one image, ``(C, H, W)`` uint8, with its mark."""
        self.x[row], self.marks[row] = image, mark


class _Disk(Rows):
    """Decoded images written to the files of an entry, flushed to disk once a second."""

    def __init__(self, folder: Path, n: int, shape: tuple[int, int, int]) -> None:
        for name, size in (("x.npy", (n, *shape)), ("marks.npy", (n,))):
            if not (folder / name).exists():
                np.lib.format.open_memmap(folder / name, "w+", np.uint8, size)  # a sparse file of zeros
        x, marks = _mapped(folder / "x.npy", (n, *shape)), _mapped(folder / "marks.npy", (n,))
        if x is None or marks is None:
            raise DataError(f"the cache in '{folder}' was changed while it was written; try again")
        super().__init__(x, marks.copy())
        self.bytes = x[:1].nbytes
        self.files = [os.open(folder / name, os.O_RDWR) for name in ("x.npy", "marks.npy")]
        self.starts = [
            (folder / name).stat().st_size - array.nbytes for name, array in (("x.npy", x), ("marks.npy", marks))
        ]
        self.fresh: list[int] = []
        self.synced = time.monotonic()

    def put(self, row: int, image: np.ndarray, mark: int) -> None:
        _write(self.files[0], image.tobytes(), self.starts[0] + row * self.bytes)
        self.marks[row] = mark
        self.fresh.append(row)
        if time.monotonic() - self.synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Flush the rows to disk, then their marks."""
        if self.fresh:
            os.fsync(self.files[0])
            first, last = min(self.fresh), max(self.fresh)
            _write(self.files[1], self.marks[first : last + 1].tobytes(), self.starts[1] + first)
        self.fresh, self.synced = [], time.monotonic()

    def close(self) -> None:
        for file in self.files:
            os.close(file)


def _write(file: int, data: bytes, start: int) -> None:
    while data:
        done = os.pwrite(file, data, start)
        data, start = data[done:], start + done


class Entry:
    """The cache entry for the files of a folder in their current state.

    Args:
        root: the folder of images.
        files: paths relative to ``root``, in order.
        way: a word for the other options that affect the result.
    """

    def __init__(self, root: Path, files: Sequence[str], way: str) -> None:
        digest = hashlib.sha256(f"{_FORMAT} {PIL.__version__}".encode())
        for name in files:
            status = _status(os.path.join(root, name))
            digest.update(os.fsencode(name) + b"\0%d %d %d\n" % status)
        self.root, self.n = root, len(files)
        self.state = digest.hexdigest()[:32]
        self.place = cache_folder("images") / hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:32]
        self.folder = self.place / f"{self.state}-{way}"

    def finished(self) -> tuple[Rows, About] | None:
        """The memory-mapped images of a finished entry; ``None`` if it is missing, unfinished or damaged."""
        about = self._about(True)
        if about is None:
            return None
        x, marks = _mapped(self.folder / "x.npy", (self.n, *about.shape)), _mapped(self.folder / "marks.npy", (self.n,))
        if x is None or marks is None or np.flatnonzero(marks == 0).tolist() != sorted(row for row, _ in about.broken):
            return None
        return Rows(x, marks), about

    def begun(self) -> About | None:
        """The information about an interrupted entry; ``None`` if there is nothing to resume."""
        about = self._about(False)
        valid = about and _mapped(self.folder / "x.npy", (self.n, *about.shape)) is not None
        return about if valid and _mapped(self.folder / "marks.npy", (self.n,)) is not None else None

    def decode(
        self, about: About, fill: Callable[[Rows, About], About], waiting: Callable[[int, int], None] | None
    ) -> tuple[Rows, About]:
        """Decode images into the cache, or resume an interrupted decoding.

        A second process that reads the same folder waits for the first.

        Args:
            about: the information that is known before decoding.
            fill: stores the rows that have no mark and returns the information known after decoding.
            waiting: called with (done, total) while another process decodes.

        Raises:
            DataError: if the cache has too little space or is not writable.
        """
        try:
            with self._locked(waiting):
                found = self.finished()
                if found is None:
                    if self.begun() != about:
                        shutil.rmtree(self.folder, ignore_errors=True)
                    self._check_space(about.shape)
                    self.folder.mkdir(exist_ok=True)
                    self._fill(about, fill)
                    found = self.finished()
                self._delete_old()
        except OSError as error:
            raise DataError(
                f"the decoded images of '{self.root.name}' must be written to '{self.folder}': "
                f"{error.strerror or error}; set LADLE_CACHE to another folder"
            ) from None
        if found is None:
            raise DataError(f"the decoded images in '{self.folder}' were damaged while they were written; try again")
        return found

    def forget(self) -> None:
        """Delete the entry; arrays that are already memory-mapped stay readable."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fill(self, about: About, fill: Callable[[Rows, About], About]) -> None:
        rows = _Disk(self.folder, self.n, about.shape)
        try:
            self._write_index(about, False)
            try:
                about = fill(rows, about)
            finally:
                rows.sync()
            os.fsync(rows.files[1])
            self._write_index(about, True)
        finally:
            rows.close()

    def _about(self, finished: bool) -> About | None:
        try:
            path = self.folder / "index.json"
            saved = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_INDEX else None
        except (OSError, ValueError, RecursionError):
            return None
        return _parsed(saved) if isinstance(saved, dict) and saved.pop("finished", None) is finished else None

    def _write_index(self, about: About, finished: bool) -> None:
        with atomic_file(self.folder / "index.json", force=True) as temporary:
            temporary.write_text(json.dumps({**asdict(about), "finished": finished}), encoding="utf-8")

    def _check_space(self, shape: tuple[int, int, int]) -> None:
        need = self.n * (int(np.prod(shape)) + 1)
        with suppress(FileNotFoundError):
            need -= (self.folder / "x.npy").stat().st_blocks * 512
        free = shutil.disk_usage(self.place).free
        if need > free:
            raise DataError(
                f"decoding the {self.n} images of '{self.root.name}' needs {need / 1e9:.2f} GB in '{self.place}', "
                f"which has {free / 1e9:.2f} GB free; set LADLE_CACHE to another folder"
            )

    @contextmanager
    def _locked(self, waiting: Callable[[int, int], None] | None) -> Iterator[None]:
        """Hold the lock that lets one process at a time decode a folder; it is released when the process ends."""
        import fcntl  # not available on all systems, and needed only for large folders

        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)  # private, since the images may be
        with (self.place / "lock").open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    marks = _mapped(self.folder / "marks.npy", (self.n,))
                    if waiting and marks is not None:
                        waiting(int(np.count_nonzero(marks)), self.n)
                    time.sleep(_POLL_SECONDS)
            yield

    def _delete_old(self) -> None:
        """Delete the entries for earlier states of the folder."""
        for old in self.place.iterdir():
            if old.is_dir() and not old.name.startswith(self.state):
                shutil.rmtree(old, ignore_errors=True)


def _status(path: str) -> tuple[int, int, int]:
    """The size of a file, and the times of the last changes of its content and its status, in ns."""
    try:
        found = os.stat(path)
    except OSError:
        found = os.lstat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The memory-mapped uint8 array of this shape in an ``.npy`` file; ``None`` if the file contains anything else."""
    try:
        x = np.lib.format.open_memmap(path, "r")
        header = path.stat().st_size - x.nbytes
    except (OSError, ValueError, TypeError, SyntaxError, EOFError):
        return None
    fits = x.shape == shape and x.dtype == np.uint8 and x.flags.c_contiguous and header == x.offset
    return np.asarray(x) if fits else None


def _parsed(saved: dict[str, Any]) -> About | None:
    """The content of ``index.json``, or ``None`` if it is not as :class:`Entry` writes it."""
    try:
        if set(saved) != {field.name for field in fields(About)}:
            return None
        shape, notes = tuple(map(int, saved["shape"])), tuple(map(str, saved["notes"]))
        broken = tuple((int(row), str(reason)) for row, reason in saved["broken"])
    except (TypeError, ValueError):
        return None
    return About(shape, notes, broken) if len(shape) == 3 and min(shape) > 0 else None
