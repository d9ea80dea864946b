"""Loggers receive the records of the log: the same numbers at the same steps, also after an interruption."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import ladle
from ladle.cli import main
from ladle.training.loggers import LOGGERS, LoggerEntry, scalars, settings
from ladle.training.records import Step
from toys import narrow

Curves = dict[str, list[tuple[int, float]]]


def logged(run: Path) -> Curves:
    """The numbers in the log of a run, under the names that loggers use."""
    curves: Curves = {}
    for line in (run / "log.jsonl").read_text().splitlines():
        kept = {k: math.nan if v is None else v for k, v in json.loads(line).items()}
        for name, value in scalars(Step(**kept)).items():
            curves.setdefault(name, []).append((kept["step"], value))
    return curves


def result(run: Path) -> dict[str, float]:
    numbers = json.loads((run / "config.json").read_text())["result"]
    return {f"result/{name}": numbers[name] for name in ("nats", "seconds", "clipped")}


def start(run: Path, *loggers: str, **options: Any):  # type: ignore[no-untyped-def]
    data = ladle.read("digits")
    assembly = ladle.assemble(data.schema, narrow("vae", data.schema), seed=5)
    chosen = {"recipe": "vae", "size": "xs"}
    return ladle.fit(assembly, data, epochs=16, seed=5, run=run, loggers=loggers, settings=chosen, **options)


def finish(run: Path, *loggers: str, **options: Any) -> list[Step]:
    return list(start(run, *loggers, **options))


def interrupt(run: Path, *loggers: str, after: int) -> None:
    steps = start(run, *loggers)
    next(step for step in steps if step.step >= after)
    steps.close()


def test_names_and_numbers() -> None:
    step = Step("train", 50, 1.0, 0.5, 2.0, 1.0, math.nan, 1e-3, 700.0, 3.0, 3.0, 1)
    assert scalars(step) == {
        "train/nats": 2.0, "train/bits_per_dim": 1.0, "train/rate": 1e-3, "train/items_per_second": 700.0,
    }  # fmt: skip
    assert scalars(step._replace(kind="valid", kl=4.0)) == {
        "valid/nats": 2.0, "valid/bits_per_dim": 1.0, "valid/kl": 4.0,
    }  # fmt: skip
    assert scalars(step._replace(kind="note", message="look")) == {}
    assert scalars(step._replace(kind="done"))["result/seconds"] == 3.0


def test_settings_of_a_run(digits_run: Path) -> None:
    config = json.loads((digits_run / "config.json").read_text())
    flat = settings(config)
    assert flat["fit.recipe"] == "learned_prior"
    assert flat["fit.size"] == "xs"
    assert flat["fit.seed"] == 3
    assert flat["training.batch"] == config["training"]["batch"]
    assert flat["model.latents.prior.part"] == "prior/autoregressive"
    assert flat["data.source"] == "digits"
    assert all(isinstance(v, (bool, int, float, str)) and len(str(v)) <= 250 for v in flat.values())
    assert not any(name.startswith("schema") for name in flat)


# ------------------------------------------------------------------------------------------- TensorBoard


def events(folder: Path) -> Any:
    """The event files, read by TensorBoard itself."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


def board(folder: Path) -> Curves:
    found = events(folder)
    return {name: [(e.step, e.value) for e in found.Scalars(name)] for name in found.Tags()["scalars"]}


def single(curves: Mapping[str, list[tuple[int, float]]]) -> Curves:
    """The curves in TensorBoard's single precision."""
    return {name: [(step, float(np.float32(value))) for step, value in points] for name, points in curves.items()}


def test_tensorboard_holds_the_log_number_by_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    finish(tmp_path / "run", "tensorboard")
    curves, expected = board(tmp_path / "run/tensorboard"), single(logged(tmp_path / "run"))
    assert {name: curves[name] for name in expected} == expected
    assert [step for step, _ in expected["train/nats"]] == [50, 100, 150, 176]
    assert len(expected["valid/kl"]) > 10
    last = {name: points for name, points in curves.items() if name not in expected}
    final = single({name: [(176, value)] for name, value in result(tmp_path / "run").items()})
    assert set(last) == {*final, "result/bits_per_dim"}
    assert last.items() >= final.items()

    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    content = events(tmp_path / "run/tensorboard").SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    chosen = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
    assert chosen["fit.recipe"].string_value == "vae"
    assert chosen["fit.seed"].number_value == 5


