"""Lossy compression of small images: bytes for each image, by Ladle's random-access files, JPEG, WebP and JPEG XL.

    python bench/lossy.py RUN DATA [--items 1000] [--decibels 25,30,35]

All codecs reach at least the same peak signal-to-noise ratio, computed from the mean squared error over all items. The
other codecs write one file for every image, as they are commonly used. Ladle writes one file in which each image can be
decoded alone, and all bytes of that file are counted: header, index, lengths. JPEG XL needs ``pillow-jxl-plugin``.
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
from ladle.coding.random_access import psnr
from ladle.tasks.common import explained, items


def encode(x: np.ndarray, form: str, quality: int) -> tuple[float, float]:
    """The mean bytes of images ``(N, C, H, W)``, and their PSNR in dB, in one of Pillow's formats at a quality."""
    sizes, kept = [], []
    for one in x:
        pixels = Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0))
        file = io.BytesIO()
        options = {"method": 6} if form == "WEBP" else {"optimize": True} if form == "JPEG" else {"effort": 7}
        pixels.save(file, form, quality=quality, **options)
        sizes.append(file.tell())
        back = np.asarray(Image.open(file).convert(pixels.mode))
        kept.append(back[None] if back.ndim == 2 else back.transpose(2, 0, 1))
    return float(np.mean(sizes)), psnr(x, np.stack(kept), 255)


def smallest(x: np.ndarray, form: str, target: float) -> tuple[float, float]:
    """The size and PSNR at the lowest quality that reaches a PSNR, by bisection, as PSNR increases with quality."""
    low, high = 1, 100
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if encode(x, form, middle)[1] >= target else (middle + 1, high)
    return encode(x, form, high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--decibels", default="25,30,35")
    arguments = parser.parse_args()
    forms = {"JPEG": "JPEG", "WebP": "WEBP"}
    if importlib.util.find_spec("pillow_jxl"):
        import pillow_jxl  # noqa: F401

        forms["JPEG XL"] = "JXL"
    model = ladle.load(arguments.run, "cpu")
    x = explained(model, items(model, arguments.data))[: arguments.items].astype(np.uint8)
    print(f"{len(x):,} items of {arguments.data}, {x[0].size:,} bytes each")
    print(f"| dB | Ladle | {' | '.join(forms)} |")
    print("|---|---|" + "---|" * len(forms))
    with tempfile.TemporaryDirectory() as folder:
        for target in map(float, arguments.decibels.split(",")):
            file = Path(folder) / f"{target}.ladle"
            made = ladle.compress(arguments.run, x, file, quality=target)
            reached = psnr(x, ladle.decompress(file, model=arguments.run), 255)
            cells = [f"**{made.bytes / len(x):.0f}** ({reached:.1f})"]
            for form in forms.values():
                size, found = smallest(x, form, target)
                cells.append(f"{size:.0f} ({found:.1f})")
            print(f"| {target:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
