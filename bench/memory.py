"""Peak memory of one epoch of ``ladle fit`` on folders of generated images, for growing numbers of images.

    python bench/memory.py [--counts 20000,200000] [--recipe narrow] [--threads 2] [--folder /large/disk]

Colour images are written as JPEG files into a temporary folder, with 1,000 images per sub-folder. A second temporary
folder is the cache, so every fit starts by decoding the images. The script samples the anonymous memory of the process
and its children 20 times a second and reports the peak (``RssAnon``, which excludes the pages of mapped files, because
the operating system can reclaim them). Images, cache and run are removed afterwards. The recipe ``narrow`` is defined
here: ``sigma_vae`` with small networks, so that an epoch takes only minutes and the memory of the model does not
dominate that of the data. The last columns are the time to start a second run on the same folder, and the throughput of
batches from the warm cache.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
from PIL import Image

from ladle.machine import cores, processor

PER_FOLDER = 1000
FIT = """
import sys
from ladle.cli import main
from ladle.recipes import recipe
from ladle.spec import part

@part("recipe", "narrow")
def narrow(schema, size):
    '''sigma_vae with networks of one layer of 16 units.'''
    small = {"part": "net/mlp", "width": 16, "depth": 1}
    return {**recipe("sigma_vae", schema, "xs"), "encoder": small, "decoder": small}

main(["fit", *sys.argv[1:]])
"""
BATCHES = """
import sys, time, ladle
from ladle.data import make_batch, order
data = ladle.read(sys.argv[1])
at, n = order(len(data.train), 0, 0), min(len(data.train) // 128, 300)
start = time.perf_counter()
for i in range(n):
    make_batch(data.train, data.schema, at[i * 128 : (i + 1) * 128])
print(n * 128 / (time.perf_counter() - start))
"""


def generate(folder: Path, count: int, side: int) -> None:
    """Write ``count`` smooth colour images, each seeded by its number."""
    for number in range(count):
        if number % PER_FOLDER == 0:
            within = folder / f"{number // PER_FOLDER:04d}"
            within.mkdir(parents=True)
        coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)
        image.save(within / f"{number:07d}.jpg", quality=90)


def process_tree(process: int) -> list[int]:
    """The ids of a process and all its descendants."""
    ids = [process]
    for pid in ids:
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                ids += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
        except OSError:  # it has ended
            continue
    return ids


def anonymous_memory(process: int) -> int:
    """The anonymous memory of a process and all its descendants, in bytes."""
    total = 0
    for pid in process_tree(process):
        try:
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return total


def measure(command: list[str], environment: dict[str, str]) -> tuple[int, float, str]:
    """Run a command: its peak anonymous memory in bytes, its duration in seconds, and its output."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_memory(process.pid))
            time.sleep(0.05)
        printed = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return peak, time.perf_counter() - start, printed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--counts", default="20000,200000")
    parser.add_argument("--recipe", default="narrow")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    print(f"{date.today()}  {processor()}, {arguments.threads} threads, Python {platform.python_version()}")
    print(f"ladle fit IMAGES --recipe {arguments.recipe} --size xs --epochs 1")
    print(
        f"{'images':>8} {'decoded':>9} {'peak RssAnon':>13} {'ratio':>6} {'fit':>7} {'2nd start':>11} {'batches':>15}"
    )
    first = 0
    for count in map(int, arguments.counts.split(",")):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
            images = Path(place, "images")
            generate(images, count, arguments.side)
            environment = {**os.environ, "LADLE_CACHE": f"{place}/cache", "OMP_NUM_THREADS": str(arguments.threads)}
            fit = [sys.executable, "-c", FIT, str(images), "--out", f"{place}/run", "--recipe", arguments.recipe]
            peak, seconds, printed = measure([*fit, "--size", "xs", "--epochs", "1", "--json"], environment)
            restart = measure([*fit, "--dry-run"], environment)[1]
            speed = float(measure([sys.executable, "-c", BATCHES, str(images)], environment)[2])
            assert sum(json.loads(printed)["items"].values()) == count
        first = first or peak
        size = count * 3 * arguments.side**2
        sizes = f"{count:8,} {size / 1e9:6.2f} GB {peak / 1e6:10,.0f} MB {peak / first:6.2f}"
        print(f"{sizes} {seconds:5.0f} s {restart:9.1f} s {speed:7,.0f} items/s", flush=True)


if __name__ == "__main__":
    main()
