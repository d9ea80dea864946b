"""Damage: random flips of single bits, cuts and exchanged chunks of a compressed file: is each found, and where?

    python bench/damage.py RUN DATA [--flips 10000] [--fuzz MINUTES]

The file has many small chunks. Of every damaged copy it is asked: is it found; does the message name the chunk that was
hit, or the header, the index or the table of contents; are all other chunks still whole; and, of every hundredth copy,
do they decode to what they were. ``--fuzz`` lets atheris loose on the reader of files, and ends with an error at a
crash, a hang of 10 s or 512 MB of memory.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np

import ladle
from ladle.coding import CodingError
from ladle.coding.container import Reader
from ladle.tasks import compress as task


def part_of(reader: Reader, size: int, place: int) -> str:
    """What lies at a place of a file."""
    if place < reader.start:
        return "header"
    starts = [offset for offset, _ in reader.index]
    if place >= size - 24:
        return "end"
    if reader.contents_at is not None and place >= reader.contents_at:
        return "contents or index"
    return f"chunk {int(np.searchsorted(starts, place, side='right')) - 1}"


def look(path: Path, data: bytes, model: str | None) -> tuple[str, ladle.Verified | None] | None:
    """What is found of a damaged copy: words, and what else was found; nothing where it passes for sound."""
    path.write_bytes(data)
    try:
        found = ladle.verify(path, model)
    except CodingError as error:
        return str(error), None
    return ("; ".join(found.damaged), found) if found.damaged else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run")
    parser.add_argument("data")
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--fuzz", type=float, help="minutes")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.ladle"
        task.PAYLOAD = 1 << 13
        x = ladle.read(asked.data).test.rows(np.arange(500))[0].astype(np.uint8)
        ladle.compress(asked.run, x, path)
        whole = path.read_bytes()
        if asked.fuzz:
            fuzz(whole, asked.fuzz)
            return
        reader = Reader(io.BytesIO(whole))
        print(f"a file of {len(whole):,} bytes, {len(reader.index)} chunks, {len(x)} items")
        rng, counts = np.random.default_rng(0), collections.Counter()
        for i, bit in enumerate(rng.integers(0, 8 * len(whole), asked.flips).tolist()):
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            place, decoded = part_of(reader, len(whole), bit // 8), i % 100 == 0
            found = look(path, broken, asked.run if decoded else None)
            counts["flips"] += 1
            counts["found"] += found is not None
            if found is None:
                continue
            words, rest = found
            named = place in words if place.startswith("chunk") else not words.startswith("chunk")
            counts["named"] += named
            if place.startswith("chunk"):
                hit = reader.index[int(place.split()[1])][1]
                counts["in chunks"] += 1
                counts["others whole"] += rest is not None and rest.items == len(x) - hit
                counts["of those decoded"] += decoded
        for length in rng.integers(0, len(whole), asked.flips // 10).tolist():
            counts["cuts"] += 1
            counts["cuts found"] += look(path, whole[:length], None) is not None
        n = len(reader.index)
        ends = [*(offset for offset, _ in reader.index), reader.contents_at]
        for _ in range(asked.flips // 10):
            a, b = sorted(rng.choice(n, 2, replace=False).tolist())
            parts = [whole[ends[i] : ends[i + 1]] for i in range(n)]
            parts[a], parts[b] = parts[b], parts[a]
            counts["exchanges"] += 1
            exchanged = whole[: reader.start] + b"".join(parts) + whole[ends[-1] :]
            counts["exchanges found"] += look(path, exchanged, None) is not None
        for name, count in counts.items():
            print(f"{name}: {count:,}")


def fuzz(whole: bytes, minutes: float) -> None:
    """Random changes of a file, guided by what code they reach."""
    import importlib

    import atheris

    from ladle.coding import container, pieces

    with atheris.instrument_imports():  # the branches of these two guide the changes
        importlib.reload(container)
        importlib.reload(pieces)

    def one(data: bytes) -> None:
        with contextlib.suppress(CodingError, ladle.DataError):
            reader = container.Reader(io.BytesIO(data))
            for number in range(len(reader.index)):
                with contextlib.suppress(CodingError):
                    reader.chunk(number)
            pieces.understood(reader.contents())

    with tempfile.TemporaryDirectory() as corpus:
        (Path(corpus) / "whole").write_bytes(whole[:60_000])
        limits = [f"-max_total_time={int(60 * minutes)}", "-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=512"]
        atheris.Setup([sys.argv[0], *limits, "-max_len=70000", "-print_final_stats=1", corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
