"""Linear-Gaussian models with the exact posterior as encoder; log p(x) has a closed form."""

from __future__ import annotations

import math

import numpy as np
import torch

import ladle
from ladle.seeds import seeded

FLOOR = 1e-3  # the smallest scale, as in the families


def raw_scale(scale: torch.Tensor | float) -> torch.Tensor:
    """The inverse of ``families.positive``."""
    scaled = (torch.as_tensor(scale, dtype=torch.float64) - FLOOR) / (1 - FLOOR) * math.log(2)
    return torch.log(torch.expm1(scaled)) / math.log(2)


def linear_gaussian(dims: int = 5, latents: int = 2, noise: float = 0.5, n: int = 200, seed: int = 0) -> tuple:
    """``z ~ N(0, I), x = W z + m + noise * e`` with orthogonal columns of W, so that the exact posterior is factorised.

    The encoder is set to the exact posterior.

    Returns:
        The model (float64), items drawn from it ``(n, dims)``, their log p(x) ``(n,)``, and their latents
        ``(n, latents)``.
    """
    schema = ladle.Schema("table", (dims,), [ladle.Column("real", loc=0.0, scale=1.0)] * dims)
    linear = {"part": "net/linear"}
    family = {"part": "family/normal", "shared_scale": True}
    plan = {
        **ladle.recipe("vae", schema, "xs"),
        "latents": {"size": latents, "posterior": {"part": "family/normal"}, "prior": {"part": "prior/standard"}},
        "encoder": linear,
        "decoder": linear,
        "likelihood": {"part": "family/affine", "family": family, "loc": [0.0] * dims, "scale": [1.0] * dims},
    }
    vae = ladle.assemble(schema, plan, seed=0).model.double().eval().requires_grad_(False)
    with seeded(seed):
        w = torch.linalg.qr(torch.randn(dims, latents, dtype=torch.float64)).Q * torch.linspace(2.0, 1.0, latents)
        mean = torch.randn(dims, dtype=torch.float64)
        z = torch.randn(n, latents, dtype=torch.float64)
        x = (z @ w.T + mean + noise * torch.randn(n, dims, dtype=torch.float64)).float().double()
    precision = 1 + w.square().sum(0) / noise**2
    gain = (w / noise**2 / precision).T
    vae.likelihood.head.weight.copy_(w)
    vae.likelihood.head.bias.copy_(mean)
    vae.likelihood.family.family.raw_scale.copy_(raw_scale(noise))
    head = vae.latents.posterior.head
    head.weight.zero_()
    head.weight[:latents].copy_(gain)
    head.bias.copy_(torch.cat([-gain @ mean, raw_scale(precision.rsqrt())]))
    covariance = w @ w.T + noise**2 * torch.eye(dims, dtype=torch.float64)
    log_p = torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)
    return ladle.Model(vae, schema, {}, "cpu"), x.float().numpy(), log_p.numpy(), np.asarray(z)


def narrower(model: ladle.Model, factor: float) -> ladle.Model:
    """Multiply the standard deviation of every posterior by ``factor``, in place."""
    head = model.vae.latents.posterior.head
    latents = len(head.bias) // 2
    scale = ladle.families.positive(head.bias[latents:], FLOOR)
    head.bias[latents:] = raw_scale(scale * factor)
    return model


def shifted(model: ladle.Model, by: float) -> ladle.Model:
    """Move the mean of every posterior by ``by`` of its standard deviations, in place."""
    head = model.vae.latents.posterior.head
    latents = len(head.bias) // 2
    head.bias[:latents] += by * ladle.families.positive(head.bias[latents:], FLOOR)
    return model
