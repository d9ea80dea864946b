"""Decoded images on disk, in a form that is mapped into memory: each image is decoded once, and none must fit.

One entry is a folder ``images/PLACE/KEY`` in the cache, where PLACE stands for the path of the folder of images and KEY
for the state of its files and the way they are decoded. In it are

- ``x.npy``, ``(N, C, H, W)`` uint8: a row for each file, in the order of their names;
- ``marks.npy``, ``(N,)`` uint8: 0 for a row that is not there, else what was done to the image;
- ``index.json``: what else was found, and whether the entry is finished.

A mark is written after its row is on the disk, so whatever has a mark can be trusted after a crash at any moment, and
decoding goes on with the rows that have none.
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

_FORMAT = 1  # of the entries; a change of it, or of what the decoder gives, makes a new one
_SYNC_SECONDS = 1.0  # so much work is lost at most by an interruption
_POLL_SECONDS = 0.2
_MOST_INDEX = 1 << 28


@dataclass(frozen=True)
class About:
    """What is known of the images beside their pixels.

    Args:
        shape: ``(C, H, W)`` of all of them.
        notes: what people should know of how that shape was found.
        broken: the unreadable files: number and reason.
    """

    shape: tuple[int, int, int]
    notes: tuple[str, ...]
    broken: tuple[tuple[int, str], ...]


class Rows:
    """Decoded images and what was done to them, as they are put there.

    Args:
        x: ``(N, C, H, W)`` uint8.
        marks: ``(N,)`` uint8.
    """

    def __init__(self, x: np.ndarray, marks: np.ndarray) -> None:
        self.x, self.marks = x, marks

    def put(self, row: int, image: np.ndarray, mark: int) -> None:
        """Keep one image."""
        self.x[row], self.marks[row] = image, mark


class _Disk(Rows):
    """Decoded images that are written to the files of an entry. What was put is safe a second later."""

    def __init__(self, folder: Path, n: int, shape: tuple[int, int, int]) -> None:
        for name, size in (("x.npy", (n, *shape)), ("marks.npy", (n,))):
            if not (folder / name).exists():
                np.lib.format.open_memmap(folder / name, "w+", np.uint8, size)  # of zeros, which take no room yet
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
        """Bring the rows to the disk, and then their marks."""
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
    """The place in the cache of some files of a folder, in their present state.

    Args:
        root: the folder.
        files: paths relative to it, in order.
        way: what else alters the outcome, in a word.
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
        """What was decoded earlier, mapped into memory; ``None`` if it is not there, not finished or damaged."""
        about = self._about(True)
        if about is None:
            return None
        x, marks = _mapped(self.folder / "x.npy", (self.n, *about.shape)), _mapped(self.folder / "marks.npy", (self.n,))
        if x is None or marks is None or np.flatnonzero(marks == 0).tolist() != sorted(row for row, _ in about.broken):
            return None
        return Rows(x, marks), about

    def begun(self) -> About | None:
        """What was found before decoding was interrupted; ``None`` if there is nothing to go on with."""
        about = self._about(False)
        whole = about and _mapped(self.folder / "x.npy", (self.n, *about.shape)) is not None
        return about if whole and _mapped(self.folder / "marks.npy", (self.n,)) is not None else None

    def decode(
        self, about: About, fill: Callable[[Rows, About], About], waiting: Callable[[int, int], None] | None
    ) -> tuple[Rows, About]:
        """Decode into the cache, or take up again where decoding was interrupted.

        Args:
            about: what is known before.
            fill: puts the rows that have no mark yet, and gives what is known after; a second process that reads the
                same folder waits for the first.
            waiting: called with (done, total) meanwhile.

        Raises:
            DataError: when the cache has too little room, or cannot be written.
        """
        try:
            with self._locked(waiting):
                found = self.finished()
                if found is None:
                    if self.begun() != about:
                        shutil.rmtree(self.folder, ignore_errors=True)
                    self._room(about.shape)
                    self.folder.mkdir(exist_ok=True)
                    self._fill(about, fill)
                    found = self.finished()
                self._sweep()
        except OSError as error:
            raise DataError(
                f"the decoded images of '{self.root.name}' must be kept in '{self.folder}': {error.strerror or error}; "
                "LADLE_CACHE names another folder"
            ) from None
        if found is None:
            raise DataError(f"the decoded images in '{self.folder}' were damaged while they were written; try again")
        return found

    def forget(self) -> None:
        """Take the entry away; what is mapped stays readable."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _fill(self, about: About, fill: Callable[[Rows, About], About]) -> None:
        rows = _Disk(self.folder, self.n, about.shape)
        try:
            self._tell(about, False)
            try:
                about = fill(rows, about)
            finally:
                rows.sync()
            os.fsync(rows.files[1])
            self._tell(about, True)
        finally:
            rows.close()

    def _about(self, finished: bool) -> About | None:
        try:
            path = self.folder / "index.json"
            told = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_INDEX else None
        except (OSError, ValueError, RecursionError):
            return None
        return _parsed(told) if isinstance(told, dict) and told.pop("finished", None) is finished else None

    def _tell(self, about: About, finished: bool) -> None:
        with atomic_file(self.folder / "index.json", force=True) as temporary:
            temporary.write_text(json.dumps({**asdict(about), "finished": finished}), encoding="utf-8")

    def _room(self, shape: tuple[int, int, int]) -> None:
        need = self.n * (int(np.prod(shape)) + 1)
        with suppress(FileNotFoundError):
            need -= (self.folder / "x.npy").stat().st_blocks * 512
        free = shutil.disk_usage(self.place).free
        if need > free:
            raise DataError(
                f"decoding the {self.n} images of '{self.root.name}' needs {need / 1e9:.2f} GB in '{self.place}', "
                f"which has {free / 1e9:.2f} GB free; LADLE_CACHE names another folder"
            )

    @contextmanager
    def _locked(self, waiting: Callable[[int, int], None] | None) -> Iterator[None]:
        """One process at a time decodes a folder; the lock goes with the process, however it ends."""
        import fcntl  # not on every system, and needed for large folders alone

        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)  # as private as the images may be
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

    def _sweep(self) -> None:
        """Take away what was decoded from earlier states of the folder."""
        for old in self.place.iterdir():
            if old.is_dir() and not old.name.startswith(self.state):
                shutil.rmtree(old, ignore_errors=True)


def _status(path: str) -> tuple[int, int, int]:
    """What changes with a file: its size, and the times of the last changes of its content and its status, in ns."""
    try:
        found = os.stat(path)
    except OSError:
        found = os.lstat(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """The uint8 array of this shape in an ``.npy`` file, mapped into memory; ``None`` if the file is not just that."""
    try:
        x = np.lib.format.open_memmap(path, "r")
        header = path.stat().st_size - x.nbytes
    except (OSError, ValueError, TypeError, SyntaxError, EOFError):
        return None
    fits = x.shape == shape and x.dtype == np.uint8 and x.flags.c_contiguous and header == x.offset
    return np.asarray(x) if fits else None


def _parsed(told: dict[str, Any]) -> About | None:
    """What ``index.json`` says, if it is what :class:`Entry` writes."""
    try:
        if set(told) != {field.name for field in fields(About)}:
            return None
        shape, notes = tuple(map(int, told["shape"])), tuple(map(str, told["notes"]))
        broken = tuple((int(row), str(reason)) for row, reason in told["broken"])
    except (TypeError, ValueError):
        return None
    return About(shape, notes, broken) if len(shape) == 3 and min(shape) > 0 else None
