"""Tiny data sets of every kind, and plans with networks so narrow that training is almost instantaneous."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import torch
from torch import nn

import ladle
from ladle.seeds import seeded


def narrow(recipe: str, schema: ladle.Schema, latents: int = 3, width: int = 16) -> dict[str, Any]:
    """The plan of a recipe with very narrow networks."""
    plan = ladle.recipe(recipe, schema, "xs")
    plan["latents"] = {**plan["latents"], "size": latents}
    if "blocks" in plan["latents"]:
        blocks = re.sub(r":\d+", ":2", plan["latents"]["blocks"])
        plan["latents"] |= {"blocks": blocks, "size": 1, "width": width // 2}
    if plan["latents"]["posterior"]["part"] == "family/vq":
        few = {"classes": 4}
        plan["latents"] |= {"size": 4 * latents, "posterior": {"part": "family/vq", "size": 2, **few}}
        plan["latents"]["prior"] = {"part": "prior/learned", "family": {"part": "family/one_hot", **few}}
    for net in [net for net in ("encoder", "decoder") if net in plan]:
        part = plan[net]["part"]
        small = {"net/mlp": {"width": width}, "net/linear": {}, "net/map_up": {"width": 4}}.get(
            part, {"width": 4, "blocks": 1}
        )
        plan[net] = {**plan[net], **small}
    prior = plan["latents"]["prior"]
    if prior is not None and prior["part"] == "prior/autoregressive":
        plan["latents"]["prior"] = {**prior, "width": 12, "components": 2}
    return plan


def stirred(module: nn.Module, by: float = 0.3, seed: int = 1) -> nn.Module:
    """Perturb the parameters of a module, since zeros at initialisation would hide the gradients they multiply."""
    with seeded(seed, "stirred"), torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                by * torch.randn_like(parameter) / math.sqrt(max(1, parameter[0].numel() if parameter.dim() else 1))
            )
    return module


def toy_data() -> dict[str, ladle.Dataset]:
    """A tiny data set of every kind that recipes distinguish, generated from fixed seeds."""
    rng = np.random.default_rng(7)
    table = rng.normal([1e4, 0.0, -3.0, 0.5], [1e3, 1.0, 1e-2, 2.0], (300, 4)).astype(np.float32)
    table[:, 3] += table[:, 1]
    holed = np.where(rng.random(table.shape) < 0.15, np.nan, table).astype(np.float32)
    colour = rng.integers(0, 256, (90, 3, 20, 17), dtype=np.uint8)
    colour[:, 1] = colour[:, 0] // 2
    bits = rng.random((200, 1, 5, 4)) < rng.random((200, 1, 1, 1))
    return {
        "digits": ladle.read("digits"),
        "grey": ladle.read("digits", binarize="dynamic"),
        "table": ladle.read(holed, missing="nan"),
        "bits": ladle.read(bits[:, 0]),
        "colour": ladle.read(colour),
    }
