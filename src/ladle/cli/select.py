"""The command that chooses a latent family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

import ladle
from ladle.cli.app import Data, Device, Force, Json, app, read, tell
from ladle.cli.console import interruptible
from ladle.training.progress import counter, err


class Stopped(Exception):
    """A signal came between two steps; everything up to there is saved. (No RuntimeError: those are of candidates.)"""


@app.command()
def select(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="RUN")],
    families: Annotated[
        str | None, typer.Option(help="NAME[:NUMBER][/POSTERIOR],… [default: one of every kind].", metavar="A,B,…")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Whose nets, likelihood and training are taken.")] = "vae",
    size: Annotated[str, typer.Option(help="xs, s, m or l.")] = "xs",
    latents: Annotated[int | None, typer.Option(help="How many latent variables [default: the recipe's].")] = None,
    minutes: Annotated[float | None, typer.Option(help="For everything, about [default: 10].")] = None,
    steps: Annotated[int | None, typer.Option(help="Or: optimiser steps of a finalist.")] = None,
    seeds: Annotated[int, typer.Option(help="Seeds that every finalist is trained from.")] = 3,
    finalists: Annotated[int, typer.Option(help="How many the race leaves, at most.")] = 4,
    samples: Annotated[int, typer.Option(help="Importance samples per item.")] = 500,
    items: Annotated[int, typer.Option(help="Test items, at most.")] = 2000,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the comparison in RUN.")] = False,
    labels: Annotated[str | None, typer.Option(help="The label column, or a pattern on file names.")] = None,
    binarize: Annotated[str | None, typer.Option(help="dynamic or threshold, for 8-bit images.")] = None,
    missing: Annotated[str | None, typer.Option(help="nan: NaN in an array means missing.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Choose the latent family by evidence."""
    dataset = read(data, labels=labels, binarize=binarize, missing=missing)
    fresh = not (out / "report.html").exists() or force
    err.print(f"{dataset.schema.describe()}; comparing latent families into {out}")
    with interruptible() as signal_received:

        def progress(what: str) -> Callable[[int, int], None]:
            count = counter(what)
            if not err.is_terminal:
                err.print(what.rpartition(",")[0])

            def show(done: int, total: int) -> None:
                if signal_received():
                    raise Stopped
                count(done, total)

            return show

        try:
            found = ladle.select(
                dataset, out, families=families.split(",") if families else None, recipe=recipe, size=size,
                latents=latents, steps=steps, minutes=minutes, seeds=seeds, finalists=finalists, samples=samples,
                items=items, device=device, resume=resume, force=force, progress=progress,
            )  # fmt: skip
        except Stopped:
            err.print("saved; go on with --resume")
            raise typer.Exit(128 + signal_received()) from None
    if fresh:
        from ladle.reporting.pictures import draw

        err.print("drawing pictures and the report")
        draw(ladle.load(out, device), dataset, out)
        ladle.report(out, dataset, device=device, quick=True, progress=counter)
    tell({**found.to_json(), "run": str(out)}, json, str(found))
