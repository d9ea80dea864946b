"""What is compressed, as items of the model: arrays as they are, images of any size cut into tiles.

An image of another size or mode than the model's comes back exactly: it is cut into tiles of the model's size, the last
ones filled up with their edge, and its planes (grey, or red, green and blue, or the places in a palette, or opacity)
are taken as many at a time as the model has channels, the last plane repeated.
"""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from ladle.coding.container import strict
from ladle.data import DataError, atomic_file, atomic_folder
from ladle.data.images import Images
from ladle.data.reading import formats, walk
from ladle.data.write import file_names

PALETTE = re.compile("RGBA?:(?:[0-9a-f]{2}){0,1024}")
MOST_DIMENSIONS = 8  # of an array
MODES = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # those that a PNG keeps, and their planes
MOST_PIXELS = 1 << 28  # of an image


class Pieces(ABC):
    """Something to compress: items of one shape, and what they were.

    Attributes:
        items: the number of them.
        raw: bytes of the pixels, as the user has them.
    """

    items: int
    raw: int

    @abstractmethod
    def contents(self) -> dict[str, Any]:
        """Plain JSON: what :func:`restore` needs."""

    @abstractmethod
    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """The items in order, ``size`` at a time: ``(n, *shape)`` of uint8."""

    @abstractmethod
    def some(self, n: int) -> np.ndarray:
        """About n items from everywhere, ``(n, *shape)`` of uint8."""

    @abstractmethod
    def exact_alone(self) -> str:
        """What of it has numbers that are no levels, so that a near one will not do; empty where there is nothing."""


class ArrayPieces(Pieces):
    """The items of an array.

    Args:
        x: ``(N, ...)`` of whole numbers 0..255, or booleans.
        shape: of the model's items.
        top: the largest level that the model explains.
    """

    def __init__(self, x: np.ndarray, shape: tuple[int, ...], top: int) -> None:
        fits = [shape] + ([shape[1:]] if len(shape) == 3 and shape[0] == 1 else [])
        fits += [(*shape[1:], shape[0])] if len(shape) == 3 and shape[0] > 1 else []
        if x.ndim < 1 or x.shape[1:] not in fits:
            raise DataError(f"items must have the shape {' or '.join(map(str, fits))}, got {x.shape[1:]}")
        if x.dtype.kind not in "bui":
            raise DataError(f"what is compressed must be whole numbers, got {x.dtype}")
        self.x, self.shape, self.last = x, shape, x.shape[1:] == fits[-1] and len(fits) > 1 and shape[0] > 1
        for block in np.array_split(x, max(1, x.nbytes >> 24)):
            if len(block) and (block.min() < 0 or block.max() > top):
                raise DataError(
                    f"the model explains whole numbers 0..{top}, got {int(block.min())}..{int(block.max())}"
                    + ("; binarise the data first" if top == 1 else "")
                )
        self.items, self.raw = len(x), math.prod(x.shape)

    def contents(self) -> dict[str, Any]:
        """See :meth:`Pieces.contents`."""
        return {"kind": "array", "dtype": self.x.dtype.newbyteorder("<").str, "shape": list(self.x.shape)}

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """See :meth:`Pieces.blocks`."""
        for start in range(0, self.items, size):
            yield self._items(self.x[start : start + size])

    def some(self, n: int) -> np.ndarray:
        """See :meth:`Pieces.some`."""
        return self._items(self.x[spread(self.items, n)])

    def exact_alone(self) -> str:
        """See :meth:`Pieces.exact_alone`."""
        return "an array of booleans" if self.x.dtype.kind == "b" else ""

    def _items(self, x: np.ndarray) -> np.ndarray:
        block = np.asarray(x).astype(np.uint8)
        return (np.moveaxis(block, -1, 1) if self.last else block).reshape(len(block), *self.shape)


