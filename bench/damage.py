"""Damage: the detection of random bit flips, truncation and exchanged chunks in a compressed file.

    python bench/damage.py RUN DATA [--flips 10000] [--fuzz MINUTES]

The file has many small chunks. The benchmark counts the damaged copies that are detected, those for which the message
names the damaged chunk, header, index or table of contents, and those whose other chunks are still intact; every
hundredth copy is also decoded. ``--fuzz`` runs the fuzzer atheris on the reader of files, and fails at a crash, a hang
of 10 s or 512 MB of memory.
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
from ladle.coding import CodingError, chunks
from ladle.coding.container import Reader
from ladle.tasks import compress

ITEMS = 20  # items of a file for the fuzzer


def part_of(reader: Reader, size: int, place: int) -> str:
    """The part of a file at an offset."""
    if place < reader.start:
        return "header"
    starts = [offset for offset, _ in reader.index]
    if place >= size - 24:
        return "end"
    if reader.contents_at is not None and place >= reader.contents_at:
        return "contents or index"
    return f"chunk {int(np.searchsorted(starts, place, side='right')) - 1}"


def inspect_copy(path: Path, data: bytes, model: str | None) -> tuple[str, ladle.Verified | None] | None:
    """The message for a damaged copy and the result of its verification; None if no damage is detected."""
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
    options = parser.parse_args()
    test = ladle.read(options.data).test
    x = test.rows(np.arange(min(500, len(test))))[0].astype(np.uint8)
    if options.fuzz:
        fuzz(options.run, x, options.fuzz)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.ladle"
        chunks.PAYLOAD = 1 << 13
        ladle.compress(options.run, x, path)
        whole = path.read_bytes()
        reader = Reader(io.BytesIO(whole))
        print(f"a file of {len(whole):,} bytes, {len(reader.index)} chunks, {len(x)} items")
        rng, counts = np.random.default_rng(0), collections.Counter()
        for i, bit in enumerate(rng.integers(0, 8 * len(whole), options.flips).tolist()):
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            place, decoded = part_of(reader, len(whole), bit // 8), i % 100 == 0
            found = inspect_copy(path, broken, options.run if decoded else None)
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
                counts["others intact"] += rest is not None and rest.items == len(x) - hit
                counts["of those decoded"] += decoded
        for length in rng.integers(0, len(whole), options.flips // 10).tolist():
            counts["cuts"] += 1
            counts["cuts found"] += inspect_copy(path, whole[:length], None) is not None
        n = len(reader.index)
        ends = [*(offset for offset, _ in reader.index), reader.contents_at]
        for _ in range(options.flips // 10):
            a, b = sorted(rng.choice(n, 2, replace=False).tolist())
            parts = [whole[ends[i] : ends[i + 1]] for i in range(n)]
            parts[a], parts[b] = parts[b], parts[a]
            counts["exchanges"] += 1
            exchanged = whole[: reader.start] + b"".join(parts) + whole[ends[-1] :]
            counts["exchanges found"] += inspect_copy(path, exchanged, None) is not None
        for name, count in counts.items():
            print(f"{name}: {count:,}")


def fuzz(run: str, x: np.ndarray, minutes: float) -> None:
    """Fuzz the reader, guided by code coverage. Checksums and hashes always match, so that changes reach the code
    behind them, including the coders."""
    import importlib

    import atheris

    from ladle.coding import bits_back, container, items, random_access
    from ladle.coding.ans import stack, streams

    for module in (stack, streams, bits_back, random_access, container, items, chunks):
        with atheris.instrument_imports():
            importlib.reload(module)
    container.zlib = types.SimpleNamespace(crc32=lambda *_: 0)  # type: ignore[attr-defined]
    container.digest = chunks.digest = lambda _: bytes(16)  # type: ignore[attr-defined]
    compress.Writer, compress.make_codec, compress.pack = container.Writer, chunks.make_codec, chunks.pack  # type: ignore[attr-defined]
    model = compress.integer_model(run)

    def one(data: bytes) -> None:
        with contextlib.suppress(CodingError, ladle.DataError):
            reader = container.Reader(io.BytesIO(data))
            mode = reader.header.get("mode")
            codec = chunks.make_codec(model, mode if mode in chunks.MODES else "bitsback", reader.header)
            for number in range(min(8, len(reader.index))):
                with contextlib.suppress(CodingError):
                    chunks.unpack(codec, reader.chunk(number), model.shape)
            items.count_items(items.parse_contents(reader.contents()), model.shape)

    with tempfile.TemporaryDirectory() as corpus:
        for i, keywords in enumerate(({}, {"mode": "random-access"}, {"quality": 25.0})):
            ladle.compress(run, x[:ITEMS], Path(corpus) / str(i), **keywords)  # type: ignore[arg-type]
            one((Path(corpus) / str(i)).read_bytes())
        noise = np.random.default_rng(0).integers(0, 256, (2, *x.shape[1:]), dtype=np.uint8)
        ladle.compress(run, noise, Path(corpus) / "noise")
        # total memory is unlimited, because code that atheris has instrumented keeps 10 kB in every run
        limits = [f"-max_total_time={int(60 * minutes)}", "-timeout=10", "-rss_limit_mb=0", "-malloc_limit_mb=512"]
        atheris.Setup([sys.argv[0], *limits, "-max_len=200000", "-print_final_stats=1", corpus], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
