"""Loggers for experiment trackers. They receive the records of ``log.jsonl``: the same numbers at the same steps.

A logger is opened with the folder of a run, its ``config.json`` and the step at which training starts or resumes. It
is called with every record that is written to the log, and closed at the end. To add one, add its class to
:data:`LOGGERS`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ladle.machine import require
from ladle.store.files import read_json, write_json
from ladle.training.records import Step

CURVES = {
    "train": ("nats", "bits_per_dim", "kl", "rate", "items_per_second"),
    "valid": ("nats", "bits_per_dim", "kl"),
    "done": ("nats", "bits_per_dim", "seconds", "clipped"),
}
MAX_LENGTH = 250  # characters of a setting


class LoggerError(ValueError):
    """A logger is unknown, or the run has no folder for its files."""


def scalars(record: Step) -> dict[str, float]:
    """The finite numbers of a record under the names that the trackers show: ``train/nats``, ..., ``result/nats``."""
    values = {**record._asdict(), "items_per_second": record.items_per_s}
    section = "result" if record.kind == "done" else record.kind
    named = {f"{section}/{name}": float(values[name]) for name in CURVES.get(record.kind, ())}
    return {name: value for name, value in named.items() if math.isfinite(value)}


def settings(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The settings of a run: its ``config.json`` without the schema, under flat names such as ``fit.recipe``.

    >>> settings({"fit": {"seed": 3, "minutes": None}, "model": {"nets": [{"width": 8}], "event": [2, 3]}})
    {'fit.seed': 3, 'model.nets.0.width': 8, 'model.event': '[2, 3]'}
    """
    flat: dict[str, bool | int | float | str] = {}
    queue = [(name, config[name]) for name in ("fit", "data", "training", "objective", "model") if name in config]
    while queue:
        name, value = queue.pop(0)
        nested = isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value)
        if isinstance(value, Mapping) or nested:
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            queue[:0] = [(f"{name}.{key}", item) for key, item in items]
        elif value is not None:
            flat[name] = value if isinstance(value, (bool, int, float)) else _text(value)[:MAX_LENGTH]
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# ------------------------------------------------------------------------------------------- the loggers


class Logger(Protocol):
    """The interface of a logger. Both methods may raise any exception: see :class:`Loggers`."""

    def __call__(self, record: Step) -> None:
        """Log a record of the run; the last record has the kind ``done``."""

    def close(self) -> None:
        """Write everything that is buffered. The run has ended, or was interrupted and may be resumed."""


class TensorBoard:
    """Writes TensorBoard event files to ``RUN/tensorboard``, in single precision."""

    def __init__(self, run: Path, config: Mapping[str, Any], start: int) -> None:
        writer = require("torch.utils.tensorboard", "tensorboard").SummaryWriter
        summary = require("torch.utils.tensorboard.summary", "tensorboard")
        # A resumed run repeats the steps after its checkpoint; `purge_step` hides the earlier records of them.
        self.writer = writer(str(run / "tensorboard"), purge_step=start + 1 if start else None)
        for event in summary.hparams(settings(config), dict.fromkeys(("result/nats", "result/bits_per_dim")))[:2]:
            self.writer.file_writer.add_summary(event)

    def __call__(self, record: Step) -> None:
        """See :class:`Logger`."""
        for name, value in scalars(record).items():
            self.writer.add_scalar(name, value, record.step)
        if record.message:
            self.writer.add_text("notes", record.message, record.step)

    def close(self) -> None:
        """See :class:`Logger`."""
        self.writer.close()


