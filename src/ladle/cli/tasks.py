"""The commands that put a model to work: data or latents in, an output out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import ladle
from ladle.cli.app import Data, Device, Force, Json, Out, Part, Run, Seed, app, read, tell
from ladle.data import rehearse
from ladle.shapes import numel
from ladle.tasks.encode import taken_levels
from ladle.training.progress import counter


def _open(run: str, device: str, out: Path, force: bool) -> ladle.Model:
    """The model; an output that is in the way is refused before it is loaded."""
    if not force and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ladle.DataError(f"'{out}' exists; --force replaces it")
    return ladle.load(run, device)


def _rehearse(model: ladle.Model, out: Path, force: bool, *several: int) -> None:
    """Write one item of zeros as the result will be written, and take it back."""
    rehearse(np.zeros((1, *several, *model.schema.shape), np.float32), out, schema=model.schema, force=force)


def _write(
    x: np.ndarray, out: Path, like: ladle.Schema | list[str], start: float, force: bool, json: bool, **more: Any
) -> None:
    """Write a result, of data as its schema says and else in named columns, and tell of it."""
    schema, names = (like, None) if isinstance(like, ladle.Schema) else (None, like)
    ladle.write(x, out, schema=schema, names=names, force=force)
    seconds = time.perf_counter() - start
    tell({"out": str(out), "items": len(x), "seconds": round(seconds, 3), **more}, json, f"{out}: {len(x)} items")


@app.command()
def encode(
    run: Run,
    data: Data,
    out: Out,
    levels: Annotated[str, typer.Option(help="Of a hierarchy: all, concatenated, or only the top.")] = "all",
    split: Part = None,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Embed every item: the centre of q(z|x)."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    events = model.vae.latents.events[: taken_levels(model, levels)]
    names = [f"z{i}" for i in range(sum(numel(event) for event in events))]
    rehearse(np.zeros((1, len(names)), np.float32), out, names=names, force=force)
    z = ladle.encode(model, read(data, like=model.schema), levels=levels, split=split, progress=counter("encode"))
    _write(z, out, names, start, force, json, latents=z.shape[1])


@app.command()
def decode(
    run: Run,
    z: Annotated[Path, typer.Argument(help="Latents, as `ladle encode` writes.", metavar="Z")],
    out: Out,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Turn latents to data: the mean of p(x|z)."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    _rehearse(model, out, force)
    latents = read(z).all
    if latents.observed is not None and not latents.observed.all():
        raise ladle.DataError(f"'{z}': latents must be finite, got missing values")
    x = ladle.decode(model, latents.x, progress=counter("decode"))
    _write(x, out, model.schema, start, force, json)


@app.command()
def sample(
    run: Run,
    out: Out,
    n: Annotated[int, typer.Option("-n", help="How many.")] = 64,
    temperature: Annotated[float, typer.Option(help="Of the prior; below 1 closer to its centre.")] = 1.0,
    noise: Annotated[bool, typer.Option("--noise", help="Draw x too, instead of taking its expectation.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """New items: z from the prior, then x from z."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    _rehearse(model, out, force)
    x = ladle.sample(model, n, temperature=temperature, seed=seed, noise=noise, progress=counter("sample"))
    _write(x, out, model.schema, start, force, json)


@app.command()
def reconstruct(
    run: Run,
    data: Data,
    out: Out,
    draws: Annotated[int, typer.Option(help="Draw z this many times instead of taking its centre.")] = 0,
    keep: Annotated[
        int | None, typer.Option(help="Of a hierarchy: read so many levels from the item, draw those below anew.")
    ] = None,
    split: Part = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Encode and decode again."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    _rehearse(model, out, force, *([draws] if draws > 0 else []))
    x = ladle.reconstruct(
        model,
        read(data, like=model.schema),
        draws=draws,
        keep=keep,
        split=split,
        seed=seed,
        progress=counter("reconstruct"),
    )
    _write(x, out, model.schema, start, force, json)


@app.command()
def interpolate(
    run: Run,
    a: Annotated[str, typer.Argument(help="Where to start: an item or several.", metavar="A")],
    b: Annotated[str, typer.Argument(help="Where to end: as many items.", metavar="B")],
    out: Out,
    steps: Annotated[int, typer.Option(help="Points on the way, both ends counted.")] = 8,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Walk from one item to another."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    _rehearse(model, out, force, max(steps, 1))
    x = ladle.interpolate(model, read(a, like=model.schema), read(b, like=model.schema), steps=steps)
    _write(x, out, model.schema, start, force, json, steps=steps)


@app.command()
def score(
    run: Run,
    data: Data,
    out: Out,
    samples: Annotated[int, typer.Option(help="Importance samples per item.")] = 100,
    split: Part = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """A bound on -log p(x) of each item, in nats."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    rehearse(np.zeros((1, 1)), out, names=["nats"], force=force)
    nats = ladle.score(
        model, read(data, like=model.schema), samples=samples, split=split, seed=seed, progress=counter("score")
    )
    _write(nats[:, None], out, ["nats"], start, force, json, mean_nats=float(nats.mean()))
