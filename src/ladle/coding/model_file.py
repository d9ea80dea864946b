"""The file of a model in whole numbers: ``exact.safetensors``, whose metadata say what the tensors are.

Everything that the bits of a compressed file depend on is in it, nothing is computed anew. So its *fingerprint*, a hash
of that, says whether two sides will make the same counts, and :func:`check` whether this machine keeps them.
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
from ladle.coding.ans.stack import Stack, known
from ladle.coding.bits_back import BitsBack
from ladle.coding.coders.coder import KINDS, Coder, LatentCoder
from ladle.coding.coders.latent import MOST_BITS, Quantiles
from ladle.coding.coders.priors import CodedPrior, Codes, One, Sequential, Several
from ladle.coding.container import strict
from ladle.coding.errors import Desynchronised, NumericsError
from ladle.coding.integer.program import Program, Range
from ladle.coding.model import Exact, ExactFlat, ExactLadder
from ladle.data import atomic_file
from ladle.store.files import ModelError

FORMAT = 1
LARGEST = 4 << 30  # bytes of a file
LARGEST_ITEM = 1 << 24  # numbers
PROBES = 3  # items that the machine is tried on
UPWARD = ("encode", "features", "q")  # programs that read x
SMALLEST = (torch.int8, torch.int16, torch.int32, torch.int64)
HOSTILE = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, MemoryError)


def save_exact(exact: Exact, path: Path, decoder: bool = False) -> None:
    """Write a model in whole numbers, whole or not at all.

    Args:
        exact: the model.
        path: where to.
        decoder: leave out what reads x: files of the mode ``random-access`` can be decompressed with the rest.
    """
    about, tensors = _parts(exact, decoder)
    if decoder:
        about["decoded"] = decoded(exact)
    with atomic_file(path, force=True) as temporary:
        Path(temporary).write_bytes(save(tensors, metadata={"ladle": _canonical(about)}))


def fingerprint(exact: Exact, decoder: bool = False) -> str:
    """What two sides must have in common, 32 hexadecimal digits.

    Args:
        exact: the model.
        decoder: of what decodes alone.
    """
    about, tensors = _parts(exact, decoder)
    hashed = hashlib.sha256(_canonical({k: v for k, v in about.items() if k not in ("probe", "decoded")}).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        hashed.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        hashed.update(tensor.numpy().astype(tensor.numpy().dtype.newbyteorder("<")).tobytes())
    return hashed.hexdigest()[:32]


def _canonical(about: Mapping[str, Any]) -> str:
    return json.dumps(about, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _parts(exact: Exact, decoder: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Plain JSON, and tensors of the smallest whole numbers that hold them."""
    tensors: dict[str, Tensor] = {}
    programs = {
        name: _described(program, name, tensors)
        for name, program in exact.programs.items()
        if not (decoder and name.rpartition(".")[2] in UPWARD)
    }
    about: dict[str, Any] = {
        "format": FORMAT, "structure": exact.structure, "shape": list(exact.shape), "programs": programs,
        "growth": exact.growth, "bits_per_item": exact.bits_per_item, "probe": None if decoder else exact.probe,
        "likelihood": {"kind": exact.likelihood.name, "about": dict(exact.likelihood.about)},
        "grid": {"kind": exact.grid.name, "about": dict(exact.grid.about)},
        "prior": {"name": exact.prior.name, "about": dict(exact.prior.about)},
    }  # fmt: skip
    tables = {"likelihood": exact.likelihood.tables, "grid": exact.grid.tables, "prior": exact.prior.tables}
    if isinstance(exact.prior, Sequential):
        about["prior"]["program"] = _described(exact.prior.program, "prior", tensors)
    if isinstance(exact, ExactLadder):
        about |= {"quantiles": dict(exact.quantiles.about), "reads": exact.reads}
        tables["quantiles"] = exact.quantiles.tables
    for owner, named in tables.items():
        tensors |= {f"{owner}/{key}": _small(torch.from_numpy(np.asarray(table))) for key, table in named.items()}
    return about, tensors


def _small(whole: Tensor) -> Tensor:
    for dtype in SMALLEST:
        limits = torch.iinfo(dtype)
        if not whole.numel() or (limits.min <= int(whole.min()) and int(whole.max()) <= limits.max):
            return whole.to(dtype).contiguous()
    raise AssertionError("whole numbers have at most 64 bits")


