"""A long training run on a GPU that is available only for some minutes at a time: every call continues the run.

    python bench/gpu.py FOLDER --data mnist-binary --recipe vdvae --size m [--minutes 20] [--call 9]

The first call starts a run in FOLDER, and the next ones resume it from its last checkpoint (its clock counts only
training). The call that finishes it measures the test items: the bound with one sample on all items, and the
importance-weighted bound with 500 samples on the same 1,000 items. FOLDER must be kept between calls; until the end of
training it contains only the checkpoint and the log. Prints the state as JSON, with ``done`` set once all is finished.
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


def train(args: argparse.Namespace, data: ladle.Dataset, until: float) -> bool:
    """Train until the given time at most. Return whether training has finished."""
    assembly = ladle.assemble(data.schema, args.recipe, args.size)
    steps = ladle.fit(
        assembly, data, minutes=args.minutes, device=args.device, run=args.folder, resume=True,
        settings={"recipe": args.recipe, "size": args.size},
    )  # fmt: skip
    for step in steps:
        if step.kind == "valid":
            print(f"{step.seconds / 60:.1f} min, step {step.step:,}: {step.nats:.2f} nats", flush=True)
        if time.perf_counter() > until and step.kind != "done":
            steps.close()  # type: ignore[attr-defined]  # saves the run
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--size", default="m")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--call", type=float, default=9.0, help="the maximum time of this call in minutes")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    until = time.perf_counter() + 60 * args.call
    data = ladle.read(args.data)
    summary = {
        "data": args.data,
        "recipe": args.recipe,
        "size": args.size,
        "machine": choose(args.device).processor,
    }
    if not train(args, data, until):
        print(json.dumps({**summary, "done": False}))
        return
    model = ladle.load(args.folder, args.device)
    if until - time.perf_counter() < 20 * args.call:  # less than a third of the call is left: measure in the next one
        print(json.dumps({**summary, "done": False, "left": "measuring"}))
        return
    one = ladle.measure(model, data, split="test", samples=1).nats
    many = ladle.measure(model, data, split="test", samples=500, at_most=1000).nats
    size = data.schema.size
    print(json.dumps({
        **summary, "done": True, **model.config["result"], "one": float(one.mean()), "one_se": spread(one),
        "bits": float(one.mean()) / size / math.log(2), "nats": float(many.mean()), "se": spread(many),
        "items": len(many),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
