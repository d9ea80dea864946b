"""Several levels of latents: the ladder VAE and the very deep VAE."""

from __future__ import annotations

from typing import Any

from ladle.data import Schema
from ladle.model.latents.levels import maps
from ladle.recipes.sizes import CHANNELS, WIDTH, latents, likelihood
from ladle.recipes.vae import STANDARD
from ladle.spec import SpecError, part

NORMAL = {"part": "family/normal"}
LEVELS = {"xs": 3, "s": 3, "m": 5, "l": 5}  # levels of the dense ladder
DEPTH = {"xs": 1, "s": 2, "m": 3, "l": 5}  # levels on each map of the deep ladder
FINE, COARSE = 4, 8  # latents per pixel of the finest map, and of the coarser maps
FINEST = {"xs": 16, "s": 20, "m": 20, "l": 40}  # the longest side of a map with latents


@part("recipe", "lvae")
def lvae(schema: Schema, size: str) -> dict[str, Any]:
    """The ladder VAE: a few fully connected levels, each with twice as many latents as the level above.

    Reference:
        Sønderby, Raiko, Maaløe, Sønderby, Winther: "Ladder Variational Autoencoders", 2016.
    """
    most, width = latents(schema, size), WIDTH[size] if schema.size > 64 else WIDTH[size] // 2
    each = [max(1, most >> i) for i in reversed(range(LEVELS[size]))]
    return {
        "latents": {
            "blocks": ", ".join(f"1:{n}" for n in each),
            "width": width,
            "size": each[0],
            "posterior": NORMAL,
            "prior": STANDARD,
        },
        "decoder": {"part": "net/mlp", "width": width, "depth": 1, "activation": "silu"},
        "likelihood": likelihood(schema),
        "objective": {"part": "objective/elbo", "warmup": 0.1},
    }


@part("recipe", "vdvae")
def vdvae(schema: Schema, size: str) -> dict[str, Any]:
    """The very deep VAE: latents on maps of all sizes, from one pixel to about half the image.

    Reference:
        Child: "Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images", 2021.
        Vahdat, Kautz: "NVAE: A Deep Hierarchical Variational Autoencoder", 2020.
    """
    if schema.rank != 2:
        raise SpecError(
            f"vdvae needs images, because its latents are on maps, but the data are {schema.describe()}; recipes that "
            "fit: lvae, vae"
        )
    sides = [max(m) for m in reversed(maps(schema.shape))]
    used = [side for side in sides if 2 < side <= FINEST[size]] or sides[1:]
    below = [f"{side}x{DEPTH[size]}" + ("" if side == used[-1] else f":{COARSE}") for side in used]
    return {
        "latents": {
            "blocks": ", ".join([f"1:{latents(schema, size)}", *below]),
            "width": CHANNELS[size],
            "size": FINE,
            "posterior": NORMAL,
            "prior": {"part": "prior/learned"},
        },
        "decoder": {"part": "net/map_up", "width": CHANNELS[size]},
        "likelihood": likelihood(schema),
        "objective": {"part": "objective/elbo"},
        "training": {"batch": 32, "rate": 3e-3},
    }
