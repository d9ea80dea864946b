"""The model folder: ``config.json``, ``model.safetensors``, ``log.jsonl`` and ``README.md``, in the form of a
Hugging Face Hub repository.

A folder may come from an untrusted source: parts are looked up by name and never imported, and the model that
``config.json`` describes is first built without memory, so that nothing larger than the file of weights is allocated.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ladle.data import DataError, Dataset, Schema, atomic_file, zeros
from ladle.machine import choose
from ladle.model.latents import centres
from ladle.model.vae import VAE
from ladle.recipes.assemble import Assembly, check_context, check_support
from ladle.seeds import seeded
from ladle.spec import SpecError, build, to_spec
from ladle.store.checkpoints import Checkpoints
from ladle.store.files import LARGEST_CONFIG, ModelError, read_json, read_tensors, write_json, write_tensors
from ladle.store.hub import Repository, is_hub
from ladle.version import __version__

FORMAT = 2  # format 1 had one support for all columns
MOST_VALUES, MOST_CALLS = 1_000_000, 40_000
LARGEST_NUMBER = {bool: 1, int: 1 << 24, float: 3.4e38}  # floats are units of the data, as float32
HEADER = 4096  # the maximum number of bytes that a file of weights needs for the description of one tensor
KINDS = ("model", "latents", "conditional", "prior", "family", "net")


@dataclass(frozen=True)
class Model:
    """A trained model: the networks, the schema of its data, and its ``config.json``.

    Attributes:
        vae: the networks and families, in evaluation mode.
        schema: the schema of the data.
        config: the content of ``config.json``.
        device: the device of the weights.
    """

    vae: VAE
    schema: Schema
    config: Mapping[str, Any]
    device: str

    def to(self, device: str) -> Model:
        """The same model on another device."""
        return Model(self.vae.to(device), self.schema, self.config, device)


def load(folder: str | Path, device: str = "auto", *, finite: bool = True) -> Model:
    """Open a model folder.

    Args:
        folder: a folder that ``fit`` wrote, or ``hub:user/name`` for a model on the Hugging Face Hub.
        device: ``auto``, ``cpu`` or ``cuda``.
        finite: refuse weights that contain NaN or infinity. ``ladle.check`` opens such models to report the problem.

    Raises:
        ModelError: if the folder is missing, truncated, malicious or of a newer format, or not available on the Hub.
    """
    folder = _fetched(str(folder)) if is_hub(folder) else Path(folder)
    config = read_config(folder)
    schema = _schema(config)
    wanted = {name: (t.shape, t.dtype) for name, t in skeleton(config, schema).state_dict().items()}
    return _opened(folder, config, schema, read_tensors(folder / "model.safetensors", wanted), device, finite)


def load_unfinished(folder: str | Path, device: str = "auto") -> tuple[Model, int]:
    """Open the folder of an unfinished run, with the averaged weights of its last checkpoint.

    Returns:
        The model and the step of the checkpoint.

    Raises:
        ModelError: as :func:`load`, or if there is no checkpoint yet.
    """
    folder = Path(folder)
    config = read_config(folder)
    schema = _schema(config)
    wanted = {name: (p.shape, p.dtype) for name, p in skeleton(config, schema).named_parameters()}
    try:
        found = Checkpoints(folder).average(wanted)
    except ModelError:  # the run may just have replaced this checkpoint by the next one
        found = Checkpoints(folder).average(wanted)
    if found is None:
        raise ModelError(f"'{folder}' has no checkpoint yet; training writes one every half minute and at its end")
    return _opened(folder, config, schema, found[0], device), found[1]


def _opened(
    folder: Path,
    config: Mapping[str, Any],
    schema: Schema,
    tensors: dict[str, torch.Tensor],
    device: str,
    finite: bool = True,
) -> Model:
    """The model on its device, with checked weights."""
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad and finite:
        raise ModelError(f"'{folder}': the weights '{bad[0]}' contain NaN or infinity; the model is damaged")
    vae = _filled(folder, config, tensors)
    where = choose(device).device
    return Model(vae.to(where).eval().requires_grad_(False), schema, config, where)


def _fetched(name: str) -> Path:
    """Download a model folder from the Hub, with weights no larger than ``config.json`` describes."""
    repository = Repository(name)
    folder = repository.fetch("config.json", LARGEST_CONFIG).parent
    config = read_config(folder)
    described = skeleton(config, _schema(config)).state_dict().values()
    repository.fetch("model.safetensors", sum(t.nbytes + HEADER for t in described) + HEADER)
    return folder


def _filled(folder: Path, config: Mapping[str, Any], tensors: dict[str, torch.Tensor]) -> VAE:
    """The model with the weights of its file.

    Only parameters are read from the file. Buffers, such as the masks of an autoregressive prior and the units of the
    data, are computed from the spec, and those in the file must be equal.
    """
    with seeded("load"):
        vae: VAE = build(config["model"])
    for name, buffer in vae.named_buffers():
        if name in tensors and not torch.allclose(tensors.pop(name), buffer, rtol=1e-6, atol=0.0):
            raise ModelError(f"'{folder}': '{name}' in the file of weights does not match config.json")
    vae.load_state_dict(tensors, strict=False, assign=True)
    return vae


def _schema(config: Mapping[str, Any]) -> Schema:
    try:
        return Schema.from_json(config["schema"])
    except DataError as error:
        raise ModelError(f"config.json: {error}") from None


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a folder and check its format."""
    if not folder.is_dir():
        raise ModelError(f"no model folder '{folder}'")
    config = read_json(folder / "config.json")
    if not isinstance(config, dict) or type(config.get("format")) is not int:
        raise ModelError(f"'{folder}/config.json' must be an object with a whole-number 'format'")
    if config["format"] > FORMAT:
        raise ModelError(
            f"'{folder}' has format {config['format']}, but ladle {__version__} reads formats up to {FORMAT}; "
            f"it was written by ladle {str(config.get('ladle', '?'))[:20]}: update ladle"
        )
    if config["format"] < 1 or not {"schema", "model"} <= set(config):
        raise ModelError(f"'{folder}/config.json' must be of format 1 to {FORMAT} with 'schema' and 'model'")
    return config


