"""Measure whether ``ladle.select`` recovers the family of the latents, on thirty simulated data sets.

    python bench/planted.py --out planted.jsonl [--resume] [--only laplace] [--steps 1000] [--seeds 3]

A world (:mod:`planted_worlds`) draws latents from one family and decodes them by a linear map or a network with one
hidden layer. The gap of a world is the true difference, in nats per item, between the evidence of the true model and
of the best model with normal latents; it is computed together with its standard error. ``select`` is given the
items, networks of the same class as the world's decoder and the number of latents, and reports which families the
data support. One line is printed for each finished world. With ``--resume``, the worlds in ``--out`` are not
repeated.

* **rejected**: normal latents are not among the supported families; expected if the gap exceeds 5 standard errors.
* **wrong**: the true family is not among the supported families, so a wrong one was found to be better.
* **ties**: normal against full_normal and against a mixture of one component, on every world, with Holm's correction
  for multiple tests.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ladle
from ladle.comparison.candidates import candidate
from ladle.comparison.compare import LEVEL, difference, holm
from ladle.data import Dataset, Schema, Split
from planted_worlds import HIDDEN, WORLDS, World, best_normal, gap, simulate, truth

TRUE = {
    "normal": "normal", "laplace": "laplace", "student_t": "student_t:3", "mixture": "mixture:5", "sphere": "sphere",
    "categorical": "categorical:4",
}  # fmt: skip
TWINS = ("full_normal", "mixture:1")  # equivalent to normal: a linear layer undoes the additional parameters
FAMILIES = (*TRUE.values(), *TWINS)  # without the sphere if there is one latent, where it is a pair of points
CLEAR = 5.0  # standard errors above which a gap should be detected
LONGER = {"linear": 1, "mlp": 2}  # factor of the steps: with a hidden layer, the results of seeds vary more


def dataset(world: World) -> Dataset:
    """The items of a world as a data set, in the splits of the world."""
    splits = simulate(world)
    return Dataset(ladle.read(splits["train"]).schema, {name: Split(x) for name, x in splits.items()})


def plan(world: World, schema: Schema) -> dict[str, Any]:
    """Networks of the same class as the world's decoder, and noise with one scale for all columns.

    The scale of the noise is initialised at the standard deviation of the data and decreases during training.
    """
    unit = math.sqrt(sum(s * s for s in schema.scale) / len(schema.scale))
    hidden = {"part": "net/mlp", "width": HIDDEN, "depth": 1}
    return {
        "latents": {"size": world.latents, "posterior": {"part": "family/normal"}, "prior": {"part": "prior/standard"}},
        "encoder": {"part": "net/mlp", "width": 32, "depth": 1},
        "decoder": {"part": "net/linear"} if world.decoder == "linear" else hidden,
        "likelihood": {
            "part": "family/affine",
            "loc": list(schema.loc),
            "scale": unit,
            "family": {"part": "family/normal", "shared_scale": True},
        },
        "objective": {"part": "objective/elbo"},
        "training": {"batch": 256, "rate": 2e-2, "weight_decay": 0.0},
    }


def families(world: World) -> tuple[str, ...]:
    """The candidates."""
    return tuple(name for name in FAMILIES if name != "sphere" or world.latents > 1)


def evaluate(world: World, folder: Path, steps: int, seeds: int, samples: int = 100) -> dict[str, Any]:
    """The true gap of one world and the result of ``select``."""
    started = time.perf_counter()
    data = dataset(world)
    exact = truth(world, data.test.x)
    behind, se = gap(exact, best_normal(world, data.train.x, data.test.x))
    oracle = time.perf_counter() - started
    found = ladle.select(
        data, folder, families=families(world), recipe=plan(world, data.schema), latents=world.latents, steps=steps,
        seeds=seeds, finalists=len(FAMILIES), samples=samples, items=len(data.test), device="cpu",
        resume=folder.exists(),
    )  # fmt: skip
    supported = list(found.supported)
    twins = {twin: tie(folder, "normal", twin, world.latents) for twin in TWINS}
    return {
        "world": world.name, "family": world.family, "decoder": world.decoder, "gap": behind, "se": se,
        "z": behind / se, "supported": supported, "rejected": "normal" not in supported,
        "wrong": TRUE[world.family] not in supported, "ties": twins, "verdict": found.verdict,
        "rows": [row._asdict() for row in found.rows],
        "truth": -float(exact.mean()), "steps": steps, "seeds": seeds,
        "seconds": {"oracle": oracle, "all": time.perf_counter() - started},
    }  # fmt: skip


def tie(folder: Path, one: str, other: str, latents: int) -> dict[str, float] | None:
    """How much worse the second family is than the first on the test items; ``None`` if one of them failed."""
    nats = []
    for name in (one, other):
        runs = sorted((folder / "candidates").glob(f"{candidate(name, latents).folder}-[0-9]*-[0-9]*/test.npz"))
        if not runs:
            return None
        nats.append(np.stack([np.load(run)["nats"] for run in runs]))
    d = difference(nats[1], nats[0])
    return {"nats": d.nats, "se": d.se, "p": d.p}


def line(row: dict[str, Any]) -> str:
    """One line about a world."""
    return (
        f"{row['world']:24} {row['gap']:8.4f} {row['z']:7.1f}  {'yes' if row['rejected'] else 'no':8} "
        f"{'WRONG' if row['wrong'] else '-':6} {row['seconds']['all']:5.0f}s  {' or '.join(row['supported'])}"
    )


def claims(rows: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """Whether each of the claims holds, with the numbers."""
    clear = [row for row in rows if row["family"] != "normal" and row["z"] > CLEAR]
    rejected = sum(row["rejected"] for row in clear)
    wrong = [row["world"] for row in rows if row["wrong"]]
    tested = [(row["world"], twin, t) for row in rows for twin, t in row["ties"].items()]
    failed = [f"{world} {twin}" for world, twin, t in tested if t is None]
    both = [(world, twin, t["p"]) for world, twin, t in tested if t is not None]
    held = holm(np.array([p for *_, p in both]))
    apart = [f"{world} {twin}" for (world, twin, _), p in zip(both, held, strict=True) if p < LEVEL]
    return [
        (
            len(clear) >= 15,
            f"{len(clear)} non-normal worlds with a gap above {CLEAR:g} standard errors (at least 15 required)",
        ),
        (
            rejected >= 0.9 * len(clear) > 0,
            f"normal latents rejected in {rejected} of them (at least 90 % required)",
        ),
        (len(wrong) <= 1, f"a wrong family was found to be better in {len(wrong)} of {len(rows)} (at most 1): {wrong}"),
        (not apart and not failed, f"{len(tested)} pairs that must tie: apart {apart}, not tested {failed}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument(
        "--only", default="", help="only worlds whose name contains one of these strings, separated by commas"
    )
    parser.add_argument(
        "--steps", type=int, default=1000, help="number of steps; doubled for decoders with a hidden layer"
    )
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.exists() and not arguments.resume:
        parser.error(f"{out} exists; continue it with --resume")
    torch.set_num_threads(1)
    rows = [json.loads(text) for text in out.read_text().splitlines()] if out.exists() else []
    done = {row["world"] for row in rows}
    print(f"{'world':24} {'gap':>8} {'SE':>7}  rejected wrong    time  supported", flush=True)
    for row in rows:
        print(line(row), flush=True)
    chosen = [w for w in WORLDS if any(part in w.name for part in arguments.only.split(","))]
    for world in (w for w in chosen if w.name not in done):
        folder = out.with_suffix("") / world.name
        row = evaluate(world, folder, LONGER[world.decoder] * arguments.steps, arguments.seeds)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shutil.rmtree(folder)
        rows.append(row)
        print(line(row), flush=True)
    for holds, text in claims(rows):
        print("PASS" if holds else "FAIL", text)


if __name__ == "__main__":
    main()
