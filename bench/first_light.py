"""The README's picture from a run's own: ``first_light.py RUN OUT.png``, reconstructions left and samples right."""

import sys
from pathlib import Path

from PIL import Image


def main(run: str, out: str) -> None:
    left, right = (Image.open(Path(run, f"{name}.png")).convert("RGB") for name in ("reconstructions", "samples"))
    height = max(left.height, right.height)
    page = Image.new("RGB", (left.width + right.width, height), "white")
    page.paste(left, (0, 0))
    page.paste(right, (left.width, 0))
    page.save(out, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
