"""Measure the accuracy and the speed of annealed importance sampling.

    python bench/annealed.py RUN [--items 20] [--temperatures 100 200 500 1000]

It is compared with three references: the closed form of a linear model whose posterior is wrong, quadrature for a
model with two latents, and the lower and upper bounds on items simulated from RUN, for example the model written by

    ladle fit mnist-binary --recipe vae --size xs --minutes 6 --out RUN

(This model has 16 latents; for 50, change the size in the plan of the recipe.)
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch.distributions import MultivariateNormal

import ladle
from ladle.data import Batch, Schema
from ladle.families import positive
from ladle.inference.annealed import annealed
from ladle.inference.importance import importance
from ladle.inference.quadrature import exact_evidence
from ladle.model.vae import VAE
from ladle.seeds import seeded

ITEMS = 20


def tiny(schema: Schema, latents: int, net: dict, likelihood: dict) -> VAE:
    """A model with random weights, whose posterior is inaccurate but of a plausible scale."""
    plan = {**ladle.recipe("vae", schema, "xs"), "encoder": net, "decoder": net, "likelihood": likelihood}
    plan["latents"] = {**plan["latents"], "size": latents}
    vae = ladle.assemble(schema, plan, seed=0).model.eval()
    with seeded(1), torch.no_grad():
        vae.likelihood.head.weight.copy_(0.5 * torch.randn_like(vae.likelihood.head.weight))
        vae.latents.posterior.head.weight.mul_(0.05)
        vae.latents.posterior.head.bias[latents:].fill_(-0.5)
    return vae


def errors(vae: VAE, x: torch.Tensor, truth: np.ndarray, name: str) -> None:
    """Print the error of every method with respect to the true values."""
    batch = Batch(x, None, {}, torch.arange(len(x)))
    methods = {
        "bound, 20,000 samples": importance(vae, samples=20_000),
        "ais, 64 chains through 100": annealed(vae, samples=64, temperatures=100),
        "ais, 64 chains through 1,000": annealed(vae, samples=64, temperatures=1000),
    }
    for method, measure in methods.items():
        start = time.perf_counter()
        error = -measure(batch).nats - truth
        seconds = time.perf_counter() - start
        print(
            f"{name:8} {method:30} mean error {error.mean():8.4f}, largest {np.abs(error).max():.4f}, {seconds:.1f} s"
        )


def linear() -> None:
    """A linear model of ten numbers with four latents: log p(x) = log N(x; mu, W W' + s^2 I)."""
    schema = Schema("table", (10,), [ladle.Column("real", loc=0.0, scale=1.0)] * 10)
    vae = tiny(schema, 4, {"part": "net/linear"}, {"part": "family/normal", "shared_scale": True})
    weight, mean = vae.likelihood.head.weight.double().detach(), vae.likelihood.head.bias.double().detach()
    noise = positive(vae.likelihood.family.raw_scale, 1e-3).double().detach().square()
    marginal = MultivariateNormal(mean, weight @ weight.T + noise * torch.eye(10))
    with seeded(2):
        x = marginal.sample((ITEMS,)).float()
    errors(vae, x, marginal.log_prob(x.double()).numpy(), "linear")


def two() -> None:
    """A model of images of 36 bits with two latents, compared with quadrature."""
    vae = tiny(Schema("image", (1, 6, 6), "binary"), 2, {"part": "net/mlp", "width": 32, "depth": 2}, {
        "part": "family/bernoulli"
    })  # fmt: skip
    with seeded(2):
        x = torch.randint(0, 2, (ITEMS, 1, 6, 6)).float()
    start = time.perf_counter()
    truth = -exact_evidence(vae)(Batch(x, None, {}, torch.arange(ITEMS))).nats
    print(f"two      quadrature: {time.perf_counter() - start:.1f} s")
    errors(vae, x, truth, "two")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?")
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--temperatures", type=int, nargs="+", default=[100, 200, 500, 1000])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    linear()
    two()
    if arguments.run is None:
        return
    model = ladle.load(arguments.run)
    for temperatures in arguments.temperatures:
        start = time.perf_counter()
        found = ladle.sandwich(model, arguments.items, temperatures=temperatures, seed=arguments.seed)
        print(f"sandwich {time.perf_counter() - start:6.1f} s: {found}", flush=True)


if __name__ == "__main__":
    main()