def skeleton(config: Mapping[str, Any], schema: Schema) -> VAE:
    """Build the model of a config without memory for its weights, and run it on items of the schema."""
    _check_bounds(config["model"])
    try:
        with torch.no_grad(), torch.device("meta"), _Trial():  # in this order, because leaving a scope is also a call
            vae = build(config["model"])
            if not isinstance(vae, VAE):
                raise SpecError(f"it must be a 'model/vae', got {type(vae).__name__}")
            check_support("of config.json", vae.likelihood.family, schema)
            check_context(vae, schema)
            if tuple(vae.likelihood.event) != schema.shape:
                raise SpecError(f"the likelihood's event is {vae.likelihood.event}, but an item is {schema.shape}")
            vae(zeros(schema, 2, "meta"), draw=centres)
    except Exception as error:  # an untrusted spec may raise any exception
        reason = str(error).splitlines()[0][:500] if str(error) else type(error).__name__
        raise ModelError(f"config.json does not describe a model: {reason}") from None
    return vae


class _Trial(TorchFunctionMode):
    """Build and run a model without memory.

    A model with an unreasonable number of tensors, such as a million layers, is refused before all are created. When
    torch validates the arguments of a distribution, checks of values that do not exist return true.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls == MOST_CALLS:  # only once, because leaving the scopes makes further calls
            raise SpecError(f"it must take at most {MOST_CALLS} operations to build and try out, but takes more")
        if func in _TRUTHS:
            return True
        return func(*args, **(kwargs or {}))


_TRUTHS = (torch.Tensor.__bool__, torch._is_all_true)


def _check_bounds(spec: Any) -> None:
    """Refuse a spec that takes unreasonable time or memory to build, or names parts that do not belong to a model."""
    waiting, seen = [spec], 0
    while waiting:
        item = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise ModelError("config.json describes an unreasonably large model")
        if isinstance(item, Mapping):
            waiting.extend(item.values())
            kind = str(item.get("part", "model/")).partition("/")[0]
            if kind not in KINDS:
                raise ModelError(f"config.json: a part of a model must be one of {', '.join(KINDS)}; got '{kind[:40]}'")
        elif isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, (int, float)) and not abs(item) <= LARGEST_NUMBER[type(item)]:
            kind = "unit" if isinstance(item, float) else "size"
            raise ModelError(
                f"config.json: a {kind} must be at most {LARGEST_NUMBER[type(item)]:g}, got {str(item)[:40]}"
            )


# ------------------------------------------------------------------------------------------- writing


def describe(assembly: Assembly, data: Dataset, fit: Mapping[str, Any]) -> dict[str, Any]:
    """The ``config.json`` of a run, with everything that determines its result.

    Args:
        assembly: the model and its training settings.
        data: the training data.
        fit: recipe, size, budget and seed, as plain data.
    """
    counts = {name: len(data.split(name)) for name in data.names if name != "all"}
    return {
        "format": FORMAT,
        "ladle": __version__,
        "schema": assembly.schema.to_json(),
        "data": {
            "source": assembly.schema.source,
            "named": data.default != "all",  # a file may have the name of a known set
            "items": counts,
            "notes": list(data.notes),
        },
        "fit": dict(fit),
        "model": to_spec(assembly.model),
        "objective": to_spec(assembly.objective),
        "training": assembly.training._asdict(),
    }


def open_run(folder: Path, config: Mapping[str, Any], *, resume: bool = False, force: bool = False) -> str:
    """Prepare the folder of a run.

    Returns:
        ``"fresh"``, ``"resumed"`` or ``"finished"``.

    Raises:
        ModelError: if the folder contains something else, a run without ``resume`` or ``force``, or a run with other
            settings.
    """
    if is_hub(folder):
        raise ModelError(f"a run must be written to a local folder, got '{folder}'; `ladle push` publishes it")
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"'{folder}' must be a folder, got a file")
    if folder.is_dir() and any(folder.iterdir()):
        run = (folder / "config.json").is_file()
        if resume and run:
            _same(folder, read_config(folder), config)
            return "finished" if (folder / "model.safetensors").is_file() else "resumed"
        if not run:
            raise ModelError(f"'{folder}' must be empty or contain a run, got other files; give --out a new folder")
        if not force:
            raise ModelError(f"'{folder}' contains a run already; --resume continues it, --force replaces it")
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
        change = f"was {was}, now { ({k: new[k] for k in keys}) }"
        raise ModelError(f"'{folder}' was started with other settings ({part}: {change[:300]}); use the same settings")


def save(folder: Path, assembly: Assembly, config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Finish a model folder. ``model.safetensors`` is written last."""
    whole = {**config, "result": dict(result)}
    write_json(folder / "config.json", whole)
    with atomic_file(folder / "README.md", force=True) as temporary:
        Path(temporary).write_text(card(whole, assembly), encoding="utf-8")
    write_tensors(folder / "model.safetensors", assembly.model.state_dict())


