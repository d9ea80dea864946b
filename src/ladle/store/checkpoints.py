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

    def average(self, wanted: Mapping[str, tuple[torch.Size, torch.dtype]]) -> tuple[dict[str, Tensor], int] | None:
        """The averaged weights of the newest checkpoint, by their wanted names, and its step; ``None`` without one."""
        found = self._found()
        if not found:
            return None
        numbered = {f"average.{i}": name for i, name in enumerate(wanted)}
        tensors = read_tensors(
            found[-1] / "state.safetensors", {i: wanted[name] for i, name in numbered.items()}, others=True
        )
        return {name: tensors[i] for i, name in numbered.items()}, int(found[-1].name.removeprefix("step-"))

    def remove(self) -> None:
        """Remove them all: training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
