"""The checkpoints of a run, written atomically."""

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
    """The checkpoints of a run. Each is a folder that is created by one rename, and replaces the previous one."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a checkpoint, then remove the earlier ones."""
        final = self.folder / f"step-{step:09d}"
        if final.exists():
            return
        with self._atomic_folder(final) as temporary:
            write_tensors(temporary / "state.safetensors", tensors)
            write_json(temporary / "state.json", dict(state))
        for older in self._folders()[:-1]:
            shutil.rmtree(older, ignore_errors=True)

    @contextmanager
    def _atomic_folder(self, final: Path) -> Iterator[Path]:
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

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-*")) if self.folder.is_dir() else []

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the state of the newest checkpoint; ``None`` if there is none."""
        folders = self._folders()
        if not folders:
            return None
        return read_tensors(folders[-1] / "state.safetensors"), read_json(folders[-1] / "state.json")

    def average(self, expected: Mapping[str, tuple[torch.Size, torch.dtype]]) -> tuple[dict[str, Tensor], int] | None:
        """The averaged weights of the newest checkpoint, by parameter name, and its step; ``None`` if there is none."""
        folders = self._folders()
        if not folders:
            return None
        numbered = {f"average.{i}": name for i, name in enumerate(expected)}
        tensors = read_tensors(
            folders[-1] / "state.safetensors", {i: expected[name] for i, name in numbered.items()}, others=True
        )
        return {name: tensors[i] for i, name in numbered.items()}, int(folders[-1].name.removeprefix("step-"))

    def remove(self) -> None:
        """Remove all checkpoints, once training has ended."""
        shutil.rmtree(self.folder, ignore_errors=True)


def strip_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, with the prefix removed from the names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
