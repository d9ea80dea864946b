"""Networks, number of latents and likelihood from a size (xs, s, m, l) and the shape of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ladle.data import Schema
from ladle.data.schema import Column

WIDTH = {"xs": 256, "s": 512, "m": 1024, "l": 2048}
CHANNELS = {"xs": 16, "s": 32, "m": 64, "l": 96}
LATENTS = {"xs": 16, "s": 40, "m": 64, "l": 128}
LARGEST_FLAT = 3072  # larger items are processed by convolutions


# Encoder and decoder of items that are too large for fully connected networks, by the rank of the data.
CONVOLUTIONS = {1: ("net/conv1d_down", "net/conv1d_up"), 2: ("net/conv_down", "net/conv_up")}
BLOCKS = {1: {}, 2: {"blocks": 1}}  # residual blocks per stage


def large(schema: Schema) -> bool:
    """Whether convolutions are used: for images and signals of more than 3,072 numbers."""
    return schema.rank in CONVOLUTIONS and schema.size > LARGEST_FLAT


def nets(schema: Schema, size: str) -> dict[str, Any]:
    """Encoder and decoder: fully connected for tables and small items, convolutions for larger images and signals."""
    if large(schema):
        down, up = CONVOLUTIONS[schema.rank]
        sizes = {"width": CHANNELS[size], **BLOCKS[schema.rank]}
        return {"encoder": {"part": down, **sizes}, "decoder": {"part": up, **sizes}}
    width = WIDTH[size] if schema.size > 64 else WIDTH[size] // 2
    mlp = {"part": "net/mlp", "width": width, "depth": 2, "activation": "silu"}
    return {"encoder": dict(mlp), "decoder": dict(mlp)}


def training(schema: Schema) -> dict[str, Any]:
    """Training settings: smaller batches for large items, because the memory of a step grows with their size, and a
    larger learning rate for fully connected networks, which tolerate it."""
    return {"batch": 32} if large(schema) else {"rate": 2.5e-3}


def latents(schema: Schema, size: str) -> int:
    """The number of latents, at most the size of an item."""
    return min(LATENTS[size], schema.size)


def likelihood(schema: Schema, shared_scale: bool = False) -> dict[str, Any]:
    """A likelihood with the support and in the units of the data: one family, or one for each kind of column.

    Args:
        schema: the schema of the data.
        shared_scale: learn one scale for all elements if the family has a scale.
    """
    if schema.support == "bytes" and schema.kind == "image" and schema.channels > 1 and not shared_scale:
        return {"part": "family/colour_mixture", "components": 1}
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, column in enumerate(schema.columns):
        groups.setdefault((column.kind, column.top), []).append(i)
    families = [_of_columns([schema.columns[i] for i in group], shared_scale) for group in groups.values()]
    if len(families) == 1:
        return families[0]
    return {"part": "family/columns", "families": families, "groups": list(groups.values())}


def _of_columns(columns: Sequence[Column], shared_scale: bool) -> dict[str, Any]:
    """The family for columns of one kind with the same number of values."""
    first = columns[0]
    if first.kind == "real":
        inner = {"part": "family/normal", "shared_scale": shared_scale}
        loc, scale = [c.loc for c in columns], [c.scale for c in columns]
        return {"part": "family/affine", "family": inner, "loc": loc, "scale": scale}
    if first.kind == "binary":
        return {"part": "family/bernoulli"}
    if first.kind == "count":
        return {"part": "family/negative_binomial", "unit": [max(c.loc or 1.0, 0.1) for c in columns]}
    levels = (first.top or 0) + 1
    if first.kind == "category":
        return {"part": "family/categorical", "classes": levels}
    some = {} if levels == 256 else {"levels": levels}  # 256 is the family's default
    if shared_scale:
        return {"part": "family/discretised_logistic", **some, "shared_scale": True}
    return {"part": "family/discretised_logistic_mixture", **some, "components": 3}
