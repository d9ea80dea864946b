"""What tests of compressing share."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import ladle


@pytest.fixture(scope="module")
def run(digits_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the digits' model, which compressing adds a file to."""
    folder = tmp_path_factory.mktemp("compress") / "run"
    shutil.copytree(digits_run, folder)
    return folder


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    return ladle.read("digits").all.x.astype(np.uint8)
