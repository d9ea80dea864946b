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
import types
from pathlib import Path

import numpy as np

import ladle
from ladle.coding import CodingError
from ladle.coding.container import Reader
from ladle.tasks import compress

ITEMS = 20  # of a file to be changed


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
    test = ladle.read(asked.data).test
    x = test.rows(np.arange(min(500, len(test))))[0].astype(np.uint8)
    if asked.fuzz:
        fuzz(asked.run, x, asked.fuzz)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.ladle"
        compress.PAYLOAD = 1 << 13
        ladle.compress(asked.run, x, path)
        whole = path.read_bytes()
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


def fuzz(run: str, x: np.ndarray, minutes: float) -> None:
    """Random changes of files, guided by what code they reach. Checksums and hashes are taken to agree, so that changes
    go on to whatever lies behind them: the coders too."""
    import importlib

    import atheris

    from ladle.coding import bits_back, container, items, random_access
    from ladle.coding.ans import stack, streams
    from ladle.tasks import decompress

    for module in (stack, streams, bits_back, random_access, container, items, decompress):
        with atheris.instrument_imports():
            importlib.reload(module)
    container.zlib = types.SimpleNamespace(crc32=lambda *_: 0)  # type: ignore[attr-defined]
    container.digest = decompress.digest = compress.digest = lambda _: bytes(16)  # type: ignore[attr-defined]
    compress.Writer, compress.BitsBack, compress.Direct = container.Writer, bits_back.BitsBack, random_access.Direct  # type: ignore[attr-defined]
    exact = compress.exact(run)

    def one(data: bytes) -> None:
        with contextlib.suppress(CodingError, ladle.DataError):
            reader = container.Reader(io.BytesIO(data))
            mode = reader.header.get("mode")
            coder = compress.codec_of(exact, mode if mode in compress.MODES else "bitsback", reader.header)
            for number in range(min(8, len(reader.index))):
                with contextlib.suppress(CodingError):
                    decompress._unpacked(coder, reader.chunk(number), exact.shape)
            items.counted(items.understood(reader.contents()), exact.shape)

    with tempfile.TemporaryDirectory() as corpus:
        for i, options in enumerate(({}, {"mode": "random-access"}, {"quality": 25.0})):
            ladle.compress(run, x[:ITEMS], Path(corpus) / str(i), **options)  # type: ignore[arg-type]
            one((Path(corpus) / str(i)).read_bytes())
        noise = np.random.default_rng(0).integers(0, 256, (2, *x.shape[1:]), dtype=np.uint8)
        ladle.compress(run, noise, Path(corpus) / "noise")
        # all memory has no limit: code that atheris has instrumented keeps 10 kB a run, the same code alone nothing
        limits = [f"-max_total_time={int(60 * minutes)}", "-timeout=10", "-rss_limit_mb=0", "-malloc_limit_mb=512"]
        atheris.Setup([sys.argv[0], *limits, "-max_len=200000", "-print_final_stats=1", corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
