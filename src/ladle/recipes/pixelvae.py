"""A likelihood whose pixels follow their neighbours, over the latents of other recipes."""

from __future__ import annotations

from typing import Any

from ladle.data import Schema
from ladle.recipes.ladder import vdvae
from ladle.recipes.sizes import likelihood
from ladle.recipes.vae import learned_prior
from ladle.spec import SpecError, part

CONVOLUTIONS = {"m": 16, "l": 32}  # channels at full size; smaller sizes are fully connected


@part("recipe", "pixelvae")
def pixelvae(schema: Schema, size: str) -> dict[str, Any]:
    """The best likelihood and the smallest files: every pixel follows the few before it, so that the latents tell only
    what those do not. They tell less about an item than those of other recipes do, and pictures are drawn pixel by
    pixel. Latents are those of ``vdvae`` for images in colour, of ``learned_prior`` for others.

    Reference:
        Gulrajani et al.: "PixelVAE: A Latent Variable Model for Natural Images", 2017.
        Zhang, Zhang, McDonagh: "On the Out-of-distribution Generalization of Probabilistic Image Modelling", 2021.
    """
    if schema.kind != "image":
        raise SpecError(
            "in pixelvae pixels follow their neighbours, but the data is a table; recipes that fit: vae, lvae"
        )
    channels = schema.shape[0]
    colour = channels > 1
    plan = vdvae(schema, size) if colour else flat(schema, size)
    base = {"part": "family/discretised_logistic"} if colour and schema.support == "bytes" else likelihood(schema)
    local = {"part": "family/local_autoregressive", "family": base, "channels": channels, "reach": 2 if colour else 3}
    return {**plan, "likelihood": local}


def flat(schema: Schema, size: str) -> dict[str, Any]:
    """One level of latents: ``learned_prior``, for an hour and more with residual convolutions in the place of fully
    connected layers. These need as long to come as far, and learn on where the others begin to know their items."""
    if size not in CONVOLUTIONS:
        return learned_prior(schema, size)
    plan = learned_prior(schema, "s")
    for net, name in (("encoder", "conv_down"), ("decoder", "conv_up")):
        plan[net] = {"part": f"net/{name}", "width": CONVOLUTIONS[size], "blocks": 1}
    return {**plan, "training": {"batch": 64, "rate": 1.5e-3}}
