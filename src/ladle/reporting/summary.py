"""The head of the report, above the panels, and the last panel, with commands for using the model."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import numpy as np

from ladle.data import DataError
from ladle.families import NotAvailable
from ladle.html.elements import Absent, Markup, Panel, element, number, prose
from ladle.inference.evidence import Evidence, summary
from ladle.inference.methods import prepare
from ladle.reporting.subject import Subject
from ladle.tasks.common import each_batch, fitted_to, gather
from ladle.tasks.score import until

SAMPLES, ITEMS, CHUNK = 50, 500, 20
PATIENCE, QUICK = 30.0, 2.0  # seconds


def head(subject: Subject) -> tuple[Markup, dict[str, Any]]:
    """The description of the data, the headline numbers, and facts about the run."""
    schema, log = subject.model.schema, subject.log
    nats, bits = (subject.figure("result", name) for name in ("nats", "bits_per_dim"))
    if nats is None:
        records = ((r["nats"], r.get("bits_per_dim")) for r in reversed(log) if r["kind"] == "valid")
        nats, bits = next(records, (None, None))
    found = None if subject.plain else tighter(subject)
    boxes = [_box(nats, bits, _meaning(subject), "first")] if nats is not None else []
    if found is not None:
        (_, one), *_ = found.curve
        meaning = (
            f"Tighter: the importance-weighted bound with {found.samples} samples on {found.items} held-out items, "
            f"± {number(found.se, 2)} nats standard error. With one sample, the bound on the same items is "
            f"{_nats(one)} nats. `ladle evidence` evaluates all items."
        )
        boxes.append(_box(found.nats, found.bits_per_dim, meaning, ""))
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
        "Items": f"{items:,}" if items else None,
        "Trained": _time(seconds) if seconds is not None else None,
        "Date": datetime.fromtimestamp(written).strftime("%-d %b %Y"),
        "Ladle": subject.setting("ladle"),
    }
    shown = (element("div", element("dt", k), element("dd", str(v)[:100])) for k, v in facts.items() if v is not None)
    notice = None
    if subject.step is not None:
        text = (
            f"In training, step {subject.step:,}: the run has not ended. The report shows the model with the averaged "
        )
        notice = element("p", f"{text}weights of the last checkpoint.", class_="notice")
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
    text = subject.model.schema.describe().partition(": ")[2]
    return text[:1].upper() + text[1:] + ". What the model has learned from these data, and how well."


def _meaning(subject: Subject) -> str:
    if subject.plain:
        return (
            "Reconstruction loss −log p(x|z) per item on the validation split. A plain autoencoder has no prior, "
            "so this is no bound on −log p(x). Lower is better."
        )
    return "Upper bound on −log p(x) per item on the validation split: the true value is lower. Lower is better."


def _nats(nats: float) -> str:
    return number(nats, 5) if abs(nats) < 1000 else f"{nats:,.1f}"


def _box(nats: float, bits: float | None, meaning: str, look: str) -> Markup:
    return element(
        "div",
        element("div", _nats(nats), " ", element("small", "nats"), class_="big"),
        element("div", f"{number(bits)} bits per dimension") if bits is not None else None,
        element("p", prose(meaning)),
        class_=look or None,
    )


def tighter(subject: Subject) -> Evidence | None:
    """The importance-weighted bound on as many held-out items as the time allows, or ``None`` if not available."""
    patience = QUICK if subject.quick else PATIENCE
    model, show, started = subject.model, subject.progress("evidence"), time.monotonic()
    try:
        held = subject.held.take(np.arange(min(ITEMS, len(subject.held))))
        ready = prepare(model.vae, samples=SAMPLES)
        batches = each_batch(model, held, min(CHUNK, ready.batch_size), show)
        found = gather(until(map(ready.measure, batches), started + patience), len(held))
    except (Absent, NotAvailable, DataError):
        return None
    return summary(found)


def use(subject: Subject) -> Panel:
    """Commands and code for using the model, and how the data were preprocessed."""
    run = subject.folder.name
    data = fitted_to(subject.model) or "DATA"
    lines = [
        f"ladle encode {run} {data} latents.npy      # embeddings: the centre of q(z|x)",
        f"ladle sample {run} new.{subject.view.suffix} -n 64",
        f"ladle reconstruct {run} {data} reconstructed.npy",
        f"ladle score {run} {data} scores.csv        # an upper bound on -log p(x) of each item",
        f"ladle evidence {run} {'' if data != 'DATA' else data}".rstrip(),
    ]
    if subject.plain:
        lines = [line for line in lines if line.split()[1] in ("encode", "reconstruct")]
    code = [
        "import ladle", "",
        f'model = ladle.load("{run}")',
        f'z = ladle.encode(model, "{data}")  # (N, D), deterministic',
        "x = ladle.decode(model, z)  # in the units of the data",
    ]  # fmt: skip
    notes = subject.setting("data", "notes")
    steps = [str(note)[:500] for note in notes[:20]] if isinstance(notes, list) else []
    if subject.model.schema.policy:
        steps.append(subject.model.schema.policy)
    return Panel(
        "How to use it",
        ("Run these commands in the folder that contains the run. `--help` describes the options of a command.",),
        Markup(
            element("pre", element("code", "\n".join(lines)), tabindex="0")
            + element("pre", element("code", "\n".join(code)), tabindex="0")
            + element("h3", "Preprocessing of the data")
            + (element("ul", *(element("li", note) for note in steps), class_="notes") if steps else
               element("p", "None: the data are in their original units, and no item was left out."))
        ),
    )  # fmt: skip
