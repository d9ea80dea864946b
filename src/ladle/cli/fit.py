"""The commands that make a model and look at it."""

from __future__ import annotations

import json as jsonlib
import math
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

import ladle
from ladle.cli.app import Data, Device, Force, Json, Part, Run, Seed, app, named, read, tell
from ladle.cli.launch import attended, launch
from ladle.console import Show, counter, duration, err, interruptible, note, show_health
from ladle.folder import read_config
from ladle.machine import MachineError, Neighbours, choose, release

DEFAULT_MINUTES = 5.0
LOOK_AROUND = 10.0  # seconds of training after which other work on the machine is told of


@app.command()
def fit(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.", metavar="RUN")],
    recipe: Annotated[
        str | None, typer.Option(help="What to fit; `ladle parts` lists the recipes [default: best for the time].")
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="xs, s, m or l [default: best for the time; s where a recipe is named].")
    ] = None,
    estimator: Annotated[str, typer.Option(help="vi, ml, map, em or laplace: what the weights are to be.")] = "vi",
    minutes: Annotated[float | None, typer.Option(help="Train this long [default: 5].")] = None,
    epochs: Annotated[float | None, typer.Option(help="Or: this many passes over the data.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    devices: Annotated[
        int | None, typer.Option(help="Share every batch among so many GPUs, or processes [default: 1].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in RUN.")] = False,
    labels: Annotated[str | None, typer.Option(help="The label column, or a pattern on file names.")] = None,
    binarize: Annotated[str | None, typer.Option(help="dynamic or threshold, for 8-bit images.")] = None,
    missing: Annotated[str | None, typer.Option(help="nan: NaN in an array means missing.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first unreadable file.")] = False,
    logger: Annotated[
        list[str] | None, typer.Option(help="tensorboard, wandb or mlflow, fed with the log; may be repeated.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and leave.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Learn a model from data; write its folder."""
    if minutes is not None and epochs is not None:
        raise typer.BadParameter("give --minutes or --epochs, not both")
    for name, value in (("--minutes", minutes), ("--epochs", epochs)):
        if value is not None and not 0 < value < float("inf"):
            raise typer.BadParameter(f"{name} must be above 0, got {value}")
    if epochs is None and minutes is None:
        minutes = DEFAULT_MINUTES
    rank, started = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    devices = started if devices is None else devices
    if devices < 1 or started not in (1, devices):
        raise MachineError(f"--devices must be {'at least 1' if started == 1 else started}, got {devices}")
    if devices > started and not dry_run:
        choose(device, devices)
        raise typer.Exit(launch(context.obj, devices))
    context.with_resource(attended(rank))
    dataset = read(data, labels=labels, binarize=binarize, missing=missing, strict=strict)
    recipe, size, why = _chosen(recipe, size, dataset, minutes, device, out if resume else None)
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
    neighbours, told_at = Neighbours(), time.monotonic() + LOOK_AROUND
    with interruptible() as signal_received:
        for last in steps:
            show(last)
            if devices == 1 and time.monotonic() > told_at:
                told_at = math.inf
                if crowding := neighbours.crowding():
                    note(crowding)
            if rank == 0 and signal_received() and last.kind != "done":  # the first process tells the others
                steps.close()  # type: ignore[attr-defined]
                err.print(f"saved at step {last.step}; go on with --resume")
                raise typer.Exit(128 + signal_received())
    if rank:
        return
    model = ladle.load(out, device)
    if last is None:
        err.print(f"'{out}' is finished already; nothing to do")
    if bayesian and ladle.read_laplace(out, model) is None:
        ladle.write_laplace(out, ladle.laplace(model, dataset, seed=seed, progress=counter("laplace")))
        model = ladle.load(out, device)
    if last is not None or not (out / "report.html").exists():
        from ladle.report.pictures import draw

        err.print("drawing pictures and the report")
        del steps
        release()
        draw(model, dataset, out)
        ladle.report(out, dataset, device=device, quick=True, progress=counter)
    if last is not None:
        err.print(f"wrote {out}: model, pictures and report.html, after {duration(last.seconds)} of training")
    result = {**about, **{k: v for k, v in model.config.get("result", {}).items() if k != "machine"}}
    nats = result.get("nats")
    tell(result, json, f"{out}" if nats is None else f"{out}: {nats:.2f} nats on the validation split (bound)")


def _chosen(
    recipe: str | None, size: str | None, data: ladle.Dataset, minutes: float | None, device: str, run: Path | None
) -> tuple[str, str, str]:
    """The recipe and the size that are asked for, those of the run that goes on, or the best; and why, in words."""
    if recipe is not None:
        return recipe, size or "s", ""
    if run is not None and (run / "config.json").is_file():
        known = read_config(run)["fit"]
        if known.get("recipe"):
            return known["recipe"], size or known.get("size", "s"), ""
    choice = ladle.best(data, minutes, device)
    return choice.recipe, size or choice.size, "" if size else f" ({choice.why})"


@app.command()
def evidence(
    run: Run,
    data: Annotated[
        str | None, typer.Argument(help="Data [default: the test split of the named set it was fitted to].")
    ] = None,
    method: Annotated[
        str, typer.Option(help="iwae: the importance-weighted bound; ais: a tighter one, by annealing; exact.")
    ] = "iwae",
    samples: Annotated[
        int | None, typer.Option(help="Importance samples per item [default: 500]; of ais chains [16].")
    ] = None,
    temperatures: Annotated[int, typer.Option(help="Of ais: the more, the tighter and the slower.")] = 500,
    proposal: Annotated[str, typer.Option(help="q, inflated or defensive: what they are drawn from.")] = "q",
    items: Annotated[
        int | None, typer.Option(help="Take so many items, at random [default: all; --sandwich 20].")
    ] = None,
    sandwich: Annotated[
        bool, typer.Option("--sandwich", help="Both bounds, by ais, on items that the model itself makes.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(help="Take items in random order for this long.")] = None,
    split: Part = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """-log p(x) per item, and its standard error."""
    model = ladle.load(run, device)
    if sandwich:
        if data is not None:
            raise typer.BadParameter(f"--sandwich simulates its items from the model: leave out '{data}'")
        if minutes is not None or split is not None or method != "iwae":
            raise typer.BadParameter("--sandwich is by ais and on simulated items: no --method, --minutes or --split")
        both = ladle.sandwich(
            model, 20 if items is None else items, samples=16 if samples is None else samples,
            temperatures=temperatures, proposal=proposal, seed=seed, progress=counter("sandwich"),
        )  # fmt: skip
        return tell(both.to_json(), json, str(both))
    dataset = read(data or named(model), like=model.schema)
    found = ladle.evidence(
        model, dataset, method=method, samples=samples, temperatures=temperatures, proposal=proposal, at_most=items,
        minutes=minutes, split=split, seed=seed, progress=counter("evidence"),
    )  # fmt: skip
    if method == "ais" and found.method != "ais":
        note(f"ais moves latents on the real line only; this is {found.kind} by {found.method}")
    posterior = ladle.read_laplace(run, model)
    if posterior is None:
        return tell(found.to_json(), json, str(found))
    over = ladle.predictive(
        model, posterior, dataset, at_most=found.items, split=split, seed=seed, progress=counter("weights")
    )
    tell({**found.to_json(), "laplace": over._asdict()}, json, f"{found}\n{over}")


@app.command()
def check(
    run: Run,
    data: Annotated[str | None, typer.Argument(help="Data [default: the named set it was fitted to].")] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Is the model well? Exit status 1 when it is ill."""
    model = ladle.load(run, device, finite=False)
    health = ladle.check(model, read(data or named(model), like=model.schema), seed=seed, progress=counter("check"))
    if json:
        tell(health.to_json(), json, "")
    else:
        show_health(health)
    raise typer.Exit(0 if health.ok else 1)


@app.command()
def report(
    run: Run,
    data: Annotated[
        str | None, typer.Argument(help="Data [default: the named set it was fitted to].", metavar="[DATA]")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="The label column, or a pattern on file names.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Draw report.html: what a model has learned, and how well."""
    start = time.perf_counter()
    err.print(f"drawing the report of {run}")
    written = ladle.report(run, data, labels=labels, device=device, progress=counter)
    for told in written.notes:
        note(told)
    result = {"report": str(written.path), "seconds": round(time.perf_counter() - start, 3), **written.numbers}
    tell(result, json, str(written.path))


@app.command()
def push(
    run: Run,
    name: Annotated[str, typer.Argument(help="Where to, on the Hugging Face Hub.", metavar="USER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Others cannot see it, if it is made now.")] = False,
    json: Json = False,
) -> None:
    """Upload the model to the Hugging Face Hub."""
    address = ladle.push(run, name, private=private)
    tell({"name": f"hub:{name}", "commit": address}, json, f"hub:{name}: {address}")


@app.command()
def parts(json: Json = False) -> None:
    """List every part there is."""
    table = {
        kind: {name: (thing.__doc__ or "").strip().split("\n")[0] for name, thing in sorted(things.items())}
        for kind, things in sorted(ladle.parts().items())
    }
    lines = [f"{kind}\n" + "\n".join(f"  {n:28} {doc}" for n, doc in things.items()) for kind, things in table.items()]
    tell(table, json, "\n".join(lines))
