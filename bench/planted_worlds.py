"""Simulated data sets with a known family of latents, their true evidence and that of the best normal latents.

A world draws z from one family, decodes it with a linear decoder or one with a hidden layer, and adds normal noise
with one scale: ``x = f(z) + sigma e``. All computations are in float64 and independent of Ladle.

The true evidence ``log p(x) = log E N(x; f(z), sigma^2)`` is a sum over weighted nodes of the prior. It is exact for
categories, and quadrature otherwise (a circle, a sphere, a lattice in two dimensions). For a linear decoder, the
likelihood is a normal density in z, so the lattice is centred at ``m = W^+ (x - b)`` of every item and its spacing
is proportional to the width of this density. With a linear decoder, the best model with normal latents is
probabilistic PCA, in closed form; with a hidden layer, it is found by maximising the same sum over nodes from
several starting points.

The components of the mixture and the classes overlap. With less noise, some runs of the true family merged two of
them and ended up to 1.6 nats below the true evidence, so the comparison would have measured the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

HIDDEN = 8  # units of the decoders with a hidden layer
COMPONENTS = 5
CLASSES = 4
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
CELLS = 1 << 24  # elements of the table (items, nodes) held in memory at a time


class World(NamedTuple):
    """The specification of a simulated data set.

    Attributes:
        family: family of the latents.
        decoder: ``linear`` or ``mlp`` (one hidden layer).
        latents: number of latents D; for categories, the number of choices among four classes.
        noise: standard deviation sigma of the noise.
        seed: seed of the decoder, the mixture and the items.
        dims: number of columns of the data.
        train, test: number of items; a sixteenth of ``train`` is generated in addition for validation.
    """

    family: str
    decoder: str
    latents: int
    noise: float
    seed: int
    dims: int = 8
    train: int = 8000
    test: int = 4000

    @property
    def name(self) -> str:
        """The name of the world in printed output and in results files."""
        return f"{self.family}-{self.decoder}-{self.latents}-{self.seed}"


SPREAD = (("linear", 2, 0.3), ("linear", 2, 0.5), ("linear", 3, 0.5), ("linear", 2, 0.7))  # decoder, latents, noise
KINDS = {
    **dict.fromkeys(("normal", "laplace", "mixture", "sphere"), (*SPREAD, ("mlp", 2, 1.0))),
    "student_t": (*SPREAD, ("linear", 3, 0.3)),
    "categorical": (("linear", 1, 1.5), ("linear", 1, 2.0), ("linear", 2, 1.8), ("linear", 1, 2.5), ("mlp", 1, 2.0)),
}
WORLDS = tuple(
    World(family, decoder, latents, noise, seed)
    for family, kinds in KINDS.items()
    for seed, (decoder, latents, noise) in enumerate(kinds)
)


class Decoder(NamedTuple):
    """``f(z) = out relu(into z + shift) + bias``, or ``out z + bias`` without a hidden layer."""

    out: Tensor
    bias: Tensor
    into: Tensor | None = None
    shift: Tensor | None = None

    def __call__(self, z: Tensor) -> Tensor:
        """``(N, D) -> (N, dims)``."""
        if self.into is not None:
            z = torch.relu(z @ self.into.T + self.shift)
        return z @ self.out.T + self.bias


class Prior(NamedTuple):
    """p(z): ``draw(rng, n)`` returns ``(n, D)``; ``log_prob`` is ``None`` if z has no density on the whole space."""

    draw: Callable[[np.random.Generator, int], np.ndarray]
    log_prob: Callable[[Tensor], Tensor] | None
    nodes: Callable[[], tuple[Tensor, Tensor]]


def _rng(world: World, what: str) -> np.random.Generator:
    return np.random.default_rng([world.seed, *map(ord, world.family + world.decoder + what)])


def decoder(world: World) -> Decoder:
    """The decoder of a world. A hidden layer has a pair of units with opposite signs for every direction, so that
    different z have different outputs. A categorical latent is encoded as an indicator vector."""
    rng, size = _rng(world, "decoder"), world.latents * (CLASSES if world.family == "categorical" else 1)
    bias = torch.tensor(rng.normal(size=world.dims))
    if world.decoder == "linear":
        return Decoder(torch.tensor(rng.normal(size=(world.dims, size))), bias)
    half = _unit(rng.normal(size=(HIDDEN // 2, size)))
    into, shift = torch.tensor(np.concatenate([half, -half])), torch.tensor(rng.uniform(-0.3, 0.3, HIDDEN))
    return Decoder(torch.tensor(rng.normal(size=(world.dims, HIDDEN))), bias, into, shift)


def prior(world: World) -> Prior:
    """The prior of a world."""
    size = world.latents

    def product(draw: Callable, log_prob: Callable[[Tensor], Tensor], reach: float) -> Prior:
        return Prior(
            lambda rng, n: draw(rng, (n, size)),
            lambda z: log_prob(z).sum(-1),
            lambda: lattice(size, reach, 0.12, lambda z: log_prob(z).sum(-1)),
        )

    match world.family:
        case "normal":
            return product(lambda rng, s: rng.normal(size=s), _log_normal, 6.0)
        case "laplace":
            return product(lambda rng, s: rng.laplace(size=s), lambda z: -z.abs() - math.log(2), 12.0)
        case "student_t":
            top = 2 / (math.pi * math.sqrt(3))
            return product(
                lambda rng, s: rng.standard_t(3, size=s),
                lambda z: math.log(top) - 2 * torch.log1p(z.square() / 3), 40.0,
            )  # fmt: skip
        case "mixture":
            return _mixture(world)
        case "sphere":
            return Prior(lambda rng, n: _unit(rng.normal(size=(n, size))), None, lambda: _sphere(size))
    every = torch.cartesian_prod(*[torch.arange(CLASSES)] * size).reshape(-1, size)
    every = torch.nn.functional.one_hot(every, CLASSES).double().flatten(1)
    same = torch.full((len(every),), -math.log(len(every)), dtype=torch.float64)
    return Prior(lambda rng, n: every[rng.integers(len(every), size=n)].numpy(), None, lambda: (every, same))


def _mixture(world: World) -> Prior:
    """A mixture of five isotropic components whose centres are at least 1.5 apart."""
    rng, size = _rng(world, "mixture"), world.latents
    centres: list[np.ndarray] = []
    while len(centres) < COMPONENTS:
        new = rng.uniform(-2.5, 2.5, size)
        if all(np.linalg.norm(new - old) > 1.5 for old in centres):
            centres.append(new)
    loc, scale = np.stack(centres), rng.uniform(0.5, 0.8, COMPONENTS)
    weight = rng.dirichlet(np.full(COMPONENTS, 10.0))
    places, scales, logits = torch.tensor(loc), torch.tensor(scale), torch.tensor(weight).log()

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        at = rng.choice(COMPONENTS, size=n, p=weight)
        return loc[at] + scale[at, None] * rng.normal(size=(n, size))

    def log_prob(z: Tensor) -> Tensor:
        each = _log_normal((z.unsqueeze(-2) - places) / scales[:, None]).sum(-1) - size * scales.log()
        return torch.logsumexp(each + logits, -1)

    return Prior(draw, log_prob, lambda: lattice(size, 5.0, 0.1, log_prob))


def _log_normal(z: Tensor) -> Tensor:
    return -0.5 * z.square() - HALF_LOG_2PI


def _unit(z: np.ndarray) -> np.ndarray:
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def lattice(size: int, reach: float, step: float, log_prob: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Nodes ``(M, size)`` and log weights ``(M,)`` of the trapezoidal rule on a cube."""
    axis = torch.arange(-math.ceil(reach / step), math.ceil(reach / step) + 1, dtype=torch.float64) * step
    nodes = torch.cartesian_prod(*[axis] * size).reshape(-1, size)
    return nodes, log_prob(nodes) + size * math.log(step)


