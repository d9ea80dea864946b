"""Measure the held-out likelihood for a time budget; one row per run is appended to a file.

    python bench/density.py --out density.jsonl --data mnist-binary,cifar10 --recipe learned_prior --size s \
        [--minutes 5] [--seeds 3] [--few 1000]

Every row contains -log p(x) of the test items: the bound with one sample on all of them, and the importance-weighted
bound with ``--samples`` (500) on all of them or on a fixed subset of ``--few`` items. The values of the items and
the runs are stored next to the file, so that two runs on the same data can be compared item by item: the last column
is the difference to the first run on the same data in the file, with its 95 % interval over items. A run that is
already in the file is not repeated, and a run that was trained but not measured is only measured.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from ladle_command import prepare

prepare()  # as the ``ladle`` command does, before torch is imported

import torch  # noqa: E402

import ladle  # noqa: E402


def train_and_measure(
    data: ladle.Dataset, recipe: str, seed: int, asked: argparse.Namespace, run: Path
) -> tuple[dict[str, Any], np.ndarray]:
    """Train and measure one run; return its row and the nats of the measured items."""
    if not (run / "model.safetensors").exists():
        assembly = ladle.assemble(data.schema, recipe, asked.size, seed=seed)
        settings = {"recipe": recipe, "size": asked.size}
        deque(
            ladle.fit(assembly, data, minutes=asked.minutes, seed=seed, run=run, settings=settings, force=True),
            maxlen=0,
        )
    model = ladle.load(run)
    log = [json.loads(text) for text in (run / "log.jsonl").read_text().splitlines()]
    last = log[-1]
    started = time.perf_counter()
    one = ladle.measure(model, data, split="test", samples=1).nats
    many = ladle.measure(
        model, data, split="test", samples=asked.samples, at_most=asked.few or None, proposal=asked.proposal
    )
    seconds = time.perf_counter() - started
    row = {
        "parameters": sum(p.numel() for p in model.vae.parameters()), "steps": last["step"],
        "seconds": last["seconds"], "valid": min(r["nats"] for r in log if r["kind"] == "valid"),
        "clipped": last["clipped"],
        "one": float(one.mean()), "one_se": spread(one), "nats": float(many.nats.mean()), "se": spread(many.nats),
        "items": len(many.nats), "samples": asked.samples, "proposal": asked.proposal,
        "k_bad": float((many.k_hat > 0.7).mean()), "measured_in": seconds,
        "bits": float(many.nats.mean()) / data.schema.size / math.log(2),
    }  # fmt: skip
    return row, many.nats


def spread(nats: np.ndarray) -> float:
    """The standard error of the mean."""
    return float(nats.std(ddof=1) / math.sqrt(len(nats)))


def line(row: dict[str, Any], kept: Path, first: dict[str, Any]) -> str:
    """One row of the table."""
    paired = ""
    if row["name"] != first["name"]:
        mine, other = (np.load(kept / f"{r['name']}.npy") for r in (row, first))
        if len(mine) == len(other):
            paired = f"{(mine - other).mean():+.2f} ± {1.96 * spread(mine - other):.2f}"
    return (
        f"| `{row['data']}` | `{row['recipe']}`, {row['size']} | {row['minutes']:g} | {row['seed']} "
        f"| {row['steps']:,} | {row['one']:.2f} | **{row['nats']:.2f} ± {row['se']:.2f}** | {row['bits']:.4f} "
        f"| {row['items']:,} | {paired} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", required=True, help="names, separated by commas")
    parser.add_argument("--recipe", default="learned_prior", help="names, separated by commas")
    parser.add_argument("--size", default="s")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument(
        "--few", type=int, default=0, help="number of items to measure, the same for all runs [default: all]"
    )
    parser.add_argument(
        "--proposal", default="q", help="proposal of the samples; use defensive for data with extreme outliers"
    )
    asked = parser.parse_args()
    out: Path = asked.out
    kept = out.with_suffix("")
    kept.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(text) for text in out.read_text().splitlines()] if out.exists() else []
    print(f"{ladle.machine.processor()}, {torch.get_num_threads()} threads")
    print("| data | recipe | minutes | seed | steps | one sample | nats | bits/dim | items | to the first |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in asked.data.split(","):
        data = ladle.read(name)
        for recipe in asked.recipe.split(","):
            for seed in range(asked.seeds):
                key = f"{name}-{recipe}-{asked.size}-{asked.minutes:g}-{asked.few}-{seed}"
                if all(row["name"] != key for row in rows):
                    result, nats = train_and_measure(data, recipe, seed, asked, kept / key)
                    np.save(kept / f"{key}.npy", nats)
                    settings = {"data": name, "recipe": recipe, "size": asked.size, "minutes": asked.minutes}
                    rows.append({"name": key, **settings, "seed": seed, **result})
                    with out.open("a") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
                row = next(row for row in rows if row["name"] == key)
                print(line(row, kept, next(r for r in rows if r["data"] == name)), flush=True)


if __name__ == "__main__":
    main()
