"""The time of a pass over the data for growing numbers of items, pixels, levels and processes.

    python bench/scaling.py [--out docs/scaling.png] [--threads 1]

The data are generated colour images. The time is that of the steps of ``ladle.fit``, without the first few, on a model
of fixed shape: ``learned_prior`` with convolutions for items and pixels, and ``vdvae`` for levels. The points of a line
are measured one after the other, twice, and the faster time is kept. Processes are those of ``ladle fit --devices N``
on the CPU, with one thread each and one batch split across them. The exponent of each line is its slope in logarithmic
coordinates, where 1 is linear.
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
    """A small model whose networks, apart from the first and the last layer, do not depend on the number of pixels."""
    model_plan = ladle.recipe("vdvae" if blocks else "learned_prior", schema, "xs")
    if blocks:
        model_plan["latents"] = {**model_plan["latents"], "blocks": blocks}
    else:
        model_plan["encoder"] = {"part": "net/conv_down", "width": 8, "blocks": 1}
        model_plan["decoder"] = {"part": "net/conv_up", "width": 8, "blocks": 1}
    return {**model_plan, "training": {"batch": BATCH}}


def pass_time(data: ladle.Dataset, model_plan: dict[str, Any], complete: bool = False) -> float:
    """Seconds per pass over the data, measured on a complete pass or extrapolated from a few steps."""
    steps = ladle.fit(ladle.assemble(data.schema, model_plan), data, epochs=1 if complete else 100, device="cpu")
    marks = []
    for step in steps:
        if step.kind == "train":
            marks.append(time.perf_counter())
        if not complete and len(marks) == FIRST + STEPS:
            break
    elapsed = marks[-1] - marks[FIRST - 1]
    return elapsed * (len(data.train) // BATCH) / (len(marks) - FIRST)


def by_items(n: int) -> float:
    data = generated(n, 32)
    return pass_time(data, plan(data.schema), complete=True)


def by_pixels(side: int) -> float:
    data = generated(1024, side)
    return pass_time(data, plan(data.schema))


def by_levels(levels: int) -> float:
    data = generated(1024, 32)
    return pass_time(data, plan(data.schema, f"1:16, 8x{levels - 1}"))


def by_processes(n: int) -> float:
    """The training time that the run reports, including validation."""
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
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{date.today()}  {processor()}, {arguments.threads} threads of {cores()} cores")
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
            ideal, name_of_ideal = [seconds[0] / point for point in points], "the time of one, divided"
        else:
            ideal, name_of_ideal = [seconds[-1] * g / grown[-1] for g in grown], "linear"
        axis.loglog(points, ideal, "--", color=LINE, label=name_of_ideal)
        axis.set(xlabel=label, title=name)
        axis.set_xticks(points, [str(p) for p in points])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    axes[0].set_ylabel("seconds per pass")
    if arguments.out:
        figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
