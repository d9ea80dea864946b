"""How near annealed importance sampling comes to the truth, and how long it takes.

    python bench/annealed.py RUN [--items 20] [--temperatures 100 200 500 1000]

Three truths: a linear model with a wrong posterior, whose evidence is a closed form; a model with two latents, by
quadrature; and the sandwich on items simulated from RUN, such as that of

    ladle fit mnist-binary --recipe vae --size xs --minutes 6 --out RUN

(that has 16 latents; for 50, change the size in the recipe's plan).
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
from ladle.inference.quadrature import exact
from ladle.model.vae import VAE
from ladle.seeds import seeded

ITEMS = 20


def tiny(schema: Schema, latents: int, net: dict, likelihood: dict) -> VAE:
    """A model with random weights whose posterior is wrong, but not absurd."""
    plan = {**ladle.recipe("vae", schema, "xs"), "encoder": net, "decoder": net, "likelihood": likelihood}
    plan["latents"] = {**plan["latents"], "size": latents}
    vae = ladle.assemble(schema, plan, seed=0).model.eval()
    with seeded(1), torch.no_grad():
        vae.likelihood.head.weight.copy_(0.5 * torch.randn_like(vae.likelihood.head.weight))
        vae.latents.posterior.head.weight.mul_(0.05)
        vae.latents.posterior.head.bias[latents:].fill_(-0.5)
    return vae


def errors(vae: VAE, x: torch.Tensor, truth: np.ndarray, name: str) -> None:
    """Every method beside the truth."""
    batch = [Batch(x, None, {}, torch.arange(len(x)))]
    methods = {
        "bound, 20,000 samples": lambda: importance(vae, batch, samples=20_000),
        "ais, 64 chains through 100": lambda: annealed(vae, batch, samples=64, temperatures=100),
        "ais, 64 chains through 1,000": lambda: annealed(vae, batch, samples=64, temperatures=1000),
    }
    for method, run in methods.items():
        start = time.perf_counter()
        wrong = -next(run()).nats - truth
        took = time.perf_counter() - start
        print(f"{name:8} {method:30} mean error {wrong.mean():8.4f}, largest {np.abs(wrong).max():.4f}, {took:.1f} s")


def linear() -> None:
    """Ten numbers, four latents: log p(x) = log N(x; mu, W W' + s^2 I)."""
    schema = Schema("table", (10,), "real", loc=(0.0,) * 10, scale=(1.0,) * 10)
    vae = tiny(schema, 4, {"part": "net/linear"}, {"part": "family/normal", "shared_scale": True})
    weight, mean = vae.likelihood.head.weight.double().detach(), vae.likelihood.head.bias.double().detach()
    noise = positive(vae.likelihood.family.raw_scale, 1e-3).double().detach().square()
    marginal = MultivariateNormal(mean, weight @ weight.T + noise * torch.eye(10))
    with seeded(2):
        x = marginal.sample((ITEMS,)).float()
    errors(vae, x, marginal.log_prob(x.double()).numpy(), "linear")


def two() -> None:
    """An image of 36 bits, two latents: by quadrature."""
    vae = tiny(Schema("image", (1, 6, 6), "binary"), 2, {"part": "net/mlp", "width": 32, "depth": 2}, {
        "part": "family/bernoulli"
    })  # fmt: skip
    with seeded(2):
        x = torch.randint(0, 2, (ITEMS, 1, 6, 6)).float()
    start = time.perf_counter()
    truth = -next(exact(vae, [Batch(x, None, {}, torch.arange(ITEMS))])).nats
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
