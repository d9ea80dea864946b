"""Small models of several structures for the tests of compression, and their data."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

import ladle
from toys import narrow

COLOUR = {"part": "family/colour_mixture", "components": 2}
LOGISTIC = {"part": "family/logistic"}
CONVOLUTIONS = {
    "encoder": {"part": "net/conv_down", "width": 4, "blocks": 1},
    "decoder": {"part": "net/conv_up", "width": 4, "blocks": 1},
}
PLANS: dict[str, tuple[str, str, dict[str, Any]]] = {  # data, recipe, changes to the narrow recipe
    "grey": ("digits", "vae", {}),
    "learned_prior": ("digits", "learned_prior", {}),
    "vampprior": ("digits", "vampprior", {}),
    "mixture": ("digits", "vae", {"latents": {"prior": {"part": "prior/mixture", "components": 3}}}),
    "logistic": ("digits", "vae", {"latents": {"posterior": LOGISTIC}}),  # no upper limit of its scale
    "sigma_vae": ("digits", "sigma_vae", {}),
    "fsq": ("digits", "fsq", {}),
    "vq": ("digits", "vq", {}),
    "bits": ("bits", "learned_prior", {}),
    "colour": ("colour", "vae", {}),
    "colour ladder": ("colour", "vdvae", {}),
    "dense ladder": ("bits", "lvae", {}),
    "local": ("digits", "pixelvae", {}),
    "local bits": ("bits", "pixelvae", {}),
    "local convolutions": ("clothes", "pixelvae", CONVOLUTIONS),
    "local colour": ("colour", "pixelvae", {}),
}


def fitted(name: str, folder: Path) -> np.ndarray:
    """Fit the model of one of ``PLANS`` for a few epochs, and return its data."""
    kind, recipe, other = PLANS[name]
    x = things(kind)
    data = ladle.read(x)
    plan = narrow(recipe, data.schema)
    for key, value in other.items():
        plan[key] = value if "part" in value else {**plan[key], **value}
    if kind == "colour" and recipe != "pixelvae":
        plan["likelihood"] = COLOUR
    assembly = ladle.assemble(data.schema, plan, seed=1)
    deque(ladle.fit(assembly, data, epochs=6, seed=1, run=folder, settings={"recipe": recipe}), maxlen=0)
    return x


def things(name: str) -> np.ndarray:
    """Images of uint8: digits with 256 levels, with two levels, or tinted; clothes with two levels."""
    if name == "clothes":
        return (ladle.read("fashion-mnist-mini").train.x[:600] > 127).astype(np.uint8)
    x = ladle.read("digits").all.x.astype(np.uint8)
    if name == "bits":
        return (x > 127).astype(np.uint8)
    if name == "colour":
        tint = np.random.default_rng(0).uniform(0.3, 1, (len(x), 3, 1, 1))
        return (np.repeat(x, 3, 1) * tint).astype(np.uint8)
    return x
