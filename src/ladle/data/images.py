"""Image files, single or in folders, converted to common channels and a common size."""

from __future__ import annotations

import errno
import os
import re
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from math import prod
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ladle.data.cache import About, Entry, Rows
from ladle.data.content import Content, Format, Request, classes, large
from ladle.data.dataset import Split
from ladle.data.errors import DataError
from ladle.spec import part

Shape = tuple[int, int, int]

MOST_PIXELS = 100_000_000
_TOP = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
_WORDS = {1: "grey", 3: "RGB"}
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_SHOWN = 5  # the most names listed in a message
_DONE, _SCALED, _COMPOSITED, _RESIZED = 1, 2, 4, 8  # the bits of the mark of an image
_TREATMENTS = {_SCALED: "scaled from 16 bits to 8", _COMPOSITED: "composited on white", _RESIZED: "resized to {}"}
_LASTING = (None, errno.ENOENT, errno.EACCES, errno.EPERM, errno.ELOOP)  # errors that persist while a file is unchanged
_TOGETHER = 8  # images decoded per job
_MOST_THREADS = 8  # each may have a photograph of MOST_PIXELS in memory
_AHEAD_BYTES = 64 << 20  # the most decoded bytes that wait to be stored


@part("format", "images")
class Images(Format):
    """Images: ``.png .jpg .jpeg .bmp .gif .webp .tif .tiff .ppm .pgm`` (the first frame of several)."""

    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
    in_folders = True

    def file(self, path: Path, request: Request) -> Content:
        """Read one image as a data set of one item."""
        alone = Request(None, request.missing, True, request.like, request.progress)
        return _content(path.parent, [path.name], alone, *_decoded(path.parent, [path.name], alone))

    def folder(self, root: Path, files: Sequence[str], request: Request) -> Content:
        """Read a folder. Its sub-folders are classes, or ``train``, ``valid``/``val`` and ``test`` with classes inside.

        If the images take 128 MiB or more, they are decoded once into the cache and memory-mapped from there.
        """
        entry = Entry(root, files, "x".join(map(str, request.like.shape)) if request.like else "own")
        return _content(root, files, request, *(entry.finished() or _decoded(root, files, request, entry)))


class _Broken:
    """Collects the rows of unreadable files and the reasons.

    Args:
        root: the folder.
        files: paths relative to it.
        strict: raise an error at the first unreadable file.
    """

    def __init__(self, root: Path, files: Sequence[str], strict: bool) -> None:
        self.root, self.files, self.strict = root, files, strict
        self.found: list[tuple[int, str]] = []
        self.passing = False  # whether a retry may succeed for some, although no file has changed

    def add(self, row: int, error: Exception) -> None:
        """Record a file that cannot be read."""
        path = self.root / self.files[row]
        reason = (str(error).splitlines() or ["unknown reason"])[0].replace(repr(str(path)), f"'{path.name}'")
        self.found.append((row, reason))
        self.passing |= isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno not in _LASTING)
        if self.strict:
            _refuse(path.name, reason)


def _refuse(name: str, reason: str) -> None:
    raise DataError(f"every image must be readable, but '{name}' is not: {reason}")


def _decoded(root: Path, files: Sequence[str], request: Request, entry: Entry | None = None) -> tuple[Rows, About]:
    """Decode the images of a folder: in memory or, if they are large and an entry is given, in the cache."""
    bad = _Broken(root, files, request.strict)

    def fill(rows: Rows, about: About) -> About:
        bad.found[:] = about.broken
        _fill(rows, about.shape, bad, request.progress)
        return replace(about, broken=tuple(bad.found))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warnings about sizes and metadata
        about = (entry and entry.begun()) or _look(bad, request)
        if entry is None or not large(len(files) * prod(about.shape)):
            rows = Rows(np.empty((len(files), *about.shape), np.uint8), np.zeros(len(files), np.uint8))
            return rows, fill(rows, about)
        found = entry.decode(about, fill, request.progress)
    if bad.passing:
        entry.forget()
    return found