def _sphere(size: int) -> tuple[Tensor, Tensor]:
    """The trapezoidal rule on the circle; on the sphere, its product with the Gauss-Legendre rule."""
    turns = 400 if size == 2 else 120
    angle = 2 * math.pi * torch.arange(turns, dtype=torch.float64) / turns
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    if size == 2:
        return circle, torch.full((turns,), -math.log(turns), dtype=torch.float64)
    height, weight = map(torch.tensor, np.polynomial.legendre.leggauss(60))
    around = (1 - height.square()).sqrt()[:, None, None] * circle
    nodes = torch.cat([around, height[:, None, None].expand(-1, turns, 1)], -1).reshape(-1, 3)
    return nodes, (weight / 2 / turns).log().repeat_interleave(turns)


# ------------------------------------------------------------------------------------------------ data and evidence


def simulate(world: World) -> dict[str, np.ndarray]:
    """The splits of a world, float32."""
    rng, f, p = _rng(world, "items"), decoder(world), prior(world)
    splits = {}
    for split, n in {"train": world.train, "valid": world.train // 16, "test": world.test}.items():
        x = f(torch.tensor(p.draw(rng, n))).numpy()
        splits[split] = (x + world.noise * rng.normal(size=x.shape)).astype(np.float32)
    return splits


def truth(world: World, x: np.ndarray) -> Tensor:
    """log p(x) under the true model, ``(N,)``."""
    f, p, items = decoder(world), prior(world), torch.tensor(x, dtype=torch.float64)
    if world.decoder == "linear" and p.log_prob is not None:
        return around(f, world.noise, p.log_prob, items)
    return over(f, torch.tensor(world.noise).double(), *p.nodes(), items)


def over(f: Decoder, noise: Tensor, nodes: Tensor, log_weights: Tensor, x: Tensor) -> Tensor:
    """``log sum_m w_m N(x; f(z_m), noise^2)``, ``(N,)``."""
    means = f(nodes)
    ends, slopes = log_weights - 0.5 * means.square().sum(1) / noise**2, means.T / noise**2
    rows = max(1, CELLS // len(nodes))
    sums = [torch.logsumexp(torch.addmm(ends, part, slopes), 1) for part in x.split(rows)]
    return torch.cat(sums) - 0.5 * x.square().sum(1) / noise**2 - x.shape[1] * (noise.log() + HALF_LOG_2PI)


def around(f: Decoder, noise: float, log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The evidence with a linear decoder. The likelihood is normal in z, so the lattice is adapted to it."""
    size = f.out.shape[1]
    gram = f.out.T @ f.out
    centre = (x - f.bias) @ f.out @ torch.linalg.inv(gram)
    spread = noise * torch.linalg.cholesky(torch.linalg.inv(gram))
    nodes, log_weights = lattice(size, 6.0, 0.25 if size == 2 else 0.5, lambda u: _log_normal(u).sum(-1))
    steps = nodes @ spread.T
    rows = max(1, CELLS // 4 // len(nodes))
    sums = [torch.logsumexp(log_prob(c[:, None] + steps) + log_weights, 1) for c in centre.split(rows)]
    rest = (x - f(centre)).square().sum(1) / noise**2
    left = x.shape[1] - size
    return torch.cat(sums) - 0.5 * rest - left * (math.log(noise) + HALF_LOG_2PI) - 0.5 * torch.logdet(gram)


# -------------------------------------------------------------------------------------------- the best normal latents


def best_normal(world: World, train: np.ndarray, x: np.ndarray) -> Tensor:
    """log p(x) under the maximum-likelihood model of ``train`` with normal latents and the same kind of decoder."""
    size = world.latents
    learn, items = (torch.tensor(a, dtype=torch.float64) for a in (train, x))
    if world.decoder == "linear":
        return pca(learn, size, items)
    return hidden(world, learn, size, items)


def pca(train: Tensor, size: int, x: Tensor) -> Tensor:
    """log p(x) under the maximum-likelihood model of probabilistic PCA.

    Reference:
        Tipping, Bishop: "Probabilistic Principal Component Analysis", 1999.
    """
    mean = train.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(train.T, correction=0))
    noise = values[:-size].mean()
    spread = torch.cat([noise.expand(len(values) - size), values[-size:].clamp(min=noise)])
    along = (x - mean) @ vectors
    return -0.5 * (along.square() / spread + spread.log() + math.log(2 * math.pi)).sum(1)


def hidden(world: World, train: Tensor, size: int, x: Tensor, starts: int = 2, steps: int = 1000) -> Tensor:
    """log p(x) with the best decoder with one hidden layer, maximising the sum over a lattice from two starts."""
    found: list[tuple[float, Tensor]] = []
    coarse = lattice(size, 5.0, 0.25, lambda z: _log_normal(z).sum(-1))
    fine = lattice(size, 6.0, 0.125, lambda z: _log_normal(z).sum(-1))
    for start in range(starts):
        rng = _rng(world, f"start {start}")
        begin = decoder(world)
        if start or begin.into is None or begin.into.shape[1] != size:
            draw = [rng.normal(size=s) for s in ((world.dims, HIDDEN), (world.dims,), (HIDDEN, size), (HIDDEN,))]
            begin = Decoder(*map(torch.tensor, draw))
        weights = [w.float().requires_grad_() for w in begin]
        log_noise = torch.tensor(math.log(2 * world.noise), requires_grad=True)
        optimizer = torch.optim.Adam([*weights, log_noise], lr=0.03)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            batch = train[rng.integers(len(train), size=256)].float()
            loss = -over(Decoder(*weights), log_noise.exp(), coarse[0].float(), coarse[1].float(), batch).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        best = Decoder(*(w.detach().double() for w in weights))
        noise = log_noise.detach().double().exp()
        found.append((float(over(best, noise, *coarse, train).mean()), over(best, noise, *fine, x)))
    return max(found, key=lambda pair: pair[0])[1]


def gap(better: Tensor, worse: Tensor) -> tuple[float, float]:
    """The mean difference per item and its standard error."""
    difference = (better - worse).numpy()
    return float(difference.mean()), float(difference.std(ddof=1) / math.sqrt(len(difference)))
