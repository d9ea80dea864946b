"""Tensors and JSON on the disk, whole or not at all; and the checkpoints of a run.

Nothing is ever unpickled. A file may come from a stranger: names, shapes and types are checked against what
is wanted before a tensor is read.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ladle.data import atomic_file

LARGEST_CONFIG = 64 << 20


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
    try:
        if path.stat().st_size > LARGEST_CONFIG:
            raise ModelError(f"{path.name} must be at most {LARGEST_CONFIG >> 20} MiB, got {path.stat().st_size} bytes")
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"no {path.name} in '{path.parent}': it is not a model folder, or not a whole one") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"'{path}' cannot be read: {error}") from None


def read_tensors(path: Path, wanted: Mapping[str, tuple[torch.Size, torch.dtype]] | None = None) -> dict[str, Tensor]:
    """Read a safetensors file, after checking its names, shapes and types against the wanted ones.

    Raises:
        ModelError: when it is missing, truncated, or holds something else.
    """
    if not path.is_file():
        raise ModelError(f"no {path.name} in '{path.parent}': training has not ended there, or the file was removed")
    try:
        with safe_open(path, framework="pt") as file:
            if wanted is not None:
                _check_names(path, set(file.keys()), set(wanted))
            tensors = {}
            for name in file.keys():  # noqa: SIM118  (not a mapping)
                if wanted is not None:
                    shape = torch.Size(file.get_slice(name).get_shape())
                    if shape != wanted[name][0]:
                        raise ModelError(
                            f"'{path}': tensor '{name}' must be {tuple(wanted[name][0])}, got {tuple(shape)}"
                        )
                tensors[name] = file.get_tensor(name)
                if wanted is not None and tensors[name].dtype != wanted[name][1]:
                    raise ModelError(f"'{path}': tensor '{name}' must be {wanted[name][1]}, got {tensors[name].dtype}")
            return tensors
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"'{path}' is truncated or not a safetensors file: {error}") from None


def _check_names(path: Path, got: set[str], wanted: set[str]) -> None:
    if got != wanted:
        lacking, extra = sorted(wanted - got)[:3], sorted(got - wanted)[:3]
        raise ModelError(
            f"'{path}' does not fit config.json: lacking {lacking or 'nothing'}, unknown {extra or 'nothing'}"
        )


# ------------------------------------------------------------------------------------------ checkpoints


class Checkpoints:
    """The checkpoints of a run: each a folder that appears whole, by one rename, and replaces the one before."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint; the ones before it are removed once it is there."""
        final = self.folder / f"step-{step:09d}"
        if final.exists():
            return
        with self._whole(final) as temporary:
            write_tensors(temporary / "state.safetensors", tensors)
            write_json(temporary / "state.json", dict(state))
        for older in self._found()[:-1]:
            shutil.rmtree(older, ignore_errors=True)

    @contextmanager
    def _whole(self, final: Path) -> Iterator[Path]:
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f".tmp-{os.getpid()}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _found(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint: its tensors and its state; ``None`` where there is none."""
        found = self._found()
        if not found:
            return None
        return read_tensors(found[-1] / "state.safetensors"), read_json(found[-1] / "state.json")

    def remove(self) -> None:
        """Remove them all: training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)
