"""Training: ``fit`` is a generator of :class:`Step` records.

The state of a run is the weights, their average, the optimiser and a few numbers. The order of the data and all noise
are functions of the seed and the step, so a run that is killed and resumed is bit-identical to an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle.data import Batch, Dataset, batches, make_batch, order
from ladle.machine import Machine
from ladle.objectives import Progress
from ladle.recipes.assemble import Assembly
from ladle.seeds import seeded
from ladle.store.checkpoints import Checkpoints, strip_prefix
from ladle.store.folder import describe, open_run, save
from ladle.training.distributed import Ranks, check_devices, join
from ladle.training.guard import Average, Guard, TrainingError, describe_nonfinite, reset_moments, total_norm
from ladle.training.loggers import Loggers, check_loggers
from ladle.training.memory import translate_out_of_memory
from ladle.training.records import Log, Step
from ladle.training.schedule import Budget, learning_rate, optimizer

LOG_EVERY = 50  # steps between records in the log
VALIDATIONS = 20  # at most, per run
VALIDATION_ITEMS = 5000
PATIENCE = 8  # validations without improvement
CHECKPOINT_SECONDS = 30.0
MAX_ROLLBACKS = 10


def fit(
    assembly: Assembly,
    data: Dataset,
    *,
    minutes: float | None = None,
    epochs: float | None = None,
    seed: int = 0,
    device: str = "auto",
    devices: int = 1,
    run: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    force: bool = False,
    loggers: Iterable[str] = (),
) -> Iterator[Step]:
    """Train a model. The training runs while the returned iterator is consumed, and yields a record after every step.

    When the iterator is exhausted, the model of the assembly holds the averaged weights. With ``run``, the model
    folder is written there, with its log and checkpoints; closing the iterator early saves a checkpoint.

    Args:
        assembly: from :func:`ladle.assemble`.
        data: a data set with the splits ``train`` and ``valid``.
        minutes: the budget in minutes, including validation. Give exactly one of ``minutes`` and ``epochs``.
        epochs: the budget in passes over the data.
        seed: the seed of the order of the data and of all noise.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: the number of devices that share each batch. Each has its own process, which calls this function with
            the same arguments (``torchrun --nproc-per-node 2 script.py`` starts two). Only the first writes files.
        run: the model folder; it must be new or empty.
        settings: further entries of ``config.json``, such as the recipe's name.
        resume: continue the run in ``run`` from its last checkpoint; a finished run yields nothing.
        force: replace the run in ``run``.
        loggers: names of the loggers that receive the records: ``tensorboard``, ``wandb`` or ``mlflow``.

    Raises:
        ValueError: if the budget is not exactly one positive number.
        MachineError: if the device does not exist, the devices cannot split a batch equally, or memory is too small.
        LoggerError, MissingPackage: if a logger is unknown, is not installed, or has no ``run``.
        TrainingError: if values are still not finite after several roll-backs, or another process of the run is lost.
    """
    if (minutes is None) == (epochs is None) or not 0 < (minutes or epochs or 0) < math.inf:
        raise ValueError(f"give one budget above 0, minutes or epochs; got minutes={minutes}, epochs={epochs}")
    loggers = check_loggers(loggers, run)
    training = assembly.training
    batch_size = min(training.batch, len(data.train))
    budget = Budget(minutes, epochs, max(1, len(data.train) // batch_size))
    check_devices(devices, batch_size, len(data.train))
    ranks, machine = join(devices, device)
    start = partial(_Run, assembly, data, budget, batch_size, seed, machine, ranks)
    guarded = partial(translate_out_of_memory, assembly, batch_size // devices, settings or {})
    if run is None:
        return guarded(_without_folder(start(None)))
    config = describe(assembly, data, {**(settings or {}), "minutes": minutes, "epochs": epochs, "seed": seed})
    folder = Path(run)
    (finished,) = ranks.broadcast(ranks.first and open_run(folder, config, resume=resume, force=force) == "finished")
    if finished:
        Checkpoints(folder).remove()
        return iter(())
    return guarded(_with_folder(folder, config, start(folder), loggers))


def _without_folder(run: _Run) -> Iterator[Step]:
    last = yield from run.steps()
    if last is not None:
        yield last


def _with_folder(folder: Path, config: Mapping[str, Any], run: _Run, loggers: list[str]) -> Iterator[Step]:
    """Train, and write the model folder at the end."""
    run.restore()
    run.loggers = Loggers(loggers if run.ranks.first else [], folder, config, run.state["step"])
    with closing(run.loggers):
        last = yield from run.steps()
        if last is None:
            return
        result = {"steps": last.step, "seconds": last.seconds, "nats": last.nats, "bits_per_dim": last.bits_per_dim,
                  "clipped": last.clipped, "rollbacks": run.state["rollbacks"], "devices": run.ranks.size,
                  "machine": run.machine._asdict()}  # fmt: skip
        if run.ranks.first:
            save(folder, run.assembly, config, {k: None if v != v else v for k, v in result.items()})
            Checkpoints(folder).remove()
        run.ranks.broadcast()  # no process continues before the folder is written
        run.loggers(last)
    yield from run.failures(last.items_per_s)
    yield last


class _Run:
    """The state of a run in progress."""

    def __init__(
        self,
        assembly: Assembly,
        data: Dataset,
        budget: Budget,
        batch_size: int,
        seed: int,
        machine: Machine,
        ranks: Ranks,
        folder: str | Path | None,
    ) -> None:
        from lightning_fabric import Fabric  # slow to import, and needed only here

        self.assembly, self.data, self.budget, self.seed = assembly, data, budget, seed
        self.batch_size, self.machine, self.ranks = batch_size, machine, ranks
        devices: Any = 1 if machine.device == "cpu" else [ranks.device.index]
        self.fabric = Fabric(accelerator=machine.device, devices=devices, precision=machine.precision)  # type: ignore[arg-type]
        self.plain, self.objective = assembly.model, assembly.objective.to(self.fabric.device)
        self.objective.share(ranks.mean)
        if machine.channels_last:
            self.plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer: Any = optimizer(assembly.training, self.plain)
        _, self.optimizer = self.fabric.setup(self.plain, self.optimizer)
        self.average, self.guard = Average(self.plain.parameters()), Guard()
        self.best: list[Tensor] | None = None
        self.ordered: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))  # an epoch, and the order of its items
        self.state: dict[str, Any] = {
            "step": 0, "seconds": 0.0, "brake": 1.0, "rollbacks": 0, "next_validation": 1 / VALIDATIONS,
            "best": None, "worse": 0, "ended": False, "log_bytes": 0, "sum_nats": 0.0, "sum_kl": 0.0, "count": 0,
        }  # fmt: skip
        self.log = Log(Path(folder) / "log.jsonl") if folder and ranks.first else None
        self.checkpoints = Checkpoints(Path(folder)) if folder else None
        self.loggers: Loggers | None = None
        self.saved_at = 0.0

    # ---------------------------------------------------------------------------------------- the loop

    def steps(self) -> Generator[Step, None, Step | None]:
        """Train until the budget is used. Return the last record, or ``None`` if the first process was interrupted."""
        state = self.state
        self.ranks.check(state["step"], self.plain.parameters())
        self.plain.train()
        self.objective.train()
        self.started = time.perf_counter() - state["seconds"]
        self.saved_at = time.perf_counter()
        mark, mark_step, speed = time.perf_counter(), state["step"], 0.0
        while self.ranks.broadcast(not self._budget_used())[0]:
            nats, kl, note = self._one_step()
            now = time.perf_counter()
            (state["seconds"],) = self.ranks.broadcast(now - self.started)  # all use the first process's clock
            if now - mark > 0.5:
                speed = (state["step"] - mark_step) * self.batch_size / (now - mark)
                mark, mark_step = now, state["step"]
            records = [self._record("train", nats, kl, speed)]
            if note:
                records.append(self._logged(self._record("note", nats, kl, speed, note)))
            if state["step"] % LOG_EVERY == 0:
                self._log_mean(speed)
            if self._validation_due():
                records.append(self._logged(self._validate(speed)))
                mark, mark_step = time.perf_counter(), state["step"]
            records.extend(self.failures(speed))
            if time.perf_counter() - self.saved_at > CHECKPOINT_SECONDS:
                self._save()
            try:  # between steps the state is complete: only here can the run be interrupted and resumed
                yield from records
            except GeneratorExit:
                self._save()
                self.ranks.broadcast(False)
                raise
        if not self._budget_used():
            return None
        if state["count"]:
            self._log_mean(speed)
        self._finish()
        return self._record("done", state["best"] if state["best"] is not None else math.nan, math.nan, speed)

    def _budget_used(self) -> bool:
        state = self.state
        return state["ended"] or self.budget.fraction(state["step"], state["seconds"]) >= 1.0

    def _one_step(self) -> tuple[float, float, str]:
        state, training, step = self.state, self.assembly.training, self.state["step"]
        fraction = self.budget.fraction(step, state["seconds"])
        rate = learning_rate(training, fraction) * state["brake"]
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch, progress = self._batch(step), Progress(fraction, step)
        with seeded(self.seed, "step", step), self.fabric.autocast():
            samples = self.objective.draws(progress)
            terms = self.plain(batch, samples, self.ranks.draw(samples))
        loss = self.objective(terms, progress)
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss.scalar)
        gradients = [p.grad for p in self.plain.parameters() if p.grad is not None]
        scalar, nats, kl = self.ranks.average(gradients, loss.scalar, loss.per_item.mean(), terms.kl.mean())
        state["step"] = step + 1
        factor = self.guard.factor(scalar, total_norm(gradients))
        if not factor:
            return nats, kl, self._roll_back(self.ranks.join_messages(describe_nonfinite(terms, self.plain)))
        if factor < 1:
            torch._foreach_mul_(gradients, factor)
        self.optimizer.step()
        self.average.update(step + 1, self.budget.fraction(step + 1, state["seconds"]))
        state["sum_nats"] += nats
        state["sum_kl"] += kl
        state["count"] += 1
        return nats, kl, ""

    def _batch(self, step: int) -> Batch:
        epoch, place = divmod(step, self.budget.steps_per_epoch)
        train = self.data.train
        if self.ordered[0] != epoch:
            self.ordered = epoch, order(len(train), self.seed, epoch)
        index = self.ranks.shard(self.ordered[1][place * self.batch_size : (place + 1) * self.batch_size])
        given = self.assembly.model.context
        batch = make_batch(train, self.assembly.schema, index, seed=self.seed, epoch=epoch, given=given)
        return batch.to(self.fabric.device)

    def _roll_back(self, reason: str) -> str:
        """Return to the averaged weights, which are finite, reset the moments and halve the learning rate."""
        state = self.state
        state["rollbacks"] += 1
        if state["rollbacks"] > MAX_ROLLBACKS:
            raise TrainingError(
                f"the loss or the gradient was not finite {state['rollbacks']} times; the last time, {reason}. "
                "Check the data for extreme values, or use a smaller learning rate"
            )
        self._set_weights(self.average.values)
        reset_moments(self.optimizer.state)
        state["brake"] *= 0.5
        return (
            f"step {state['step']}: {reason}; the step was not applied, and training was rolled back to the averaged "
            f"weights, with the learning rate multiplied by {state['brake']:g}"
        )

    # ----------------------------------------------------------------------------------------- records

    def _record(self, kind: str, nats: float, kl: float, speed: float, message: str = "") -> Step:
        state = self.state
        fraction = self.budget.fraction(state["step"], state["seconds"])
        bits = nats / math.log(2) / (self.data.train if kind == "train" else self.data.valid).values_per_item
        left = state["seconds"] * (1 / fraction - 1) if fraction > 0 else math.nan
        return Step(
            kind, state["step"], state["step"] / self.budget.steps_per_epoch, fraction, nats, bits, kl,
            self.optimizer.param_groups[0]["lr"], speed, state["seconds"], left, self.guard.clipped, message,
        )  # fmt: skip

    def _logged(self, record: Step) -> Step:
        if self.log:
            self.log.write(record)
        if self.loggers:
            self.loggers(record)
        return record

    def failures(self, speed: float) -> Iterator[Step]:
        """A note for each logger that failed since the last call."""
        while self.loggers and self.loggers.failed:
            yield self._logged(self._record("note", math.nan, math.nan, speed, self.loggers.failed.pop(0)))

    def _log_mean(self, speed: float) -> None:
        state = self.state
        count = max(state["count"], 1)
        self._logged(self._record("train", state["sum_nats"] / count, state["sum_kl"] / count, speed))
        state["sum_nats"], state["sum_kl"], state["count"] = 0.0, 0.0, 0

    # -------------------------------------------------------------------------------------- validation

    def _validation_due(self) -> bool:
        state = self.state
        return self.budget.fraction(state["step"], state["seconds"]) >= min(1.0, state["next_validation"])

    def _validate(self, speed: float) -> Step:
        """Compute the bound of the averaged weights on the validation split, with the same noise every time."""
        state = self.state
        state["next_validation"] = self.budget.fraction(state["step"], state["seconds"]) + 1 / VALIDATIONS
        self.average.swap()
        self.plain.eval()
        self.objective.eval()
        # only in the first process: the same numbers on any number of devices, for a few per cent of the time
        nats, kl = self.ranks.broadcast(*(self._bound() if self.ranks.first else (math.nan, math.nan)))
        self._keep_best(nats)
        self.average.swap()
        self.plain.train()
        self.objective.train()
        (state["seconds"],) = self.ranks.broadcast(time.perf_counter() - self.started)
        return self._record("valid", nats, kl, speed)

    def _bound(self) -> tuple[float, float]:
        """The bound and the KL divergence of the current weights, per validation item."""
        sums, items = [0.0, 0.0], 0
        with torch.no_grad(), seeded("validation"), self.fabric.autocast():
            for batch in batches(self.data.valid, self.assembly.schema, self.batch_size):
                terms = self.plain(batch.to(self.fabric.device), self.objective.samples)
                loss = self.objective(terms, Progress(1.0, self.state["step"]))
                sums[0] += float(loss.per_item.sum())
                sums[1] += float(terms.kl.mean()) * len(batch.x)
                items += len(batch.x)
                if items >= VALIDATION_ITEMS:
                    break
        return sums[0] / items, sums[1] / items

    def _keep_best(self, nats: float) -> None:
        """Keep the weights if the bound improved. The model must hold the averaged weights."""
        state = self.state
        if self.assembly.training.last or not self.objective.comparable:
            state["best"] = nats if math.isfinite(nats) else None
        elif math.isfinite(nats) and (state["best"] is None or nats < state["best"]):
            state["best"], state["worse"] = nats, 0
            self.best = [p.detach().clone() for p in self.plain.parameters()]
        else:
            state["worse"] += 1
            state["ended"] = state["worse"] >= PATIENCE

    def _finish(self) -> None:
        self._set_weights(self.best if self.best is not None else self.average.values)
        self.plain.eval()

    @torch.no_grad()
    def _set_weights(self, values: list[Tensor]) -> None:
        """Copy these values into the weights."""
        for parameter, value in zip(self.plain.parameters(), values, strict=True):
            parameter.copy_(value)

    # ------------------------------------------------------------------------------------- checkpoints

    def _save(self) -> None:
        self.saved_at = time.perf_counter()
        if self.checkpoints is None or self.log is None:
            return
        self.state["log_bytes"] = self.log.sync()
        tensors = {f"model.{k}": v for k, v in self.plain.state_dict().items()}
        tensors |= {f"objective.{k}": v for k, v in self.objective.state_dict().items()}
        tensors |= {f"average.{i}": v for i, v in enumerate(self.average.values)}
        tensors |= {f"best.{i}": v for i, v in enumerate(self.best or [])}
        for i, parameter in enumerate(self.plain.parameters()):
            tensors |= {f"moment.{i}.{k}": v for k, v in self.optimizer.state.get(parameter, {}).items()}
        extra = {"norms": list(self.guard.norms), "clipped": self.guard.clipped, "averaged": self.average.last}
        self.checkpoints.save(self.state["step"], tensors, {**self.state, **extra})

    def restore(self) -> None:
        """Restore the state of the last checkpoint, if there is one."""
        checkpoint = self.checkpoints.latest() if self.checkpoints else None
        if checkpoint is None:
            if self.log:
                self.log.truncate(0)
            return
        tensors, state = checkpoint
        self.guard.norms.extend(state.pop("norms"))
        self.guard.clipped = state.pop("clipped")
        self.average.last = state.pop("averaged")
        self.state.update(state)
        if self.log:
            self.log.truncate(state["log_bytes"])
        device = self.fabric.device
        self.plain.load_state_dict(strip_prefix(tensors, "model."))
        self.objective.load_state_dict(strip_prefix(tensors, "objective."))
        for i, value in enumerate(self.average.values):
            value.copy_(tensors[f"average.{i}"])
        if "best.0" in tensors:
            self.best = [tensors[f"best.{i}"].to(device) for i in range(len(self.average.values))]
        for i, parameter in enumerate(self.plain.parameters()):
            moments = strip_prefix(tensors, f"moment.{i}.")
            for name, value in moments.items():
                moments[name] = torch.empty_like(parameter).copy_(value) if value.dim() else value.to(device)
            if moments:
                self.optimizer.state[parameter] = moments