def spread(total: int, n: int) -> np.ndarray:
    """At most n of so many places, evenly spread.

    >>> spread(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return np.unique(np.linspace(0, total - 1, min(n, total)).round().astype(np.int64))


class Picture(NamedTuple):
    """An image of a folder: its name, mode and size, and its palette, such as ``RGB:`` and hexadecimal digits."""

    name: str
    mode: str
    width: int
    height: int
    palette: str = ""

    def tiles(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Groups of planes, rows and columns of tiles."""
        channels, height, width = shape
        return -(-MODES[self.mode] // channels), -(-self.height // height), -(-self.width // width)


class FolderPieces(Pieces):
    """The images of a folder, or one alone.

    Args:
        root: the folder, or the image.
        shape: ``(C, H, W)`` of the model's items.
        top: the largest level that the model explains.
    """

    def __init__(self, root: Path, shape: tuple[int, ...], top: int) -> None:
        if len(shape) != 3:
            raise DataError("the model's items are rows of a table, and these are images")
        known = formats()
        names = [root.name] if root.is_file() else list(walk(root))
        self.root = root.parent if root.is_file() else root
        self.shape, self.top = shape, top
        names = [n for n in names if isinstance(next((known[s] for s in known if n.lower().endswith(s)), None), Images)]
        if not names:
            raise DataError(f"folder '{root}' holds no image")
        self.pictures = [self._head(name) for name in names]
        self.items = sum(math.prod(p.tiles(shape)) for p in self.pictures)
        self.raw = sum(p.width * p.height * MODES[p.mode] for p in self.pictures)

    def _head(self, name: str) -> Picture:
        with self._open(name) as image, readable(name):
            kind = "RGBA" if "transparency" in image.info else "RGB"
            palette = f"{kind}:{bytes(image.getpalette(kind) or []).hex()}" if image.mode == "P" else ""
            return Picture(name, image.mode, image.width, image.height, palette)

    def _open(self, name: str) -> Image.Image:
        with readable(name):
            image = Image.open(self.root / name)
        if image.mode not in MODES:
            raise DataError(f"'{name}' is of mode {image.mode}; what can be compressed is 8-bit: {', '.join(MODES)}")
        if image.width * image.height > MOST_PIXELS:
            raise DataError(f"'{name}' has more than {MOST_PIXELS} pixels")
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise DataError(f"'{name}' has {frames} frames; what can be compressed are single images")
        if image.mode in ("L", "RGB") and "transparency" in image.info:  # one grey or colour is: so said by opacity
            with image, readable(name):
                return image.convert({"L": "LA", "RGB": "RGBA"}[image.mode])
        return image

    def contents(self) -> dict[str, Any]:
        """See :meth:`Pieces.contents`."""
        return {"kind": "images", "files": [list(p) for p in self.pictures]}

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """See :meth:`Pieces.blocks`."""
        waiting: list[np.ndarray] = []
        count = 0
        for picture in self.pictures:
            waiting.append(self._tiles(picture))
            count += len(waiting[-1])
            if count >= size:
                whole = np.concatenate(waiting)
                count = len(whole) % size
                yield from np.split(whole[: len(whole) - count], len(whole) // size)
                waiting = [whole[len(whole) - count :]]
        if count:
            yield np.concatenate(waiting)

    def some(self, n: int) -> np.ndarray:
        """See :meth:`Pieces.some`."""
        chosen = [self.pictures[i] for i in spread(len(self.pictures), n)]
        tiles = [self._tiles(picture) for picture in chosen]
        return np.concatenate([t[spread(len(t), -(-n // len(chosen)))] for t in tiles])

    def exact_alone(self) -> str:
        """See :meth:`Pieces.exact_alone`."""
        what = {"P": "has a palette", "1": "is black and white"}
        return next((f"'{p.name}', which {what[p.mode]}" for p in self.pictures if p.mode in what), "")

    def _tiles(self, picture: Picture) -> np.ndarray:
        channels, high, wide = self.shape
        with readable(picture.name), self._open(picture.name) as image:
            pixels = np.asarray(image, np.uint8).reshape(picture.height, picture.width, -1)
            if picture.mode == "1":  # black and white, as the model knows them
                pixels = pixels * np.uint8(self.top)
        if pixels.max(initial=0) > self.top:
            raise DataError(f"the model explains 0..{self.top}, '{picture.name}' holds {int(pixels.max())}")
        groups, rows, columns = picture.tiles(self.shape)
        extra = ((0, rows * high - picture.height), (0, columns * wide - picture.width),
                 (0, groups * channels - pixels.shape[2]))  # fmt: skip
        pixels = np.pad(pixels, extra, mode="edge")
        cut = pixels.reshape(rows, high, columns, wide, groups, channels)
        return cut.transpose(4, 0, 2, 5, 1, 3).reshape(-1, *self.shape)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Name the image that something is wrong with."""
    try:
        yield
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"'{name}' cannot be read as an image: {str(error)[:200]}") from None


# -------------------------------------------------------------------------------------------- and back


def understood(text: bytes) -> dict[str, Any]:
    """The table of contents, held against its limits.

    Raises:
        DataError: for one that no sound file has.
    """
    try:
        contents = strict(text)
        if contents["kind"] == "array":
            shape, dtype = [int(size) for size in contents["shape"]], np.dtype(contents["dtype"])
            if dtype.kind not in "bui" or not 1 <= len(shape) <= MOST_DIMENSIONS or min(shape) < 0:
                raise ValueError("an array that cannot be")
            if math.prod(shape) > 1 << 50:
                raise ValueError("an array that is larger than any")
        elif contents["kind"] == "images":
            for picture in pictures(contents):
                area = picture.width * picture.height
                if picture.mode not in MODES or not 0 < area <= MOST_PIXELS or min(picture.width, picture.height) < 1:
                    raise ValueError(f"an image {picture.name[:80]!r} that cannot be")
                if picture.palette and (picture.mode != "P" or not PALETTE.fullmatch(picture.palette)):
                    raise ValueError(f"an image {picture.name[:80]!r} whose palette cannot be")
            file_names(len(contents["files"]), [f[0] for f in contents["files"]])
        else:
            raise ValueError(f"an unknown kind {str(contents['kind'])[:40]!r}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"the table of contents is none: {str(error)[:200]}") from None
    return contents


def counted(contents: Mapping[str, Any], shape: Sequence[int]) -> int:
    """How many items of this shape a table of contents speaks of.

    Raises:
        DataError: for an array of other items.
    """
    if contents["kind"] == "array":
        total, *each = contents["shape"]
        if math.prod(each) != math.prod(shape):
            raise DataError(f"the table of contents speaks of items of shape {each}, the model's are {list(shape)}")
        return int(total)
    return sum(math.prod(picture.tiles(shape)) for picture in pictures(contents))


def pictures(contents: Mapping[str, Any]) -> list[Picture]:
    """The images of a table of contents."""
    return [Picture(str(n), str(m), int(w), int(h), str(p)) for n, m, w, h, p in contents["files"]]


def part_of(
    contents: Mapping[str, Any], shape: Sequence[int], start: int, stop: int
) -> tuple[dict[str, Any], int, int]:
    """What a range of an array's items, or of images, is: a table of contents of its own, and which items it takes.

    Raises:
        DataError: for a range that is not within what there is.
    """
    array = contents["kind"] == "array"
    total, what = (counted(contents, shape), "items") if array else (len(contents["files"]), "images")
    if not 0 <= start < max(stop, 1) <= max(total, 1):
        raise DataError(f"a range must be within the {what} 0:{total}, got {start}:{stop}")
    if array:
        return {**contents, "shape": [stop - start, *contents["shape"][1:]]}, start, stop
    sizes = [math.prod(picture.tiles(shape)) for picture in pictures(contents)]
    return {**contents, "files": contents["files"][start:stop]}, sum(sizes[:start]), sum(sizes[:stop])


@contextmanager
def restored(contents: Mapping[str, Any], shape: Sequence[int], out: Path, force: bool) -> Iterator[_Sink]:
    """Write items as what they were: an array as ``.npy``, images as PNG files of a folder; whole or not at all."""
    if contents["kind"] == "array":
        if out.suffix != ".npy":
            raise DataError(f"the file holds an array, so the output must end in .npy, got '{out.name}'")
        with atomic_file(out, force=force) as temporary, temporary.open("wb") as file:
            yield _ArraySink(contents, shape, file)
    else:
        with atomic_folder(out, force=force) as folder:
            yield _FolderSink(contents, shape, folder)


class _Sink(ABC):
    @abstractmethod
    def put(self, items: np.ndarray) -> None:
        """The next items, ``(n, *shape)`` of uint8."""


class _ArraySink(_Sink):
    def __init__(self, contents: Mapping[str, Any], shape: Sequence[int], file: BinaryIO) -> None:
        own = tuple(int(size) for size in contents["shape"])
        self.last = len(shape) == 3 and shape[0] > 1 and own[1:] == (*shape[1:], shape[0])
        self.dtype, self.file = np.dtype(contents["dtype"]), file
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": own}
        np.lib.format.write_array_header_1_0(file, header)

    def put(self, items: np.ndarray) -> None:
        """See :meth:`_Sink.put`."""
        items = np.moveaxis(items, 1, -1) if self.last else items
        self.file.write(np.ascontiguousarray(items.astype(self.dtype)).tobytes())


class _FolderSink(_Sink):
    def __init__(self, contents: Mapping[str, Any], shape: Sequence[int], folder: Path) -> None:
        self.shape, self.folder = tuple(shape), folder
        self.pictures = pictures(contents)
        self.names = file_names(len(self.pictures), [p.name for p in self.pictures])
        self.needed = [math.prod(p.tiles(shape)) for p in self.pictures]
        self.at, self.waiting, self.count = 0, list[np.ndarray](), 0

    def put(self, items: np.ndarray) -> None:
        """See :meth:`_Sink.put`."""
        self.waiting.append(items)
        self.count += len(items)
        if self.at == len(self.pictures) or self.count < self.needed[self.at]:
            return
        whole = np.concatenate(self.waiting)
        while self.at < len(self.pictures) and len(whole) >= self.needed[self.at]:
            tiles, whole = np.split(whole, [self.needed[self.at]])
            self._write(self.pictures[self.at], self.names[self.at], tiles)
            self.at += 1
        self.waiting, self.count = [whole], len(whole)

    def _write(self, picture: Picture, name: str, tiles: np.ndarray) -> None:
        groups, rows, columns = picture.tiles(self.shape)
        channels, high, wide = self.shape
        whole = tiles.reshape(groups, rows, columns, channels, high, wide).transpose(1, 4, 2, 5, 0, 3)
        whole = whole.reshape(rows * high, columns * wide, -1)[: picture.height, : picture.width, : MODES[picture.mode]]
        if picture.mode == "1":
            image = Image.fromarray((whole[..., 0] > 0) * np.uint8(255)).convert("1")
        else:
            size, data = (picture.width, picture.height), np.ascontiguousarray(whole).tobytes()
            image = Image.frombytes(picture.mode, size, data)
        if picture.palette:
            kind, _, palette = picture.palette.partition(":")
            image.putpalette(bytes.fromhex(palette), kind)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG")
