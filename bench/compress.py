"""Compression: the size of a test set as a file, compared with the bounds and with other codecs, and the speed.

    python bench/compress.py --data fashion-mnist --sizes xs,s --minutes 60 --out DIR [--threads 1]

Trains a model of every size (or uses a run in DIR), compresses the test split to a file and decompresses it. All bytes
of the file count: header, table of contents, index, initial bits. The bound of the float model has one sample for each
item; that of the model in whole numbers follows from its counts for the same items, without the overhead of a file.
Speeds are those of the second call, without verification, and include networks, coder and file. JPEG XL needs
``pillow-jxl-plugin``.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import deque
from pathlib import Path

import numpy as np

from ladle_command import prepare

prepare()  # as the ``ladle`` command does, before torch is loaded

import torch  # noqa: E402

import ladle  # noqa: E402
from ladle.coding.bits_back import estimate_rate  # noqa: E402
from ladle.machine import processor  # noqa: E402
from ladle.reporting.compression import rivals  # noqa: E402
from ladle.tasks.common import explained, items  # noqa: E402
from ladle.tasks.compress import integer_model  # noqa: E402


def timed(work, *arguments, **keywords):  # type: ignore[no-untyped-def]
    """The result of the second call of a function, and its seconds."""
    work(*arguments, **keywords)
    started = time.perf_counter()
    found = work(*arguments, **keywords)
    return found, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", required=True, help="names, separated by commas")
    parser.add_argument("--sizes", default="xs")
    parser.add_argument("--recipe", help="[default: the recipe that `ladle fit` chooses]")
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1, help="for compression and decompression")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    threads = torch.get_num_threads()
    print(
        f"{processor()}, trained with {threads} threads for {options.minutes:g} minutes, coded with {options.threads}"
    )
    print("| data | codec | bits/dim | alone | float bound | whole-number bound | compress MB/s | decompress MB/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.data.split(","):
        data = ladle.read(name)
        for size in options.sizes.split(","):
            run = options.out / f"{name}-{options.recipe or 'best'}-{size}"
            if not (run / "model.safetensors").exists():
                recipe = options.recipe or ladle.best(data, options.minutes).recipe
                plan = ladle.assemble(data.schema, recipe, size, seed=0)
                deque(ladle.fit(plan, data, minutes=options.minutes, seed=0, run=run), maxlen=1)
            torch.set_num_threads(options.threads)
            row(name, run, size, options.out / f"{run.name}.ladle")
            torch.set_num_threads(threads)
        x = explained(ladle.load(run, "cpu"), items(ladle.load(run, "cpu"), data)).astype(np.uint8)
        for codec, (together, alone) in rivals(x if x.ndim == 4 else x[:, None]).items():
            print(
                f"| `{name}` | {codec} | {8 * together / x.size:.4f} | {8 * alone / x[0].size:.4f} | | | | |",
                flush=True,
            )


def row(name: str, run: Path, size: str, file: Path) -> None:
    """Print one row of the table."""
    model = ladle.load(run, "cpu")
    x = explained(model, items(model, name)).astype(np.uint8)
    made, there = timed(ladle.compress, run, x, file, verify=False, force=True)
    back, here = timed(ladle.decompress, file, model=run)
    assert (back == x).all()
    alone = ladle.compress(run, x, file.with_suffix(".alone"), mode="random-access", verify=False, force=True)
    nats = float(ladle.measure(model, name, samples=1).nats.mean())
    parts = np.array_split(x, max(1, len(x) // 500))
    each = [estimate_rate(integer_model(run), part.astype(np.int64))[0] for part in parts]
    print(
        f"| `{name}` | Ladle, {model.config['fit'].get('recipe') or run.name}, {size} | **{made.bits_per_dim:.4f}** "
        f"| {alone.bits_per_dim:.4f} | {nats / x[0].size / math.log(2):.4f} | {np.mean(each) / x[0].size:.4f} "
        f"| {x.size / there / 1e6:.2f} | {x.size / here / 1e6:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
