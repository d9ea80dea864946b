"""Tensors and JSON on the disk, written whole or not at all.

Nothing is ever unpickled. A file may come from a stranger: names, shapes and types are checked against what
is wanted before a tensor is read.
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
    """A model folder that cannot be opened, and why."""


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, whole or not at all."""
    with atomic_file(path, force=True) as temporary:
        Path(temporary).write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, whole or not at all."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with atomic_file(path, force=True) as temporary:
        Path(temporary).write_bytes(save(plain, metadata={"format": "pt"}))


def read_json(path: Path) -> Any:
    """Read a JSON file of bounded size.

    Raises:
        ModelError: when it is missing, too large or not JSON.
    """
    if path.exists() and not path.is_file():
        raise ModelError(f"'{path}' must be a file, got a folder, a device or a pipe")
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise ModelError(f"'{path}' must be at most {LARGEST_CONFIG >> 20} MiB")
        return json.loads(text.decode("utf-8"), parse_constant=_no_number)
    except FileNotFoundError:
        raise ModelError(f"no {path.name} in '{path.parent}': it is not a model folder, or not a whole one") from None
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"'{path}' cannot be read: {error}") from None


def _no_number(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def read_tensors(
    path: Path, wanted: Mapping[str, tuple[torch.Size, torch.dtype]] | None = None, *, others: bool = False
) -> dict[str, Tensor]:
    """Read a safetensors file, after checking its names, shapes and types against the wanted ones.

    With ``others`` the file may hold more than is wanted, which is not read.

    Raises:
        ModelError: when it is missing, truncated, or holds something else.
    """
    if path.exists() and not path.is_file():
        raise ModelError(f"'{path}' must be a file, got a folder, a device or a pipe")
    if not path.exists():
        raise ModelError(f"no {path.name} in '{path.parent}': training has not ended there, or the file was removed")
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if wanted is not None:
                names = [name for name in names if name in wanted] if others else names
                _check_names(path, set(names), set(wanted))
                for name in names:
                    shape, must = tuple(file.get_slice(name).get_shape()), tuple(wanted[name][0])
                    if shape != must:
                        raise ModelError(f"'{path}': tensor '{name}' must be {must}, got {shape}")
                _check_size(path)
            tensors = {name: file.get_tensor(name) for name in names}
    except ModelError:
        raise
    except Exception as error:  # the header is a stranger's: an unknown type is one error, a lie about sizes another
        raise ModelError(f"'{path}' is truncated or not a safetensors file: {error}") from None
    for name, tensor in tensors.items():
        if wanted is not None and tensor.dtype != wanted[name][1]:
            raise ModelError(f"'{path}': tensor '{name}' must be {wanted[name][1]}, got {tensor.dtype}")
    return tensors


def _check_size(path: Path) -> None:
    """Refuse what this machine cannot hold: a sparse file may be of any size."""
    most, needed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), path.stat().st_size
    if needed > most:
        raise ModelError(f"'{path}' must fit into memory, {most >> 20} MiB; it holds {needed >> 20} MiB")


def _check_names(path: Path, got: set[str], wanted: set[str]) -> None:
    if got != wanted:
        lacking, extra = sorted(wanted - got)[:3], sorted(got - wanted)[:3]
        raise ModelError(
            f"'{path}' does not fit config.json: lacking {lacking or 'nothing'}, unknown {extra or 'nothing'}"
        )
