"""What several rooms of tests share: tiny data sets and a tiny trained model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import ladle
from coding_plans import fitted
from commands import Ladle, Left, command
from toys import narrow, toy_data


@pytest.fixture(scope="session")
def toys() -> dict[str, ladle.Dataset]:
    """See :func:`toy_data`."""
    return toy_data()


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory, toys: dict[str, ladle.Dataset]) -> Path:
    """The folder of a tiny model of the digits, its prior learned. Not to be changed: copy it."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    data = toys["digits"]
    assembly = ladle.assemble(data.schema, narrow("learned_prior", data.schema), seed=3)
    settings = {"recipe": "learned_prior", "size": "xs"}
    for _ in ladle.fit(assembly, data, epochs=1, seed=3, run=folder, settings=settings):
        pass
    return folder


@pytest.fixture(scope="session")
def coding_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, np.ndarray]]:
    """A function from a name of ``PLANS`` to a model folder and its data."""
    made: dict[str, tuple[Path, np.ndarray]] = {}

    def run(name: str) -> tuple[Path, np.ndarray]:
        if name not in made:
            folder = tmp_path_factory.mktemp("coding") / "run"
            made[name] = folder, fitted(name, folder)
        return made[name]

    return run


@pytest.fixture(autouse=True)
def nothing_global_is_changed() -> Iterator[None]:
    """No test, and nothing that it calls, leaves gradients off."""
    yield
    assert torch.is_grad_enabled(), "gradients were left off"


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ladle:
    """Runs the command line in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Left:
        capsys.readouterr()
        return Left(command(*arguments), *capsys.readouterr())

    return run
