"""Can random vectors be decoded? A plain autoencoder's beside a VAE's samples, each told apart from held-out data.

    python bench/random_vectors.py fashion-mnist-mini mnist cifar10 [--minutes 2]

Both have the same nets, latent size, data, batches and training time. The autoencoder's vectors are normal with its
codes' own mean and deviation in every dimension, which is generous: its user knows neither. The figure is the area
under the ROC curve of ``ladle.measures.two_sample``: 0.5 cannot be told from data, 1 always can.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np

import ladle
from ladle.data import Split
from ladle.measures import two_sample
from ladle.tasks.run import items

ITEMS = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+")
    parser.add_argument("--minutes", type=float, default=2.0)
    arguments = parser.parse_args()
    print(f"{'data':20} {'data':>6} {'VAE reconstructions':>20} {'VAE samples':>12} {'AE vectors':>11}")
    for name in arguments.names:
        data, models = ladle.read(name), {}
        with tempfile.TemporaryDirectory() as folder:
            for recipe in ("learned_prior", "ae"):
                run = f"{folder}/{recipe}"
                for _ in ladle.fit(ladle.assemble(data.schema, recipe), data, minutes=arguments.minutes, run=run):
                    pass
                models[recipe] = ladle.load(run)
        vae, ae = models["learned_prior"], models["ae"]
        held = items(vae, data, "test").x.astype(np.float32)
        half = min(ITEMS, len(held) // 2)
        x, others = held[:half], held[half : 2 * half]
        codes = ladle.encode(ae, data, split="train")
        noise = np.random.default_rng(0).normal(size=(half, codes.shape[1]))
        vectors = ladle.decode(ae, codes.mean(0) + codes.std(0) * noise)
        again = ladle.reconstruct(vae, Split(items(vae, data, "test").x[half : 2 * half]))
        told = [two_sample(x, y) for y in (others, again, ladle.sample(vae, half), vectors)]
        print(f"{name:20} {told[0]:6.3f} {told[1]:20.3f} {told[2]:12.3f} {told[3]:11.3f}", flush=True)


if __name__ == "__main__":
    main()
