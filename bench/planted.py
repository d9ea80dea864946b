"""Does ``ladle.select`` find the family that latents were drawn from? Thirty worlds whose family is known.

    python bench/planted.py --out planted.jsonl [--resume] [--only laplace] [--steps 1000] [--seeds 3]

A world (:mod:`planted_worlds`) draws latents from one family and decodes them by a linear map or one hidden layer. Its
oracle knows how many nats per item the best model with normal latents is behind the truth, and the standard error of
that. ``select`` gets the items, nets of the world's own class and the number of latents, and says which families the
data support. One line for each world, as it finishes; those of ``--out`` are not done again with ``--resume``.

* **rejected**: where the oracle's gap exceeds 5 standard errors, normal latents are not among the supported families.
* **wrong**: the true family is not among them, so a wrong one was called better.
* **ties**: normal against full_normal, and against a mixture of one, on every world; held up for being many by Holm.
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
TWINS = ("full_normal", "mixture:1")  # of normal: a linear layer behind them undoes what they have more
FAMILIES = (*TRUE.values(), *TWINS)  # but for the sphere where there is one latent: it is a pair of points there
CLEAR = 5.0  # standard errors from which a gap is there to be found
LONGER = {"linear": 1, "mlp": 2}  # seeds end further apart behind a hidden layer


def dataset(world: World) -> Dataset:
    """The items of a world as Ladle reads them, in the world's own splits."""
    splits = simulate(world)
    return Dataset(ladle.read(splits["train"]).schema, {name: Split(x) for name, x in splits.items()})


def plan(world: World, schema: Schema) -> dict[str, Any]:
    """Nets of the world's own class, and noise of one scale.

    The noise starts as large as the data's own spread and shrinks as the model learns.
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


def tried(world: World, folder: Path, steps: int, seeds: int, samples: int = 100) -> dict[str, Any]:
    """What the oracle and ``select`` say of one world."""
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
    """How much worse the second is than the first on the test items; ``None`` where one of them failed."""
    nats = []
    for name in (one, other):
        runs = sorted((folder / "candidates").glob(f"{candidate(name, latents).folder}-[0-9]*-[0-9]*/test.npz"))
        if not runs:
            return None
        nats.append(np.stack([np.load(run)["nats"] for run in runs]))
    d = difference(nats[1], nats[0])
    return {"nats": d.nats, "se": d.se, "p": d.p}


def line(row: dict[str, Any]) -> str:
    """One world in words."""
    return (
        f"{row['world']:24} {row['gap']:8.4f} {row['z']:7.1f}  {'yes' if row['rejected'] else 'no':8} "
        f"{'WRONG' if row['wrong'] else '-':6} {row['seconds']['all']:5.0f}s  {' or '.join(row['supported'])}"
    )


def claims(rows: list[dict[str, Any]]) -> list[tuple[bool, str]]:
    """Whether each of the claims holds, and with what figures."""
    clear = [row for row in rows if row["family"] != "normal" and row["z"] > CLEAR]
    rejected = sum(row["rejected"] for row in clear)
    wrong = [row["world"] for row in rows if row["wrong"]]
    tested = [(row["world"], twin, t) for row in rows for twin, t in row["ties"].items()]
    failed = [f"{world} {twin}" for world, twin, t in tested if t is None]
    both = [(world, twin, t["p"]) for world, twin, t in tested if t is not None]
    held = holm(np.array([p for *_, p in both]))
    apart = [f"{world} {twin}" for (world, twin, _), p in zip(both, held, strict=True) if p < LEVEL]
    return [
        (len(clear) >= 15, f"{len(clear)} non-normal worlds with a gap above {CLEAR:g} standard errors (15 wanted)"),
        (
            rejected >= 0.9 * len(clear) > 0,
            f"normal latents rejected in {rejected} of them (90 % wanted)",
        ),
        (len(wrong) <= 1, f"a wrong family called better in {len(wrong)} of {len(rows)} (at most 1): {wrong}"),
        (not apart and not failed, f"{len(tested)} pairs that must tie: apart {apart}, not tested {failed}"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--only", default="", help="worlds whose name holds one of these, by commas")
    parser.add_argument("--steps", type=int, default=1000, help="twice as many behind a hidden layer")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    out: Path = arguments.out
    if out.exists() and not arguments.resume:
        parser.error(f"{out} exists; --resume goes on with it")
    torch.set_num_threads(1)
    rows = [json.loads(text) for text in out.read_text().splitlines()] if out.exists() else []
    done = {row["world"] for row in rows}
    print(f"{'world':24} {'gap':>8} {'SE':>7}  rejected wrong    time  supported", flush=True)
    for row in rows:
        print(line(row), flush=True)
    wanted = [w for w in WORLDS if any(part in w.name for part in arguments.only.split(","))]
    for world in (w for w in wanted if w.name not in done):
        folder = out.with_suffix("") / world.name
        row = tried(world, folder, LONGER[world.decoder] * arguments.steps, arguments.seeds)
        with out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        shutil.rmtree(folder)
        rows.append(row)
        print(line(row), flush=True)
    for good, told in claims(rows):
        print("PASS" if good else "FAIL", told)


if __name__ == "__main__":
    main()