def test_tensorboard_after_an_interruption(tmp_path: Path) -> None:
    """Steps after the checkpoint are logged again, but shown only once."""
    pytest.importorskip("tensorboard")
    interrupt(tmp_path / "run", "tensorboard", after=70)
    steps = start(tmp_path / "run", "tensorboard", resume=True)
    kept = tmp_path / "kept"
    for step in steps:  # the process dies at step 160, long after its checkpoint of step 70
        if step.step == 160:
            subprocess.run(["cp", "-r", tmp_path / "run", kept], check=True)
            steps.gi_frame.f_locals["records"].gi_frame.f_locals["run"].loggers.close()
            subprocess.run(["cp", "-r", tmp_path / "run/tensorboard", kept], check=True)
            break
    assert max(step for step, _ in board(kept / "tensorboard")["train/nats"]) == 150
    finish(kept, "tensorboard", resume=True)
    curves, expected = board(kept / "tensorboard"), single(logged(kept))
    assert {name: curves[name] for name in expected} == expected
    assert len(list((kept / "tensorboard").iterdir())) == 3, "three processes wrote to it"


# ------------------------------------------------------------------------------- stand-ins for W&B and MLflow


class FakeWandB(ModuleType):
    """Stores what W&B would receive. Like W&B, it ignores records of earlier steps."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.Settings = SimpleNamespace
        self.runs: dict[str, SimpleNamespace] = {}
        self.inits: list[dict[str, Any]] = []

    def init(self, **arguments: Any) -> Any:
        self.inits.append(arguments)
        run = self.runs.setdefault(
            arguments["id"] or f"id{len(self.runs)}", SimpleNamespace(rows=[], summary={}, exit_codes=[], last=-1)
        )
        run.id = next(name for name, known in self.runs.items() if known is run)
        run.finish = lambda exit_code: run.exit_codes.append(exit_code)

        def log(row: Mapping[str, float], step: int) -> None:
            if step >= run.last:
                run.last = step
                run.rows.append((step, dict(row)))

        run.log = log
        return run

    def curves(self, run: SimpleNamespace) -> Curves:
        found: Curves = {}
        for step, row in run.rows:
            for name in row:
                found.setdefault(name, []).append((step, row[name]))
        return found


class FakeMLflow(ModuleType):
    """Stores what MLflow would receive. Like MLflow, it keeps repeated records."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.entities = SimpleNamespace(
            Metric=lambda key, value, timestamp, step: SimpleNamespace(key=key, value=value, step=step),
            Param=lambda key, value: (key, value),
        )
        self.experiments: dict[str, Any] = {}
        self.runs: dict[str, SimpleNamespace] = {}
        self.MlflowClient = lambda: self

    def get_experiment_by_name(self, name: str) -> Any:
        return self.experiments.get(name)

    def create_experiment(self, name: str) -> str:
        self.experiments[name] = SimpleNamespace(experiment_id=name)
        return name

    def create_run(self, experiment: str, run_name: str) -> Any:
        name = f"{experiment}-{len(self.runs)}"
        self.runs[name] = SimpleNamespace(params={}, metrics=[], tags={}, status=[], name=run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def update_run(self, run: str, status: str) -> None:
        self.runs[run].status.append(status)

    set_terminated = update_run

    def set_tag(self, run: str, key: str, value: str) -> None:
        self.runs[run].tags[key] = value

    def log_batch(self, run: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(params) <= 100
        self.runs[run].metrics.extend(metrics)
        self.runs[run].params.update(params)

    def get_metric_history(self, run: str, name: str) -> list[Any]:
        return [metric for metric in self.runs[run].metrics if metric.key == name]

    def curves(self, run: SimpleNamespace) -> Curves:
        found: Curves = {}
        for metric in run.metrics:
            found.setdefault(metric.key, []).append((metric.step, metric.value))
        return found


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeWandB, FakeMLflow]:
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    wandb, mlflow = FakeWandB(), FakeMLflow()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    return wandb, mlflow


def test_wandb_and_mlflow_receive_the_log_and_resume_the_same_run(
    fakes: tuple[FakeWandB, FakeMLflow], tmp_path: Path
) -> None:
    wandb, mlflow = fakes
    interrupt(tmp_path / "run", "wandb", "mlflow", after=70)
    assert [run.exit_codes for run in wandb.runs.values()] == [[1]]
    assert [run.status for run in mlflow.runs.values()] == [["RUNNING", "KILLED"]]
    # Records of steps after the checkpoint, which are logged again when the run is resumed.
    wandb.runs["id0"].log({"train/nats": 1.0}, step=100)
    mlflow.runs["ladle-0"].metrics.append(mlflow.entities.Metric("train/nats", 1.0, 0, 100))
    finish(tmp_path / "run", "wandb", "mlflow", resume=True)

    (seen,), (kept,) = wandb.runs.values(), mlflow.runs.values()
    expected = logged(tmp_path / "run")
    assert seen.exit_codes == [1, 0]
    assert kept.status == ["RUNNING", "KILLED", "RUNNING", "FINISHED"]
    curves = mlflow.curves(kept)
    assert [s for s, _ in curves["train/nats"]] == [s for s, _ in expected["train/nats"]], "no step twice"
    for name in ("valid/nats", "valid/bits_per_dim", "valid/kl"):
        assert curves[name] == expected[name]
    at = {name: dict(points) for name, points in wandb.curves(seen).items()}
    assert all(at["valid/kl"][step] == value for step, value in expected["valid/kl"] if step > 100)
    assert all(at["train/rate"][step] == value for step, value in expected["train/rate"] if step > 100)
    assert seen.summary.items() >= result(tmp_path / "run").items()
    assert {k: v[0][1] for k, v in curves.items() if k.startswith("result/")} == seen.summary

    assert [call["id"] for call in wandb.inits] == [None, "id0"]
    assert {call["project"] for call in wandb.inits} == {"ladle"}
    assert wandb.inits[0]["config"]["fit"]["recipe"] == "vae"
    assert wandb.inits[0]["config"]["model"]["part"] == "model/vae"
    assert kept.params["fit.recipe"] == "vae"
    assert kept.params["fit.seed"] == "5"
    assert kept.params["model.part"] == "model/vae"


# --------------------------------------------------------------------------------- the real W&B and MLflow


def test_the_real_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/runs.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
    interrupt(Path("run"), "mlflow", after=70)
    finish(Path("run"), "mlflow", resume=True)
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["fit.recipe"] == "vae"
    for name, points in logged(Path("run")).items():
        assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] == points
    assert run.data.metrics.items() >= result(Path("run")).items()


