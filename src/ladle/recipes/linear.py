"""The linear VAE, whose maximum likelihood and evidence have closed forms."""

from __future__ import annotations

from typing import Any

from ladle.data import Schema
from ladle.recipes.sizes import latents, likelihood
from ladle.recipes.vae import STANDARD
from ladle.shapes import numel
from ladle.spec import SpecError, part


@part("recipe", "linear_vae")
def linear_vae(schema: Schema, size: str) -> dict[str, Any]:
    """Probabilistic PCA of the standardised data as a VAE: linear networks, one noise level, and exact evidence.

    Sticking the landing removes the noise of the gradient once q is exact. There is no weight decay, and the last
    weights are kept, because the aim is maximum likelihood and not the best validation.

    Reference:
        Lucas, Tucker, Grosse, Norouzi: "Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse", 2019.
    """
    if schema.support != "real":
        raise SpecError(
            f"linear_vae has a normal likelihood, but the data is {schema.support}; recipes that fit: vae, iwae_dreg"
        )
    if numel(schema.shape) < 2:
        raise SpecError("linear_vae needs items of at least 2 numbers, because it has fewer latents than numbers")
    fewer = min(latents(schema, size), numel(schema.shape) - 1)
    return {
        "latents": {"size": fewer, "posterior": {"part": "family/normal"}, "prior": STANDARD},
        "encoder": {"part": "net/linear"},
        "decoder": {"part": "net/linear"},
        "likelihood": likelihood(schema, shared_scale=True),
        "objective": {"part": "objective/elbo", "sticking": True},
        "training": {"batch": 2048, "rate": 3e-2, "final": 1e-3, "weight_decay": 0.0, "last": True},
    }
