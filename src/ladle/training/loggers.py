"""Loggers that people use, fed with the records of ``log.jsonl``: the same numbers at the same steps.

A logger is opened with the folder of a run, its ``config.json`` and the step that training goes on from; it is
called with every record that the log keeps, and closed at the end. To add one, put its class into :data:`LOGGERS`.
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

from ladle.machine import need
from ladle.store.files import read_json, write_json
from ladle.training.records import Step

CURVES = {
    "train": ("nats", "bits_per_dim", "kl", "rate", "items_per_second"),
    "valid": ("nats", "bits_per_dim", "kl"),
    "done": ("nats", "bits_per_dim", "seconds", "clipped"),
}
LONGEST = 250  # characters of a setting


class LoggerError(ValueError):
    """A logger that is not known, or has nowhere to keep what it needs."""


def scalars(record: Step) -> dict[str, float]:
    """The finite numbers of a record by the names that loggers show: ``train/nats``, ..., ``result/nats``."""
    values = {**record._asdict(), "items_per_second": record.items_per_s}
    section = "result" if record.kind == "done" else record.kind
    named = {f"{section}/{name}": float(values[name]) for name in CURVES.get(record.kind, ())}
    return {name: value for name, value in named.items() if math.isfinite(value)}


def settings(config: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """What a run was made with, its ``config.json`` but for the schema, under flat names such as ``fit.recipe``.

    >>> settings({"fit": {"seed": 3, "minutes": None}, "model": {"nets": [{"width": 8}], "event": [2, 3]}})
    {'fit.seed': 3, 'model.nets.0.width': 8, 'model.event': '[2, 3]'}
    """
    flat: dict[str, bool | int | float | str] = {}
    waiting = [(name, config[name]) for name in ("fit", "data", "training", "objective", "model") if name in config]
    while waiting:
        name, value = waiting.pop(0)
        nested = isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value)
        if isinstance(value, Mapping) or nested:
            items = value.items() if isinstance(value, Mapping) else enumerate(value)
            waiting[:0] = [(f"{name}.{key}", item) for key, item in items]
        elif value is not None:
            flat[name] = value if isinstance(value, (bool, int, float)) else _text(value)[:LONGEST]
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


# ------------------------------------------------------------------------------------------- the loggers


class Logger(Protocol):
    """What a logger does. Any of it may raise: see :class:`Loggers`."""

    def __call__(self, record: Step) -> None:
        """Take a record of the log, or the last one of the run, of kind ``done``."""

    def close(self) -> None:
        """Write out what is waiting; the run has ended, or was left and may be resumed."""


class TensorBoard:
    """TensorBoard's event files in ``RUN/tensorboard``; it keeps numbers in single precision."""

    def __init__(self, run: Path, config: Mapping[str, Any], start: int) -> None:
        writer = need("torch.utils.tensorboard", "tensorboard").SummaryWriter
        summary = need("torch.utils.tensorboard.summary", "tensorboard")
        # What an interrupted run wrote after its checkpoint is written again, and the earlier is not shown.
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
    """Weights & Biases. Its own variables say where to: ``WANDB_PROJECT``, ``WANDB_ENTITY``, ``WANDB_MODE``.

    The run's id is kept in the folder, so a resumed run goes on there. W&B itself ignores records of steps that it
    has seen; offline, where it cannot know, a resumed run is written beside the first part, under the same id.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], start: int) -> None:
        wandb = need("wandb", "wandb")
        known = _remembered(run).get("wandb")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "ladle"), name=run.name, dir=str(run), id=known, resume="allow",
            config={name: value for name, value in config.items() if name != "schema"},
            settings=wandb.Settings(console="off"),  # what is printed stays as it is
        )  # fmt: skip
        _remember(run, "wandb", self.run.id)
        self.status = 1

    def __call__(self, record: Step) -> None:
        """See :class:`Logger`."""
        if record.kind == "done":
            self.status = 0
            self.run.summary.update(scalars(record))
        else:
            told = {"note": record.message} if record.message else {}
            self.run.log({**scalars(record), **told}, step=record.step)

    def close(self) -> None:
        """See :class:`Logger`."""
        self.run.finish(exit_code=self.status)


class MLflow:
    """MLflow. Its own variables say where to: ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``.

    The run's id is kept in the folder, so a resumed run goes on there. MLflow forgets nothing, so a resumed run
    leaves out the records of steps that are there already.
    """

    def __init__(self, run: Path, config: Mapping[str, Any], start: int) -> None:
        self.mlflow = need("mlflow", "mlflow")
        self.client = self.mlflow.MlflowClient()
        known = _remembered(run).get("mlflow")
        self.id = known or self._new(run, config)
        self.status = "KILLED"
        self.client.update_run(self.id, "RUNNING")
        self.seen = {kind: self._last(f"{kind}/nats") if known else -1 for kind in ("train", "valid")}

    def _new(self, run: Path, config: Mapping[str, Any]) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "ladle")
        found = self.client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self.client.create_experiment(name)
        made = self.client.create_run(experiment, run_name=run.name).info.run_id
        _remember(run, "mlflow", made)
        parameters = [self.mlflow.entities.Param(name, str(value)) for name, value in settings(config).items()]
        for first in range(0, len(parameters), 100):  # the most that a request may hold
            self.client.log_batch(made, params=parameters[first : first + 100])
        return made

    def _last(self, name: str) -> int:
        return max((point.step for point in self.client.get_metric_history(self.id, name)), default=-1)

    def __call__(self, record: Step) -> None:
        """See :class:`Logger`."""
        if record.step <= self.seen.get(record.kind, -1):
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


class Known(NamedTuple):
    """A logger and the module that it needs."""

    open: Callable[[Path, Mapping[str, Any], int], Logger]
    module: str


LOGGERS = {
    "tensorboard": Known(TensorBoard, "torch.utils.tensorboard"),
    "wandb": Known(WandB, "wandb"),
    "mlflow": Known(MLflow, "mlflow"),
}


def _remembered(run: Path) -> dict[str, Any]:
    """The ids under which loggers keep this run."""
    return read_json(run / "loggers.json") if (run / "loggers.json").exists() else {}


def _remember(run: Path, name: str, value: str) -> None:
    write_json(run / "loggers.json", {**_remembered(run), name: value})


# ------------------------------------------------------------------------------------- several, and failures


def check(names: Iterable[str], run: str | Path | None) -> list[str]:
    """The names, each once. What could not be opened is refused, before anything is written.

    Raises:
        LoggerError: for a logger that is not known, or without a folder of the run.
        MissingPackage: for one whose package is not installed.
    """
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        if name not in LOGGERS:
            raise LoggerError(f"unknown logger '{name}'; known: {', '.join(LOGGERS)}")
        need(LOGGERS[name].module, name)
    if wanted and run is None:
        raise LoggerError("loggers need a folder for the run: give run=...")
    return wanted


class Loggers:
    """Several loggers as one. One that fails is left out from then on: training never ends for a logger's sake.

    Args:
        names: keys of :data:`LOGGERS`.
        run: the model folder.
        config: its ``config.json``.
        start: the step that training goes on from.

    Attributes:
        failed: what to tell people about those that failed; whoever tells them clears it.
    """

    def __init__(self, names: Iterable[str], run: Path, config: Mapping[str, Any], start: int) -> None:
        self.failed: list[str] = []
        self.working: dict[str, Logger] = {}
        for name in names:
            with self._survived(name):
                self.working[name] = LOGGERS[name].open(run, config, start)

    def __call__(self, record: Step) -> None:
        """Hand a record to each."""
        for name, logger in list(self.working.items()):
            with self._survived(name):
                logger(record)

    def close(self) -> None:
        """Close each; nothing is logged any more."""
        for name, logger in list(self.working.items()):
            with self._survived(name):
                logger.close()
        self.working.clear()

    @contextmanager
    def _survived(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever another's package may raise
            self.working.pop(name, None)
            told = str(error).strip().splitlines() or [type(error).__name__]
            self.failed.append(f"logger {name} failed and is left out from now on: {told[0][:300]}")
