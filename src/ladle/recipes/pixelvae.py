"""A likelihood in which each pixel depends on its neighbours, over the latents of other recipes."""

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
    """The recipe with the best likelihood and the smallest files: every pixel is predicted from the latents and a few
    previous pixels. The latents therefore carry less information about an item than those of other recipes, and images
    are sampled pixel by pixel. The latents are those of ``vdvae`` for colour images and of ``learned_prior`` otherwise.

    Reference:
        Gulrajani et al.: "PixelVAE: A Latent Variable Model for Natural Images", 2017.
        Zhang, Zhang, McDonagh: "On the Out-of-distribution Generalization of Probabilistic Image Modelling", 2021.
    """
    if schema.rank != 2:
        raise SpecError(
            f"pixelvae needs images, because it predicts each pixel from others, but the data are {schema.describe()}; "
            "recipes that fit: vae, lvae"
        )
    channels = schema.channels
    colour = channels > 1
    plan = vdvae(schema, size) if colour else flat(schema, size)
    base = {"part": "family/discretised_logistic"} if colour and schema.support == "bytes" else likelihood(schema)
    local = {"part": "family/local_autoregressive", "family": base, "channels": channels, "reach": 2 if colour else 3}
    return {**plan, "likelihood": local}


def flat(schema: Schema, size: str) -> dict[str, Any]:
    """One level of latents: ``learned_prior``, in the sizes for an hour and more with residual convolutions instead of
    fully connected layers. Convolutions take that long to become better, but over-fit later."""
    if size not in CONVOLUTIONS:
        return learned_prior(schema, size)
    plan = learned_prior(schema, "s")
    for net, name in (("encoder", "conv_down"), ("decoder", "conv_up")):
        plan[net] = {"part": f"net/{name}", "width": CONVOLUTIONS[size], "blocks": 1}
    return {**plan, "training": {"batch": 64, "rate": 1.5e-3}}
