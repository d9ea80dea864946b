"""The dial: from one size and the data's shape to nets, latents and likelihood."""

from __future__ import annotations

from typing import Any

from ladle.data import Schema

WIDTH = {"xs": 256, "s": 512, "m": 1024, "l": 2048}
CHANNELS = {"xs": 16, "s": 32, "m": 64, "l": 96}
LATENTS = {"xs": 16, "s": 40, "m": 64, "l": 128}
LARGEST_FLAT = 3072  # more numbers per image than this are read by convolutions


def nets(schema: Schema, size: str) -> dict[str, Any]:
    """Encoder and decoder: fully connected for tables and small images, residual convolutions for larger ones."""
    if schema.kind == "image" and schema.size > LARGEST_FLAT:
        return {
            "encoder": {"part": "net/conv_down", "width": CHANNELS[size], "blocks": 1},
            "decoder": {"part": "net/conv_up", "width": CHANNELS[size], "blocks": 1},
        }
    width = WIDTH[size] if schema.size > 64 else WIDTH[size] // 2
    mlp = {"part": "net/mlp", "width": width, "depth": 2, "activation": "silu"}
    return {"encoder": dict(mlp), "decoder": dict(mlp)}


def training(schema: Schema) -> dict[str, Any]:
    """Larger images are taken fewer at a time, as what a step holds in memory grows with their pixels; fully connected
    nets bear a larger rate than others."""
    return {"batch": 32} if schema.kind == "image" and schema.size > LARGEST_FLAT else {"rate": 2.5e-3}


def latents(schema: Schema, size: str) -> int:
    """The number of latents: never more than the data has numbers."""
    return min(LATENTS[size], schema.size)


def likelihood(schema: Schema, shared_scale: bool = False) -> dict[str, Any]:
    """A likelihood for the data's support, in the data's own units."""
    if schema.support == "binary":
        return {"part": "family/bernoulli"}
    if schema.support == "bytes":
        if shared_scale:
            return {"part": "family/discretised_logistic", "shared_scale": True}
        if schema.kind == "image" and schema.shape[0] > 1:
            return {"part": "family/colour_mixture", "components": 1}
        return {"part": "family/discretised_logistic_mixture", "components": 3}
    inner = {"part": "family/normal", "shared_scale": shared_scale}
    return {"part": "family/affine", "family": inner, "loc": list(schema.loc), "scale": list(schema.scale)}