def card(config: Mapping[str, Any], assembly: Assembly) -> str:
    """The model card."""
    schema, fit, result = Schema.from_json(config["schema"]), config["fit"], config["result"]
    latents = assembly.model.latents
    prior = getattr(latents, "prior", None)
    prior_name = to_spec(prior)["part"] if prior is not None else "none (a plain autoencoder: it cannot generate)"
    bits = result.get("bits_per_dim")
    bound = "" if result.get("nats") is None else (
        f"- bound on the validation split: {result['nats']:.3f} nats per item"
        f"{'' if bits is None else f', {bits:.4f} bits per dimension'} "
        "(one sample per item; `ladle evidence` measures the tighter importance-weighted bound)\n"
    )  # fmt: skip
    drawn = schema.kind == "image" and prior is not None
    task = "pipeline_tag: unconditional-image-generation\n" if drawn else ""
    return f"""---
library_name: ladle
{task}tags: [vae, generative-model, representation-learning]
---

# A Ladle model of {schema.source or "data"}

- data: {schema.describe()}; {", ".join(f"{n} {s}" for s, n in config["data"]["items"].items())} items
- recipe: {fit.get("recipe")}{"".join(f", {k} {fit[k]}" for k in ("size", "estimator") if fit.get(k))}
- objective: {config["objective"]["part"]}
- posterior: {latents.describe()}; prior: {prior_name}
- likelihood: {config["model"]["likelihood"]["family"]["part"]}
- trained: {result["steps"]} steps in {result["seconds"]:.0f} s, seed {fit.get("seed")}, ladle {config["ladle"]}
{bound}
```python
import ladle

model = ladle.load("path/to/this/folder")  # or from the Hub: ladle.load("hub:user/name")
x = ladle.sample(model, 16)
```
"""