class WandB:
    """Logs to Weights & Biases, configured by ``WANDB_PROJECT``, ``WANDB_ENTITY`` and ``WANDB_MODE``.

    The id of the W&B run is stored in the model folder, so a resumed run continues the same W&B run. W&B itself ignores
    records of steps that it has received before. Offline it cannot detect them, and a resumed run is written to a
    second file with the same id.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], start: int) -> None:
        wandb = require("wandb", "wandb")
        stored_id = _read_ids(run).get("wandb")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ladle"), name=run.name, dir=str(run), id=stored_id, resume="allow",
            config={name: value for name, value in config.items() if name != "schema"},
            settings=wandb.Settings(console="off"),  # do not capture stdout and stderr
        )  # fmt: skip
        _store_id(run, "wandb", self.run.id)
        self.status = 1

    def __call__(self, record: Step) -> None:
        """See :class:`Logger`."""
        if record.kind == "done":
            self.status = 0
            self.run.summary.update(scalars(record))
        else:
            note = {"note": record.message} if record.message else {}
            self.run.log({**scalars(record), **note}, step=record.step)

    def close(self) -> None:
        """See :class:`Logger`."""
        self.run.finish(exit_code=self.status)


class MLflow:
    """Logs to MLflow, configured by ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME``.

    The id of the MLflow run is stored in the model folder, so a resumed run continues the same MLflow run. MLflow keeps
    every record that it receives, so a resumed run skips the steps that are logged already.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], start: int) -> None:
        self.mlflow = require("mlflow", "mlflow")
        self.client = self.mlflow.MlflowClient()
        stored_id = _read_ids(run).get("mlflow")
        self.id = stored_id or self._create(run, config)
        self.status = "KILLED"
        self.client.update_run(self.id, "RUNNING")
        self.last_steps = {kind: self._last_step(f"{kind}/nats") if stored_id else -1 for kind in ("train", "valid")}

    def _create(self, run: Path, config: Mapping[str, Any]) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ladle")
        existing = self.client.get_experiment_by_name(name)
        experiment = existing.experiment_id if existing else self.client.create_experiment(name)
        run_id = self.client.create_run(experiment, run_name=run.name).info.run_id
        _store_id(run, "mlflow", run_id)
        parameters = [self.mlflow.entities.Param(name, str(value)) for name, value in settings(config).items()]
        for first in range(0, len(parameters), 100):  # MLflow's limit per request
            self.client.log_batch(run_id, params=parameters[first : first + 100])
        return run_id

    def _last_step(self, name: str) -> int:
        return max((point.step for point in self.client.get_metric_history(self.id, name)), default=-1)

    def __call__(self, record: Step) -> None:
        """See :class:`Logger`."""
        if record.step <= self.last_steps.get(record.kind, -1):
            return
        if record.kind == "done":
            self.status = "FINISHED"
        if record.message:
            self.client.set_tag(self.id, f"note.{record.step}", record.message)
        metric = self.mlflow.entities.Metric
        now = int(time.time() * 1000)
        metrics = [metric(name, value, now, record.step) for name, value in scalars(record).items()]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        """See :class:`Logger`."""
        self.client.set_terminated(self.id, self.status)


class LoggerEntry(NamedTuple):
    """The class of a logger, and the module that it needs."""

    open: Callable[[Path, Mapping[str, Any], int], Logger]
    module: str


LOGGERS = {
    "tensorboard": LoggerEntry(TensorBoard, "torch.utils.tensorboard"),
    "wandb": LoggerEntry(WandB, "wandb"),
    "mlflow": LoggerEntry(MLflow, "mlflow"),
}


def _read_ids(run: Path) -> dict[str, Any]:
    """The ids of this run in the trackers, by logger name."""
    return read_json(run / "loggers.json") if (run / "loggers.json").exists() else {}


def _store_id(run: Path, name: str, value: str) -> None:
    write_json(run / "loggers.json", {**_read_ids(run), name: value})


# ------------------------------------------------------------------------------------- several, and failures


def check_loggers(names: Iterable[str], run: str | Path | None) -> list[str]:
    """Check that the named loggers can be opened, before anything is written; return the names without duplicates.

    Raises:
        LoggerError: if a logger is unknown, or the run has no folder.
        MissingPackage: if the package of a logger is not installed.
    """
    unique = list(dict.fromkeys(names))
    for name in unique:
        if name not in LOGGERS:
            raise LoggerError(f"unknown logger '{name}'; known: {', '.join(LOGGERS)}")
        require(LOGGERS[name].module, name)
    if unique and run is None:
        raise LoggerError("loggers need a folder for the run: give run=...")
    return unique


class Loggers:
    """Several loggers as one. A logger that raises an exception is removed, so it never ends the training.

    Args:
        names: keys of :data:`LOGGERS`.
        run: the model folder.
        config: its ``config.json``.
        start: the step at which training starts or resumes.

    Attributes:
        failed: a message for each logger that failed; the caller removes the messages that it has reported.
    """

    def __init__(self, names: Iterable[str], run: Path, config: Mapping[str, Any], start: int) -> None:
        self.failed: list[str] = []
        self.working: dict[str, Logger] = {}
        for name in names:
            with self._removed_on_failure(name):
                self.working[name] = LOGGERS[name].open(run, config, start)

    def __call__(self, record: Step) -> None:
        """Pass a record to every logger."""
        for name, logger in list(self.working.items()):
            with self._removed_on_failure(name):
                logger(record)

    def close(self) -> None:
        """Close every logger; later records are ignored."""
        for name, logger in list(self.working.items()):
            with self._removed_on_failure(name):
                logger.close()
        self.working.clear()

    @contextmanager
    def _removed_on_failure(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # third-party code may raise anything
            self.working.pop(name, None)
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.failed.append(f"logger {name} failed and is no longer used: {lines[0][:300]}")
