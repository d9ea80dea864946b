"""Model folders and compressed files of every format version can be read, and give the results of the time at which
they were written."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import ladle
from ladle.coding.container import MAJOR
from ladle.coding.model_file import FORMAT as EXACT
from ladle.store.folder import FORMAT

FOLDERS = sorted(Path(__file__).parent.glob("v*"))
# Another processor sums in another order. Pixels (0..255) and nats (about 180) agree to the precision of float32.
# Scores and samples also depend on torch's CPU generator, which gives the same numbers on every machine.
TOLERANCES = {"encode": 1e-4, "decode": 1e-2, "score": 1e-2, "sample": 1e-2}


def test_there_is_a_folder_of_every_format() -> None:
    assert [folder.name for folder in FOLDERS] == [f"v{n}" for n in range(1, FORMAT + 1)]


COMPRESSED = sorted(Path(__file__).parent.glob("ladle-v*/*.ladle"))


def test_there_are_compressed_files_of_every_format() -> None:
    assert {file.parent.name for file in COMPRESSED} == {f"ladle-v{n}" for n in range(1, MAJOR + 1)}
    assert MAJOR == EXACT, "the format of models in whole numbers has changed: make golden files of both"
    assert all(len(json.loads((file.parent / "expected.json").read_text())) == 16 for file in COMPRESSED)


@pytest.mark.parametrize("file", COMPRESSED, ids=lambda f: f.stem)
def test_compressed_files_come_back(file: Path) -> None:
    """Bit for bit, on every machine."""
    back = ladle.decompress(file, model=file.parent / f"{file.name.split('.')[0]}.safetensors")
    assert back is not None
    assert (
        hashlib.sha256(back.tobytes()).hexdigest() == json.loads((file.parent / "expected.json").read_text())[file.name]
    )


def outputs(folder: Path) -> dict[str, np.ndarray]:
    model, items = ladle.load(folder, "cpu"), ladle.read("digits").test.take(np.arange(4))
    z = ladle.encode(model, items)
    return {
        "encode": z,
        "decode": ladle.decode(model, z[:1]),
        "score": ladle.score(model, items, samples=20, seed=1),
        "sample": ladle.sample(model, 1, seed=1),
    }


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_results_are_as_expected(folder: Path) -> None:
    expected, found = json.loads((folder / "expected.json").read_text()), outputs(folder)
    for name, atol in TOLERANCES.items():
        np.testing.assert_allclose(found[name], np.array(expected[name]), atol=atol, rtol=1e-4, err_msg=name)
    assert ladle.load(folder, "cpu").config["format"] == int(folder.name[1:])
    assert sum(p.stat().st_size for p in folder.iterdir()) < 150_000


def test_the_tolerance_detects_a_changed_model(tmp_path: Path) -> None:
    """A change of every weight by a thousandth is detected."""
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(FOLDERS[0], tmp_path / "v1")
    path = tmp_path / "v1" / "model.safetensors"
    constant = ("mask", "loc", "scale")
    tensors = {k: v if k.endswith(constant) else v * 1.001 for k, v in load_file(path).items()}
    save_file(tensors, path)
    with pytest.raises(AssertionError, match="encode"):
        test_results_are_as_expected(tmp_path / "v1")