def _described(program: Program, name: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    for key, tensor in program.tensors.items():
        exponents = key.endswith(".scale")
        tensors[f"{name}/{key}"] = _small((torch.log2(tensor) if exponents else tensor).round().long().cpu())
    inputs = [[r.low, r.high, list(r.size)] for r in program.inputs]
    return {"inputs": inputs, "steps": program.steps, "outputs": program.outputs}


def load_exact(path: Path, device: str = "cpu") -> Exact:
    """Open a model in whole numbers, prove its programs' bounds again, and try this machine on it.

    Raises:
        ModelError: for a file that is missing, damaged, hostile or newer.
        NumericsError: when this machine computes something else.
    """
    about, tensors = _read(path)
    try:
        exact = _built(about, tensors, device)
        exact.check()
        check(exact, device, about.get("decoded"))
    except NumericsError:
        raise
    except HOSTILE as error:
        told = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
        raise ModelError(f"'{path}' does not describe a model in whole numbers: {told}") from None
    return exact


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise ModelError(f"no '{path.name}' in '{path.parent}': no file was compressed with this model yet")
    if path.stat().st_size > LARGEST:
        raise ModelError(f"'{path}' must be at most {LARGEST >> 30} GiB")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            about = strict(metadata.get("ladle", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise ModelError(f"'{path}' cannot be read: {str(error)[:200]}") from None
    if not isinstance(about, dict) or type(about.get("format")) is not int:
        raise ModelError(f"'{path}' is no model in whole numbers")
    if about["format"] > FORMAT:
        raise ModelError(f"'{path}' is of format {about['format']}, newer than the {FORMAT} that is read here")
    if any(t.is_floating_point() for t in tensors.values()):
        raise ModelError(f"'{path}' must hold whole numbers alone")
    return about, tensors


def _built(about: Mapping[str, Any], tensors: Mapping[str, Tensor], device: str) -> Exact:
    def program(name: str, described: Mapping[str, Any]) -> Program:
        own = {}
        for key, tensor in tensors.items():
            if key.startswith(f"{name}/"):
                exponents = key.endswith(".scale")
                own[key.removeprefix(f"{name}/")] = torch.from_numpy(
                    np.ldexp(np.float32(1), tensor.numpy().astype(np.int32)) if exponents else tensor.numpy()
                ).to(torch.float32)
        inputs = [Range(int(low), int(high), tuple(size)) for low, high, size in described["inputs"]]
        return Program(inputs, described["steps"], described["outputs"], own).to(device)

    def tables(owner: str) -> dict[str, np.ndarray]:
        found = {k.removeprefix(f"{owner}/"): t for k, t in tensors.items() if k.startswith(f"{owner}/")}
        return {k: t.numpy().astype(np.int64) for k, t in found.items()}

    shape = tuple(about["shape"])
    if any(type(size) is not int or size < 1 for size in shape) or not 1 <= math.prod(shape) <= LARGEST_ITEM:
        raise ValueError(f"an item must have up to {LARGEST_ITEM} numbers, got the shape {str(shape)[:80]}")
    programs = {name: program(name, described) for name, described in about["programs"].items()}
    kind = KINDS[about["likelihood"]["kind"]]
    likelihood: Coder = kind(_plain(about["likelihood"]["about"]), tables("likelihood"))
    grid = KINDS[about["grid"]["kind"]](_plain(about["grid"]["about"]), tables("grid"))
    if not isinstance(grid, LatentCoder):
        raise ValueError(f"'{grid.name}' is no coder of latents")
    prior = about["prior"]
    given, own = _plain(prior["about"]), tables("prior")
    coded: CodedPrior
    if prior["name"] == Sequential.name:
        coded = Sequential(given, own, program("prior", prior["program"]))
    else:
        coded = {One.name: One, Codes.name: Codes, Several.name: Several}[prior["name"]](given, own)  # type: ignore[abstract]
    exact: Exact
    if about["structure"] == ExactFlat.structure:
        exact = ExactFlat(programs, likelihood, shape, grid, coded)
    elif about["structure"] == ExactLadder.structure:
        quantiles = Quantiles(_plain(about["quantiles"]), tables("quantiles"))
        exact = ExactLadder(programs, likelihood, shape, grid, coded, quantiles, about["reads"])
    else:
        raise ValueError(f"unknown structure '{str(about['structure'])[:40]}'")
    exact.growth, exact.bits_per_item = int(about["growth"]), float(about["bits_per_item"])
    exact.probe = about["probe"]
    if not (1 <= exact.growth < 1 << 16 and exact.bits_per_item > 0):
        raise ValueError("its numbers are out of their range")
    if any(type(hashed) not in (str, type(None)) for hashed in (exact.probe, about.get("decoded"))):
        raise ValueError("what its probes are compressed to must be a hash")
    return exact


def _plain(about: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of a coder, within their limits."""
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


def probe(exact: Exact) -> str:
    """The hash of what some noise is compressed to: another number anywhere makes it another."""
    levels = exact.likelihood.levels
    noise = known(PROBES * math.prod(exact.shape), 1 << 40).astype(np.int64) >> 8
    x = (noise % levels).reshape(PROBES, *exact.shape)
    data = BitsBack(exact).encode(x)
    if (BitsBack(exact).decode(data, PROBES) != x).any():
        raise Desynchronised("the probe does not come back")
    return hashlib.sha256(data).hexdigest()[:32]


def decoded(exact: Exact) -> str:
    """The hash of what some known bits are decompressed to: places of latents, and items."""
    words = PROBES * (exact.latents + math.prod(exact.shape) + 1) * PRECISION // 32 + 64  # as many as can be popped
    stack = Stack(1, words)
    levels, h = exact.walk(lambda _, q, p: p.pop(stack), PROBES)
    found = [*(level.k for level in levels), exact.explain(h).pop(stack)]
    return hashlib.sha256(b"".join(some.astype("<i8").tobytes() for some in found)).hexdigest()[:32]


def check(exact: Exact, device: str, hashed: str | None = None) -> None:
    """Compress and decompress the probe on this machine; with a decoder alone, decompress known bits.

    Args:
        exact: the model.
        device: where it computes.
        hashed: what :func:`decoded` must be, of a decoder.

    Raises:
        NumericsError: when anything is not as it was where the file was made.
    """
    wanted = hashed if exact.probe is None else exact.probe
    try:
        found = decoded(exact) if exact.probe is None else probe(exact)
    except Desynchronised:
        found = "something that does not come back"
    if wanted is not None and found != wanted:
        other = "try device cpu" if device != "cpu" else "please report this, with your processor and torch's version"
        raise NumericsError(f"device {device} computes {found} for the model's probe, which must be {wanted}; {other}")
