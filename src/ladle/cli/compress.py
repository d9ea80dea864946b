"""The commands for compressed files."""

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
Model = Annotated[str | None, typer.Option("--model", help="The model folder, or a decoder written by `ladle export`.")]


@app.command()
def compress(
    run: Run,
    data: Data,
    out: Annotated[Path, typer.Argument(help="The file to write.", metavar="OUT.ladle")],
    mode: Annotated[
        str, typer.Option(help="bitsback: smallest files; random-access: any item can be decoded alone.")
    ] = "bitsback",
    quality: Annotated[
        float | None,
        typer.Option(help="Compress with loss to this PSNR in dB (implies random-access).", metavar="DB"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Decode every chunk before it is written.")
    ] = True,
    split: Part = None,
    device: Device = "cpu",
    force: Force = False,
    json: Json = False,
) -> None:
    """Compress images or arrays, by default without loss."""
    start = time.perf_counter()
    progress = counter("compress")
    result = ladle.compress(
        run, data, out, mode=mode, quality=quality, split=split, verify=check, device=device, force=force,
        progress=progress,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    ratio = result.raw / max(result.bytes, 1)
    text = f"{out}: {result.raw:,} bytes to {result.bytes:,}, ratio {ratio:.2f}, {result.bits_per_dim:.4f} bits/dim"
    if result.fallback:
        text += (
            f"; {result.fallback} of {result.chunks} chunks were compressed by xz or stored, "
            "because the model does not fit their data"
        )
    if result.decibels is not None:
        text += f"; lossy, PSNR {result.decibels:.1f} dB"
    tell({"out": str(out), **result._asdict(), "seconds": round(seconds, 3)}, json, text)


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Argument(help="The file to write, .safetensors.", metavar="OUT")],
    decoder: Annotated[
        bool, typer.Option("--decoder", help="Export the decoding half, for random-access files.")
    ] = False,
    force: Force = False,
    json: Json = False,
) -> None:
    """Export a part of a model as one file."""
    if not decoder:
        raise ladle.DataError("nothing to export: give --decoder, for the half that decodes random-access files")
    size = ladle.export_decoder(run, out, force=force)
    tell({"out": str(out), "bytes": size}, json, f"{out}: {size:,} bytes, decodes random-access files of this model")


@app.command()
def decompress(
    file: File,
    out: Annotated[Path, typer.Argument(help="A .npy file for an array, a folder for images.", metavar="OUT")],
    model: Model = None,
    items: Annotated[
        str | None,
        typer.Option("--range", help="Restore only the items (or images) A to B - 1.", metavar="A:B"),
    ] = None,
    device: Device = "cpu",
    force: Force = False,
    json: Json = False,
) -> None:
    """Restore the contents of a compressed file."""
    start = time.perf_counter()
    with opened(file) as reader:
        header = reader.header
    if model is None:
        needed = f"{str(header.get('name'))!r} ({str(header.get('model'))!r})"
        raise ladle.CodingError(f"--model must name the folder of the model {needed}")
    part = None if items is None else _range(items)
    ladle.decompress(file, out, model=model, items=part, device=device, force=force, progress=counter("decompress"))
    seconds, lossy = time.perf_counter() - start, header.get("step", 1) != 1
    text = f"{out}: {'reconstructed within the requested quality' if lossy else 'restored, bit-exact'}"
    tell({"out": str(out), "seconds": round(seconds, 3)}, json, text)


def _range(text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not (colon and first.isdecimal() and last.isdecimal()):
        raise ladle.DataError(f"--range must be A:B, two whole numbers, got '{text}'")
    return int(first), int(last)


@app.command()
def info(file: File, json: Json = False) -> None:
    """Show the header and the contents of a compressed file."""
    fields = ladle.info(file)
    tell(fields, json, "\n".join(_printable(f"{key}: {value}") for key, value in fields.items()))


def _printable(text: str) -> str:
    """Untrusted text without characters that would control a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@app.command()
def verify(file: File, model: Model = None, device: Device = "cpu", json: Json = False) -> None:
    """Check a compressed file for damage."""
    result = ladle.verify(file, model, device, progress=counter("verify"))
    intact = f"{file}: undamaged, {result.items:,} items in {result.chunks} chunks"
    if model is None:
        intact += "; give --model to check that they decode"
    text = "\n".join(result.damaged) if result.damaged else intact
    tell(
        {"file": str(file), "items": result.items, "chunks": result.chunks, "damaged": list(result.damaged)}, json, text
    )
    if result.damaged:
        raise typer.Exit(2)
