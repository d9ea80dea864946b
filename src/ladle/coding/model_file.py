"""The file of a model in whole numbers: ``exact.safetensors``, whose metadata describe the tensors.

The file holds everything that the bits of a compressed file depend on; nothing is recomputed. Two sides with the same
*fingerprint*, a hash of that content, compute the same counts, and :func:`check_machine` tests whether this machine
computes them correctly.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ladle.coding.ans.fixed_point import PRECISION
from ladle.coding.ans.stack import Stack, splitmix64
from ladle.coding.bits_back import BitsBack
from ladle.coding.coders import codes, local  # noqa: F401  these register their coders in KINDS
from ladle.coding.coders.coder import KINDS, Coder, LatentCoder
from ladle.coding.coders.latent import MOST_BITS, Quantiles
from ladle.coding.coders.priors import AutoregressivePrior, CodedPrior, CodesPrior, MixturePrior, SinglePrior
from ladle.coding.container import strict_json
from ladle.coding.errors import Desynchronised, NumericsError
from ladle.coding.integer.program import Program, Range
from ladle.coding.model import FlatModel, IntegerModel, LadderModel
from ladle.data import atomic_file
from ladle.store.files import ModelError

FORMAT = 1
LARGEST = 4 << 30  # largest file, in bytes
LARGEST_ITEM = 1 << 24  # largest item, in numbers
PROBES = 3  # items by which a machine is tested
ENCODER_PROGRAMS = ("encode", "features", "q")  # programs that read x
PRIORS: dict[str, type[SinglePrior | CodesPrior | MixturePrior]] = {
    SinglePrior.name: SinglePrior,
    CodesPrior.name: CodesPrior,
    MixturePrior.name: MixturePrior,
}
SMALLEST = (torch.int8, torch.int16, torch.int32, torch.int64)
HOSTILE = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


def save_integer_model(model: IntegerModel, path: Path, decoder: bool = False) -> None:
    """Write a model in whole numbers, atomically.

    Args:
        model: the model.
        path: the file.
        decoder: leave out the programs that read x; the rest suffices to decompress ``random-access`` files.
    """
    about, tensors = _describe(model, decoder)
    if decoder:
        about["decoded"] = decoder_hash(model)
    with atomic_file(path, force=True) as temporary:
        Path(temporary).write_bytes(save(tensors, metadata={"ladle": _canonical(about)}))


def fingerprint(model: IntegerModel, decoder: bool = False) -> str:
    """The hash that the models of the sender and the receiver must have in common, 32 hexadecimal digits.

    Args:
        model: the model.
        decoder: hash the decoding half only.
    """
    about, tensors = _describe(model, decoder)
    hashed = hashlib.sha256(_canonical({k: v for k, v in about.items() if k not in ("probe", "decoded")}).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        hashed.update(tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<")).tobytes())
    return hashed.hexdigest()[:32]


def _canonical(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _describe(model: IntegerModel, decoder: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description as plain JSON, and the tensors in the smallest integer types that hold them."""
    tensors: dict[str, Tensor] = {}
    programs = {
        name: _describe_program(program, name, tensors)
        for name, program in model.programs.items()
        if not (decoder and name.rpartition(".")[2] in ENCODER_PROGRAMS)
    }
    about: dict[str, Any] = {
        "format": FORMAT, "structure": model.structure, "shape": list(model.shape), "programs": programs,
        "growth": model.growth, "bits_per_item": model.bits_per_item, "probe": None if decoder else model.probe,
        "likelihood": {"kind": model.likelihood.name, "about": dict(model.likelihood.about)},
        "grid": {"kind": model.grid.name, "about": dict(model.grid.about)},
        "prior": {"name": model.prior.name, "about": dict(model.prior.about)},
    }  # fmt: skip
    tables = {"likelihood": model.likelihood.tables, "grid": model.grid.tables, "prior": model.prior.tables}
    if isinstance(model.prior, AutoregressivePrior):
        about["prior"]["program"] = _describe_program(model.prior.program, "prior", tensors)
    if isinstance(model, LadderModel):
        about |= {"quantiles": dict(model.quantiles.about), "reads": model.reads}
        tables["quantiles"] = model.quantiles.tables
    for owner, named in tables.items():
        tensors |= {f"{owner}/{key}": _smallest(torch.from_numpy(np.asarray(table))) for key, table in named.items()}
    return about, tensors


