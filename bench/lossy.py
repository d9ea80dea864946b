"""Lossy compression of small images: bytes for each, of Ladle's random-access files and of JPEG, WebP and JPEG XL.

    python bench/lossy.py RUN DATA [--items 1000] [--decibels 25,30,35]

All reach the same peak signal-to-noise ratio or a little more: that of the mean squared error over all items. Every
image is a file of its own for the usual codecs, as they are used; Ladle's is one file from which each image can be read
alone, and all of its bytes are counted: header, index, lengths. JPEG XL needs ``pillow-jxl-plugin``.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

import ladle
from ladle.coding.random_access import decibels
from ladle.tasks.common import explained, items


def coded(x: np.ndarray, form: str, quality: int) -> tuple[float, float]:
    """Mean bytes of the images ``(N, C, H, W)``, and their dB, in a format of Pillow's at a quality."""
    sizes, kept = [], []
    for one in x:
        pixels = Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0))
        file = io.BytesIO()
        options = {"method": 6} if form == "WEBP" else {"optimize": True} if form == "JPEG" else {"effort": 7}
        pixels.save(file, form, quality=quality, **options)
        sizes.append(file.tell())
        back = np.asarray(Image.open(file).convert(pixels.mode))
        kept.append(back[None] if back.ndim == 2 else back.transpose(2, 0, 1))
    return float(np.mean(sizes)), decibels(x, np.stack(kept), 255)


def smallest(x: np.ndarray, form: str, wanted: float) -> tuple[float, float]:
    """The lowest quality that reaches the wanted dB: by bisection, as dB rise with quality."""
    low, high = 1, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if coded(x, form, middle)[1] >= wanted else (middle + 1, high)
    return coded(x, form, high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--decibels", default="25,30,35")
    asked = parser.parse_args()
    forms = {"JPEG": "JPEG", "WebP": "WEBP"}
    if importlib.util.find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401

        forms["JPEG XL"] = "JXL"
    model = ladle.load(asked.run, "cpu")
    x = explained(model, items(model, asked.data))[: asked.items].astype(np.uint8)
    print(f"{len(x):,} items of {asked.data}, {x[0].size:,} bytes each")
    print(f"| dB | Ladle | {' | '.join(forms)} |")
    print("|---|---|" + "---|" * len(forms))
    with tempfile.TemporaryDirectory() as folder:
        for wanted in map(float, asked.decibels.split(",")):
            file = Path(folder) / f"{wanted}.ladle"
            made = ladle.compress(asked.run, x, file, quality=wanted)
            reached = decibels(x, ladle.decompress(file, model=asked.run), 255)
            cells = [f"**{made.bytes / len(x):.0f}** ({reached:.1f})"]
            for form in forms.values():
                size, found = smallest(x, form, wanted)
                cells.append(f"{size:.0f} ({found:.1f})")
            print(f"| {wanted:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