def wandb_records(content: bytes) -> Iterator[bytes]:
    """The records of a .wandb file: seven bytes, then blocks of 32 KiB in the form of a LevelDB log."""
    at, record = 7, b""
    while at < len(content):
        if (rest := 32768 - at % 32768) < 7:
            at += rest
            continue
        length, kind = struct.unpack("<4xHB", content[at : at + 7])
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a full record, or the last part of one
            yield record
            record = b""


def test_the_real_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    finish(tmp_path / "run", "wandb")
    (file,) = (tmp_path / "run/wandb").glob("offline-run-*/*.wandb")
    curves: Curves = {}
    records = [proto.Record.FromString(record) for record in wandb_records(file.read_bytes())]
    for record in records:
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for name in row:
            curves.setdefault(name, []).append((record.history.step.num, row[name]))
    for name, points in logged(tmp_path / "run").items():
        assert curves[name] == points
    chosen = {item.key: item.value_json for record in records for item in record.run.config.update}
    assert json.loads(chosen["fit"])["recipe"] == "vae"
    (known,) = {record.run.run_id for record in records if record.run.run_id}
    assert json.loads((tmp_path / "run/loggers.json").read_text()) == {"wandb": known}


# --------------------------------------------------------------------------------------------- when they fail


class Recorder:
    """A logger that stores its records, and fails on request."""

    def __init__(self, run: Path, config: Mapping[str, Any], start: int, fails: str = "", after: int = 0) -> None:
        self.fails, self.after, self.records, self.closed = fails, after, [], 0
        if fails == "open":
            raise ConnectionError("no network\nwith a second line")

    def __call__(self, record: Step) -> None:
        if self.fails == "call" and record.step > self.after:
            raise ConnectionError("no network\nwith a second line")
        self.records.append(record)

    def close(self) -> None:
        self.closed += 1
        if self.fails == "close":
            raise ConnectionError("no network\nwith a second line")


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Recorder]]:
    """Registers a logger under a name, and returns a list of the loggers that are opened."""

    def register(name: str, **options: Any) -> list[Recorder]:
        opened: list[Recorder] = []

        def make(*arguments: Any) -> Recorder:
            opened.append(Recorder(*arguments, **options))
            return opened[-1]

        monkeypatch.setitem(LOGGERS, name, LoggerEntry(make, "json"))
        return opened

    return register


