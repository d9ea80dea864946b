"""Peak memory of one epoch of ``ladle fit`` on folders of generated images, larger and larger.

    python bench/memory.py [--counts 20000,200000] [--recipe narrow] [--threads 2] [--folder /where/there/is/room]

Colour images are written as JPEG files into a temporary folder with 1,000 to a sub-folder; a second temporary folder is
the cache, so every fit decodes first. Measured is the anonymous memory (``RssAnon``: not the pages of mapped files,
which the system takes back when it needs them) of the process and its children, sampled 20 times a second, and its
peak. Images, cache and run are removed. The recipe ``narrow`` is made here: ``sigma_vae`` with nets so small that an
epoch takes minutes and that the model does not hide what the data takes. The last columns time the start of a second
run on the same folder, and the batches that training would draw from the warm cache.
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
    '''sigma_vae with nets of one layer of 16 units.'''
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
    """Write ``count`` smooth colour images, each from its own number."""
    for number in range(count):
        if number % PER_FOLDER == 0:
            within = folder / f"{number // PER_FOLDER:04d}"
            within.mkdir(parents=True)
        coarse = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((side, side), Image.Resampling.BILINEAR)
        image.save(within / f"{number:07d}.jpg", quality=90)


def family(process: int) -> list[int]:
    """A process and all that descend from it."""
    found = [process]
    for one in found:
        try:
            for task in os.listdir(f"/proc/{one}/task"):
                found += map(int, Path(f"/proc/{one}/task/{task}/children").read_text().split())
        except OSError:  # it has ended
            continue
    return found


def anonymous(process: int) -> int:
    """Bytes of memory that no file stands behind, of a process and all that descend from it."""
    total = 0
    for one in family(process):
        try:
            lines = Path(f"/proc/{one}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
    return total


def watched(command: list[str], environment: dict[str, str]) -> tuple[int, float, str]:
    """Run a command: its peak of anonymous memory in bytes, its seconds, and what it printed."""
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=sys.stderr, text=True) as process:
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
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
        f"{'images':>8} {'decoded':>9} {'peak RssAnon':>13} {'ratio':>6} {'fit':>7} {'read again':>11} {'batches':>15}"
    )
    first = 0
    for count in map(int, arguments.counts.split(",")):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
            images = Path(place, "images")
            generate(images, count, arguments.side)
            environment = {**os.environ, "LADLE_CACHE": f"{place}/cache", "OMP_NUM_THREADS": str(arguments.threads)}
            fit = [sys.executable, "-c", FIT, str(images), "--out", f"{place}/run", "--recipe", arguments.recipe]
            peak, seconds, printed = watched([*fit, "--size", "xs", "--epochs", "1", "--json"], environment)
            again = watched([*fit, "--dry-run"], environment)[1]
            speed = float(watched([sys.executable, "-c", BATCHES, str(images)], environment)[2])
            assert sum(json.loads(printed)["items"].values()) == count
        first = first or peak
        size = count * 3 * arguments.side**2
        sizes = f"{count:8,} {size / 1e9:6.2f} GB {peak / 1e6:10,.0f} MB {peak / first:6.2f}"
        print(f"{sizes} {seconds:5.0f} s {again:9.1f} s {speed:7,.0f} items/s", flush=True)


if __name__ == "__main__":
    main()
