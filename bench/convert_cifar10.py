"""Convert a copy of CIFAR-10 that is stored as differences in xz to the official binary layout.

    python bench/convert_cifar10.py FROM TO

A packed batch holds 10,000 labels followed by the planes G, R-G and B-G (modulo 256), each as differences along rows
and columns. Afterwards ``LADLE_DATA=TO ladle fit cifar10`` finds ``TO/cifar10/*.bin``.
"""

import lzma
import sys
from pathlib import Path

import numpy as np

N = 10_000


def unpack(path: Path) -> np.ndarray:
    """One batch as records of the official release: ``(10000, 3073)`` uint8, each with the label, R, G and B."""
    raw = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8)
    planes = raw[N:].reshape(3, N, 32, 32).cumsum(2, dtype=np.uint8).cumsum(3, dtype=np.uint8)
    green, red, blue = planes[0], planes[1] + planes[0], planes[2] + planes[0]
    return np.concatenate([raw[:N, None], *(plane.reshape(N, -1) for plane in (red, green, blue))], axis=1)


def main(source: str, target: str) -> None:
    folder = Path(target, "cifar10")
    folder.mkdir(parents=True, exist_ok=True)
    packed = sorted(Path(source).glob("*_batch*.xz"))
    if not packed:
        raise SystemExit(f"there must be files like test_batch.xz in '{source}', got none")
    for path in packed:
        unpack(path).tofile(folder / f"{path.stem}.bin")


if __name__ == "__main__":
    main(*sys.argv[1:])
