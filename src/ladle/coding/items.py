"""Data as items of the model, and items as data: arrays unchanged, images of any size cut into tiles.

Images of any size and mode are restored without loss. They are cut into tiles of the model's size, and the last tiles
are padded with their edge. The planes (grey; red, green and blue; indices into a palette; opacity) are grouped by the
model's number of channels, and the last plane is repeated to complete a group.
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

from ladle.coding.container import strict_json
from ladle.data import DataError, atomic_file, atomic_folder
from ladle.data.images import Images
from ladle.data.reading import formats, walk
from ladle.data.write import file_names

PALETTE = re.compile("RGBA?:(?:[0-9a-f]{2}){0,1024}")
MOST_DIMENSIONS = 8  # the most dimensions of an array
MODES = {"1": 1, "L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}  # modes that PNG supports: numbers of planes
MOST_PIXELS = 1 << 28  # the most pixels of an image


class ItemSource(ABC):
    """Data to compress: items of one shape, and the description that restores the data from them.

    Attributes:
        items: the number of items.
        raw: the bytes of the pixels in the data.
    """

    items: int
    raw: int

    @abstractmethod
    def contents(self) -> dict[str, Any]:
        """The table of contents as plain JSON, which :func:`restore_to` needs."""

    @abstractmethod
    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """The items in order, ``size`` at a time: ``(n, *shape)`` of uint8."""

    @abstractmethod
    def sample(self, n: int) -> np.ndarray:
        """About n items, evenly spread over the data, ``(n, *shape)`` of uint8."""

    @abstractmethod
    def lossless_only(self) -> str:
        """The part of the data whose numbers are not levels, so that it cannot be compressed with loss; or empty."""


class ArraySource(ItemSource):
    """The items of an array.

    Args:
        x: ``(N, ...)`` of whole numbers in 0..255, or booleans.
        shape: the shape of the model's items.
        top: the largest level in the support of the model.
    """

    def __init__(self, x: np.ndarray, shape: tuple[int, ...], top: int) -> None:
        fits = [shape] + ([shape[1:]] if len(shape) == 3 and shape[0] == 1 else [])
        fits += [(*shape[1:], shape[0])] if len(shape) == 3 and shape[0] > 1 else []
        if x.ndim < 1 or x.shape[1:] not in fits:
            raise DataError(f"items must have the shape {' or '.join(map(str, fits))}, got {x.shape[1:]}")
        if x.dtype.kind not in "bui":
            raise DataError(f"data to compress must be whole numbers, got {x.dtype}")
        self.x, self.shape = x, shape
        self.channels_last = x.shape[1:] == fits[-1] and len(fits) > 1 and shape[0] > 1
        for block in np.array_split(x, max(1, x.nbytes >> 24)):
            if len(block) and (block.min() < 0 or block.max() > top):
                raise DataError(
                    f"data must lie in the model's range 0..{top}, got {int(block.min())}..{int(block.max())}"
                    + ("; binarise the data first" if top == 1 else "")
                )
        self.items, self.raw = len(x), math.prod(x.shape)

    def contents(self) -> dict[str, Any]:
        """See :meth:`ItemSource.contents`."""
        return {"kind": "array", "dtype": self.x.dtype.newbyteorder("<").str, "shape": list(self.x.shape)}

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """See :meth:`ItemSource.blocks`."""
        for start in range(0, self.items, size):
            yield self._items(self.x[start : start + size])

    def sample(self, n: int) -> np.ndarray:
        """See :meth:`ItemSource.sample`."""
        return self._items(self.x[evenly_spaced(self.items, n)])

    def lossless_only(self) -> str:
        """See :meth:`ItemSource.lossless_only`."""
        return "an array of booleans" if self.x.dtype.kind == "b" else ""

    def _items(self, x: np.ndarray) -> np.ndarray:
        block = np.asarray(x).astype(np.uint8)
        return (np.moveaxis(block, -1, 1) if self.channels_last else block).reshape(len(block), *self.shape)


def evenly_spaced(total: int, n: int) -> np.ndarray:
    """At most n of the numbers 0 to total - 1, evenly spaced.

    >>> evenly_spaced(10, 4).tolist()
    [0, 3, 6, 9]
    """
    return np.unique(np.linspace(0, total - 1, min(n, total)).round().astype(np.int64))


class Picture(NamedTuple):
    """An image of a folder: its name, mode, size and palette, which is ``RGB:`` or ``RGBA:`` and hexadecimal digits."""

    name: str
    mode: str
    width: int
    height: int
    palette: str = ""

    def tiles(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """The numbers of groups of planes, of rows and of columns of tiles."""
        channels, height, width = shape
        return -(-MODES[self.mode] // channels), -(-self.height // height), -(-self.width // width)


class ImageSource(ItemSource):
    """The images of a folder, or a single image.

    Args:
        root: the folder or the image.
        shape: ``(C, H, W)`` of the model's items.
        top: the largest level in the support of the model.
    """

    def __init__(self, root: Path, shape: tuple[int, ...], top: int) -> None:
        if len(shape) != 3:
            raise DataError(f"images need a model of images, (C, H, W); its items have the shape {shape}")
        readers = formats()
        names = [root.name] if root.is_file() else list(walk(root))
        self.root = root.parent if root.is_file() else root
        self.shape, self.top = shape, top
        names = [
            n for n in names if isinstance(next((readers[s] for s in readers if n.lower().endswith(s)), None), Images)
        ]
        if not names:
            raise DataError(f"folder '{root}' contains no image")
        self.pictures = [self._head(name) for name in names]
        self.items = sum(math.prod(p.tiles(shape)) for p in self.pictures)
        self.raw = sum(p.width * p.height * MODES[p.mode] for p in self.pictures)

    def _head(self, name: str) -> Picture:
        with self._open(name) as image, image_errors(name):
            kind = "RGBA" if "transparency" in image.info else "RGB"
            palette = f"{kind}:{bytes(image.getpalette(kind) or []).hex()}" if image.mode == "P" else ""
            return Picture(name, image.mode, image.width, image.height, palette)

    def _open(self, name: str) -> Image.Image:
        with image_errors(name):
            image = Image.open(self.root / name)
        if image.mode not in MODES:
            raise DataError(f"images must be 8-bit ({', '.join(MODES)}); '{name}' is of mode {image.mode}")
        if image.width * image.height > MOST_PIXELS:
            raise DataError(f"images must have at most {MOST_PIXELS} pixels; '{name}' has {image.width * image.height}")
        frames = getattr(image, "n_frames", 1)
        if frames > 1:
            raise DataError(f"images must have one frame; '{name}' has {frames} frames")
        if image.mode in ("L", "RGB") and "transparency" in image.info:  # to an opacity plane
            with image, image_errors(name):
                return image.convert({"L": "LA", "RGB": "RGBA"}[image.mode])
        return image

    def contents(self) -> dict[str, Any]:
        """See :meth:`ItemSource.contents`."""
        return {"kind": "images", "files": [list(p) for p in self.pictures]}

    def blocks(self, size: int) -> Iterator[np.ndarray]:
        """See :meth:`ItemSource.blocks`."""
        waiting: list[np.ndarray] = []
        count = 0
        for picture in self.pictures:
            waiting.append(self._tiles(picture))
            count += len(waiting[-1])
            if count >= size:
                tiles = np.concatenate(waiting)
                count = len(tiles) % size
                yield from np.split(tiles[: len(tiles) - count], len(tiles) // size)
                waiting = [tiles[len(tiles) - count :]]
        if count:
            yield np.concatenate(waiting)

    def sample(self, n: int) -> np.ndarray:
        """See :meth:`ItemSource.sample`."""
        chosen = [self.pictures[i] for i in evenly_spaced(len(self.pictures), n)]
        tiles = [self._tiles(picture) for picture in chosen]
        return np.concatenate([t[evenly_spaced(len(t), -(-n // len(chosen)))] for t in tiles])

    def lossless_only(self) -> str:
        """See :meth:`ItemSource.lossless_only`."""
        what = {"P": "has a palette", "1": "is black and white"}
        return next((f"'{p.name}', which {what[p.mode]}" for p in self.pictures if p.mode in what), "")

    def _tiles(self, picture: Picture) -> np.ndarray:
        channels, high, wide = self.shape
        with image_errors(picture.name), self._open(picture.name) as image:
            pixels = np.asarray(image, np.uint8).reshape(picture.height, picture.width, -1)
            if picture.mode == "1":  # black and white become the model's lowest and highest level
                pixels = pixels * np.uint8(self.top)
        if pixels.max(initial=0) > self.top:
            raise DataError(f"pixels must be in the range 0..{self.top}; '{picture.name}' has {int(pixels.max())}")
        groups, rows, columns = picture.tiles(self.shape)
        extra = ((0, rows * high - picture.height), (0, columns * wide - picture.width),
                 (0, groups * channels - pixels.shape[2]))  # fmt: skip
        pixels = np.pad(pixels, extra, mode="edge")
        cut = pixels.reshape(rows, high, columns, wide, groups, channels)
        return cut.transpose(4, 0, 2, 5, 1, 3).reshape(-1, *self.shape)


@contextmanager
def image_errors(name: str) -> Iterator[None]:
    """Name the image in errors of reading it."""
    try:
        yield
    except DataError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"'{name}' cannot be read as an image: {str(error)[:200]}") from None


# --------------------------------------------------------------------------------------- restoring data


def parse_contents(text: bytes) -> dict[str, Any]:
    """Parse a table of contents and check its limits.

    Raises:
        DataError: for a table of contents that is not valid.
    """
    try:
        contents = strict_json(text)
        if contents["kind"] == "array":
            shape, dtype = [int(size) for size in contents["shape"]], np.dtype(contents["dtype"])
            if dtype.kind not in "bui" or not 1 <= len(shape) <= MOST_DIMENSIONS or min(shape) < 0:
                raise ValueError(f"an array must hold whole numbers and have 1 to {MOST_DIMENSIONS} dimensions")
            if math.prod(shape) > 1 << 50:
                raise ValueError(f"an array must have at most {1 << 50} elements, got the shape {shape}")
        elif contents["kind"] == "images":
            for picture in pictures(contents):
                area = picture.width * picture.height
                if picture.mode not in MODES or not 0 < area <= MOST_PIXELS or min(picture.width, picture.height) < 1:
                    raise ValueError(f"the image {picture.name[:80]!r} has a mode or size that is not supported")
                if picture.palette and (picture.mode != "P" or not PALETTE.fullmatch(picture.palette)):
                    raise ValueError(f"the palette of the image {picture.name[:80]!r} is not valid")
            file_names(len(contents["files"]), [f[0] for f in contents["files"]])
        else:
            raise ValueError(f"'kind' must be array or images, got {str(contents['kind'])[:40]!r}")
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise DataError(f"the table of contents is not valid: {str(error)[:200]}") from None
    return contents


def count_items(contents: Mapping[str, Any], shape: Sequence[int]) -> int:
    """The number of items of a shape that a table of contents describes.

    Raises:
        DataError: for an array of items of another size.
    """
    if contents["kind"] == "array":
        total, *each = contents["shape"]
        if math.prod(each) != math.prod(shape):
            raise DataError(f"items must have the model's shape {list(shape)}, the table of contents has {each}")
        return int(total)
    return sum(math.prod(picture.tiles(shape)) for picture in pictures(contents))


def pictures(contents: Mapping[str, Any]) -> list[Picture]:
    """The images in a table of contents."""
    return [Picture(str(n), str(m), int(w), int(h), str(p)) for n, m, w, h, p in contents["files"]]


def select_range(
    contents: Mapping[str, Any], shape: Sequence[int], start: int, stop: int
) -> tuple[dict[str, Any], int, int]:
    """The table of contents of a range of an array's items, or of images, and the range of items that it needs.

    Raises:
        DataError: for a range that is empty or not within the contents.
    """
    array = contents["kind"] == "array"
    total, unit = (count_items(contents, shape), "items") if array else (len(contents["files"]), "images")
    if not 0 <= start < max(stop, 1) <= max(total, 1):
        raise DataError(f"a range must be within the {unit} 0:{total}, got {start}:{stop}")
    if array:
        return {**contents, "shape": [stop - start, *contents["shape"][1:]]}, start, stop
    sizes = [math.prod(picture.tiles(shape)) for picture in pictures(contents)]
    return {**contents, "files": contents["files"][start:stop]}, sum(sizes[:start]), sum(sizes[:stop])


@contextmanager
def restore_to(contents: Mapping[str, Any], shape: Sequence[int], out: Path, force: bool) -> Iterator[_Sink]:
    """Write items in their original form, atomically: an array as ``.npy``, images as PNG files in a folder."""
    if contents["kind"] == "array":
        if out.suffix != ".npy":
            raise DataError(f"the output must end in .npy, as the file holds an array; got '{out.name}'")
        with atomic_file(out, force=force) as temporary, temporary.open("wb") as file:
            yield _ArraySink(contents, shape, file)
    else:
        with atomic_folder(out, force=force) as folder:
            yield _FolderSink(contents, shape, folder)


class _Sink(ABC):
    @abstractmethod
    def write(self, items: np.ndarray) -> None:
        """Write the next items, ``(n, *shape)`` of uint8."""


class _ArraySink(_Sink):
    def __init__(self, contents: Mapping[str, Any], shape: Sequence[int], file: BinaryIO) -> None:
        array_shape = tuple(int(size) for size in contents["shape"])
        self.channels_last = len(shape) == 3 and shape[0] > 1 and array_shape[1:] == (*shape[1:], shape[0])
        self.dtype, self.file = np.dtype(contents["dtype"]), file
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": array_shape}
        np.lib.format.write_array_header_1_0(file, header)

    def write(self, items: np.ndarray) -> None:
        """See :meth:`_Sink.write`."""
        items = np.moveaxis(items, 1, -1) if self.channels_last else items
        self.file.write(np.ascontiguousarray(items.astype(self.dtype)).tobytes())


class _FolderSink(_Sink):
    def __init__(self, contents: Mapping[str, Any], shape: Sequence[int], folder: Path) -> None:
        self.shape, self.folder = tuple(shape), folder
        self.pictures = pictures(contents)
        self.names = file_names(len(self.pictures), [p.name for p in self.pictures])
        self.needed = [math.prod(p.tiles(shape)) for p in self.pictures]
        self.at, self.waiting, self.count = 0, list[np.ndarray](), 0

    def write(self, items: np.ndarray) -> None:
        """See :meth:`_Sink.write`."""
        self.waiting.append(items)
        self.count += len(items)
        if self.at == len(self.pictures) or self.count < self.needed[self.at]:
            return
        rest = np.concatenate(self.waiting)
        while self.at < len(self.pictures) and len(rest) >= self.needed[self.at]:
            tiles, rest = np.split(rest, [self.needed[self.at]])
            self._write(self.pictures[self.at], self.names[self.at], tiles)
            self.at += 1
        self.waiting, self.count = [rest], len(rest)

    def _write(self, picture: Picture, name: str, tiles: np.ndarray) -> None:
        groups, rows, columns = picture.tiles(self.shape)
        channels, high, wide = self.shape
        pixels = tiles.reshape(groups, rows, columns, channels, high, wide).transpose(1, 4, 2, 5, 0, 3)
        pixels = pixels.reshape(rows * high, columns * wide, -1)
        pixels = pixels[: picture.height, : picture.width, : MODES[picture.mode]]
        if picture.mode == "1":
            image = Image.fromarray((pixels[..., 0] > 0) * np.uint8(255)).convert("1")
        else:
            size, data = (picture.width, picture.height), np.ascontiguousarray(pixels).tobytes()
            image = Image.frombytes(picture.mode, size, data)
        if picture.palette:
            kind, _, palette = picture.palette.partition(":")
            image.putpalette(bytes.fromhex(palette), kind)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG")
