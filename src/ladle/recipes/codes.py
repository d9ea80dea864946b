"""Discrete latents with few values: codes."""

from __future__ import annotations

from typing import Any

from ladle.data import Schema
from ladle.recipes.sizes import latents, likelihood, nets, training
from ladle.spec import part

LEVELS = 8  # values of a scalar code
CLASSES, NUMBERS = 64, 8  # vectors in a codebook, and numbers per vector


@part("recipe", "fsq")
def fsq(schema: Schema, size: str) -> dict[str, Any]:
    """A VAE whose latents each take one of a few levels, which can be stored directly.

    Reference:
        Mentzer, Minnen, Agustsson, Tschannen: "Finite Scalar Quantization: VQ-VAE Made Simple", 2023.
    """
    prior = {"part": "family/discretised_logistic_mixture", "levels": LEVELS, "components": 3, "floor": 0.05}
    return {
        "latents": {
            "size": latents(schema, size),
            "posterior": {"part": "family/fsq", "levels": LEVELS},
            "prior": {"part": "prior/learned", "family": prior},
        },
        **nets(schema, size),
        "likelihood": likelihood(schema),
        "objective": {"part": "objective/elbo"},
        "training": training(schema),
    }


@part("recipe", "vq")
def vq(schema: Schema, size: str) -> dict[str, Any]:
    """A VAE with a codebook of learned vectors; one code replaces two latents of the other recipes.

    Reference:
        van den Oord, Vinyals, Kavukcuoglu: "Neural Discrete Representation Learning", 2017.
    """
    choices = max(1, latents(schema, size) // 2)
    return {
        "latents": {
            "size": choices * CLASSES,
            "posterior": {"part": "family/vq", "classes": CLASSES, "size": NUMBERS},
            "prior": {"part": "prior/learned", "family": {"part": "family/one_hot", "classes": CLASSES}},
        },
        **nets(schema, size),
        "likelihood": likelihood(schema),
        "objective": {"part": "objective/elbo"},
        "training": training(schema),
    }
