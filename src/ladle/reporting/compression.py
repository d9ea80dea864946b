"""The panel of compression: file sizes compared with the bound of the model and with common codecs."""

from __future__ import annotations

import bz2
import importlib.util
import io
import lzma
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ladle.coding import CodingError
from ladle.coding.chunks import MODES
from ladle.html.elements import Absent, Markup, Panel, element
from ladle.inference.evidence import summary
from ladle.reporting.subject import Subject
from ladle.tasks.common import explained
from ladle.tasks.compress import compress
from ladle.tasks.score import measure

ITEMS = 1000  # the largest number of compressed items
NUMBERS = 1 << 20  # the largest number of values in these items together
ALONE = 100  # items that other codecs compress separately

Sizes = Mapping[str, tuple[float, float]]  # bytes of all items together, and of one item compressed separately


def rivals(x: np.ndarray) -> Sizes:
    """Sizes of the same images with other lossless codecs. Image codecs compress all images side by side as one image.

    Args:
        x: ``(N, C, H, W)`` of uint8. Image codecs are used for one or three channels. If all values are 0 or 1, the
            codecs are given one bit per value.

    Returns:
        By name, the bytes of all items together, and the mean of the first hundred items, compressed separately.
    """
    bits = x.max(initial=0) <= 1
    raw = np.packbits(x).tobytes() if bits else x.tobytes()
    each = [np.packbits(one).tobytes() if bits else one.tobytes() for one in x[:ALONE]]
    found = {
        "bz2": (len(bz2.compress(raw, 9)), float(np.mean([len(bz2.compress(one, 9)) for one in each]))),
        "xz": (len(lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)),
               float(np.mean([len(lzma.compress(one, lzma.FORMAT_ALONE)) for one in each]))),
    }  # fmt: skip
    images: dict[str, tuple[str, dict[str, Any]]] = {
        "PNG": ("PNG", {"optimize": True}),
        "WebP": ("WEBP", {"lossless": True, "quality": 100, "method": 6}),
    }
    if importlib.util.find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401

        images["JPEG XL"] = ("JXL", {"lossless": True, "effort": 7})
    if x.shape[1] in (1, 3):
        for name, (form, options) in images.items():
            together = encoded(mosaic(x), form, bits, **options)
            found[name] = (together, float(np.mean([encoded(one, form, bits, **options) for one in x[:ALONE]])))
    return found


def mosaic(x: np.ndarray) -> np.ndarray:
    """Place images side by side: ``(N, C, H, W)`` to ``(C, rows H, columns W)``."""
    columns = math.ceil(math.sqrt(len(x)))
    rows = -(-len(x) // columns)
    full = np.concatenate([x, np.zeros((rows * columns - len(x), *x.shape[1:]), x.dtype)])
    channels, height, width = x.shape[1:]
    return full.reshape(rows, columns, channels, height, width).transpose(2, 0, 3, 1, 4).reshape(
        channels, rows * height, columns * width
    )  # fmt: skip


def encoded(image: np.ndarray, form: str, bits: bool = False, **options: Any) -> int:
    """The number of bytes of an image ``(C, H, W)`` in a format of Pillow."""
    pixels = Image.fromarray((image * 255 if bits else image)[0] if len(image) == 1 else image.transpose(1, 2, 0))
    file = io.BytesIO()
    (pixels.convert("1") if bits and form == "PNG" else pixels).save(file, form, **options)
    return file.tell()


def compression(subject: Subject) -> Panel | None:
    """Sizes of files of the held-out items, in bits per value. ``None`` for values that are neither binary nor bytes,
    and in a quick report."""
    schema = subject.model.schema
    if schema.support not in ("binary", "bytes") or subject.plain or subject.quick:
        return None
    if subject.step is not None:
        raise Absent("The run has not ended. Files need the final model.")
    most = max(50, min(ITEMS, NUMBERS // schema.size))
    held = subject.held.take(np.arange(min(most, len(subject.held))))
    x = explained(subject.model, held).astype(np.uint8)
    try:
        with tempfile.TemporaryDirectory() as folder:
            files = [compress(subject.folder, x, Path(folder) / mode, mode=mode, verify=False) for mode in MODES]
    except CodingError as error:
        raise Absent(str(error)) from None
    numbers = x[0].size
    images = x if x.ndim == 4 else x.reshape(len(x), 1, 1, -1)
    bound = summary(measure(subject.model, held, samples=1)).bits_per_dim
    together, separately = files
    rows = {"Ladle": (together.bytes, separately.bytes / len(x)), **rivals(images)}
    figures = {name: (8 * all_items / x.size, 8 * one / numbers) for name, (all_items, one) in rows.items()}
    words: tuple[str, ...] = (
        f"Lossless file sizes of {len(x):,} test items, in bits for each of their {numbers:,} values, headers "
        f"included; lower is better. The bound of the model is {bound:.3f}.",
        "Together: all items in one file; image codecs compress one large image of them. Separately: each item can be "
        "read without the others; for Ladle, this is the mode `random-access`.",
    )
    chunks, fallback = sum(file.chunks for file in files), sum(file.fallback for file in files)
    if fallback:
        words += (f"{fallback} of {chunks} chunks were compressed by xz or stored, because the model is larger.",)
    best = [min(column) for column in zip(*figures.values(), strict=True)]
    head = element("tr", element("th", "bits per value"), element("th", "together", class_="right"),
                   element("th", "separately", class_="right"))  # fmt: skip
    body = [
        element("tr", element("td", name), *(_figure(v, v == b) for v, b in zip(pair, best, strict=True)))
        for name, pair in figures.items()
    ]
    table = element("div", element("table", head, *body), class_="wide", tabindex="0", role="region",
                    aria_label="File sizes")  # fmt: skip
    sizes = {name: {"together": round(a, 4), "alone": round(b, 4)} for name, (a, b) in figures.items()}
    return Panel("Compression", words, table, {"bound": round(bound, 4), **sizes})


def _figure(value: float, best: bool) -> Markup:
    return element("td", element("b", f"{value:.3f}") if best else f"{value:.3f}", class_="right")
