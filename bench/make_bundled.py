"""Make the bundled part of Fashion-MNIST from the official files.

    python bench/make_bundled.py FOLDER OUT

Plain rows of pixels compress better with xz than differences between pixels, because the pictures have wide margins.
"""

import gzip
import lzma
import struct
import sys
from pathlib import Path

import numpy as np

TRAIN, TEST = 15_000, 2_500
FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0}]


def main(folder: str, out: str) -> None:
    for split, count in (("train", TRAIN), ("t10k", TEST)):
        for name, ndim in (("images-idx3", 3), ("labels-idx1", 1)):
            data = gzip.decompress(Path(folder, f"{split}-{name}-ubyte.gz").read_bytes())
            sizes = struct.unpack(f">{ndim}I", data[4 : 4 + 4 * ndim])
            items = np.frombuffer(data, np.uint8, offset=4 + 4 * ndim).reshape(sizes)[:count]
            head = data[:4] + struct.pack(f">{ndim}I", count, *sizes[1:])
            packed = lzma.compress(head + items.tobytes(), lzma.FORMAT_XZ, filters=FILTERS)
            Path(out, f"{split}-{name}-ubyte.xz").write_bytes(packed)


if __name__ == "__main__":
    main(*sys.argv[1:])
