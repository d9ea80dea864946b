"""The command line: thin faces over the Python API.

Exit status: 0 done, 2 wrong usage or bad input, 1 a failure of ours or a model that `ladle check` finds ill, 130 and
143 stopped by Ctrl-C or SIGTERM.
"""

from __future__ import annotations

import errno
import json as jsonlib
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated, Any, NoReturn

import numpy as np
import typer

import ladle
from ladle.console import Show, counter, duration, ending, err, interruptible, note, show_health
from ladle.data import is_name, rehearse
from ladle.shapes import numel

app = typer.Typer(
    name="ladle",
    help="Variational autoencoders put to work: from a folder of data to a model you can trust.",
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BAD_INPUT = (
    ladle.DataError, ladle.ModelError, ladle.SpecError, ladle.MachineError, ladle.NotAvailable,
    ladle.LoggerError, ladle.MissingPackage,
)  # fmt: skip
CommandLineError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
OURS = (None, errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of the failures of files, those that are no bad input
DEFAULT_MINUTES = 5.0

Run = Annotated[str, typer.Argument(help="A model folder, as `ladle fit` writes, or hub:user/name.", metavar="RUN")]
Data = Annotated[str, typer.Argument(help="A folder, a file or the name of a data set.", metavar="DATA")]
Out = Annotated[Path, typer.Argument(help="Where to write; the suffix says how.", metavar="OUT")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output.")]
Seed = Annotated[int, typer.Option(help="The seed of all noise.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Part = Annotated[str | None, typer.Option("--split", help="train, valid, test or all; of a name test, of a file all.")]


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and leave; bad input ends with one line on stderr and status 2."""
    with warnings.catch_warnings(), ending():
        warnings.simplefilter("ignore")  # torch and Lightning speak of what their users can do nothing about
        try:
            arguments = sys.argv[1:] if arguments is None else arguments
            status = app(arguments or ["--help"], prog_name="ladle", standalone_mode=False)
        except BAD_INPUT as error:
            fail(str(error), 2)
        except CommandLineError as error:
            fail(error.format_message(), 2)  # type: ignore[attr-defined]
        except OSError as error:
            where = f"'{error.filename}': " if error.filename else ""
            what = f"{error.strerror[:1].lower()}{error.strerror[1:]}" if error.strerror else str(error)
            fail(where + what, 1 if error.errno in OURS else 2)
        except ladle.TrainingError as error:
            fail(str(error), 1)
        except (KeyboardInterrupt, typer.Abort):
            fail("interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


def fail(message: str, status: int) -> NoReturn:
    """Say what is wrong, and leave."""
    print(f"ladle: {message}", file=sys.stderr)
    sys.exit(status)


def tell(result: dict[str, Any], json: bool, text: str) -> None:
    """One JSON object, or a sentence, on stdout."""
    print(jsonlib.dumps(result, allow_nan=False) if json else text)


def use_all_cores() -> None:
    """This process is ours alone: let torch use every core it may."""
    import torch

    from ladle.machine import cores

    torch.set_num_threads(cores())


def _version(asked: bool) -> None:
    if asked:
        print(f"ladle {ladle.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options of `ladle` itself."""
    use_all_cores()


@app.command()
def fit(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="The model folder to write.", metavar="RUN")],
    recipe: Annotated[str, typer.Option(help="What to fit; `ladle parts` lists the recipes.")] = "learned_prior",
    size: Annotated[str, typer.Option(help="xs, s, m or l.")] = "s",
    minutes: Annotated[float | None, typer.Option(help="Train this long [default: 5].")] = None,
    epochs: Annotated[float | None, typer.Option(help="Or: this many passes over the data.")] = None,
    seed: Seed = 0,
    device: Device = "auto",
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
    dataset = _read(data, labels=labels, binarize=binarize, missing=missing, strict=strict)
    assembly = ladle.assemble(dataset.schema, recipe, size, seed)
    parameters = sum(p.numel() for p in assembly.model.parameters())
    about: dict[str, Any] = {
        "data": dataset.schema.describe(),
        "items": {name: len(dataset.split(name)) for name in ("train", "valid", "test")},
        "recipe": recipe,
        "size": size,
        "parameters": parameters,
        "run": str(out),
    }
    err.print(f"{about['data']}; {about['items']['train']:,} training items")
    err.print(f"recipe {recipe}, size {size}: {parameters:,} parameters")
    if dry_run:
        return tell(about, json, jsonlib.dumps(about, indent=1))
    budget = f"{minutes:g} minutes" if minutes is not None else f"{epochs:g} epochs"
    steps = ladle.fit(
        assembly, dataset, minutes=minutes, epochs=epochs, seed=seed, device=device, run=out,
        settings={"recipe": recipe, "size": size}, resume=resume, force=force, loggers=logger or (),
    )  # fmt: skip
    err.print(f"training for {budget} into {out}")
    last, show = None, Show()
    with interruptible() as signal_received:
        for last in steps:
            show(last)
            if signal_received() and last.kind != "done":
                steps.close()  # type: ignore[attr-defined]
                err.print(f"saved at step {last.step}; go on with --resume")
                raise typer.Exit(128 + signal_received())
    model = ladle.load(out, device)
    if last is None:
        err.print(f"'{out}' is finished already; nothing to do")
    if last is not None or not (out / "report.html").exists():
        from ladle.report.pictures import draw

        err.print("drawing pictures and the report")
        draw(model, dataset, out)
        ladle.report(out, dataset, device=device, quick=True, progress=counter)
    if last is not None:
        err.print(f"wrote {out}: model, pictures and report.html, after {duration(last.seconds)} of training")
    result = {**about, **{k: v for k, v in model.config.get("result", {}).items() if k != "machine"}}
    nats = result.get("nats")
    tell(result, json, f"{out}" if nats is None else f"{out}: {nats:.2f} nats on the validation split (bound)")


def _read(data: str | Path, **options: Any) -> ladle.Dataset:
    dataset = ladle.read(data, progress=counter("reading"), **options)
    for told in dataset.notes:
        note(told)
    return dataset


def _open(run: str, device: str, out: Path, force: bool) -> ladle.Model:
    """The model; an output that is in the way is refused before it is loaded."""
    if not force and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ladle.DataError(f"'{out}' exists; --force replaces it")
    return ladle.load(run, device)


def _rehearse(model: ladle.Model, out: Path, force: bool, *several: int) -> None:
    """Write one item of zeros as the result will be written, and take it back."""
    rehearse(np.zeros((1, *several, *model.schema.shape), np.float32), out, schema=model.schema, force=force)


def _wrote(out: Path, n: int, json: bool, start: float, **more: Any) -> None:
    seconds = time.perf_counter() - start
    tell({"out": str(out), "items": n, "seconds": round(seconds, 3), **more}, json, f"{out}: {n} items")


@app.command()
def evidence(
    run: Run,
    data: Annotated[
        str | None, typer.Argument(help="Data [default: the test split of the named set it was fitted to].")
    ] = None,
    method: Annotated[str, typer.Option(help="iwae: the importance-weighted bound.")] = "iwae",
    samples: Annotated[int, typer.Option(help="Importance samples per item.")] = 500,
    split: Part = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """-log p(x) per item, and its standard error."""
    if method != "iwae":
        raise typer.BadParameter(f"unknown method '{method}'; known: iwae")
    model = ladle.load(run, device)
    dataset = _read(data or _named(model), like=model.schema)
    found = ladle.evidence(model, dataset, samples=samples, split=split, seed=seed, progress=counter("evidence"))
    text = (
        f"-log p(x) <= {found.nats:.3f} ± {found.se:.3f} nats ({found.bits_per_dim:.4f} bits/dim), "
        f"{found.kind} by {found.samples} importance samples on {found.items} items"
    )
    tell(found.to_json(), json, text)


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
    health = ladle.check(model, _read(data or _named(model), like=model.schema), seed=seed, progress=counter("check"))
    if json:
        tell(health.to_json(), json, "")
    else:
        show_health(health)
    raise typer.Exit(0 if health.ok else 1)


def _named(model: ladle.Model) -> str:
    """The name of the data set that a model was fitted to, where it has one."""
    data = model.config.get("data", {})
    if not (data.get("named") and is_name(data.get("source", ""))):
        raise ladle.DataError(
            f"DATA must be given: '{model.schema.source}' was a file or folder, and only its name is kept"
        )
    return data["source"]


@app.command()
def encode(
    run: Run,
    data: Data,
    out: Out,
    split: Part = None,
    device: Device = "auto",
    force: Force = False,
    json: Json = False,
) -> None:
    """Embed every item: the centre of q(z|x)."""
    start, model = time.perf_counter(), _open(run, device, out, force)
    names = [f"z{i}" for i in range(sum(numel(event) for event in model.vae.latents.events))]
    rehearse(np.zeros((1, len(names)), np.float32), out, names=names, force=force)
    z = ladle.encode(model, _read(data, like=model.schema), split=split, progress=counter("encode"))
    ladle.write(z, out, names=names, force=force)
    _wrote(out, len(z), json, start, latents=z.shape[1])


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
    latents = _read(z).all
    if latents.observed is not None and not latents.observed.all():
        raise ladle.DataError(f"'{z}': latents must be finite, got missing values")
    x = ladle.decode(model, latents.x, progress=counter("decode"))
    ladle.write(x, out, schema=model.schema, force=force)
    _wrote(out, len(x), json, start)


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
    ladle.write(x, out, schema=model.schema, force=force)
    _wrote(out, len(x), json, start)


@app.command()
def reconstruct(
    run: Run,
    data: Data,
    out: Out,
    draws: Annotated[int, typer.Option(help="Draw z this many times instead of taking its centre.")] = 0,
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
        model, _read(data, like=model.schema), draws=draws, split=split, seed=seed, progress=counter("reconstruct")
    )
    ladle.write(x, out, schema=model.schema, force=force)
    _wrote(out, len(x), json, start)


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
    x = ladle.interpolate(model, _read(a, like=model.schema), _read(b, like=model.schema), steps=steps)
    ladle.write(x, out, schema=model.schema, force=force)
    _wrote(out, len(x), json, start, steps=steps)


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
        model, _read(data, like=model.schema), samples=samples, split=split, seed=seed, progress=counter("score")
    )
    ladle.write(nats[:, None], out, names=["nats"], force=force)
    _wrote(out, len(nats), json, start, mean_nats=float(nats.mean()))


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
def parts(json: Json = False) -> None:
    """List every part there is."""
    table = {
        kind: {name: (thing.__doc__ or "").strip().split("\n")[0] for name, thing in sorted(things.items())}
        for kind, things in sorted(ladle.parts().items())
    }
    lines = [f"{kind}\n" + "\n".join(f"  {n:28} {doc}" for n, doc in things.items()) for kind, things in table.items()]
    tell(table, json, "\n".join(lines))
