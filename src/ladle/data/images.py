"""Image files, alone or in folders, made alike by a stated policy."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from ladle.data.content import MOST_BYTES, Content, Format, Request, classes
from ladle.data.dataset import Split
from ladle.data.errors import DataError
from ladle.spec import part

T = TypeVar("T")

MOST_PIXELS = 100_000_000
_TOP = {"train": "train", "valid": "valid", "val": "valid", "test": "test"}
_WORDS = {1: "grey", 3: "RGB"}
_GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N")
_SHOWN = 5  # names shown of a longer list


@part("format", "images")
class Images(Format):
    """Pictures: ``.png .jpg .jpeg .bmp .gif .webp .tif .tiff .ppm .pgm`` (of several frames the first)."""

    suffixes = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
    in_folders = True

    def file(self, path: Path, request: Request) -> Content:
        """Read one picture as a data set of one item."""
        return self._read(path.parent, [path], Request(None, request.missing, True, request.like, request.progress))

    def folder(self, root: Path, files: Sequence[Path], request: Request) -> Content:
        """Read a folder: sub-folders are classes, or ``train``, ``valid``/``val`` and ``test`` with classes within."""
        return self._read(root, list(files), request)

    def _read(self, root: Path, files: list[Path], request: Request) -> Content:
        heads, broken = _each(files, _head, request)
        shape, notes = _shape([head for _, head in heads], request)
        total = len(heads) * int(np.prod(shape))
        if total > MOST_BYTES:
            raise DataError(
                f"the images of '{root.name}' must take at most {MOST_BYTES >> 30} GiB in memory, got {len(heads)} of "
                f"{shape}; make them smaller or cut them into patches"
            )
        x = np.empty((len(heads), *shape), np.uint8)
        good, kept = [], 0
        counts: Counter[str] = Counter()
        for done, (path, _) in enumerate(heads, 1):
            try:
                x[kept], treated = _pixels(path, shape)
                counts.update(treated)
                good.append(path)
                kept += 1
            except Exception as error:  # as in _each
                broken.append((path, str(error)))
                _strict(path, error, request)
            if request.progress:
                request.progress(done, len(heads))
        if not good:
            raise DataError(f"'{root.name}' must hold readable images, got {len(broken)} unreadable: {_list(broken)}")
        if broken:
            notes += (f"{len(broken)} of {len(files)} images are unreadable and skipped: {_list(broken)}",)
        if counts:
            notes += ("; ".join(f"{n} of {kept} images {what}" for what, n in sorted(counts.items())),)
        names = tuple(path.relative_to(root).as_posix() for path in good)
        official, folders = _tops(names)
        labels, label_names = _labels(folders, names, request)
        size = f"{shape[2]} x {shape[1]}"
        policy = f"{_WORDS[shape[0]]}, {size} (others resized to cover by Lanczos, then cropped at the centre)"
        return Content(Split(x[:kept], None, labels, names), "image", "bytes", official, (), label_names, policy, notes)


@dataclass(frozen=True)
class _Head:
    channels: int
    width: int
    height: int


def _each(files: list[Path], read: Callable[[Path], T], request: Request) -> tuple[list[tuple[Path, T]], list]:
    good, broken = [], []
    for path in files:
        try:
            good.append((path, read(path)))
        except Exception as error:  # Pillow raises nearly anything on broken and hostile files
            broken.append((path, str(error)))
            _strict(path, error, request)
    if not good:
        raise DataError(f"there must be readable images, got {len(broken)} unreadable: {_list(broken)}")
    return good, broken


def _strict(path: Path, error: Exception, request: Request) -> None:
    if request.strict:
        reason = _reason(path, str(error))
        raise DataError(f"every image must be readable, but '{path.name}' is not: {reason}") from None


def _reason(path: Path, text: str) -> str:
    return (text.splitlines() or ["unknown reason"])[0].replace(repr(str(path)), f"'{path.name}'")


def _list(broken: list[tuple[Path, str]]) -> str:
    shown = "; ".join(f"{path.name} ({_reason(path, error)})" for path, error in broken[:_SHOWN])
    return shown + (f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else "")


def _open(path: Path) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own size warning and complaints about metadata
        image = Image.open(path)
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} is more than {MOST_PIXELS} pixels")
    if image.mode == "F":
        raise ValueError("pixels must be 8-bit or 16-bit, got floating point")
    return image


def _head(path: Path) -> _Head:
    """Channels and size, without decoding the pixels."""
    with _open(path) as image:
        turned = image.format in ("JPEG", "MPO", "TIFF", "WEBP") and image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = (image.height, image.width) if turned else image.size
        return _Head(1 if image.mode in _GREY else 3, width, height)


def _shape(heads: list[_Head], request: Request) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """The shape all images get, and notes: the model's, or the most common channels and the most common size."""
    if request.like is not None:
        if request.like.kind != "image" or request.like.shape[0] not in _WORDS:
            raise DataError(f"the model reads {request.like.describe()}; got images")
        channels, height, width = request.like.shape
        return (channels, height, width), ()
    modes = Counter(head.channels for head in heads)
    channels = 3 if modes[3] >= modes[1] else 1
    sizes = Counter((head.height, head.width) for head in heads)
    # Of sizes that are equally common the smallest, so that nothing is enlarged without need.
    (height, width), _ = min(sizes.items(), key=lambda item: (-item[1], item[0][0] * item[0][1], item[0]))
    notes: tuple[str, ...] = ()
    if len(modes) > 1:
        notes += (f"images are {modes[3]} RGB and {modes[1]} grey: all are read as {_WORDS[channels]}",)
    if len(sizes) > 1:
        most = f"{width} x {height} ({sizes[height, width]} of {len(heads)})"
        notes += (f"images have {len(sizes)} sizes: all are resized to the most common, {most}",)
    return (channels, height, width), notes


