"""End-to-end tests of the command line: every command, its output, and the input that it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow.csv
import pytest
from PIL import Image

import ladle
from commands import TINY, Ladle, command, nothing_left, refused
from toys import toy_data


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a table with missing values, trained on a .csv by the command line."""
    folder = tmp_path_factory.mktemp("table")
    data = toy_data()["table"].all
    lines = ["a,b,c,d"]
    for row, seen in zip(data.x, data.observed, strict=True):
        lines.append(",".join(f"{v:.6g}" if s else "" for v, s in zip(row, seen, strict=True)))
    (folder / "rows.csv").write_text("\n".join(lines) + "\n")
    assert command("fit", folder / "rows.csv", "--out", folder / "run", *TINY) == 0
    return folder / "run"


# ------------------------------------------------------------------------------------------------- the commands


def test_fit_from_end_to_end(call: Ladle, tmp_path: Path) -> None:
    left = call("fit", "digits", "--out", "deep/run", *TINY, "--recipe", "vae", "--json")
    result = left.json()
    assert result["recipe"] == "vae"
    assert result["items"] == {"train": 1437, "valid": 180, "test": 180}
    assert result["steps"] > 1
    assert np.isfinite(result["nats"])
    assert len(left.err.splitlines()) < 15, "progress must be quiet where there is no terminal"
    assert "\r" not in left.err
    assert "\x1b" not in left.err
    assert "arning" not in left.err
    run = tmp_path / "deep/run"
    names = {"config.json", "model.safetensors", "log.jsonl", "README.md"}
    drawn = {"training.png", "reconstructions.png", "samples.png", "report.html"}
    assert {p.name for p in run.iterdir()} == names | drawn
    assert json.loads((run / "config.json").read_text())["data"]["named"] is True
    nothing_left(tmp_path)

    refused(call("fit", "digits", "--out", run, *TINY, "--recipe", "vae"), "--resume")
    (run / "training.png").unlink()
    (run / "report.html").unlink()  # it is written last
    before = (run / "model.safetensors").stat().st_mtime_ns
    again = call("fit", "digits", "--out", run, *TINY, "--recipe", "vae", "--resume", "--json")
    assert again.json()["nats"] == result["nats"]
    assert "finished" in again.err
    assert (run / "model.safetensors").stat().st_mtime_ns == before
    assert (run / "training.png").exists(), "images that an interruption prevented are drawn"
    assert (run / "report.html").exists()
    refused(call("fit", "digits", "--out", run, *TINY, "--recipe", "ae", "--resume"), "other settings")
    assert call("fit", "digits", "--out", run, *TINY, "--recipe", "ae", "--force").status == 0
    assert not (run / "samples.png").exists()


def test_a_dry_run_does_nothing(call: Ladle, tmp_path: Path) -> None:
    result = call("fit", "digits", "--out", "run", "--dry-run", "--json").json()
    assert result["parameters"] > 0
    assert list(tmp_path.iterdir()) == []


