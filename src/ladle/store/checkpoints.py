"""The checkpoints of a run: folders that appear whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ladle.store.files import read_json, read_tensors, write_json, write_tensors


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
