"""Training: ``fit`` is a generator of :class:`Step` records.

The state of a run is the weights, their average, the optimiser and a few numbers; the data's order and all
noise are functions of (seed, step), so a run that is killed and resumed ends with the same bits.
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
from ladle.store.checkpoints import Checkpoints, under
from ladle.store.folder import describe, open_run, save
from ladle.training.distributed import Ranks, check_parts, join
from ladle.training.guard import Average, Guard, TrainingError, blame, reset_moments, total_norm
from ladle.training.loggers import Loggers, check
from ladle.training.memory import explained
from ladle.training.records import Log, Step
from ladle.training.schedule import Budget, learning_rate, optimizer

LOG_EVERY = 50  # steps between records in the log
VALIDATIONS = 20  # at most, over the run
VALIDATION_ITEMS = 5000
PATIENCE = 8  # validations without improvement
CHECKPOINT_SECONDS = 30.0
MOST_ROLLBACKS = 10


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
    """Train a model; a record is yielded after every step, so progress is there from the first second.

    The model of the assembly holds the averaged weights when the generator is exhausted. With ``run``, the
    model folder is written there, with its log and checkpoints; closing the generator early saves one.

    Args:
        assembly: from :func:`ladle.assemble`.
        data: with the splits ``train`` and ``valid``.
        minutes: the budget by the clock, training and validation counted.
        epochs: the budget in passes over the data; exactly one of the two.
        seed: of the data's order and all noise.
        device: ``auto``, ``cpu`` or ``cuda``.
        devices: how many share every batch, each in a process of its own that calls this with the same arguments:
            ``torchrun --nproc-per-node 2 script.py`` starts two. All of them get the records, the first one writes.
        run: the model folder; it must be new or empty.
        settings: what else ``config.json`` should remember, such as the recipe's name.
        resume: go on with the run in ``run`` from its last checkpoint; a finished one yields nothing.
        force: replace the run in ``run``.
        loggers: ``tensorboard``, ``wandb``, ``mlflow``: what else is to be told what ``log.jsonl`` holds.

    Raises:
        ValueError: for a budget that is not one positive number.
        MachineError: for a device that is not there, more devices than can share a batch, or too little memory.
        LoggerError, MissingPackage: for a logger that is unknown, not installed, or without a ``run``.
        TrainingError: when the numbers stay NaN after several roll-backs, or another process of the run is gone.
    """
    if (minutes is None) == (epochs is None) or not 0 < (minutes or epochs or 0) < math.inf:
        raise ValueError(f"give one budget, minutes or epochs, above 0; got minutes={minutes}, epochs={epochs}")
    loggers = check(loggers, run)
    training = assembly.training
    batch_size = min(training.batch, len(data.train))
    budget = Budget(minutes, epochs, max(1, len(data.train) // batch_size))
    check_parts(devices, batch_size, len(data.train))
    ranks, machine = join(devices, device)
    start = partial(_Run, assembly, data, budget, batch_size, seed, machine, ranks)
    explain = partial(explained, assembly, batch_size // devices, settings or {})
    if run is None:
        return explain(_alone(start(None)))
    config = describe(assembly, data, {**(settings or {}), "minutes": minutes, "epochs": epochs, "seed": seed})
    folder = Path(run)
    (finished,) = ranks.agree(ranks.first and open_run(folder, config, resume=resume, force=force) == "finished")
    if finished:
        Checkpoints(folder).remove()
        return iter(())
    return explain(_into(folder, config, start(folder), loggers))


def _alone(run: _Run) -> Iterator[Step]:
    last = yield from run.steps()
    if last is not None:
        yield last


def _into(folder: Path, config: Mapping[str, Any], run: _Run, loggers: list[str]) -> Iterator[Step]:
    """Train, and write the model folder when training has ended."""
    run.restore()
    run.loggers = Loggers(loggers if run.ranks.first else [], folder, config, run.state["step"])
    with closing(run.loggers):
        last = yield from run.steps()
        if last is None:
            return
        result = {"steps": last.step, "seconds": last.seconds, "nats": last.nats, "clipped": last.clipped,
                  "rollbacks": run.state["rollbacks"], "devices": run.ranks.size,
                  "machine": run.machine._asdict()}  # fmt: skip
        if run.ranks.first:
            save(folder, run.assembly, config, {k: None if v != v else v for k, v in result.items()})
            Checkpoints(folder).remove()
        run.ranks.agree()  # no process goes on before the folder is there
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
        from lightning_fabric import Fabric  # slow to import, and needed here alone

        self.assembly, self.data, self.budget, self.seed = assembly, data, budget, seed
        self.batch_size, self.machine, self.ranks = batch_size, machine, ranks
        where: Any = 1 if machine.device == "cpu" else [ranks.device.index]
        self.fabric = Fabric(accelerator=machine.device, devices=where, precision=machine.precision)  # type: ignore[arg-type]
        self.plain, self.objective = assembly.model, assembly.objective.to(self.fabric.device)
        self.objective.share(ranks.mean)
        if machine.channels_last:
            self.plain.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer: Any = optimizer(assembly.training, self.plain)
        _, self.optimizer = self.fabric.setup(self.plain, self.optimizer)
        self.average, self.guard = Average(self.plain.parameters()), Guard()
        self.best: list[Tensor] | None = None
        self.ordered: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))  # an epoch and the order of its items
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
        """Train until the budget is spent; returns the last record, or none when the first process has left."""
        state = self.state
        self.ranks.check(state["step"], self.plain.parameters())
        self.plain.train()
        self.objective.train()
        self.started = time.perf_counter() - state["seconds"]
        self.saved_at = time.perf_counter()
        mark, mark_step = time.perf_counter(), state["step"]
        pace = 0.0
        while self.ranks.agree(not self._spent())[0]:
            nats, kl, note = self._one_step()
            now = time.perf_counter()
            (state["seconds"],) = self.ranks.agree(now - self.started)  # the first one's clock is the run's
            if now - mark > 0.5:
                pace = (state["step"] - mark_step) * self.batch_size / (now - mark)
                mark, mark_step = now, state["step"]
            records = [self._record("train", nats, kl, pace)]
            if note:
                records.append(self._logged(self._record("note", nats, kl, pace, note)))
            if state["step"] % LOG_EVERY == 0:
                self._log_mean(pace)
            if self._validation_due():
                records.append(self._logged(self._validate(pace)))
                mark, mark_step = time.perf_counter(), state["step"]
            records.extend(self.failures(pace))
            if time.perf_counter() - self.saved_at > CHECKPOINT_SECONDS:
                self._save()
            try:  # between steps the state is whole: here, and only here, the run can be left and taken up again
                yield from records
            except GeneratorExit:
                self._save()
                self.ranks.agree(False)
                raise
        if not self._spent():
            return None
        if state["count"]:
            self._log_mean(pace)
        self._finish()
        return self._record("done", state["best"] if state["best"] is not None else math.nan, math.nan, pace)

    def _spent(self) -> bool:
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
        factor = self.guard.judge(scalar, total_norm(gradients))
        if not factor:
            return nats, kl, self._roll_back(self.ranks.words(blame(terms, self.plain)))
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
        index = self.ordered[1][place * self.batch_size : (place + 1) * self.batch_size]
        batch = make_batch(train, self.assembly.schema, self.ranks.shard(index), seed=self.seed, epoch=epoch)
        return batch.to(self.fabric.device)

    def _roll_back(self, reason: str) -> str:
        """Back to the averaged weights, which are finite, with fresh moments and half the learning rate."""
        state = self.state
        state["rollbacks"] += 1
        if state["rollbacks"] > MOST_ROLLBACKS:
            raise TrainingError(
                f"the numbers broke {state['rollbacks']} times; the last time {reason}. Look at the data for "
                "extreme values, or try a smaller learning rate"
            )
        self._take(self.average.values)
        reset_moments(self.optimizer.state)
        state["brake"] *= 0.5
        return (
            f"step {state['step']}: {reason}; not applied, rolled back to the averaged weights, "
            f"learning rate x {state['brake']:g}"
        )

    # ----------------------------------------------------------------------------------------- records

    def _record(self, kind: str, nats: float, kl: float, pace: float, message: str = "") -> Step:
        state = self.state
        fraction = self.budget.fraction(state["step"], state["seconds"])
        bits = nats / math.log(2) / self.assembly.schema.size  # per dimension
        left = state["seconds"] * (1 / fraction - 1) if fraction > 0 else math.nan
        return Step(
            kind, state["step"], state["step"] / self.budget.steps_per_epoch, fraction, nats, bits, kl,
            self.optimizer.param_groups[0]["lr"], pace, state["seconds"], left, self.guard.clipped, message,
        )  # fmt: skip

    def _logged(self, record: Step) -> Step:
        if self.log:
            self.log.write(record)
        if self.loggers:
            self.loggers(record)
        return record

    def failures(self, pace: float) -> Iterator[Step]:
        """A note on each logger that has failed since it was last asked."""
        while self.loggers and self.loggers.failed:
            yield self._logged(self._record("note", math.nan, math.nan, pace, self.loggers.failed.pop(0)))

    def _log_mean(self, pace: float) -> None:
        state = self.state
        count = max(state["count"], 1)
        self._logged(self._record("train", state["sum_nats"] / count, state["sum_kl"] / count, pace))
        state["sum_nats"], state["sum_kl"], state["count"] = 0.0, 0.0, 0

    # -------------------------------------------------------------------------------------- validation

    def _validation_due(self) -> bool:
        state = self.state
        return self.budget.fraction(state["step"], state["seconds"]) >= min(1.0, state["next_validation"])

    def _validate(self, pace: float) -> Step:
        """The bound of the averaged weights on the validation split, with noise that never changes."""
        state = self.state
        state["next_validation"] = self.budget.fraction(state["step"], state["seconds"]) + 1 / VALIDATIONS
        self.average.swap()
        self.plain.eval()
        self.objective.eval()
        # by the first process alone: the same numbers on any number of devices, for a few per cent of the time
        nats, kl = self.ranks.agree(*(self._bound() if self.ranks.first else (math.nan, math.nan)))
        self._keep_best(nats)
        self.average.swap()
        self.plain.train()
        self.objective.train()
        (state["seconds"],) = self.ranks.agree(time.perf_counter() - self.started)
        return self._record("valid", nats, kl, pace)

    def _bound(self) -> tuple[float, float]:
        """The bound and the KL of the weights in the model, per validation item."""
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
        """Called with the averaged weights in the model."""
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
        self._take(self.best if self.best is not None else self.average.values)
        self.plain.eval()

    @torch.no_grad()
    def _take(self, values: list[Tensor]) -> None:
        """Put these values in the place of the weights."""
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
        """Take up the state of the last checkpoint, where there is one."""
        found = self.checkpoints.latest() if self.checkpoints else None
        if found is None:
            if self.log:
                self.log.cut(0)
            return
        tensors, state = found
        self.guard.norms.extend(state.pop("norms"))
        self.guard.clipped = state.pop("clipped")
        self.average.last = state.pop("averaged")
        self.state.update(state)
        if self.log:
            self.log.cut(state["log_bytes"])
        device = self.fabric.device
        self.plain.load_state_dict(under(tensors, "model."))
        self.objective.load_state_dict(under(tensors, "objective."))
        for i, value in enumerate(self.average.values):
            value.copy_(tensors[f"average.{i}"])
        if "best.0" in tensors:
            self.best = [tensors[f"best.{i}"].to(device) for i in range(len(self.average.values))]
        for i, parameter in enumerate(self.plain.parameters()):
            moments = under(tensors, f"moment.{i}.")
            for name, value in moments.items():
                moments[name] = torch.empty_like(parameter).copy_(value) if value.dim() else value.to(device)
            if moments:
                self.optimizer.state[parameter] = moments
