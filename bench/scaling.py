"""What a pass over the data costs as items, pixels, levels and processes grow.

    python bench/scaling.py [--out docs/scaling.png] [--threads 1]

Generated colour images; seconds are those of the steps of ``ladle.fit``, the first few left out, on a model whose shape
stays the same: ``learned_prior`` with convolutions for items and pixels, ``vdvae`` for levels. Points of one line are
measured in turn, twice, and the faster is kept. Processes are ``ladle fit --devices N`` on the CPU, one thread each,
and the same batch shared among them. With each line stands its exponent: the slope in logarithms, where 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch

import ladle
from ladle.machine import cores, processor

BATCH, FIRST, STEPS, TURNS = 32, 3, 12, 2
INK, SOFT, LINE = "#b8430e", "#5b626a", "#2f6690"


def generated(items: int, side: int) -> ladle.Dataset:
    """Smooth colour images: ``(items, 3, side, side)``."""
    coarse = np.random.default_rng(side).integers(0, 256, (items, 3, 4, 4), dtype=np.uint8)
    x = np.kron(coarse, np.ones((1, 1, side // 4, side // 4), np.uint8))
    schema = ladle.Schema("image", x.shape[1:], "bytes")
    return ladle.Dataset(schema, {"train": ladle.Split(x), "valid": ladle.Split(x[:BATCH])})


def plan(schema: ladle.Schema, blocks: str | None = None) -> dict[str, Any]:
    """A small model whose nets do not depend on the number of pixels, but for the ends."""
    made = ladle.recipe("vdvae" if blocks else "learned_prior", schema, "xs")
    if blocks:
        made["latents"] = {**made["latents"], "blocks": blocks}
    else:
        made["encoder"] = {"part": "net/conv_down", "width": 8, "blocks": 1}
        made["decoder"] = {"part": "net/conv_up", "width": 8, "blocks": 1}
    return {**made, "training": {"batch": BATCH}}


def a_pass(data: ladle.Dataset, made: dict[str, Any], whole: bool = False) -> float:
    """Seconds of one pass over the data; unless all of it is wanted, by proportion to a few steps."""
    steps = ladle.fit(ladle.assemble(data.schema, made), data, epochs=1 if whole else 100, device="cpu")
    marks = []
    for step in steps:
        if step.kind == "train":
            marks.append(time.perf_counter())
        if not whole and len(marks) == FIRST + STEPS:
            break
    took = marks[-1] - marks[FIRST - 1]
    return took * (len(data.train) // BATCH) / (len(marks) - FIRST)


def by_items(n: int) -> float:
    data = generated(n, 32)
    return a_pass(data, plan(data.schema), whole=True)


def by_pixels(side: int) -> float:
    data = generated(1024, side)
    return a_pass(data, plan(data.schema))


def by_levels(levels: int) -> float:
    data = generated(1024, 32)
    return a_pass(data, plan(data.schema, f"1:16, 8x{levels - 1}"))


def by_processes(n: int) -> float:
    """Seconds of training that the run itself counts, validation included."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", generated(2048, 32).train.x)
        command = [
            "fit",
            f"{folder}/x.npy",
            "--out",
            f"{folder}/run",
            "--size",
            "xs",
            "--epochs",
            "2",
            "--device",
            "cpu",
        ]
        done = subprocess.run(
            [sys.executable, "-c", "from ladle_command import main; main()", *command, "--devices", str(n), "--json"],
            capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        return float(json.loads(done.stdout)["seconds"])


LINES: dict[str, tuple[Callable[[int], float], Sequence[int], str]] = {
    "items": (by_items, (512, 1024, 2048, 4096), "images of 32 x 32"),
    "pixels": (by_pixels, (16, 32, 64, 128), "side of 1,024 images"),
    "levels": (by_levels, (3, 5, 9, 17), "levels, 1,024 images of 32 x 32"),
    "processes": (by_processes, (1, 2), "processes, 2,048 images of 32 x 32"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"{date.today()}  {processor()}, {asked.threads} threads of {cores()} cores")
    figure, axes = plt.subplots(1, len(LINES), figsize=(15, 3.6), layout="constrained")
    for axis, (name, (cost, points, label)) in zip(axes, LINES.items(), strict=True):
        turns = [[cost(point) for point in points] for _ in range(TURNS)]
        seconds = [min(column) for column in zip(*turns, strict=True)]
        grown = [point**2 for point in points] if name == "pixels" else points
        slope = float(np.polyfit(np.log(grown), np.log(seconds), 1)[0])
        print(f"{name:10} " + "  ".join(f"{p}: {s:.2f} s" for p, s in zip(points, seconds, strict=True)), end="  ")
        print(f"exponent {slope:.2f}", flush=True)
        axis.loglog(points, seconds, "o-", color=INK, label=f"measured, exponent {slope:.2f}")
        if name == "processes":
            ideal, what = [seconds[0] / point for point in points], "the time of one, shared"
        else:
            ideal, what = [seconds[-1] * g / grown[-1] for g in grown], "linear"
        axis.loglog(points, ideal, "--", color=LINE, label=what)
        axis.set(xlabel=label, title=name)
        axis.set_xticks(points, [str(p) for p in points])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    axes[0].set_ylabel("seconds a pass")
    if asked.out:
        figure.savefig(asked.out, dpi=110)


if __name__ == "__main__":
    main()
