"""A schema has columns of different kinds, and a table of them is a model like any other; so is a signal."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ladle
from ladle.data import Column, DataError, Schema, Split, as_held, make_batch
from ladle.families.columns import ColumnsFamily
from ladle.spec import build
from ladle.store.folder import FORMAT
from toys import narrow

COLUMNS = [
    Column("real", "height", 1.7, 0.2),
    Column("binary", "member"),
    Column("category", "colour", values=("red", "green", "blue")),
    Column("count", "visits", 4.0, 3.0),
    Column("real", "weight", 70.0, 12.0),
    Column("ordinal", "grade", values=("low", "middle", "high", "top")),
    Column("bytes", "brightness"),
    Column("words", "sample", 30000.0, 9000.0),
]
SCHEMA = Schema("table", (len(COLUMNS),), COLUMNS, missing=True)


def rows(n: int = 400) -> Split:
    """Rows whose columns depend on one hidden number each, a tenth of their values missing."""
    noise = np.random.default_rng(5)
    hidden = noise.normal(size=n)
    x = np.stack([
        1.7 + 0.1 * hidden + 0.05 * noise.normal(size=n),
        hidden + 0.3 * noise.normal(size=n) > 0,
        np.clip(np.round(1 + hidden), 0, 2),
        noise.poisson(np.exp(1 + 0.4 * hidden)),
        70 + 10 * hidden + noise.normal(size=n),
        np.clip(np.round(1.5 + hidden), 0, 3),
        np.clip(np.round(128 + 40 * hidden), 0, 255),
        np.clip(np.round(30000 + 9000 * hidden), 0, 65535),
    ], 1).astype(np.float32)  # fmt: skip
    return Split(x, noise.random(x.shape) > 0.1)


def dataset() -> ladle.Dataset:
    items = rows()
    parts = {"train": np.arange(300), "valid": np.arange(300, 350), "test": np.arange(350, 400)}
    return ladle.Dataset(SCHEMA, {"all": items}, members=parts)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a small model of a table of all kinds of columns."""
    folder = tmp_path_factory.mktemp("columns") / "run"
    plan = {**narrow("vae", SCHEMA), "training": {"batch": 30, "rate": 5e-3}}
    assembly = ladle.assemble(SCHEMA, plan, seed=1)
    for _ in ladle.fit(assembly, dataset(), epochs=60, seed=1, run=folder, settings={"recipe": "vae", "size": "xs"}):
        pass
    return folder


# ---------------------------------------------------------------------------------------------- schema


def test_a_schema_of_columns_survives_json() -> None:
    again = Schema.from_json(json.loads(json.dumps(SCHEMA.to_json())))
    assert again == SCHEMA
    assert again.support == "mixed"
    assert again.names[2] == "colour"


def test_a_schema_of_the_first_format_is_read() -> None:
    first = {
        "kind": "table", "shape": [2], "support": "real", "binarize": None, "names": ["a", "b"], "loc": [1.0, 2],
        "scale": [0.5, 3.0], "label_names": ["x"], "source": "old", "policy": "", "missing": True,
    }  # fmt: skip
    columns = [Column("real", "a", 1.0, 0.5), Column("real", "b", 2.0, 3.0)]
    assert Schema.from_json(first) == Schema("table", (2,), columns, label_names=("x",), source="old", missing=True)
    image = {**first, "kind": "image", "shape": [1, 4, 4], "support": "bytes", "names": [], "loc": [], "scale": []}
    assert Schema.from_json(image).columns == (Column("bytes"),)
    with pytest.raises(DataError, match="at most 1048576 columns"):
        Schema.from_json({**first, "shape": [2**31], "names": [], "loc": [], "scale": [], "support": "bytes"})
    with pytest.raises(DataError, match="names must be a list of 2"):
        Schema.from_json({**first, "names": ["a"]})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sound",), "kind of a column must be binary or"),
        (("real",), "loc of a real column must be a finite number"),
        (("real", "", 0.0, -1.0), "scale of a column must be positive"),
        (("real", "", float("nan"), 1.0), "finite number"),
        (("category", "colour"), "at least 2 names"),
        (("category", "colour", None, None, ("red", "red")), "all different"),
        (("bytes", "", None, None, ("a", "b")), "left out"),
        (("count", "", 1.0), "both given or neither"),
    ],
)
def test_a_column_that_cannot_be_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Column(*arguments)


