"""The default recipe and size depend on the data, the time and the machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ladle
from ladle.cli import main
from ladle.machine import Machine
from ladle.recipes import default
from ladle.spec import parts

IDLE = Machine("cpu", "32-true", True, 2, "a processor")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> list[Machine]:
    """The detected machine, which a test may replace."""
    found = [IDLE]
    monkeypatch.setattr(default, "choose", lambda device: found[0])
    return found


@pytest.fixture(scope="module")
def pictures() -> ladle.Dataset:
    rng = np.random.default_rng(0)
    return ladle.read(rng.random((12_000, 28, 28)) < 0.2)


def test_more_time_and_a_faster_machine_give_larger_networks(machine: list[Machine], pictures: ladle.Dataset) -> None:
    order = {size: i for i, size in enumerate(ladle.recipes.SIZES)}
    sizes = [order[ladle.best(pictures, minutes).size] for minutes in (0.1, 1, 5, 60, 600)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 0
    assert sizes[-1] >= 2
    slow = ladle.best(pictures, 0.3)
    machine[0] = IDLE._replace(precision="bf16-mixed")
    assert order[ladle.best(pictures, 0.3).size] > order[slow.size]
    assert "in 0.3 minutes" in slow.why


def test_no_more_parameters_than_the_data_have_numbers(machine: list[Machine], toys: dict[str, ladle.Dataset]) -> None:
    machine[0] = IDLE._replace(threads=1000)
    for name, data in toys.items():
        chosen = ladle.best(data, 600)
        assembly = ladle.assemble(data.schema, chosen.recipe, chosen.size)
        parameters = sum(p.numel() for p in assembly.model.parameters())
        assert chosen.size == "xs" or parameters <= len(data.train) * data.schema.size, name


def test_ladders_are_for_images_in_colour_and_on_a_gpu_for_all_images(
    machine: list[Machine], pictures: ladle.Dataset, toys: dict[str, ladle.Dataset]
) -> None:
    assert ladle.best(pictures, 5).recipe == "learned_prior"
    assert ladle.best(toys["colour"], 5).recipe == "vdvae"
    machine[0] = Machine("cuda", "bf16-mixed", True, 2, "a GPU")
    assert ladle.best(pictures, 5).recipe == "vdvae"
    assert ladle.best(toys["table"], 5).recipe == "learned_prior"


def test_the_cost_is_that_of_the_products(toys: dict[str, ladle.Dataset]) -> None:
    schema = toys["digits"].schema
    plan = ladle.recipe("vae", schema, "xs")
    with torch.device("meta"):
        assembly = ladle.assemble(schema, plan)
    products = [m for m in assembly.model.modules() if isinstance(m, torch.nn.Linear)]
    assert default.cost(assembly) == 3 * sum(2 * m.in_features * m.out_features for m in products)


def test_a_resumed_run_keeps_its_recipe_and_size(
    machine: list[Machine], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(*options: str) -> str:
        with pytest.raises(SystemExit) as left:
            main(["fit", "digits", "--out", str(tmp_path / "run"), "--epochs", "1", *options])
        assert left.value.code == 0
        return capsys.readouterr().err

    assert "recipe learned_prior, size xs (a larger one has more parameters" in fit("--dry-run")
    assert "recipe learned_prior, size s," in fit("--dry-run", "--size", "s")
    assert "recipe vae, size s," in fit("--dry-run", "--recipe", "vae")
    fit("--recipe", "vae", "--size", "xs")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["fit"]["recipe"] == "vae"
    told = fit("--resume")
    assert "recipe vae, size xs," in told
    assert "already finished" in told


@pytest.mark.parametrize("recipe", sorted(set(parts()["recipe"]) - {"linear_vae"}))
def test_every_size_costs_more_than_the_one_before(recipe: str) -> None:
    """For greyscale images and for colour images, which have other networks."""
    for shape in ((1, 28, 28), (3, 32, 32)):
        schema = ladle.Schema("image", shape, "bytes")
        costs = []
        for size in ladle.recipes.SIZES:
            with torch.device("meta"):
                costs.append(default.cost(ladle.assemble(schema, recipe, size)))
        assert costs == sorted(set(costs)), f"{recipe} on {shape}"
