"""Small trained models of several structures, and what they are about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ladle
from toys import narrow

COLOUR = {"part": "family/colour_mixture", "components": 2}
LOGISTIC = {"part": "family/logistic"}
PLANS: dict[str, tuple[str, str, dict[str, Any]]] = {  # data, recipe, what differs from the narrow recipe
    "grey": ("digits", "vae", {}),
    "learned_prior": ("digits", "learned_prior", {}),
    "vampprior": ("digits", "vampprior", {}),
    "mixture": ("digits", "vae", {"prior": {"part": "prior/mixture", "components": 3}}),
    "logistic": ("digits", "vae", {"posterior": LOGISTIC}),
    "sigma_vae": ("digits", "sigma_vae", {}),
    "fsq": ("digits", "fsq", {}),
    "vq": ("digits", "vq", {}),
    "bits": ("bits", "learned_prior", {}),
    "colour": ("colour", "vae", {}),
    "ladder": ("digits", "vdvae", {}),
    "colour ladder": ("colour", "vdvae", {}),
    "dense ladder": ("bits", "lvae", {}),
}


def things(name: str) -> np.ndarray:
    """Images of uint8: digits in 256 levels, in two, or tinted."""
    x = ladle.read("digits").all.x.astype(np.uint8)
    if name == "bits":
        return (x > 127).astype(np.uint8)
    if name == "colour":
        tint = np.random.default_rng(0).uniform(0.3, 1, (len(x), 3, 1, 1))
        return (np.repeat(x, 3, 1) * tint).astype(np.uint8)
    return x


@pytest.fixture(scope="session")
def coding_runs(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A function from a name of ``PLANS`` to a model folder and its data."""
    made: dict[str, tuple[Path, np.ndarray]] = {}

    def run(name: str) -> tuple[Path, np.ndarray]:
        if name not in made:
            kind, recipe, other = PLANS[name]
            x = things(kind)
            data = ladle.read(x)
            plan = narrow(recipe, data.schema)
            plan["latents"] |= other
            if kind == "colour":
                plan["likelihood"] = COLOUR
            folder = tmp_path_factory.mktemp("coding") / "run"
            assembly = ladle.assemble(data.schema, plan, seed=1)
            for _ in ladle.fit(assembly, data, epochs=6, seed=1, run=folder, settings={"recipe": recipe}):
                pass
            made[name] = folder, x
        return made[name]

    return run