def test_columns_must_be_those_of_the_shape() -> None:
    with pytest.raises(DataError, match="columns must be 3 columns"):
        Schema("table", (3,), COLUMNS[:2])
    with pytest.raises(DataError, match="columns must be 1 columns"):
        Schema("signal", (2, 100), [Column("bytes")] * 2)
    with pytest.raises(DataError, match="one for each column"):
        Schema("table", (2,), [Column("bytes", "a"), Column("bytes")])


# ------------------------------------------------------------------------------------------- supports


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [(1, 2.0, "'member' must be whole numbers 0..1"), (2, 3.0, "'colour' must be whole numbers 0..2"),
     (3, -1.0, "'visits' must be whole numbers 0.. as"), (3, 1.5, "got 1.5"),
     (5, 4.0, "'grade' must be whole numbers 0..3"), (7, 70000.0, "0..65535")],
)  # fmt: skip
def test_a_value_outside_the_support_of_its_column_is_named(column: int, value: float, message: str) -> None:
    x = rows(20).x.copy()
    x[7, column] = value
    with pytest.raises(DataError, match=message):
        as_held(Split(x), "", SCHEMA)
    seen = np.ones(x.shape, bool)
    seen[7, column] = False  # a missing value may hold anything
    assert as_held(Split(x, seen), "", SCHEMA).x.dtype == np.float32


@pytest.mark.parametrize(
    ("likelihood", "message"),
    [
        ({"part": "family/normal"}, "column 'member' of the data holds binary values.*families that fit: bernoulli"),
        ({"part": "family/bernoulli"}, "column 'height' of the data holds real values.*fit: .*normal"),
        (
            {"part": "family/columns", "families": [{"part": "family/normal"}], "groups": [[0, 1]]},
            "has 2 columns, but the data are",
        ),
        (
            {"part": "family/columns", "families": [{"part": "family/full_normal"}], "groups": [[0, 1]]},
            "is joint over its event",
        ),
        (
            {"part": "family/columns", "families": [{"part": "family/normal"}], "groups": [[0, 0]]},
            "every column 0 .. D - 1 once",
        ),
    ],
)
def test_a_column_that_the_family_cannot_have_is_named(likelihood: dict[str, Any], message: str) -> None:
    with pytest.raises(ladle.SpecError, match=message):
        ladle.assemble(SCHEMA, {**narrow("vae", SCHEMA), "likelihood": likelihood})


def test_each_kind_of_column_knows_the_families_that_fit() -> None:
    from ladle.recipes.assemble import fitting

    named = {column.kind: fitting(column) for column in COLUMNS}
    assert named["count"] == ["negative_binomial"]
    assert "categorical" in named["category"]
    assert "bernoulli" in named["binary"]
    assert all(named.values())


# ---------------------------------------------------------------------------------------- the family


def test_masks_add_up_and_columns_are_independent() -> None:
    family = build(narrow("vae", SCHEMA)["likelihood"])
    assert isinstance(family, ColumnsFamily)
    raw = [torch.randn(5, *size, generator=torch.Generator().manual_seed(i)) for i, size in
           enumerate(family.raw(SCHEMA.shape))]  # fmt: skip
    d, x = family(*raw), torch.from_numpy(rows(5).x)
    joint = d.log_prob(x)
    assert joint.shape == (5, len(COLUMNS))
    for column in range(len(COLUMNS)):
        changed = x.clone()
        changed[:, column] = 0 if COLUMNS[column].kind != "real" else 100.0
        same = torch.arange(len(COLUMNS)) != column
        assert torch.equal(d.log_prob(changed)[:, same], joint[:, same])


