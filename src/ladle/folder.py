"""The model folder: ``config.json``, ``model.safetensors``, ``log.jsonl`` and ``README.md``, in the form of a
Hugging Face Hub repository.

A folder may come from a stranger: parts are looked up by name and never imported, and what ``config.json``
describes is built without memory first, so that nothing larger than the file of weights is allocated.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ladle import __version__
from ladle.assemble import Assembly
from ladle.checkpoint import ModelError, read_json, read_tensors, write_json, write_tensors
from ladle.data import DataError, Dataset, Schema, atomic_file
from ladle.machine import choose
from ladle.shapes import numel
from ladle.spec import SpecError, build, to_spec
from ladle.vae import VAE

FORMAT = 1
MOST_VALUES, LARGEST_INTEGER = 1_000_000, 1 << 24


@dataclass(frozen=True)
class Model:
    """A trained model: the net, the schema of its data, and the rest of its ``config.json``.

    Attributes:
        vae: in evaluation mode.
        schema: what one item is.
        config: the whole of ``config.json``.
        device: where the weights are.
    """

    vae: VAE
    schema: Schema
    config: Mapping[str, Any]
    device: str

    def to(self, device: str) -> Model:
        """The same model on another device."""
        return Model(self.vae.to(device), self.schema, self.config, device)


def load(folder: str | Path, device: str = "auto") -> Model:
    """Open a model folder.

    Args:
        folder: what ``fit`` wrote.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ModelError: for a missing, truncated, hostile or newer folder.
    """
    folder = Path(folder)
    config = read_config(folder)
    vae = skeleton(config)
    wanted = {name: (t.shape, t.dtype) for name, t in vae.state_dict().items()}
    tensors = read_tensors(folder / "model.safetensors", wanted)
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ModelError(f"'{folder}': the weights '{bad[0]}' hold NaN or infinity; the model was damaged")
    vae.load_state_dict(tensors, assign=True)
    where = choose(device).device
    vae = vae.to(where).eval().requires_grad_(False)
    return Model(vae, Schema.from_json(config["schema"]), config, where)


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's ``config.json``, its format checked."""
    if not folder.is_dir():
        raise ModelError(f"no model folder '{folder}'")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("format"), int):
        raise ModelError(f"'{folder}/config.json' must be an object with a whole-number 'format'")
    if config["format"] > FORMAT:
        raise ModelError(
            f"'{folder}' is of format {config['format']}, newer than the {FORMAT} that ladle {__version__} reads; "
            f"it was written by ladle {config.get('ladle', '?')}: update ladle"
        )
    if config["format"] < 1 or not {"schema", "model"} <= set(config):
        raise ModelError(f"'{folder}/config.json' must be of format 1 to {FORMAT} with 'schema' and 'model'")
    return config


def skeleton(config: Mapping[str, Any]) -> VAE:
    """The model that a config describes, without memory for its weights."""
    _check_bounds(config["model"])
    try:
        with torch.device("meta"):
            vae = build(config["model"])
    except (
        SpecError,
        DataError,
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        KeyError,
        OverflowError,
    ) as error:
        raise ModelError(f"config.json does not describe a model: {error}") from None
    if not isinstance(vae, VAE):
        raise ModelError(f"config.json must describe a 'model/vae', got {type(vae).__name__}")
    return vae


def _check_bounds(spec: Any) -> None:
    """Refuse a spec that would take unreasonable time or memory to build."""
    waiting, seen = [spec], 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise ModelError("config.json describes an unreasonably large model")
        if isinstance(item, Mapping):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, int) and abs(item) > LARGEST_INTEGER:
            raise ModelError(
                f"config.json holds the number {item}, larger than any size in a model ({LARGEST_INTEGER})"
            )


# ------------------------------------------------------------------------------------------- writing


