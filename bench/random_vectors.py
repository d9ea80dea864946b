"""Compare the samples of a VAE and the decoded random vectors of a plain autoencoder with held-out data.

    python bench/random_vectors.py fashion-mnist-mini mnist table.csv [--minutes 2]

Both models have the same networks, number of latents, data, batches and training time. The random vectors are normal
with the mean and standard deviation of the autoencoder's codes in every dimension. This favours the autoencoder,
whose user would have to estimate them. Items are drawn from p(x|z). The result is the area under the ROC curve of
``ladle.measures.two_sample``: 0.5 if the items cannot be separated from data, and 1 if they always can.
"""

from __future__ import annotations

import argparse
import tempfile

import numpy as np

import ladle
from ladle.health.measures import two_sample
from ladle.reporting.autoencoder_baseline import drawn, random_codes
from ladle.tasks.common import items

ITEMS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--minutes", type=float, default=2.0)
    arguments = parser.parse_args()
    print(f"{'data':20} {'items':>6} {'data':>6} {'VAE samples':>12} {'AE vectors':>11}")
    for name in arguments.data:
        data, models = ladle.read(name), {}
        with tempfile.TemporaryDirectory() as folder:
            for recipe in ("learned_prior", "ae"):
                run = f"{folder}/{recipe}"
                for _ in ladle.fit(ladle.assemble(data.schema, recipe), data, minutes=arguments.minutes, run=run):
                    pass
                models[recipe] = ladle.load(run)
        vae, ae = models["learned_prior"], models["ae"]
        x = np.random.default_rng(0).permutation(
            items(vae, data, "test").x.astype(np.float32)
        )  # the items of a file may be sorted
        n = min(ITEMS, len(x) // 2)
        vectors = random_codes(ae, items(ae, data, "train"), n)
        aucs = [two_sample(x[:n], y) for y in (x[n : 2 * n], drawn(vae, n)[1], drawn(ae, n, vectors)[1])]
        print(f"{name:20} {n:6} " + f"{aucs[0]:6.3f} {aucs[1]:12.3f} {aucs[2]:11.3f}", flush=True)


if __name__ == "__main__":
    main()
