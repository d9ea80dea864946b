"""What stands above the panels, and the last one, that says how to go on."""

from __future__ import annotations

import math
import time
from datetime import datetime
from typing import Any

import numpy as np

from ladle.data import DataError
from ladle.families import NotAvailable
from ladle.html.elements import Absent, Markup, Panel, element, number, prose
from ladle.inference.evidence import Evidence, Items, joined, summary
from ladle.inference.importance import importance, rows
from ladle.reporting.subject import Subject
from ladle.tasks.common import each_batch, fitted_to

SAMPLES, ITEMS, CHUNK = 50, 500, 20
PATIENCE, QUICK = 30.0, 2.0  # seconds


def head(subject: Subject) -> tuple[Markup, dict[str, Any]]:
    """Data, recipe, time and the headline numbers."""
    schema, log = subject.model.schema, subject.log
    nats = subject.figure("result", "nats")
    if nats is None:
        nats = next((r["nats"] for r in reversed(log) if r["kind"] == "valid"), None)
    found = None if subject.plain else tighter(subject)
    boxes = [_box(nats, schema.size, _meaning(subject), "first")] if nats is not None else []
    if found is not None:
        (_, one), *_ = found.curve
        said = (
            f"Tighter: importance-weighted bound with {found.samples} samples on {found.items} held-out items, "
            f"± {number(found.se, 2)} nats of standard error. The same items have {_nats(one)} nats with one sample. "
            "`ladle evidence` measures it on all."
        )
        boxes.append(_box(found.nats, schema.size, said, ""))
    seconds = subject.figure("result", "seconds")
    if seconds is None and log:
        seconds = log[-1]["seconds"]
    weights = subject.folder / "model.safetensors"
    written = (weights if weights.exists() else subject.folder / "config.json").stat().st_mtime
    counts = subject.setting("data", "items")
    items = sum(v for v in counts.values() if type(v) is int) if isinstance(counts, dict) else None
    facts = {
        "Recipe": subject.setting("fit", "recipe"),
        "Size": subject.setting("fit", "size"),
        "Parameters": f"{sum(p.numel() for p in subject.model.vae.parameters()):,}",
        "Items in all": f"{items:,}" if items else None,
        "Trained": _time(seconds) if seconds is not None else None,
        "On": datetime.fromtimestamp(written).strftime("%-d %b %Y"),
        "Ladle": subject.setting("ladle"),
    }
    shown = (element("div", element("dt", k), element("dd", str(v)[:100])) for k, v in facts.items() if v is not None)
    notice = None
    if subject.step is not None:
        said = f"In training, step {subject.step:,}: the run has not ended. What follows is drawn from the averaged "
        notice = element("p", f"{said}weights of its last checkpoint.", class_="notice")
    top = element(
        "header",
        element("div", "Ladle report", class_="eyebrow"),
        element("h1", schema.source or "data"),
        element("p", _described(subject), class_="lead"),
        notice,
        element("div", *boxes, class_="headline") if boxes else None,
        element("dl", *shown, class_="facts"),
    )
    numbers = {"nats": nats, "evidence": None if found is None else found.to_json(), "step": subject.step}
    return top, numbers


def _time(seconds: float) -> str:
    return f"{seconds / 60:.1f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"


def _described(subject: Subject) -> str:
    said = subject.model.schema.describe().partition(": ")[2]
    return said[:1].upper() + said[1:] + ". A report of what a model has learned of it."


def _meaning(subject: Subject) -> str:
    if subject.plain:
        return (
            "Reconstruction loss −log p(x|z) per item on the validation split. A plain autoencoder has no prior, "
            "so this is no bound on −log p(x)."
        )
    return "Bound on −log p(x) per item on the validation split: the true value is lower. Less is better."


def _nats(nats: float) -> str:
    return number(nats, 5) if abs(nats) < 1000 else f"{nats:,.1f}"


def _box(nats: float, dims: int, said: str, look: str) -> Markup:
    bits = nats / (dims * math.log(2))
    return element(
        "div",
        element("div", _nats(nats), " ", element("small", "nats"), class_="big"),
        element("div", f"{number(bits)} bits per dimension"),
        element("p", prose(said)),
        class_=look or None,
    )


def tighter(subject: Subject) -> Evidence | None:
    """The importance-weighted bound, on as many held-out items as the time allows; ``None`` where it cannot be had."""
    patience = QUICK if subject.quick else PATIENCE
    model, show, started = subject.model, subject.progress("evidence"), time.monotonic()
    found: list[Items] = []
    try:
        held = subject.held.take(np.arange(min(ITEMS, len(subject.held))))
        size = min(CHUNK, rows(model.vae, SAMPLES))
        for some in importance(model.vae, each_batch(model, held, size, show), samples=SAMPLES):
            found.append(some)
            if time.monotonic() - started > patience:
                break
    except (Absent, NotAvailable, DataError):
        return None
    return summary(joined(found), model.schema.size)


def use(subject: Subject) -> Panel:
    """Commands, and what was done to the data."""
    run = subject.folder.name
    data = fitted_to(subject.model) or "DATA"
    lines = [
        f"ladle encode {run} {data} latents.npy      # embeddings: the centre of q(z|x)",
        f"ladle sample {run} new.{'png' if subject.model.schema.kind == 'image' else 'csv'} -n 64",
        f"ladle reconstruct {run} {data} again.npy",
        f"ladle score {run} {data} scores.csv        # how unlikely is each item?",
        f"ladle evidence {run} {'' if data != 'DATA' else data}".rstrip(),
    ]
    if subject.plain:
        lines = [line for line in lines if line.split()[1] in ("encode", "reconstruct")]
    code = [
        "import ladle", "",
        f'model = ladle.load("{run}")',
        f'z = ladle.encode(model, "{data}")  # (N, D), deterministic',
        "x = ladle.decode(model, z)  # in the data's own units",
    ]  # fmt: skip
    notes = subject.setting("data", "notes")
    told = [str(note)[:500] for note in notes[:20]] if isinstance(notes, list) else []
    if subject.model.schema.policy:
        told.append(subject.model.schema.policy)
    return Panel(
        "How to use it",
        ("From the folder that holds the run. Every command explains itself with --help.",),
        Markup(
            element("pre", element("code", "\n".join(lines)), tabindex="0")
            + element("pre", element("code", "\n".join(code)), tabindex="0")
            + element("h3", "What was done to the data")
            + (element("ul", *(element("li", note) for note in told), class_="notes") if told else
               element("p", "Nothing: it is in its own units, and no item was left out."))
        ),
    )  # fmt: skip
