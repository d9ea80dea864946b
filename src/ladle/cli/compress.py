"""The commands around compressed files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

import ladle
from ladle.cli.app import Data, Device, Force, Json, Part, Run, app, tell
from ladle.tasks.decompress import opened
from ladle.training.progress import counter

File = Annotated[Path, typer.Argument(help="A compressed file.", metavar="FILE")]
Model = Annotated[str | None, typer.Option("--model", help="The model's folder, or what `ladle export` wrote of it.")]


@app.command()
def compress(
    run: Run,
    data: Data,
    out: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT.ladle")],
    mode: Annotated[str, typer.Option(help="bitsback, the smallest; random-access, to read items alone.")] = "bitsback",
    quality: Annotated[float | None, typer.Option(help="With loss, at this PSNR in dB.", metavar="DB")] = None,
    check: Annotated[bool, typer.Option("--verify/--no-verify", help="Decode everything before it is written.")] = True,
    split: Part = None,
    device: Device = "cpu",
    force: Force = False,
    json: Json = False,
) -> None:
    """Compress images or arrays, by default without loss."""
    start = time.perf_counter()
    progress = counter("compress")
    made = ladle.compress(
        run, data, out, mode=mode, quality=quality, split=split, verify=check, device=device, force=force,
        progress=progress,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    ratio = made.raw / max(made.bytes, 1)
    text = f"{out}: {made.bytes:,} bytes for {made.raw:,}, {ratio:.2f} to 1, {made.bits_per_dim:.4f} bits per number"
    if made.fallback:
        text += f"; {made.fallback} of {made.chunks} parts are smaller by xz: the model knows little of such data"
    if made.decibels is not None:
        text += f"; with loss, at {made.decibels:.1f} dB"
    tell({"out": str(out), **made._asdict(), "seconds": round(seconds, 3)}, json, text)


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Argument(help="The file to write, .safetensors.", metavar="OUT")],
    decoder: Annotated[bool, typer.Option("--decoder", help="The half that decodes random-access files.")] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write a part of a model as one file."""
    if not decoder:
        raise ladle.DataError("what is exported must be said: --decoder, the half that decodes random-access files")
    size = ladle.export_decoder(run, out, force=force)
    tell(
        {"out": str(out), "bytes": size}, json, f"{out}: {size:,} bytes, which decode random-access files of this model"
    )


@app.command()
def decompress(
    file: File,
    out: Annotated[Path, typer.Argument(help="A .npy for an array, a folder for images.", metavar="OUT")],
    model: Model = None,
    items: Annotated[
        str | None, typer.Option("--range", help="Items (of images: images) A to before B.", metavar="A:B")
    ] = None,
    device: Device = "cpu",
    force: Force = False,
    json: Json = False,
) -> None:
    """Bring back what was compressed, to the last bit."""
    start = time.perf_counter()
    with opened(file) as reader:
        told = reader.header
    if model is None:
        wanted = f"{str(told.get('name'))!r} ({str(told.get('model'))!r})"
        raise ladle.CodingError(f"--model must name the folder of the model {wanted}")
    part = None if items is None else _range(items)
    ladle.decompress(file, out, model=model, items=part, device=device, force=force, progress=counter("decompress"))
    seconds, loss = time.perf_counter() - start, told.get("step", 1) != 1
    text = f"{out}: {'as near to what it was as was asked for' if loss else 'as it was'}"
    tell({"out": str(out), "seconds": round(seconds, 3)}, json, text)


def _range(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise ladle.DataError(f"--range must be A:B, two whole numbers, got '{text}'")
    return int(first), int(last)


@app.command()
def info(file: File, json: Json = False) -> None:
    """What a compressed file says of itself."""
    told = ladle.info(file)
    tell(told, json, "\n".join(_printable(f"{key}: {value}") for key, value in told.items()))


def _printable(text: str) -> str:
    """What a stranger wrote, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@app.command()
def verify(file: File, model: Model = None, device: Device = "cpu", json: Json = False) -> None:
    """Look for damage in a compressed file."""
    found = ladle.verify(file, model, device, progress=counter("verify"))
    whole = f"{file}: whole, {found.items:,} items in {found.chunks} parts"
    if model is None:
        whole += "; with --model it would be decoded too"
    text = "\n".join(found.damaged) if found.damaged else whole
    tell({"file": str(file), "items": found.items, "chunks": found.chunks, "damaged": list(found.damaged)}, json, text)
    if found.damaged:
        raise typer.Exit(2)
