"""Compare the best test bound of pythae's default VAE in a given time with that of Ladle in a tenth of the time.

    python bench/quality.py [--data mnist-static] [--minutes 10] [--size xs] [--threads 2]

Both libraries are trained on the same binary data and evaluated by the bound with one sample on the whole test
split, in evaluation mode. pythae 0.1.2 uses its default networks (two layers, 512 units), a Bernoulli loss, its
default batch size and optimiser, and 40 latents; the time of its evaluation is not counted. It is run with its
default learning rate and with the rate of its tutorials, which is ten times larger. The time of Ladle includes
everything.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import deque
from datetime import date

import numpy as np

from ladle_command import prepare
from throughput import measure, peer_python

prepare()  # as the ``ladle`` command does, before torch is imported

import torch  # noqa: E402

import ladle  # noqa: E402
from ladle.machine import cores, processor  # noqa: E402

RATES = (1e-4, 1e-3)  # pythae's default, and that of its tutorials


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="mnist-static", help="binary data that are the same in every epoch")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--recipe", default="learned_prior")
    parser.add_argument("--size", default="xs")
    parser.add_argument("--threads", type=int, default=cores())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    data = ladle.read(asked.data)
    print(f"{date.today()}  {processor()}, {asked.threads} threads, load {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory() as folder:
        paths = [f"{folder}/{split}.npy" for split in ("train", "test")]
        for path, split in zip(paths, (data.train, data.test), strict=True):
            np.save(path, np.asarray(split.x))
        for rate in RATES:
            curve = measure(peer_python(), "peer_quality.py", *paths, asked.minutes, rate, asked.threads)
            seconds, best = min(curve, key=lambda point: point[1])
            print(
                f"pythae, rate {rate:g}: {len(curve)} epochs, {best:.2f} nats at best, after {seconds:.0f} s",
                flush=True,
            )
        assembly = ladle.assemble(data.schema, asked.recipe, asked.size)
        steps = ladle.fit(assembly, data, minutes=asked.minutes / 10, run=f"{folder}/run")
        (last,) = deque(steps, maxlen=1)
        nats = ladle.measure(ladle.load(f"{folder}/run"), data, split="test", samples=1).nats
    name = f"{asked.recipe} {asked.size}"
    print(f"Ladle, {name}: {last.epoch:.1f} epochs, {nats.mean():.2f} nats, after {last.seconds:.0f} s")


if __name__ == "__main__":
    main()