def _smallest(tensor: Tensor) -> Tensor:
    for dtype in SMALLEST:
        limits = torch.iinfo(dtype)
        if not tensor.numel() or (limits.min <= int(tensor.min()) and int(tensor.max()) <= limits.max):
            return tensor.to(dtype).contiguous()
    raise AssertionError("whole numbers have at most 64 bits")


def _describe_program(program: Program, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for key, tensor in program.tensors.items():
        exponents = key.endswith(".scale")
        tensors[f"{name}/{key}"] = _smallest((torch.log2(tensor) if exponents else tensor).round().long().cpu())
    inputs = [[r.low, r.high, list(r.size)] for r in program.inputs]
    return {"inputs": inputs, "steps": program.steps, "outputs": program.outputs}


def load_integer_model(path: Path, device: str = "cpu") -> IntegerModel:
    """Load a model in whole numbers, prove the bounds of its programs again, and test this machine with it.

    Raises:
        ModelError: for a file that is missing, damaged, hostile or newer.
        NumericsError: when this machine computes other numbers than the machine that made the file.
    """
    about, tensors = _read(path)
    try:
        model = _build(about, tensors, device)
        model.check()
        check_machine(model, device, about.get("decoded"))
    except NumericsError:
        raise
    except HOSTILE as error:
        reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise ModelError(f"'{path}' does not describe a model in whole numbers: {reason}") from None
    return model


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ModelError(f"no '{path.name}' in '{path.parent}': no file has been compressed with this model yet")
    if path.stat().st_size > LARGEST:
        raise ModelError(f"'{path}' must be at most {LARGEST >> 30} GiB")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            about = strict_json(metadata.get("ladle", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' cannot be read: {str(error)[:200]}") from None
    if not isinstance(about, dict) or type(about.get("format")) is not int:
        raise ModelError(f"'{path}' is not a model in whole numbers")
    if about["format"] > FORMAT:
        raise ModelError(f"'{path}' has format {about['format']}, this version reads up to {FORMAT}")
    if any(t.is_floating_point() for t in tensors.values()):
        raise ModelError(f"'{path}' must hold whole numbers only")
    return about, tensors


def _build(about: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str) -> IntegerModel:
    def program(name: str, described: Mapping[str, Any]) -> Program:
        parameters = {}
        for key, tensor in tensors.items():
            if key.startswith(f"{name}/"):
                exponents = key.endswith(".scale")
                parameters[key.removeprefix(f"{name}/")] = torch.from_numpy(
                    np.ldexp(np.float32(1), tensor.numpy().astype(np.int32)) if exponents else tensor.numpy()
                ).to(torch.float32)
        inputs = [Range(int(low), int(high), tuple(size)) for low, high, size in described["inputs"]]
        return Program(inputs, described["steps"], described["outputs"], parameters).to(device)

    def tables(owner: str) -> dict[str, np.ndarray]:
        found = {k.removeprefix(f"{owner}/"): t for k, t in tensors.items() if k.startswith(f"{owner}/")}
        return {k: t.numpy().astype(np.int64) for k, t in found.items()}

    shape = tuple(about["shape"])
    if any(type(size) is not int or size < 1 for size in shape) or not 1 <= math.prod(shape) <= LARGEST_ITEM:
        raise ValueError(f"an item must have 1 to {LARGEST_ITEM} numbers, got the shape {str(shape)[:80]}")
    programs = {name: program(name, described) for name, described in about["programs"].items()}
    kind = KINDS[about["likelihood"]["kind"]]
    likelihood: Coder = kind(_checked_settings(about["likelihood"]["about"]), tables("likelihood"))
    grid = KINDS[about["grid"]["kind"]](_checked_settings(about["grid"]["about"]), tables("grid"))
    if not isinstance(grid, LatentCoder):
        raise ValueError(f"the grid must be a coder of latents, got '{grid.name}'")
    prior = about["prior"]
    settings, prior_tables = _checked_settings(prior["about"]), tables("prior")
    coded: CodedPrior
    if prior["name"] == AutoregressivePrior.name:
        coded = AutoregressivePrior(settings, prior_tables, program("prior", prior["program"]))
    else:
        coded = PRIORS[prior["name"]](settings, prior_tables)
    model: IntegerModel
    if about["structure"] == FlatModel.structure:
        model = FlatModel(programs, likelihood, shape, grid, coded)
    elif about["structure"] == LadderModel.structure:
        quantiles = Quantiles(_checked_settings(about["quantiles"]), tables("quantiles"))
        model = LadderModel(programs, likelihood, shape, grid, coded, quantiles, about["reads"])
    else:
        raise ValueError(f"'structure' must be flat or ladder, got '{str(about['structure'])[:40]}'")
    model.growth, model.bits_per_item = int(about["growth"]), float(about["bits_per_item"])
    model.probe = about["probe"]
    if not (1 <= model.growth < 1 << 16 and model.bits_per_item > 0):
        raise ValueError("'growth' and 'bits_per_item' must be positive, 'growth' below 65536")
    if any(type(hashed) not in (str, type(None)) for hashed in (model.probe, about.get("decoded"))):
        raise ValueError("'probe' and 'decoded' must be hashes")
    return model


def _checked_settings(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a coder, after a check of their limits."""
    limits = {
        "bits": (1, MOST_BITS),
        "levels": (2, 1 << 16),
        "components": (1, 1 << 10),
        "finest": (0, 22),
        "classes": (1, 1 << 16),
        "latents": (1, 1 << 20),
    }
    for key, (least, most) in limits.items():
        if key in about and not (type(about[key]) is int and least <= about[key] <= most):
            raise ValueError(f"'{key}' must be a whole number in {least}..{most}, got {str(about[key])[:40]}")
    return about


def probe_hash(model: IntegerModel) -> str:
    """The hash of the compressed form of fixed noise; it changes if any number in the computation does."""
    levels = model.likelihood.levels
    noise = splitmix64(PROBES * math.prod(model.shape), 1 << 40).astype(np.int64) >> 8
    x = (noise % levels).reshape(PROBES, *model.shape)
    data = BitsBack(model).encode(x)
    if (BitsBack(model).decode(data, PROBES) != x).any():
        raise Desynchronised("the probe does not decode to its items")
    return hashlib.sha256(data).hexdigest()[:32]


def decoder_hash(model: IntegerModel) -> str:
    """The hash of the places of latents and the items that fixed bits decode to."""
    words = PROBES * (model.latents + math.prod(model.shape) + 1) * PRECISION // 32 + 64  # the most that can be popped
    stack = Stack(1, words)
    levels, h = model.walk(lambda _, q, p: p.pop(stack), PROBES)
    arrays = [*(level.k for level in levels), model.explain(h).pop(stack)]
    return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in arrays)).hexdigest()[:32]


def check_machine(model: IntegerModel, device: str, hashed: str | None = None) -> None:
    """Compress and decompress the probe on this machine; a model with only its decoder decompresses fixed bits.

    Args:
        model: the model.
        device: the device that it computes on.
        hashed: the expected :func:`decoder_hash` of a model with only its decoder.

    Raises:
        NumericsError: when the result differs from that of the machine that made the file.
    """
    expected = hashed if model.probe is None else model.probe
    try:
        found = decoder_hash(model) if model.probe is None else probe_hash(model)
    except Desynchronised:
        found = "a stream that does not decode"
    if expected is not None and found != expected:
        other = "try device cpu" if device != "cpu" else "please report this, with your processor and torch's version"
        raise NumericsError(f"device {device}: the model's probe must be {expected}, got {found}; {other}")
