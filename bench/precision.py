"""What bf16 costs: the same training in both precisions, and the difference of their bounds on the test set.

    python bench/precision.py [--data mnist-binary] [--recipes learned_prior,vdvae] [--size xs] [--epochs 10]

Same plan, same seed, same number of steps. Both models are measured in float32 with the same noise on the same items;
the difference comes with its 95 % interval over items. It needs a processor, or a GPU, that multiplies in bf16.
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
    parser.add_argument("--recipes", default="learned_prior,vdvae", help="names, by commas")
    parser.add_argument("--size", default="xs")
    parser.add_argument("--epochs", type=float, default=10.0)
    parser.add_argument("--samples", type=int, default=1, help="of the bound; many take long for ladders")
    asked = parser.parse_args()
    data, machine = ladle.read(asked.data), choose()
    if machine.precision != "bf16-mixed":
        raise SystemExit(f"{machine.processor} does not multiply in bf16, so nothing is trained in it")
    print(f"{date.today()}  {processor()}, {torch.get_num_threads()} threads")
    print(f"| `{asked.data}`, {asked.epochs:g} epochs | float32, nats | bf16, nats | difference | ms a step |")
    print("|---|---|---|---|---|")
    for recipe in asked.recipes.split(","):
        nats, pace = [], []
        for precision in PRECISIONS:
            plan = ladle.assemble(data.schema, recipe, asked.size, seed=0)
            with tempfile.TemporaryDirectory() as run:
                with mock.patch(
                    "ladle.training.distributed.choose", return_value=machine._replace(precision=precision)
                ):
                    (last,) = deque(ladle.fit(plan, data, epochs=asked.epochs, seed=0, run=f"{run}/run"), maxlen=1)
                nats.append(ladle.measure(ladle.load(f"{run}/run"), data, split="test", samples=asked.samples).nats)
            pace.append(1000 * last.seconds / last.step)
        single, half = nats
        apart = half - single
        error = 1.96 * spread(apart)
        print(
            f"| `{recipe}`, {asked.size} | {single.mean():.3f} | {half.mean():.3f} "
            f"| **{apart.mean():+.3f} ± {error:.3f}** | {pace[0]:.1f}, {pace[1]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
