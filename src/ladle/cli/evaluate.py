"""The commands that evaluate a trained model and publish it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

import ladle
from ladle.cli.app import Device, Json, Part, Run, Seed, app, named, read, tell
from ladle.cli.console import show_health
from ladle.training.progress import counter, err, note


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