def test_images(call: Ladle, digits_run: Path, tmp_path: Path) -> None:
    n = 180  # the test split is the default for named data sets
    assert call("encode", digits_run, "digits", "z.npy", "--json").json()["latents"] == 3
    assert np.load("z.npy").shape == (n, 3)
    for name in ("z.csv", "z.npz", "z.parquet"):
        assert call("encode", digits_run, "digits", name).status == 0
        assert call("decode", digits_run, name, f"{name}.x.npy").status == 0
        assert call("decode", digits_run, "z.npy", "x.npy", "--force").status == 0
        np.testing.assert_allclose(np.load(f"{name}.x.npy"), np.load("x.npy"), rtol=1e-6)
    assert call("encode", digits_run, "digits", "all.npy", "--split", "all").status == 0
    assert np.load("all.npy").shape == (1797, 3)

    for name, size in (("x.png", (78, 78)), ("s.png", (78, 78))):
        verb = ("sample", digits_run, name, "-n", 64) if name == "s.png" else ("sample", digits_run, name)
        assert call(*verb).status == 0
        assert Image.open(name).size == size
    assert call("sample", digits_run, "folder", "-n", 3, "--noise", "--temperature", 0.5).status == 0
    assert sorted(os.listdir("folder")) == ["000000.png", "000001.png", "000002.png"]
    call("sample", digits_run, "a.npy", "--seed", 7)
    call("sample", digits_run, "b.npy", "--seed", 7)
    assert np.array_equal(np.load("a.npy"), np.load("b.npy"))

    assert call("reconstruct", digits_run, "folder", "r.npy").status == 0
    assert np.load("r.npy").shape == (3, 1, 8, 8)
    assert call("reconstruct", digits_run, "folder", "d.npy", "--draws", 4, "--json").json()["items"] == 3
    assert np.load("d.npy").shape == (3, 4, 1, 8, 8)
    call("reconstruct", digits_run, "folder", "d.png", "--draws", 4)
    assert Image.open("d.png").size == (38, 28)  # a row for each item

    one, two = "folder/000000.png", "folder/000001.png"
    assert call("interpolate", digits_run, one, two, "line.png", "--steps", 5).status == 0
    assert Image.open("line.png").size == (48, 8)
    np.save("one.npy", np.zeros((1, 8, 8), np.uint8))
    assert call("interpolate", digits_run, one, "one.npy", "line.npy", "--json").json()["steps"] == 8
    assert np.load("line.npy").shape == (1, 8, 1, 8, 8)
    call("interpolate", digits_run, one, two, "line")
    assert len(os.listdir("line")) == 8

    assert np.isfinite(call("score", digits_run, "folder", "s.csv", "--samples", 2, "--json").json()["mean_nats"])
    assert pyarrow.csv.read_csv("s.csv").column_names == ["nats"]
    result = call("evidence", digits_run, "--samples", 2, "--json").json()
    assert result["kind"] == "bound"
    assert result["items"] == result["of"] == n
    assert [k for k, _ in result["curve"]] == [1, 2]
    wide = call("evidence", digits_run, "--samples", 2, "--proposal", "defensive", "--minutes", 60, "--json").json()
    assert wide["items"] == n
    assert wide["nats"] != result["nats"]
    assert call("evidence", digits_run, "digits", "--samples", 2, "--json").json() == result
    assert "nats" in call("evidence", digits_run, "folder", "--samples", 2).out
    few = ("--samples", 2, "--temperatures", 3, "--items", 4, "--json")
    annealed = call("evidence", digits_run, "digits", "--method", "ais", *few).json()
    assert (annealed["method"], annealed["kind"], annealed["items"], annealed["of"]) == ("ais", "bound", 4, n)
    both = call("evidence", digits_run, "--sandwich", *few).json()
    assert (both["items"], both["samples"], both["temperatures"], len(both["widths"])) == (4, 2, 3, 4)
    nothing_left(tmp_path)


def test_tables(call: Ladle, table_run: Path, tmp_path: Path) -> None:
    rows = table_run.parent / "rows.csv"
    for name in ("r.csv", "r.parquet"):
        assert call("reconstruct", table_run, rows, name, "--json").json()["items"] == 300
    assert pyarrow.csv.read_csv("r.csv").column_names == ["a", "b", "c", "d"]
    call("reconstruct", table_run, rows, "d.csv", "--draws", 2)
    assert pyarrow.csv.read_csv("d.csv").num_rows == 600
    call("interpolate", table_run, rows, rows, "line.csv", "--steps", 3)
    assert pyarrow.csv.read_csv("line.csv").num_rows == 900
    assert call("encode", table_run, "d.csv", "z.csv", "--json").json()["items"] == 600
    call("sample", table_run, "s.csv", "-n", 5)
    assert pyarrow.csv.read_csv("s.csv").column_names == ["a", "b", "c", "d"]
    refused(call("sample", table_run, "s.png"), "images must be")
    refused(call("evidence", table_run), "DATA must be given: 'rows.csv'")
    holes = np.full((2, 4), np.nan, np.float32)
    holes[:, 0] = 1e4
    np.save("holes.npy", holes)  # NaN is a missing value in the schema of this model
    assert call("score", table_run, "holes.npy", "s.npy", "--samples", 2).status == 0


def test_parts_and_version_and_help(call: Ladle) -> None:
    result = call("parts", "--json").json()
    assert {"recipe", "family", "prior", "net", "objective", "format"} <= set(result)
    assert "learned_prior" in call("parts").out
    assert call("--version").out == f"ladle {ladle.__version__}\n"
    for verb in ((), ("--help",), ("fit", "-h")):
        left = call(*verb)
        assert left.status == 0
        assert left.out.startswith("Usage: ladle")
    for verb in call("--help").out.split("Commands:\n")[1].splitlines():
        assert "..." not in verb, "the first line of a docstring is cut"


# ------------------------------------------------------------------------------------------------ invalid input

