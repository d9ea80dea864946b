"""Reading and writing tensors and JSON files. Files are written atomically.

Nothing is ever unpickled. Files may come from an untrusted source, so the names, shapes and types of tensors are
checked against the expected ones before a tensor is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from ladle.data import atomic_file

LARGEST_CONFIG = 16 << 20


class ModelError(ValueError):
    """A model folder cannot be opened. The message gives the reason."""


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, atomically."""
    with atomic_file(path, force=True) as temporary:
        Path(temporary).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with atomic_file(path, force=True) as temporary:
        Path(temporary).write_bytes(save(plain, metadata={"format": "pt"}))


def read_json(path: Path) -> Any:
    """Read a JSON file of bounded size.

    Raises:
        ModelError: if it is missing, too large or not JSON.
    """
    if path.exists() and not path.is_file():
        raise ModelError(f"'{path}' must be a file, got a folder, a device or a pipe")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise ModelError(f"'{path}' must be at most {LARGEST_CONFIG >> 20} MiB")
        return json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise ModelError(f"no {path.name} in '{path.parent}': it is not a model folder, or it is incomplete") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"'{path}' cannot be read: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not valid JSON")


def read_tensors(
    path: Path, expected: Mapping[str, tuple[torch.Size, torch.dtype]] | None = None, *, others: bool = False
) -> dict[str, Tensor]:
    """Read a safetensors file, after checking the names, shapes and types of its tensors.

    Args:
        path: the file.
        expected: the expected shape and type of every tensor, by name; ``None`` skips the check.
        others: ignore additional tensors in the file, instead of refusing it.

    Raises:
        ModelError: if the file is missing or truncated, or its tensors are not as expected.
    """
    if path.exists() and not path.is_file():
        raise ModelError(f"'{path}' must be a file, got a folder, a device or a pipe")
    if not path.exists():
        raise ModelError(f"no {path.name} in '{path.parent}': training has not ended there, or the file was removed")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if expected is not None:
                names = [name for name in names if name in expected] if others else names
                _check_names(path, set(names), set(expected))
                for name in names:
                    shape, right = tuple(file.get_slice(name).get_shape()), tuple(expected[name][0])
                    if shape != right:
                        raise ModelError(f"'{path}': tensor '{name}' must be of shape {right}, got {shape}")
                _check_size(path)
            tensors = {name: file.get_tensor(name) for name in names}
    except ModelError:
        raise
    except Exception as error:  # an untrusted header causes various errors: an unknown type, wrong sizes, ...
        raise ModelError(f"'{path}' is truncated or not a safetensors file: {error}") from None
    for name, tensor in tensors.items():
        if expected is not None and tensor.dtype != expected[name][1]:
            raise ModelError(f"'{path}': tensor '{name}' must be {expected[name][1]}, got {tensor.dtype}")
    return tensors


def _check_size(path: Path) -> None:
    """Refuse a file that is larger than this machine's memory: a sparse file may claim any size."""
    memory, size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), path.stat().st_size
    if size > memory:
        raise ModelError(f"'{path}' must fit into the memory of {memory >> 20} MiB, got {size >> 20} MiB")


def _check_names(path: Path, got: set[str], expected: set[str]) -> None:
    if got != expected:
        missing, extra = sorted(expected - got)[:3], sorted(got - expected)[:3]
        raise ModelError(
            f"'{path}' does not match config.json: missing {missing or 'nothing'}, unexpected {extra or 'nothing'}"
        )
