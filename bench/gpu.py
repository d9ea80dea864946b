"""A long run on a machine that is lent for some minutes at a time: train for so long, stop, go on in the next call.

    python bench/gpu.py FOLDER --data mnist-binary --recipe vdvae --size m [--minutes 20] [--call 9]

The first call begins a run in FOLDER, the next ones go on with it from its last checkpoint (its clock counts training
alone), and the one that ends it measures the test items: the bound with one sample on all, and the importance-weighted
bound with 500 on the same 1,000. FOLDER must be carried from call to call; while training is not at its end it
holds no more than the checkpoint and the log. Prints what stands, as JSON, with ``done`` when there is nothing left.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import ladle
from density import spread
from ladle.machine import choose


def train(asked: argparse.Namespace, data: ladle.Dataset, until: float) -> bool:
    """Train until this time, or to the end; whether the end is reached."""
    assembly = ladle.assemble(data.schema, asked.recipe, asked.size)
    steps = ladle.fit(
        assembly, data, minutes=asked.minutes, device=asked.device, run=asked.folder, resume=True,
        settings={"recipe": asked.recipe, "size": asked.size},
    )  # fmt: skip
    for step in steps:
        if step.kind == "valid":
            print(f"{step.seconds / 60:.1f} min, step {step.step:,}: {step.nats:.2f} nats", flush=True)
        if time.perf_counter() > until and step.kind != "done":
            steps.close()  # type: ignore[attr-defined]  # between two steps: the run is saved
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--size", default="m")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--call", type=float, default=9.0, help="minutes of this call, at most")
    parser.add_argument("--device", default="auto")
    asked = parser.parse_args()
    until = time.perf_counter() + 60 * asked.call
    data = ladle.read(asked.data)
    told = {"data": asked.data, "recipe": asked.recipe, "size": asked.size, "machine": choose(asked.device).processor}
    if not train(asked, data, until):
        print(json.dumps({**told, "done": False}))
        return
    model = ladle.load(asked.folder, asked.device)
    if until - time.perf_counter() < 20 * asked.call:  # a third of the call, for what is left to do
        print(json.dumps({**told, "done": False, "left": "measuring"}))
        return
    one = ladle.measure(model, data, split="test", samples=1).nats
    many = ladle.measure(model, data, split="test", samples=500, at_most=1000).nats
    size = data.schema.size
    print(json.dumps({
        **told, "done": True, **model.config["result"], "one": float(one.mean()), "one_se": spread(one),
        "bits": float(one.mean()) / size / math.log(2), "nats": float(many.mean()), "se": spread(many),
        "items": len(many),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
