"""The commands that evaluate and publish a trained model."""

from __future__ import annotations

import time
from typing import Annotated

import typer

import ladle
from ladle.cli.app import Device, Json, Part, Run, Seed, app, read, tell, training_data_name
from ladle.cli.console import show_health
from ladle.training.progress import counter, err, note


@app.command()
def evidence(
    run: Run,
    data: Annotated[
        str | None,
        typer.Argument(help="The data [default: test split of the named set it was trained on].", metavar="DATA"),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="iwae: importance-weighted bound; ais: annealed, tighter but slower; exact: for few latents."
        ),
    ] = "iwae",
    samples: Annotated[
        int | None, typer.Option(help="Importance samples per item [default: 500], or chains for ais [default: 16].")
    ] = None,
    temperatures: Annotated[int, typer.Option(help="Temperatures of ais: more are tighter and slower.")] = 500,
    proposal: Annotated[str, typer.Option(help="Proposal distribution: q, inflated or defensive.")] = "q",
    items: Annotated[
        int | None, typer.Option(help="Number of items, chosen at random [default: all; 20 with --sandwich].")
    ] = None,
    sandwich: Annotated[
        bool, typer.Option("--sandwich", help="Lower and upper bound by ais, on items sampled from the model.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(help="Stop after this number of minutes; items are in random order.")
    ] = None,
    split: Part = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Estimate -log p(x) per item, with its standard error."""
    model = ladle.load(run, device)
    if sandwich:
        if data is not None:
            raise typer.BadParameter(f"--sandwich samples its items from the model: leave out '{data}'")
        if minutes is not None or split is not None or method != "iwae":
            raise typer.BadParameter("--sandwich uses ais on sampled items: give no --method, --minutes or --split")
        both = ladle.sandwich(
            model, 20 if items is None else items, samples=16 if samples is None else samples,
            temperatures=temperatures, proposal=proposal, seed=seed, progress=counter("sandwich"),
        )  # fmt: skip
        return tell(both.to_json(), json, str(both))
    dataset = read(data or training_data_name(model), like=model.schema)
    found = ladle.evidence(
        model, dataset, method=method, samples=samples, temperatures=temperatures, proposal=proposal, at_most=items,
        minutes=minutes, split=split, seed=seed, progress=counter("evidence"),
    )  # fmt: skip
    if method == "ais" and found.method != "ais":
        note(f"ais needs real-valued latents; used {found.method} instead ({found.kind})")
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
    data: Annotated[
        str | None, typer.Argument(help="The data [default: the named set it was trained on].", metavar="DATA")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Diagnose a model. The exit status is 1 if problems are found."""
    model = ladle.load(run, device, finite=False)
    health = ladle.check(
        model, read(data or training_data_name(model), like=model.schema), seed=seed, progress=counter("check")
    )
    if json:
        tell(health.to_json(), json, "")
    else:
        show_health(health)
    raise typer.Exit(0 if health.ok else 1)


@app.command()
def report(
    run: Run,
    data: Annotated[
        str | None, typer.Argument(help="The data [default: the named set it was trained on].", metavar="DATA")
    ] = None,
    labels: Annotated[str | None, typer.Option(help="The label column, or a pattern for file names.")] = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write report.html: what a model has learned, and how well."""
    start = time.perf_counter()
    err.print(f"drawing the report of {run}")
    written = ladle.report(run, data, labels=labels, device=device, progress=counter)
    for message in written.notes:
        note(message)
    result = {"report": str(written.path), "seconds": round(time.perf_counter() - start, 3), **written.numbers}
    tell(result, json, str(written.path))


@app.command()
def push(
    run: Run,
    name: Annotated[str, typer.Argument(help="The repository on the Hugging Face Hub.", metavar="USER/NAME")],
    private: Annotated[bool, typer.Option("--private", help="Create the repository as private.")] = False,
    json: Json = False,
) -> None:
    """Upload a model to the Hugging Face Hub."""
    address = ladle.push(run, name, private=private)
    tell({"name": f"hub:{name}", "commit": address}, json, f"hub:{name}: {address}")


@app.command()
def parts(json: Json = False) -> None:
    """List all parts: recipes, families, networks and more."""
    table = {
        kind: {name: (thing.__doc__ or "").strip().split("\n")[0] for name, thing in sorted(things.items())}
        for kind, things in sorted(ladle.parts().items())
    }
    lines = [f"{kind}\n" + "\n".join(f"  {n:28} {doc}" for n, doc in things.items()) for kind, things in table.items()]
    tell(table, json, "\n".join(lines))