def describe(assembly: Assembly, data: Dataset, fit: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a run: everything that its result depends on.

    Args:
        assembly: the model and its training.
        data: what it is trained on.
        fit: recipe, size, budget and seed, in words and numbers.
    """
    counts = {name: len(data.split(name)) for name in data.names if name != "all"}
    return {
        "format": FORMAT,
        "ladle": __version__,
        "schema": assembly.schema.to_json(),
        "data": {"source": assembly.schema.source, "items": counts, "notes": list(data.notes)},
        "fit": dict(fit),
        "model": to_spec(assembly.model),
        "objective": to_spec(assembly.objective),
        "training": assembly.training._asdict(),
    }


def open_run(folder: Path, config: Mapping[str, Any], *, resume: bool = False, force: bool = False) -> str:
    """Make ready the folder of a run.

    Returns:
        ``"fresh"``, ``"resumed"`` or ``"finished"``.

    Raises:
        ModelError: for a folder that holds something else, a run that was not to be resumed, or one that was
            started with other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"'{folder}' must be a folder, got a file")
    if folder.is_dir() and any(folder.iterdir()):
        run = (folder / "config.json").is_file()
        if resume and run:
            _same(folder, read_config(folder), config)
            return "finished" if (folder / "model.safetensors").is_file() else "resumed"
        if not run:
            raise ModelError(f"'{folder}' is not empty and not a run; give --out a new folder")
        if not force:
            raise ModelError(f"'{folder}' holds a run already; --resume goes on with it, --force replaces it")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    return "fresh"


def _same(folder: Path, stored: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    for part in ("schema", "data", "fit", "model", "objective", "training"):
        if stored.get(part) == config[part]:
            continue
        old, new = stored.get(part), config[part]
        keys = [k for k in new if not isinstance(old, Mapping) or old.get(k) != new[k]]
        was = {k: old.get(k) for k in keys} if isinstance(old, Mapping) else old
        told = f"was {was}, now { ({k: new[k] for k in keys}) }"
        raise ModelError(f"'{folder}' was started with other settings ({part}: {told[:300]}); resume it with the same")


def save(folder: Path, assembly: Assembly, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Finish a model folder: ``model.safetensors`` appears last."""
    whole = {**config, "result": dict(result)}
    write_json(folder / "config.json", whole)
    with atomic_file(folder / "README.md", force=True) as temporary:
        Path(temporary).write_text(card(whole), encoding="utf-8")
    write_tensors(folder / "model.safetensors", assembly.model.state_dict())


def card(config: Mapping[str, Any]) -> str:
    """The model card."""
    schema, fit, result = Schema.from_json(config["schema"]), config["fit"], config["result"]
    latents = config["model"]["latents"]
    prior = latents["prior"]["part"] if latents["prior"] else "none (a plain autoencoder: its pools are unknown)"
    bound = "" if result.get("nats") is None else (
        f"- bound on the validation split: {result['nats']:.3f} nats per item, "
        f"{result['nats'] / (numel(schema.shape) * 0.6931471805599453):.4f} bits per dimension "
        "(one sample per item; `ladle evidence` measures the tighter importance-weighted bound)\n"
    )  # fmt: skip
    return f"""---
library_name: ladle
tags: [vae, generative-model, representation-learning]
---

# A Ladle model of {schema.source or "data"}

- data: {schema.describe()}; {", ".join(f"{n} {s}" for s, n in config["data"]["items"].items())} items
- recipe: {fit.get("recipe")}, size {fit.get("size")}
- posterior: {latents["posterior"]["family"]["part"]} over {latents["posterior"]["event"]}; prior: {prior}
- likelihood: {config["model"]["likelihood"]["family"]["part"]}
- trained: {result["steps"]} steps in {result["seconds"]:.0f} s, seed {fit.get("seed")}, ladle {config["ladle"]}
{bound}
```python
import ladle

model = ladle.load("path/to/this/folder")
x = ladle.sample(model, 16)
```
"""
