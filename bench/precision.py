"""The cost of bf16 in nats: the same training in both precisions, and the difference of the bounds on the test set.

    python bench/precision.py [--data mnist-binary] [--recipes learned_prior,vdvae] [--size xs] [--epochs 10]

Plan, seed and number of steps are the same. Both models are measured in float32 with the same noise on the same items.
The difference is given with its 95 % interval over items. This needs a processor or a GPU with native bf16.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import deque
from datetime import date
from unittest import mock

from density import spread
from ladle_command import prepare

prepare()  # as the ``ladle`` command does, before torch is loaded

import torch  # noqa: E402

import ladle  # noqa: E402
from ladle.machine import choose, processor  # noqa: E402

PRECISIONS = ("32-true", "bf16-mixed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="mnist-binary")
    parser.add_argument("--recipes", default="learned_prior,vdvae", help="names, separated by commas")
    parser.add_argument("--size", default="xs")
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--samples", type=int, default=1, help="samples of the bound; many are slow for vdvae")
    args = parser.parse_args()
    data, machine = ladle.read(args.data), choose()
    if machine.precision != "bf16-mixed":
        raise SystemExit(f"{machine.processor} has no native bf16, so nothing is trained in it")
    print(f"{date.today()}  {processor()}, {torch.get_num_threads()} threads")
    print(f"| `{args.data}`, {args.epochs:g} epochs | float32, nats | bf16, nats | difference | ms per step |")
    print("|---|---|---|---|---|")
    for recipe in args.recipes.split(","):
        nats, step_ms = [], []
        for precision in PRECISIONS:
            plan = ladle.assemble(data.schema, recipe, args.size, seed=0)
            with tempfile.TemporaryDirectory() as run:
                with mock.patch(
                    "ladle.training.distributed.choose", return_value=machine._replace(precision=precision)
                ):
                    (last,) = deque(ladle.fit(plan, data, epochs=args.epochs, seed=0, run=f"{run}/run"), maxlen=1)
                nats.append(ladle.measure(ladle.load(f"{run}/run"), data, split="test", samples=args.samples).nats)
            step_ms.append(1000 * last.seconds / last.step)
        single, half = nats
        difference = half - single
        error = 1.96 * spread(difference)
        print(
            f"| `{recipe}`, {args.size} | {single.mean():.3f} | {half.mean():.3f} "
            f"| **{difference.mean():+.3f} ± {error:.3f}** | {step_ms[0]:.1f}, {step_ms[1]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
