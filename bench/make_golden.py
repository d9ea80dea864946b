"""Make tests/golden/vN: a tiny model folder in the current format, and its expected outputs.

    python bench/make_golden.py tests/golden/v1

The folder is made once for each format and then never changed. Every later version must open it and give the same
outputs.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

import ladle

NARROW = {"part": "net/mlp", "width": 24, "depth": 2}


def plan(schema: ladle.Schema) -> dict[str, Any]:
    spec = ladle.recipe("learned_prior", schema, "xs")
    prior = {"part": "prior/autoregressive", "width": 12, "components": 2}
    return {
        **spec,
        "latents": {**spec["latents"], "size": 4, "prior": prior},
        "encoder": NARROW,
        "decoder": NARROW,
        "likelihood": {"part": "family/discretised_logistic_mixture", "components": 2},
    }


def expected(model: ladle.Model) -> dict[str, Any]:
    """The outputs of the model for the first test items of the digits, which must not change."""
    items = ladle.read("digits").test.take(np.arange(4))
    z = ladle.encode(model, items)
    return {
        "encode": z.tolist(),
        "decode": ladle.decode(model, z[:1]).tolist(),
        "score": ladle.score(model, items, samples=20, seed=1).tolist(),
        "sample": ladle.sample(model, 1, seed=1).tolist(),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    data = ladle.read("digits")
    assembly = ladle.assemble(data.schema, plan(data.schema), seed=0)
    settings = {"recipe": "learned_prior", "size": "xs"}
    for _ in ladle.fit(assembly, data, epochs=60, run=folder, settings=settings, device="cpu"):
        pass
    (folder / "log.jsonl").unlink()
    (folder / "expected.json").write_text(json.dumps(expected(ladle.load(folder, "cpu"))) + "\n")


if __name__ == "__main__":
    main()