def test_missing_values_add_nothing_to_a_row() -> None:
    assembly = ladle.assemble(SCHEMA, narrow("vae", SCHEMA), seed=1)
    batch = make_batch(rows(30), SCHEMA, np.arange(30))
    assert batch.observed is not None
    other = batch._replace(x=torch.where(batch.observed, batch.x, 1.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one = assembly.model(batch).log_px
        torch.manual_seed(0)
        two = assembly.model(other).log_px
    assert torch.equal(one, two)


# ------------------------------------------------------------------------------------------------ tasks


def test_a_table_of_all_kinds_of_columns_serves_every_task(run: Path, tmp_path: Path) -> None:
    model, data = ladle.load(run), dataset()
    some = data.test.take(np.arange(8))
    assert ladle.encode(model, some).shape == (8, 3)
    assert ladle.reconstruct(model, some).shape == (8, len(COLUMNS))
    drawn = ladle.sample(model, 50, noise=True)
    as_held(Split(drawn), "", SCHEMA)  # every value lies in the support of its column
    assert np.isfinite(ladle.score(model, some, samples=5)).all()
    assert np.isfinite(ladle.evidence(model, some, samples=5).nats)
    findings = {f.name: f for f in ladle.check(model, data).findings}
    for name in ("weights", "supports", "neighbours", "normalisation"):
        assert findings[name].ok, findings[name]
    assert ladle.report(run, data, quick=True).path.stat().st_size > 10_000
    ladle.write(drawn, tmp_path / "drawn.csv", schema=model.schema)
    with (tmp_path / "drawn.csv").open() as file:
        assert next(csv.reader(file)) == [column.name for column in COLUMNS]


def test_it_learns(run: Path) -> None:
    """The columns depend on one hidden number, so a row is described in fewer nats than its columns alone need."""
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    valid = [record["nats"] for record in log if record["kind"] == "valid"]
    assert valid[-1] < valid[0] - 5


def test_the_folder_has_the_new_format(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["format"] == FORMAT == 2
    assert [column["kind"] for column in config["schema"]["columns"]] == [column.kind for column in COLUMNS]


# ---------------------------------------------------------------------------------------------- signals

REAL = [Column("real", loc=0.0, scale=0.3)]


@pytest.mark.parametrize("size", ["xs", "s", "m"])
def test_a_long_signal_has_a_model_of_moderate_size(size: str) -> None:
    schema = Schema("signal", (1, 16_000), REAL)
    with torch.device("meta"):
        model = ladle.assemble(schema, "learned_prior", size).model
    count = sum(p.numel() for p in model.parameters())
    assert count < 10_000_000, f"{count:,}"


def test_a_linear_head_of_billions_of_weights_is_refused() -> None:
    schema = Schema("signal", (1, 16_000), [Column("words")])
    plan = ladle.recipe("learned_prior", schema, "xs")
    plan["decoder"] = {"part": "net/mlp", "width": 2048}
    with torch.device("meta"), pytest.raises(ladle.SpecError, match=r"at most 134,217,728 weights.*1 x 16000.*conv1d"):
        ladle.assemble(schema, plan)


@pytest.mark.parametrize("shape", [(1, 200), (2, 1001)])
def test_a_signal_is_a_model_like_any_other(shape: tuple[int, int], tmp_path: Path) -> None:
    noise = np.random.default_rng(1)
    t = np.arange(shape[1]) / 20
    phase = noise.uniform(0, 6, (120, shape[0], 1))
    x = (np.sin(t + phase) + 0.1 * noise.normal(size=(120, *shape))).astype(np.float32)
    schema = Schema("signal", shape, [Column("real", loc=float(x.mean()), scale=float(x.std()))])
    data = ladle.Dataset(schema, {"all": Split(x)}, members={"train": np.arange(90), "valid": np.arange(90, 105),
                                                             "test": np.arange(105, 120)})  # fmt: skip
    plan = {**ladle.recipe("vae", schema, "xs"), "training": {"batch": 30}}
    for net in ("encoder", "decoder"):
        plan[net] = {"part": f"net/conv1d_{'down' if net == 'encoder' else 'up'}", "width": 4}
    plan["latents"]["size"] = 3
    run = tmp_path / "run"
    for _ in ladle.fit(ladle.assemble(schema, plan, seed=1), data, epochs=2, seed=1, run=run):
        pass
    model = ladle.load(run)
    assert model.schema.kind == "signal"
    assert model.vae.likelihood.is_map
    assert ladle.encode(model, x[:3]).shape == (3, 3)
    assert ladle.sample(model, 2).shape == (2, *shape)
    assert np.isfinite(ladle.score(model, data.test, samples=3)).all()
    findings = {f.name: f for f in ladle.check(model, data).findings}
    assert findings["normalisation"].ok, findings["normalisation"]
    assert ladle.report(run, data, quick=True).path.exists()


@pytest.mark.parametrize("recipe", ["vdvae", "pixelvae"])
def test_recipes_for_images_refuse_signals(recipe: str) -> None:
    with pytest.raises(ladle.SpecError, match="but the data are data: signals of 1 x 64"):
        ladle.recipe(recipe, Schema("signal", (1, 64), REAL))
