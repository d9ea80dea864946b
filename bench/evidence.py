"""Measure the time and the peak memory of the importance-weighted bound of an MLP model on binarised images.

    python bench/evidence.py [--items 500] [--samples 5000] [--sizes xs,s] [--threads 2] [--data mnist-binary]

Each size is measured in a separate process, with an untrained model of the recipe ``vae`` (the weights do not affect
the amount of work). The time is that of `ladle.evidence` alone; the memory is the largest resident set of the
process, including the import of torch and the data. If only part of the test split is measured, the time for the
whole split is extrapolated proportionally, since every item takes the same time.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

import ladle
from ladle.machine import cores, processor


def one(data: str, size: str, items: int, samples: int, threads: int) -> dict[str, float]:
    """Measure one size in this process."""
    torch.set_num_threads(threads)
    dataset = ladle.read(data)
    vae = ladle.assemble(dataset.schema, "vae", size).model.eval().requires_grad_(False)
    model = ladle.Model(vae, dataset.schema, {}, "cpu")
    split = dataset.test
    subset = split.take(torch.arange(items).numpy()) if items < len(split) else split
    ladle.evidence(model, subset.take(torch.arange(2).numpy()), samples=100)
    start, work = time.perf_counter(), time.process_time()
    found = ladle.evidence(model, subset, samples=samples)
    seconds, worked = time.perf_counter() - start, time.process_time() - work
    return {
        "items": found.items,
        "of": len(split),
        "seconds": seconds,
        "cpu": worked,
        "gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Measure all sizes and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--sizes", default="xs,s")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--data", default="mnist-binary")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.data, given.one, given.items, given.samples, given.threads)))
        return
    print(f"{processor()}, {given.threads} threads; {given.data}, {given.samples:,} samples for each item\n")
    print("| size | items | seconds | seconds on all items | processor seconds | peak memory |")
    print("|---|---|---|---|---|---|")
    for size in given.sizes.split(","):
        done = subprocess.run(
            [sys.executable, __file__, "--one", size, *sys.argv[1:]], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout.splitlines()[-1])
        factor = found["of"] / found["items"]
        print(
            f"| {size} | {found['items']:,} | {found['seconds']:.0f} | {found['seconds'] * factor:.0f} "
            f"({found['of']:,} items) | {found['cpu'] * factor:.0f} | {found['gib']:.2f} GiB |",
            flush=True,
        )


if __name__ == "__main__":
    main()
