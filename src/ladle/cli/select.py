"""The command that compares latent families."""

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
    """A signal arrived, and the comparison is saved. (Not a RuntimeError: those count as a failure of a candidate.)"""


@app.command()
def select(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.", metavar="RUN")],
    families: Annotated[
        str | None,
        typer.Option(
            help="The candidates, each NAME[:NUMBER][/POSTERIOR] [default: one of every kind].", metavar="A,B,…"
        ),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="Recipe that supplies networks, likelihood and training settings.")
    ] = "vae",
    size: Annotated[str, typer.Option(help="The model size: xs, s, m or l.")] = "xs",
    latents: Annotated[int | None, typer.Option(help="Number of latent variables [default: the recipe's].")] = None,
    minutes: Annotated[float | None, typer.Option(help="Approximate total time in minutes [default: 10].")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps per finalist, instead of --minutes.")] = None,
    seeds: Annotated[int, typer.Option(help="Number of seeds that each finalist is trained with.")] = 3,
    finalists: Annotated[int, typer.Option(help="Maximum number of finalists.")] = 4,
    samples: Annotated[int, typer.Option(help="Importance samples per item.")] = 500,
    items: Annotated[int, typer.Option(help="Maximum number of test items.")] = 2000,
    device: Device = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Continue the comparison in RUN.")] = False,
    labels: Annotated[str | None, typer.Option(help="The label column, or a pattern for file names.")] = None,
    binarize: Annotated[str | None, typer.Option(help="How to binarise 8-bit images: dynamic or threshold.")] = None,
    missing: Annotated[str | None, typer.Option(help="nan: treat NaN in an array as a missing value.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Select the latent family with the highest evidence."""
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
            err.print("saved; continue with --resume")
            raise typer.Exit(128 + signal_received()) from None
    if fresh:
        from ladle.reporting.pictures import draw

        err.print("drawing the images and the report")
        draw(ladle.load(out, device), dataset, out)
        ladle.report(out, dataset, device=device, quick=True, progress=counter)
    tell({**found.to_json(), "run": str(out)}, json, str(found))