@pytest.mark.parametrize("when", ["open", "call", "close"])
def test_a_failure_is_reported_once_and_training_continues(
    recorder: Callable[..., list[Recorder]], tmp_path: Path, when: str
) -> None:
    bad, good = recorder("bad", fails=when, after=100), recorder("good")
    steps = finish(tmp_path / "run", "bad", "good")
    notes = [step for step in steps if step.kind == "note"]
    assert [n.message for n in notes] == ["logger bad failed and is no longer used: no network"]
    at = {"open": 1, "call": 101, "close": 176}[when]
    assert at <= notes[0].step <= at + 17, "soon after the failure"
    assert steps[-1].kind == "done"
    assert (tmp_path / "run/model.safetensors").exists()
    assert logged(tmp_path / "run").keys() >= {"train/nats", "valid/nats"}
    assert '"note"' in (tmp_path / "run/log.jsonl").read_text()
    (other,) = good
    assert [r.step for r in other.records if r.kind == "train"] == [50, 100, 150, 176]
    assert other.records[-1].kind == "done"
    assert other.closed == 1
    if when == "call":
        assert [r.step for r in bad[0].records if r.kind == "train"] == [50, 100]


def test_notes_are_logged(
    recorder: Callable[..., list[Recorder]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ladle.training.guard import Guard

    factors = itertools.chain([1.0] * 4, [0.0], itertools.repeat(1.0))
    monkeypatch.setattr(Guard, "factor", lambda *_: next(factors))
    good = recorder("good")
    interrupt(tmp_path / "run", "good", after=20)
    (note,) = [record for record in good[0].records if record.kind == "note"]
    assert note.step == 5
    assert "rolled back" in note.message
    assert good[0].closed == 1, "closed when the run is interrupted"


# ----------------------------------------------------------------------------------------- the command line


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    assert left.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_unusable_loggers_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fit = ("fit", "digits", "--out", "run", "--size", "xs", "--epochs", 1, "--logger")
    assert refused(capsys, *fit, "abacus") == "ladle: unknown logger 'abacus'; known: tensorboard, wandb, mlflow"
    for name, module in (("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb"), ("mlflow", "mlflow")):
        monkeypatch.setitem(sys.modules, module, None)
        assert f"pip install 'ladle[{name}]'" in refused(capsys, *fit, name)
    assert not list(tmp_path.iterdir())


def test_loggers_need_a_folder(recorder: Callable[..., list[Recorder]]) -> None:
    recorder("good")
    data = ladle.read("digits")
    assembly = ladle.assemble(data.schema, narrow("vae", data.schema))
    with pytest.raises(ladle.LoggerError, match="run="):
        ladle.fit(assembly, data, epochs=1, loggers=["good"])


def test_ctrl_c_closes_the_loggers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    run = tmp_path / "run"
    fit = ["fit", "digits", "--out", str(run), "--size", "xs", "--epochs", "3000", "--logger", "tensorboard"]
    process = subprocess.Popen([sys.executable, "-m", "ladle", *fit], stderr=subprocess.PIPE, env=os.environ)
    deadline = time.monotonic() + 60
    while not ((run / "log.jsonl").exists() and '"train"' in (run / "log.jsonl").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    curves, expected = board(run / "tensorboard"), single(logged(run))
    assert {name: curves[name] for name in expected} == expected, "no record is lost"
