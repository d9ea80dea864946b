"""Compare a trained linear VAE with the closed form: the evidence of probabilistic PCA, its posterior and directions.

    python bench/linear.py

It trains on 2,000 rows of 10, 20 and 50 columns with the recipe ``linear_vae``. In nats per item on the training
rows, it prints how far the exact evidence of the model lies below that of maximum likelihood and how far the
one-sample bound lies below the exact evidence of the model. It also prints the standard deviation of the log
importance weights, the number of active units and the largest angle between a column of the decoder and its
principal direction.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch

import ladle
from ladle.data import make_batch
from ladle.inference.linear_gaussian import em, gaussian, ppca
from ladle.seeds import seeded

ROWS, NOISE = 2000, 0.7


def table(columns: int, latents: int, seed: int = 0) -> np.ndarray:
    """Rows that vary along ``latents`` directions, with standard deviations from 4 down to 1.5 times the noise."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(columns, latents)))[0]
    strength = NOISE * np.geomspace(4.0, 1.5, latents)
    x = rng.normal(size=(ROWS, latents)) * strength @ turn.T + rng.normal(size=(ROWS, columns)) * NOISE
    return (x + 3).astype(np.float32)


def measure(columns: int, latents: int, epochs: int, estimator: str) -> str:
    """Train one model and return its line of the table."""
    data = ladle.read(table(columns, latents))
    plan = ladle.recipe("linear_vae", data.schema, "s")
    plan["latents"] = {**plan["latents"], "size": latents}
    assembly = ladle.assemble(data.schema, ladle.estimator(plan, estimator, len(data.train)))
    start = time.perf_counter()
    *_, last = ladle.fit(assembly, data, epochs=epochs)
    seconds = time.perf_counter() - start

    loc, scale = np.array(data.schema.loc), np.array(data.schema.scale)
    inner = (data.train.x - loc) / scale
    exact = ppca(inner, latents)
    best = float(exact.moved(loc, scale).log_prob(data.train.x).mean())
    steps = em(inner, latents, 200).evidence
    with torch.no_grad(), seeded(1):
        batch = make_batch(data.train, data.schema, np.arange(len(data.train)))
        model, log_w = gaussian(assembly.model), assembly.model(batch, (50,)).log_w
        own = float(model.log_prob(data.train.x).mean())
        active = int((model.posterior(data.train.x).mean.var(0) > 0.01).sum())
        weight = assembly.model.likelihood.head.weight.double()
    ours, theirs = (w / w.norm(dim=0) for w in (weight, exact.weight))
    angle = math.degrees(math.acos(min(1.0, float((ours.mT @ theirs).abs().amax(0).min()))))
    return (
        f"{columns:4d} {latents:4d} {estimator:>6} {last.step:6d} {seconds:7.1f} {best:9.4f} {best - own:9.5f} "
        f"{own - float(log_w.mean()):9.5f} {float(log_w.std(0).mean()):8.4f} {active:4d} {angle:7.2f} "
        f"{float(steps[-1] - steps[0]):9.4f} {float(steps.diff().min()):9.1e}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=4000, help="number of epochs, each of one step")
    parser.add_argument("--columns", type=int, nargs="+", default=[10, 20, 50])
    parser.add_argument("--estimator", default="vi")
    arguments = parser.parse_args()
    print("   D    Q method  steps seconds  exact ML   deficit bound gap sd log w act.   angle   EM gain  min step")
    for columns in arguments.columns:
        print(measure(columns, max(2, columns // 5), arguments.epochs, arguments.estimator), flush=True)


if __name__ == "__main__":
    main()