REFUSED = {
    "no such data": ("fit nowhere.npy --out r", "no such file or folder"),
    "an empty folder": ("fit empty --out r", "an empty folder"),
    "a folder of garbage": ("fit garbage --out r", "1 unreadable: a.png"),
    "garbage, strictly": ("fit half --out r --strict", "b.png"),
    "an unknown format": ("fit a.xyz --out r", "must end in one of"),
    "a model as data": ("encode {run} {run} o.npy", "must hold data"),
    "an unknown recipe": ("fit digits --out r --recipe best", "unknown recipe 'best'; known: ae"),
    "an unknown size": ("fit digits --out r --size xxl", "unknown size 'xxl'; known: xs"),
    "NaN": ("fit nan.npy --out r", "--missing nan"),
    "an unknown --missing": ("fit nan.npy --out r --missing 0", "--missing must be nan"),
    "an unknown --binarize": ("fit digits --out r --binarize often", "--binarize must be one of"),
    "two budgets": ("fit digits --out r --minutes 1 --epochs 1", "not both"),
    "no time": ("fit digits --out r --minutes 0", "above 0"),
    "endless time": ("fit digits --out r --minutes inf", "above 0"),
    "NaN epochs": ("fit digits --out r --epochs nan", "above 0"),
    "an unknown device": ("fit digits --out r --device tpu", "device must be auto, cpu or cuda"),
    "sigma_vae of bits": ("fit digits --out r --binarize threshold --recipe sigma_vae", "recipes that fit"),
    "too few items": ("fit two.npy --out r", "at least 3 items"),
    "out is a file": ("fit digits --out a.xyz", "must be a folder"),
    "out is below a file": ("fit digits --out a.xyz/r --epochs 1", "a.xyz"),
    "out holds other things": ("fit digits --out half", "must be empty or contain a run, got other files"),
    "no out": ("fit digits", "--out"),
    "an unknown verb": ("frob", "frob"),
    "an unknown option": ("parts --frob", "--frob"),
    "no number": ("sample {run} o.npy -n many", "-n"),
    "no items": ("sample {run} o.npy -n 0", "at least 1"),
    "no temperature": ("sample {run} o.npy --temperature -1", "above 0"),
    "no run": ("sample nowhere o.npy", "no model folder 'nowhere'"),
    "not a model folder": ("sample empty o.npy", "no config.json"),
    "no folder to write into": ("sample {run} nowhere/o.npy", "must exist"),
    "an unknown output": ("sample {run} o.xyz", "must end in .csv"),
    "latents as a picture": ("encode {run} digits z.png", "images must be"),
    "images as a table": ("decode {run} z.npy x.csv", "a table must be"),
    "an existing output": ("sample {run} a.xyz", "--force"),
    "an existing output, before anything else": ("encode nowhere digits z.npy", "--force"),
    "a folder that is not replaced": ("sample {run} garbage --force", "not replaced"),
    "another shape": ("encode {run} nine.npy o.npy", "as the model's"),
    "other columns": ("encode {run} nan.npy o.npy", "NaN"),
    "an unknown split": ("encode {run} digits o.npy --split nonsense", "unknown split 'nonsense'; known"),
    "latents of another size": ("decode {run} nine-z.npy o.npy", "(N, 3)"),
    "latents of NaN": ("decode {run} nan.npy o.npy", "NaN"),
    "missing latents": ("decode {run} holes.csv o.npy", "missing"),
    "a name for latents": ("decode {run} digits o.npy", "no such file or folder"),
    "no steps": ("interpolate {run} digits digits o.npy --steps 1", "at least 2"),
    "ends of two sizes": ("interpolate {run} two-images.npy nine-images.npy o.npy", "same number"),
    "negative draws": ("reconstruct {run} digits o.npy --draws -1", "at least 0"),
    "no samples": ("score {run} digits o.npy --samples 0", "at least 1"),
    "an unknown method": ("evidence {run} --method exactly", "known: iwae, ais, exact"),
    "exact, of many latents": ("evidence {run} --method exact", "at most 2 real latents"),
    "no temperatures": ("evidence {run} --method ais --temperatures 0", "at least 1"),
    "no items for the evidence": ("evidence {run} --items 0", "at least 1"),
    "a sandwich of data": ("evidence {run} digits --sandwich", "leave out 'digits'"),
    "a sandwich with a time limit": ("evidence {run} --sandwich --minutes 1", "give no --method, --minutes or --split"),
    "a sandwich of no items": ("evidence {run} --sandwich --items 0", "at least 1"),
    "an unknown proposal": ("evidence {run} --proposal wide", "known: q, inflated, defensive"),
    "no samples for the evidence": ("evidence {run} --samples 0", "at least 1"),
    "no time for the evidence": ("evidence {run} --minutes 0", "must be above 0"),
}


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("things")
    rng = np.random.default_rng(0)
    for name in ("empty", "garbage", "half"):
        (folder / name).mkdir()
    (folder / "garbage" / "a.png").write_bytes(b"garbage")
    (folder / "garbage" / "notes.txt").write_text("no picture")
    (folder / "half" / "b.png").write_bytes(b"garbage")
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / "half" / f"{i}.png")
    (folder / "a.xyz").write_text("what?")
    (folder / "holes.csv").write_text("z0,z1,z2\n1.5,,0.5\n1.5,2.5,0.5\n")
    arrays = {
        "nan": np.array([[0.5, np.nan, 1.0]] * 9, np.float32),
        "two": np.zeros((2, 3), np.float32),
        "nine": np.zeros((4, 9, 9), np.uint8),
        "z": np.zeros((4, 3), np.float32),
        "nine-z": np.zeros((4, 9), np.float32),
        "two-images": np.zeros((2, 8, 8), np.uint8),
        "nine-images": np.zeros((9, 8, 8), np.uint8),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return folder


@pytest.mark.parametrize("name", REFUSED)
def test_refused(call: Ladle, things: Path, digits_run: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(things)
    before = sorted(things.rglob("*"))
    line, message = REFUSED[name]
    refused(call(*(str(digits_run) if word == "{run}" else word for word in line.split())), message)
    assert sorted(things.rglob("*")) == before, "something was left behind"


def test_a_missing_gpu_is_refused(call: Ladle, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused(call("sample", digits_run, "o.npy", "--device", "cuda"), "torch finds none; use --device cpu")


def test_commands_that_a_plain_autoencoder_refuses(call: Ladle, tmp_path: Path) -> None:
    assert call("fit", "digits", "--out", "ae", *TINY, "--recipe", "ae").status == 0
    refused(call("sample", "ae", "o.npy"), "no prior")
    refused(call("score", "ae", "digits", "o.npy"), "no prior")
    refused(call("evidence", "ae"), "no prior")
    assert call("reconstruct", "ae", "digits", "o.npy").status == 0
    nothing_left(tmp_path)


def test_a_folder_with_the_name_of_a_named_data_set_is_read_as_a_folder(call: Ladle) -> None:
    os.mkdir("digits")
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(f"digits/{i}.png")
    assert call("fit", "./digits", "--out", "run", *TINY).status == 0
    refused(call("evidence", "run"), "DATA must be given")


def test_force_replaces_and_seeds_may_be_negative(call: Ladle, digits_run: Path) -> None:
    np.save("x.npy", np.zeros((3, 8, 8), np.uint8))
    for seed in (-1, 2**63):
        assert call("sample", digits_run, "o.npy", "--seed", seed, "--force").status == 0
        assert call("fit", "digits", "--out", f"run{seed}", *TINY, "--seed", seed).status == 0
        assert call("score", digits_run, "x.npy", f"s{seed}.npy", "--seed", seed, "--samples", 1).status == 0
    refused(call("sample", digits_run, "o.npy"), "--force")


def test_brackets_in_paths_are_not_interpreted_as_markup(call: Ladle) -> None:
    np.save("[red]x.npy", np.random.default_rng(0).normal(size=(30, 3)))
    left = call("fit", "[red]x.npy", "--out", "[bold]", *TINY)
    assert left.status == 0
    assert "[red]x.npy" in left.err
    assert "[bold]" in left.err


def test_the_laplace_estimator_gives_evidence_an_interval(call: Ladle, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(90, 3)).astype(np.float32))
    fit = ("fit", "x.npy", "--recipe", "linear_vae", "--size", "xs", "--epochs", "3")
    left = call(*fit, "--out", "run", "--estimator", "laplace", "--json")
    assert left.json()["estimator"] == "laplace"
    assert (tmp_path / "run/laplace.safetensors").exists()
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["objective"]["part"] == "objective/map"
    assert config["objective"]["items"] == 72
    assert config["result"]["laplace"]["curvature"] == "exact"
    result = call("evidence", "run", "x.npy", "--samples", "5", "--json").json()
    assert result["laplace"]["low"] <= result["laplace"]["high"]
    assert "Laplace posterior" in call("evidence", "run", "x.npy", "--samples", "5").out

    (tmp_path / "run/laplace.safetensors").unlink()  # an interruption between training and the posterior
    assert call(*fit, "--out", "run", "--estimator", "laplace", "--resume").status == 0
    assert (tmp_path / "run/laplace.safetensors").exists()
    config["result"]["laplace"]["directions"] = 10**9
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    refused(call("evidence", "run", "x.npy", "--samples", "5"), "directions")

    refused(call(*fit, "--out", "other", "--estimator", "mcmc"), "known: vi, ml, map, em, laplace")
    refused(call("fit", "x.npy", "--recipe", "ae", "--out", "other", "--estimator", "em"), "plain autoencoder")
    refused(
        call("fit", "digits", "--recipe", "vae", "--out", "other", "--estimator", "laplace"),
        "needs fewer than 4,096 weights",
    )
    assert not (tmp_path / "other").exists()