def _pixels(path: Path, shape: tuple[int, int, int]) -> tuple[np.ndarray, list[str]]:
    """One image as ``(C, H, W)`` uint8, and what was done to it."""
    channels, height, width = shape
    done = []
    with _open(path) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            image = Image.fromarray(_eight_bits(np.asarray(image)))
            done.append("scaled from 16 bits to 8")
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            done.append("composited on white")
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
            done.append(f"resized to {width} x {height}")
        array = np.asarray(image)
    return array.reshape(1, height, width) if channels == 1 else array.transpose(2, 0, 1), done


def _eight_bits(values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ValueError(f"pixels must be 8-bit or 16-bit, got {low}..{high}")
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _tops(names: tuple[str, ...]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Official splits from top folders, and each image's path below its split."""
    tops = [name.partition("/")[0].lower() if "/" in name else "" for name in names]
    if "train" not in tops or not set(tops) <= set(_TOP):
        return {}, list(names)
    splits = np.array([_TOP[top] for top in tops])
    official = {name: np.flatnonzero(splits == name) for name in dict.fromkeys(_TOP.values())}
    return official, [name.partition("/")[2] for name in names]


def _labels(below: list[str], names: tuple[str, ...], request: Request) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Labels by a pattern, or by class folders where every image lies in exactly one of several."""
    if request.labels is not None:
        found = matches(request.labels, names)
        if not any(label is not None for label in found):
            raise DataError(f"--labels '{request.labels}' must match some paths, such as '{names[0]}'; none fits")
        return classes(found)
    if all(name.count("/") == 1 for name in below):
        folders = [name.partition("/")[0] for name in below]
        if len(set(folders)) > 1:
            return classes(folders)
    return None, ()


def matches(pattern: str, names: Sequence[str]) -> list[str | None]:
    r"""The label in each path: the group of a regular expression, or what the first ``*`` of a glob stands for.

    A pattern with a group is a regular expression, searched for in the path; any other is a glob for the path, or
    for the file's name when it has no slash.

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
