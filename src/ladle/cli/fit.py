"""The command that trains a model."""

from __future__ import annotations

import json as jsonlib
import math
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import ladle
from ladle.cli.app import Data, Device, Force, Json, Seed, app, read, tell
from ladle.cli.console import interruptible
from ladle.cli.launch import launch, worker
from ladle.machine import MachineError, OtherProcesses, choose, release_memory
from ladle.store.folder import read_config
from ladle.training.progress import Show, counter, duration, err, note

DEFAULT_MINUTES = 5.0
LOAD_CHECK = 10.0  # seconds of training after which the load of other processes is checked


@app.command()
def fit(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.", metavar="RUN")],
    recipe: Annotated[
        str | None, typer.Option(help="The recipe; `ladle parts` lists all [default: the best for the time].")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(help="The model size: xs, s, m or l [default: the best for the time; s with --recipe]."),
    ] = None,
    estimator: Annotated[str, typer.Option(help="How to estimate the weights: vi, ml, map, em or laplace.")] = "vi",
    minutes: Annotated[float | None, typer.Option(help="The training time in minutes [default: 5].")] = None,
    epochs: Annotated[
        float | None, typer.Option(help="The number of passes over the data, instead of --minutes.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    devices: Annotated[
        int | None, typer.Option(help="Number of GPUs (or CPU processes) to train on [default: 1].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in RUN.")] = False,
    labels: Annotated[str | None, typer.Option(help="The label column, or a pattern for file names.")] = None,
    binarize: Annotated[str | None, typer.Option(help="How to binarise 8-bit images: dynamic or threshold.")] = None,
    missing: Annotated[str | None, typer.Option(help="nan: treat NaN in an array as a missing value.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable file.")] = False,
    logger: Annotated[
        list[str] | None, typer.Option(help="Also log to tensorboard, wandb or mlflow; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be trained, and exit.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a model on data, and write its folder."""
    if minutes is not None and epochs is not None:
        raise typer.BadParameter("give --minutes or --epochs, not both")
    for name, value in (("--minutes", minutes), ("--epochs", epochs)):
        if value is not None and not 0 < value < float("inf"):
            raise typer.BadParameter(f"{name} must be above 0, got {value}")
    if epochs is None and minutes is None:
        minutes = DEFAULT_MINUTES
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    devices = processes if devices is None else devices
    if devices < 1 or processes not in (1, devices):
        raise MachineError(f"--devices must be {'at least 1' if processes == 1 else processes}, got {devices}")
    if devices > processes and not dry_run:
        choose(device, devices)
        raise typer.Exit(launch(context.obj, devices))
    context.with_resource(worker(rank))
    dataset = read(data, labels=labels, binarize=binarize, missing=missing, strict=strict)
    recipe, size, why = _recipe_and_size(recipe, size, dataset, minutes, device, out if resume else None)
    plan = ladle.estimator(ladle.recipe(recipe, dataset.schema, size), estimator, len(dataset.train))
    assembly = ladle.assemble(dataset.schema, plan, size, seed)
    parameters = sum(p.numel() for p in assembly.model.parameters())
    about: dict[str, Any] = {
        "data": dataset.schema.describe(),
        "items": {name: len(dataset.split(name)) for name in ("train", "valid", "test")},
        "recipe": recipe,
        "size": size,
        "estimator": estimator,
        "parameters": parameters,
        "run": str(out),
    }
    err.print(f"{about['data']}; {about['items']['train']:,} training items")
    err.print(f"recipe {recipe}, size {size}{why}, estimator {estimator}: {parameters:,} parameters")
    bayesian = estimator in ladle.POSTERIORS
    if bayesian:
        ladle.last_layer(assembly.model)
    if dry_run:
        return tell(about, json, jsonlib.dumps(about, indent=1))
    budget = f"{minutes:g} minutes" if minutes is not None else f"{epochs:g} epochs"
    steps = ladle.fit(
        assembly, dataset, minutes=minutes, epochs=epochs, seed=seed, device=device, devices=devices, run=out,
        settings={"recipe": recipe, "size": size, "estimator": estimator}, resume=resume, force=force,
        loggers=logger or (),
    )  # fmt: skip
    err.print(f"training for {budget} into {out}")
    last, show = None, Show()
    others, check_at = OtherProcesses(), time.monotonic() + LOAD_CHECK
    with interruptible() as signal_received:
        for last in steps:
            show(last)
            if devices == 1 and time.monotonic() > check_at:
                check_at = math.inf
                if warning := others.warning():
                    note(warning)
            if rank == 0 and signal_received() and last.kind != "done":  # closing it stops the other processes too
                steps.close()  # type: ignore[attr-defined]
                err.print(f"saved at step {last.step}; continue with --resume")
                raise typer.Exit(128 + signal_received())
    if rank:
        return
    model = ladle.load(out, device)
    if last is None:
        err.print(f"the run in '{out}' is already finished")
    if bayesian and ladle.read_laplace(out, model) is None:
        ladle.write_laplace(out, ladle.laplace(model, dataset, seed=seed, progress=counter("laplace")))
        model = ladle.load(out, device)
    if last is not None or not (out / "report.html").exists():
        from ladle.reporting.pictures import draw

        err.print("drawing the images and the report")
        del steps
        release_memory()
        draw(model, dataset, out)
        ladle.report(out, dataset, device=device, quick=True, progress=counter)
    if last is not None:
        err.print(f"wrote {out}: the model, images and report.html, after {duration(last.seconds)} of training")
    result = {**about, **{k: v for k, v in model.config.get("result", {}).items() if k != "machine"}}
    nats = result.get("nats")
    tell(result, json, f"{out}" if nats is None else f"{out}: {nats:.2f} nats on the validation split (bound)")


def _recipe_and_size(
    recipe: str | None, size: str | None, data: ladle.Dataset, minutes: float | None, device: str, run: Path | None
) -> tuple[str, str, str]:
    """The recipe, the size, and the reason for the size as text.

    They are the given ones, those of a resumed run, or the best for the data and the time.
    """
    if recipe is not None:
        return recipe, size or "s", ""
    if run is not None and (run / "config.json").is_file():
        stored = read_config(run)["fit"]
        if stored.get("recipe"):
            return stored["recipe"], size or stored.get("size", "s"), ""
    choice = ladle.best(data, minutes, device)
    return choice.recipe, size or choice.size, "" if size else f" ({choice.why})"
