"""Make the picture of the README from the pictures of a run, with reconstructions on the left and samples on the right.

python bench/first_light.py RUN OUT.png
"""

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
