"""Data from a linear-Gaussian model, and linear VAEs set to a known solution."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.linalg import hadamard

import ladle
from ladle.data import Batch, make_batch
from ladle.inference.linear_gaussian import LinearGaussian, gaussian
from ladle.seeds import seeded


def rows(n: int = 400, d: int = 6, q: int = 2, seed: int = 0) -> np.ndarray:
    """``(n, d)`` float32: q directions of different variances and noise 0.7, away from the origin."""
    rng = np.random.default_rng(seed)
    weight = np.linalg.qr(rng.normal(size=(d, q)))[0] * np.linspace(3.0, 1.5, q) * math.sqrt(d) / 2
    return (rng.normal(size=(n, q)) @ weight.T + rng.normal(size=(n, d)) * 0.7 + 5.0).astype(np.float32)


def spectrum(values: list[float], n: int = 400, seed: int = 0) -> ladle.Dataset:
    """A data set whose training split has a covariance with exactly these eigenvalues.

    Their number must be a power of 2. The directions give every column the same scale.
    """
    rng, d = np.random.default_rng(seed), len(values)
    x = rng.normal(size=(n, d))
    held = ladle.read(x.astype(np.float32)).train.x.astype(np.float64)
    white = np.linalg.inv(np.linalg.cholesky(np.cov(held.T, bias=True))).T
    turn = hadamard(d) / math.sqrt(d)
    return ladle.read((((x - held.mean(0)) @ white * np.sqrt(values)) @ turn + 5).astype(np.float32))


def units(schema: ladle.Schema) -> tuple[np.ndarray, np.ndarray]:
    """The location and scale of the units of the likelihood."""
    return np.array(schema.loc), np.array(schema.scale)


def linear_vae(
    schema: ladle.Schema, q: int, estimator: str = "vi", items: int = 1, **training: float
) -> ladle.Assembly:
    """The recipe ``linear_vae`` with q latents."""
    plan = ladle.recipe("linear_vae", schema, "s")
    plan["latents"] = {**plan["latents"], "size": q}
    plan["training"] = {**plan["training"], **training}
    return ladle.assemble(schema, ladle.estimator(plan, estimator, items))


def set_to(assembly: ladle.Assembly, inner: LinearGaussian) -> None:
    """Set the decoder of a linear VAE to ``inner``, in the units of the likelihood, and its encoder to the exact
    posterior, which is diagonal if the columns of the weight are orthogonal. The encoder reads the same units."""
    vae = assembly.model
    noise = float(inner.noise[0])
    posterior = torch.eye(inner.weight.shape[1]).double() + inner.weight.mT @ inner.weight / noise
    gain = torch.linalg.solve(posterior, inner.weight.mT / noise)
    family = vae.likelihood.family.family
    raw = [_raw(s, 1e-3) for s in (math.sqrt(noise), *posterior.diag().rsqrt().tolist())]
    with torch.no_grad():
        vae.likelihood.head.weight.copy_(inner.weight)
        vae.likelihood.head.bias.copy_(inner.mean)
        family.raw_scale.fill_(raw[0])
        head = vae.latents.posterior.head
        head.weight.zero_()
        head.weight[: len(gain)] = gain.float()
        head.bias.copy_(torch.cat([-(gain @ inner.mean), torch.tensor(raw[1:]).double()]))


def _raw(scale: float, floor: float) -> float:
    """The raw parameter that gives this scale."""
    return math.log2(math.expm1(math.log(2) * (scale - floor) / (1 - floor)))


def training_batch(data: ladle.Dataset) -> Batch:
    """The training split as one batch."""
    return make_batch(data.train, data.schema, np.arange(len(data.train)))


def evidence(assembly: ladle.Assembly, data: ladle.Dataset) -> float:
    """The exact mean evidence of the training split under a linear VAE."""
    with torch.no_grad():
        return float(gaussian(assembly.model).log_prob(data.train.x).mean())


def weights(assembly: ladle.Assembly, data: ladle.Dataset, samples: int = 20) -> torch.Tensor:
    """``(samples, N)``: the log importance weights of the training split."""
    with torch.no_grad(), seeded(1):
        return assembly.model(training_batch(data), (samples,)).log_w
