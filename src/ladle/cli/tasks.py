"""The commands that apply a trained model to data or latents and write the results to an output.

Results are written as they are computed, so that memory does not grow with the number of items.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import ladle
from ladle.cli.app import Data, Device, Force, Json, Out, Part, Run, Seed, app, read, tell
from ladle.data import rehearse
from ladle.shapes import numel
from ladle.tasks.encode import decode_batches, encode_batches, number_of_levels
from ladle.tasks.interpolate import interpolate_batches
from ladle.tasks.reconstruct import reconstruct_batches
from ladle.tasks.sample import sample_batches
from ladle.tasks.score import score_batches
from ladle.training.progress import counter


def _open(run: str, device: str, out: Path, force: bool) -> ladle.Model:
    """Load the model. An output that exists is refused before."""
    if not force and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ladle.DataError(f"'{out}' exists; --force replaces it")
    return ladle.load(run, device)


def _rehearse(model: ladle.Model, out: Path, force: bool, *several: int) -> None:
    """Write one item of zeros in the form of the result, and remove it: errors are found before the computation."""
    rehearse(np.zeros((1, *several, *model.schema.shape), np.float32), out, schema=model.schema, force=force)


def _write(
    rows: Iterator[np.ndarray], out: Path, like: ladle.Schema | list[str], start: float, force: bool, json: bool,
    mean: str | None = None, **more: Any,
) -> None:  # fmt: skip
    """Write results as they are computed, according to a schema or in named columns, and print a summary.

    If ``mean`` is given, the summary contains the mean of the values under this name.
    """
    schema, names = (like, None) if isinstance(like, ladle.Schema) else (None, like)
    items, total = 0, 0.0

    def counted() -> Iterator[np.ndarray]:
        nonlocal items, total
        for piece in rows:
            items += len(piece)
            total += float(piece.sum(dtype=np.float64)) if mean else 0.0
            yield piece

    ladle.write(counted(), out, schema=schema, names=names, force=force)
    if mean:
        more[mean] = total / items
    seconds = time.perf_counter() - start
    tell({"out": str(out), "items": items, "seconds": round(seconds, 3), **more}, json, f"{out}: {items} items")


@app.command()
def encode(
    run: Run,
    data: Data,
    out: Out,
    levels: Annotated[
        str, typer.Option(help="Hierarchical models: all levels, concatenated, or only the top one.")
    ] = "all",
    split: Part = None,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Encode each item: the centre of q(z|x)."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    events = model.vae.latents.events[: number_of_levels(model, levels)]
    names = [f"z{i}" for i in range(sum(numel(event) for event in events))]
    rehearse(np.zeros((1, len(names)), np.float32), out, names=names, force=force)
    dataset = read(data, like=model.schema)
    z = encode_batches(model, dataset, levels=levels, split=split, progress=counter("encode"))
    _write(z, out, names, start, force, json, latents=len(names))


@app.command()
def decode(
    run: Run,
    z: Annotated[Path, typer.Argument(help="Latents, as written by `ladle encode`.", metavar="Z")],
    out: Out,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Decode latents: the mean of p(x|z)."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    _rehearse(model, out, force)
    latents = read(z).all
    if latents.observed is not None and not latents.observed.all():
        raise ladle.DataError(f"'{z}': latents must be finite, got missing values")
    x = decode_batches(model, latents.x, progress=counter("decode"))
    _write(x, out, model.schema, start, force, json)


@app.command()
def sample(
    run: Run,
    out: Out,
    n: Annotated[int, typer.Option("-n", help="The number of items.")] = 64,
    temperature: Annotated[
        float, typer.Option(help="The temperature of the prior; below 1, z is closer to its centre.")
    ] = 1.0,
    noise: Annotated[bool, typer.Option("--noise", help="Draw x from p(x|z) instead of taking its mean.")] = False,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Generate items: draw z from the prior, then decode it."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    _rehearse(model, out, force)
    x = sample_batches(model, n, temperature=temperature, seed=seed, noise=noise, progress=counter("sample"))
    _write(x, out, model.schema, start, force, json)


@app.command()
def reconstruct(
    run: Run,
    data: Data,
    out: Out,
    draws: Annotated[
        int, typer.Option(help="The number of z to draw from q(z|x) for each item; 0 takes the centre.")
    ] = 0,
    keep: Annotated[
        int | None, typer.Option(help="Hierarchical models: keep the top N levels, resample the rest.", metavar="N")
    ] = None,
    split: Part = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Encode each item and decode it again."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    _rehearse(model, out, force, *([draws] if draws > 0 else []))
    dataset, progress = read(data, like=model.schema), counter("reconstruct")
    x = reconstruct_batches(model, dataset, draws=draws, keep=keep, split=split, seed=seed, progress=progress)
    _write(x, out, model.schema, start, force, json)


@app.command()
def interpolate(
    run: Run,
    a: Annotated[str, typer.Argument(help="The items to start from.", metavar="A")],
    b: Annotated[str, typer.Argument(help="The same number of items to end at.", metavar="B")],
    out: Out,
    steps: Annotated[int, typer.Option(help="The number of points on each line, both ends included.")] = 8,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Interpolate between items through the latent space."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    _rehearse(model, out, force, max(steps, 1))
    ends = read(a, like=model.schema), read(b, like=model.schema)
    x = interpolate_batches(model, *ends, steps=steps, progress=counter("interpolate"))
    _write(x, out, model.schema, start, force, json, steps=steps)


@app.command()
def score(
    run: Run,
    data: Data,
    out: Out,
    samples: Annotated[int, typer.Option(help="The number of importance samples per item.")] = 100,
    split: Part = None,
    seed: Seed = 0,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Score each item: an upper bound on -log p(x), in nats."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    rehearse(np.zeros((1, 1)), out, names=["nats"], force=force)
    nats = score_batches(
        model, read(data, like=model.schema), samples=samples, split=split, seed=seed, progress=counter("score")
    )
    _write((batch[:, None] for batch in nats), out, ["nats"], start, force, json, mean="mean_nats")