def _look(bad: _Broken, request: Request) -> About:
    """Determine, before any pixel is decoded, the common shape of the images and the unreadable files."""
    heads: Counter[_Head] = Counter()
    for row, name in enumerate(bad.files):
        try:
            heads[_head(os.path.join(bad.root, name))] += 1
        except Exception as error:  # Pillow may raise any exception on broken or malicious files
            bad.add(row, error)
        if request.progress:
            request.progress(row + 1, len(bad.files))
    if not heads:
        raise DataError(
            f"there must be at least one readable image, got {len(bad.found)} unreadable: {_list(bad.found, bad.files)}"
        )
    shape, notes = _shape(heads, request)
    return About(shape, notes, tuple(bad.found))


def _fill(rows: Rows, shape: Shape, bad: _Broken, progress: Callable[[int, int], None] | None) -> None:
    """Decode the images without a mark, in threads, a few images ahead."""
    known = {row for row, _ in bad.found}
    todo = [row for row in np.flatnonzero(rows.marks == 0).tolist() if row not in known]
    total = len(bad.files) - len(known)
    most = _AHEAD_BYTES // prod(shape)
    threads = max(1, min(os.cpu_count() or 1, _MOST_THREADS, most // 4))
    size = max(1, min(_TOGETHER, most // (4 * threads)))

    def decode(job: list[int]) -> list[tuple[int, np.ndarray | Exception, int]]:
        return [(row, *_attempt(os.path.join(bad.root, bad.files[row]), shape)) for row in job]

    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        done = total - len(todo)
        starts = iter(range(0, len(todo), size))
        while True:
            waiting.extend(pool.submit(decode, todo[i : i + size]) for i in islice(starts, 2 * threads - len(waiting)))
            if not waiting:
                break
            for row, image, mark in waiting.popleft().result():
                if isinstance(image, Exception):
                    bad.add(row, image)
                else:
                    rows.put(row, image, mark)
                done += 1
                if progress:
                    progress(done, total)
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(path: str, shape: Shape) -> tuple[np.ndarray | Exception, int]:
    try:
        return _pixels(path, shape)
    except Exception as error:  # as in _look
        return error, 0


def _content(root: Path, files: Sequence[str], request: Request, rows: Rows, about: About) -> Content:
    """Assemble the content from decoded images."""
    broken, shape = about.broken, about.shape
    if request.strict and broken:
        _refuse(PurePosixPath(files[broken[0][0]]).name, broken[0][1])
    good = np.flatnonzero(rows.marks)
    if not len(good):
        raise DataError(
            f"'{root.name}' must contain readable images, got {len(broken)} unreadable: {_list(broken, files)}"
        )
    notes = about.notes
    if broken:
        notes += (f"{len(broken)} of {len(files)} images are unreadable and skipped: {_list(broken, files)}",)
    size = f"{shape[2]} x {shape[1]}"
    counts = {what: int(np.count_nonzero(rows.marks & bit)) for bit, what in _TREATMENTS.items()}
    treated = sorted((what.format(size), n) for what, n in counts.items() if n)
    if treated:
        notes += ("; ".join(f"{n} of {len(good)} images {what}" for what, n in treated),)
    names = tuple(files) if not broken else tuple(files[row] for row in good.tolist())
    official, folders = _tops(names)
    labels, label_names = _labels(folders, names, request)
    items = Split(rows.x, None, labels, names, index=good if broken else None)
    policy = f"{_WORDS[shape[0]]}, {size} (other sizes resized by Lanczos to cover it, then cropped at the centre)"
    return Content(items, "image", "bytes", official, (), label_names, policy, notes)


def _list(broken: Sequence[tuple[int, str]], files: Sequence[str]) -> str:
    shown = "; ".join(f"{PurePosixPath(files[row]).name} ({reason})" for row, reason in broken[:_SHOWN])
    return shown + (f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else "")


class _Head(NamedTuple):
    channels: int
    width: int
    height: int


def _open(path: str) -> Image.Image:
    image = Image.open(path)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} is more than {MOST_PIXELS} pixels")
    if image.mode == "F":
        raise ValueError("pixels must be 8-bit or 16-bit, got floating point")
    return image


def _head(path: str) -> _Head:
    """The channels and the size of an image, without decoding its pixels."""
    with _open(path) as image:
        turned = image.format in ("JPEG", "MPO", "TIFF", "WEBP") and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = (image.height, image.width) if turned else image.size
        return _Head(1 if image.mode in _GREY else 3, width, height)


def _shape(heads: Counter[_Head], request: Request) -> tuple[Shape, tuple[str, ...]]:
    """The common shape of all images, and notes: that of the model, or the most common channels and size."""
    if request.like is not None:
        if request.like.kind != "image" or request.like.shape[0] not in _WORDS:
            raise DataError(f"the data must be as the model expects, {request.like.describe()}; got images")
        channels, height, width = request.like.shape
        return (channels, height, width), ()
    modes, sizes = Counter[int](), Counter[tuple[int, int]]()
    for head, n in heads.items():
        modes[head.channels] += n
        sizes[head.height, head.width] += n
    channels = 3 if modes[3] >= modes[1] else 1
    # Of equally common sizes, take the smallest, so that no image is enlarged unnecessarily.
    (height, width), _ = min(sizes.items(), key=lambda item: (-item[1], item[0][0] * item[0][1], item[0]))
    notes: tuple[str, ...] = ()
    if len(modes) > 1:
        notes += (f"images are {modes[3]} RGB and {modes[1]} grey: all are read as {_WORDS[channels]}",)
    if len(sizes) > 1:
        most = f"{width} x {height} ({sizes[height, width]} of {heads.total()})"
        notes += (f"images have {len(sizes)} sizes: all are resized to the most common, {most}",)
    return (channels, height, width), notes


def _pixels(path: str, shape: Shape) -> tuple[np.ndarray, int]:
    """One image as ``(C, H, W)`` uint8, and its mark, which records how it was treated."""
    channels, height, width = shape
    mark = _DONE
    with _open(path) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            image = Image.fromarray(_eight_bits(np.asarray(image)))
            mark |= _SCALED
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            mark |= _COMPOSITED
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
            mark |= _RESIZED
        array = np.asarray(image)
    return array.reshape(1, height, width) if channels == 1 else array.transpose(2, 0, 1), mark


def _eight_bits(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"pixels must be 8-bit or 16-bit, got {low}..{high}")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _tops(names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], list[str]]:
    """The official splits given by top-level folders, and the path of each image below its split."""
    tops = [name.partition("/")[0].lower() if "/" in name else "" for name in names]
    if "train" not in tops or not set(tops) <= set(_TOP):
        return {}, list(names)
    splits = np.array([_TOP[top] for top in tops])
    official = {name: np.flatnonzero(splits == name) for name in dict.fromkeys(_TOP.values())}
    return official, [name.partition("/")[2] for name in names]


def _labels(paths: list[str], names: tuple[str, ...], request: Request) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels by a pattern, or by class folders if every image is in exactly one of several."""
    if request.labels is not None:
        found = matches(request.labels, names)
        if not any(label is not None for label in found):
            raise DataError(f"--labels must match some paths, such as '{names[0]}'; no path matches '{request.labels}'")
        return classes(found)
    if all(name.count("/") == 1 for name in paths):
        folders = [name.partition("/")[0] for name in paths]
        if len(set(folders)) > 1:
            return classes(folders)
    return None, ()


def matches(pattern: str, names: Sequence[str]) -> list[str | None]:
    r"""The label in each path: the group of a regular expression, or the text matched by the first ``*`` of a glob.

    A pattern with a parenthesis is a regular expression, which is searched for in the path. Any other pattern is a glob
    for the path or, if it has no slash, for the file name. The label is ``None`` where the pattern does not match.

    Raises:
        DataError: for a pattern that is not valid.

    >>> matches(r"(\d+)_", ["7_a.png"]), matches("*_*.png", ["x/7_a.png"])
    (['7'], ['7'])
    """
    if "(" in pattern:
        try:
            search = re.compile(pattern)
        except re.error as error:
            raise DataError(f"--labels must be a regular expression with one group, got '{pattern}': {error}") from None
        if search.groups != 1:
            raise DataError(f"--labels must have exactly one group, got {search.groups} in '{pattern}'")
        found = [search.search(name) for name in names]
    else:
        if "*" not in pattern:
            raise DataError(f"--labels must be a pattern such as '(\\d+)_.*' or '*_*.png' for images, got '{pattern}'")
        first, *rest = pattern.split("*")
        glob = re.compile(re.escape(first) + "([^/]*?)" + "[^/]*?".join(re.escape(text) for text in rest))
        found = [glob.fullmatch(name if "/" in pattern else name.rpartition("/")[2]) for name in names]
    return [None if m is None else m.group(1) for m in found]
