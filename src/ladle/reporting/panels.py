"""The panels of training, of items and of latents. Each is a function from a :class:`Subject` to a :class:`Panel`."""

from __future__ import annotations

import numpy as np
import torch

from ladle import families
from ladle.health.measures import ACTIVE
from ladle.html import items as markup
from ladle.html.charts import Marks, bars, legend, limits, plot
from ladle.html.elements import Absent, Markup, Panel, element, joined
from ladle.model.latents import from_prior
from ladle.reporting.pictures import curve, visible
from ladle.reporting.subject import Subject
from ladle.seeds import seeded
from ladle.tasks.common import explained
from ladle.tasks.encode import decode, encode
from ladle.tasks.interpolate import interpolate
from ladle.tasks.reconstruct import reconstruct
from ladle.tasks.sample import sample

PAIRS, SAMPLES, IN_A_ROW = 24, 64, 8
STEPS, LINES = 9, 4
COLOURS = 10  # of classes on the map


def training(subject: Subject) -> Panel:
    """The bound over the run."""
    title = "Training"
    if not subject.log:
        raise Absent("There is no log in this folder (log.jsonl), so nothing can be said about how training went.")
    marks, last = [], {}
    for kind, look, name in (("train", "soft", "training batches"), ("valid", "accent", "validation")):
        points = curve(subject.log, kind)
        if points:
            last[kind] = points[-1][1]
            x, y = zip(*points, strict=True)
            marks.append(Marks(x, y, look, "line", f"{name}, at the end {points[-1][1]:,.2f}"))
    if not marks:
        raise Absent("The log holds no measurement of the bound.")
    values = [float(y) for m in marks for y in m.y]
    bottom, top = visible(values)
    drawn = [m._replace(y=np.where(np.asarray(m.y) > top, np.nan, m.y)) for m in marks]
    left_out = " The steep beginning is out of sight." if max(values) > top else ""
    notes = [r for r in subject.log if r["kind"] == "note"]
    clipped = max((r["clipped"] or 0 for r in subject.log), default=0)
    listed = [element("li", f"minute {r['seconds'] / 60:.1f}: {r['message'][:400]}") for r in notes[:20]]
    if len(notes) > 20:
        listed.append(element("li", f"and {len(notes) - 20} more"))
    if clipped:
        listed.append(element("li", f"{clipped} gradients were outliers, and were shortened"))
    what = "reconstruction loss −log p(x|z)" if subject.plain else "bound on −log p(x)"
    chart = plot(drawn, f"The {what} in nats over {max(m.x[-1] for m in marks):.1f} minutes of training",
                 x=(0.0, max(float(m.x[-1]) for m in marks) * 1.01 or 1.0), y=(bottom, top),
                 axes=("minutes", f"{what}, nats per item"),
                 events=[r["seconds"] / 60 for r in notes])  # fmt: skip
    words = (
        f"The {what}, lower is better. Validation items are never trained on.{left_out}",
        "It should fall and level off. A validation line that turns upwards while training falls means that items are "
        "being learned by heart; one that still falls at the end means that more minutes would pay.",
    )
    return Panel(title, words, joined([chart, element("ul", *listed, class_="notes") if listed else None]),
                 {"notes": len(notes), "clipped": clipped})  # fmt: skip


def reconstructions(subject: Subject) -> Panel:
    """Items, encoded and decoded again."""
    title, schema, held = "Reconstructions", subject.model.schema, subject.held
    if schema.kind == "image":
        some = held.take(np.arange(min(PAIRS, len(held))))
        again = markup.look(reconstruct(subject.model, some), schema)
        first = markup.look(some.x, schema, binarised=False)
        rows = []
        for start in range(0, len(first), IN_A_ROW):
            rows += [first[start : start + IN_A_ROW], again[start : start + IN_A_ROW]]
        if len(rows[-1]) < IN_A_ROW and len(rows) > 2:  # whole rows only
            rows = rows[:-2]
        body = markup.sheet(np.concatenate(rows), IN_A_ROW, f"{len(first)} pairs of an image and its reconstruction",
                           together=2)  # fmt: skip
        words = (
            "Above each time an item that the model was not trained on, below what came back after it was encoded to "
            f"{subject.codes.shape[1]} numbers and decoded.",
            "What is lost is what those numbers do not hold. Bad: pairs that show different things.",
        )
        return Panel(title, words, body)
    x, again = _table(subject)
    r2 = markup.fits(x, again)
    body = markup.scatters(subject.columns, x, again, [markup.told(v) for v in r2])
    words = (
        f"Each dot is an item that the model was not trained on: along what it is, up what came back after "
        f"{subject.codes.shape[1]} numbers. On the line nothing is lost.",
        "R² is the share of a column's variance that came back. A cloud without a slope, R² near 0, means that the "
        "latents do not hold that column." + _more(subject),
    )
    return Panel(title, words, body, {"r2": {c: _finite(v) for c, v in zip(subject.columns, r2, strict=True)}})


def _table(subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Held items and their reconstructions, ``(N, D)``, NaN where nothing was observed."""
    held = subject.held
    x = explained(subject.model, held).astype(np.float64)
    if held.observed is not None:
        x = np.where(held.observed, x, np.nan)
    again = reconstruct(subject.model, held).astype(np.float64)
    return x.reshape(len(x), -1), again.reshape(len(x), -1)


def _more(subject: Subject) -> str:
    beyond = len(subject.columns) - markup.MOST_COLUMNS
    return f" The first {markup.MOST_COLUMNS} of {len(subject.columns)} columns are shown." if beyond > 0 else ""


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def samples(subject: Subject) -> Panel:
    """New items."""
    title, schema = "Samples", subject.model.schema
    if schema.kind == "image":
        drawn = sample(subject.model, SAMPLES, progress=subject.progress("sample"))
        body = markup.sheet(markup.look(drawn, schema), IN_A_ROW, f"{SAMPLES} images drawn from the model")
        words = (
            "New items: z drawn from the prior p(z), then the expectation of p(x|z). None of them was chosen.",
            "Good samples are as varied as the data and are things that could be in it. Bad: blurs between things, or "
            "many that are alike.",
        )
        return Panel(title, words, body)
    new = sample(subject.model, 2000, noise=True, progress=subject.progress("sample")).astype(np.float64)
    x = _table(subject)[0]
    body = joined([
        markup.histograms(subject.columns, [("data", "filled", x), ("samples", "accent", new.reshape(len(new), -1))]),
        legend([Marks([], [], "filled", "area", "data"), Marks([], [], "accent", "line", "samples")]),
    ])  # fmt: skip
    words = (
        "How the values of each column are spread: in items that the model was not trained on (filled), and in 2,000 "
        "new rows that it drew (line). The outermost values are counted at the edges.",
        "The two should lie on each other. A line that is too broad or lacks a peak shows what the model has not "
        "learned." + _more(subject),
    )
    return Panel(title, words, body)


def latent_map(subject: Subject) -> Panel:
    """The centres of q(z|x), in the plane of their greatest variance."""
    title, z, labels = "Map of the latents", subject.codes.astype(np.float64), subject.held.labels
    if z.shape[1] < 2 or len(z) < 3:
        raise Absent(f"A map needs at least 3 items and 2 latents; there are {len(z)} and {z.shape[1]}.")
    centred = z - z.mean(0)
    variance, axes = np.linalg.eigh(np.cov(centred.T))
    flat = centred @ axes[:, ::-1][:, :2]
    share = float(variance[-2:].sum() / variance.sum()) if variance.sum() > 0 else 0.0
    known = (
        sorted(set(labels.tolist()) - {-1}, key=lambda c: (-int((labels == c).sum()), c)) if labels is not None else []
    )
    marks = []
    if known and labels is not None:
        rest = ~np.isin(labels, known[:COLOURS])
        if rest.any():
            name = "other classes, or none" if len(known) > COLOURS else "no label"
            marks.append(Marks(flat[rest, 0], flat[rest, 1], "rest", "dots", name))
        marks += [
            Marks(flat[labels == c, 0], flat[labels == c, 1], f"c{i}", "dots", subject.name_of(c)[:60])
            for i, c in enumerate(sorted(known[:COLOURS]))
        ]
    else:
        marks.append(Marks(flat[:, 0], flat[:, 1], "c0", "dots"))
    chart = plot(marks, f"The latent means of {len(z)} items in two dimensions", height="min(34rem, 84vw)",
                 axes=("first principal component", "second principal component"), x=limits(flat[:, 0]),
                 y=limits(flat[:, 1]), look="many" if len(z) > 600 else "")  # fmt: skip
    coloured = "coloured by label, which the model was never shown" if known else "without labels, so in one colour"
    words = (
        f"Each dot is the centre of q(z|x) of one of {len(z):,} items, {coloured}. Of {z.shape[1]} dimensions the two "
        f"with the greatest variance are seen, with {share:.0%} of all variance.",
        "Clouds of one colour mean that the latents tell the classes apart. What overlaps here may still be apart in "
        "the other dimensions.",
    )
    return Panel(title, words, element("div", chart, class_="square"), {"variance_shown": share})


def interpolation(subject: Subject) -> Panel:
    """From item to item, along lines between their latents."""
    title, schema, held = "Between two items", subject.model.schema, subject.held
    if len(held) < 2:
        raise Absent("A line between items needs at least 2 of them.")
    a, b = _ends(held.labels, len(held))
    start, end = held.take(a), held.take(b)
    lines = interpolate(subject.model, start, end, steps=STEPS)
    words = (
        "A straight line from the latents of one item to those of another, decoded on the way.",
        "Good: every step looks like an item. Bad: two things laid over each other, as a mixture of the data itself "
        "would be.",
    )
    if schema.kind == "image":
        flat = lines.reshape(-1, *schema.shape)
        body = markup.sheet(markup.look(flat, schema), STEPS, f"{len(a)} rows, each from one item to another")
    else:
        maps = []
        for i, line in enumerate(lines.reshape(len(a), STEPS, -1).astype(np.float64)):
            alt = f"How the columns change from item {i} to another"
            drawn = markup.heat_of(line, line[0], subject.columns, schema, alt, ("from", "to"))
            maps.append(element("figure", element("figcaption", element("b", f"line {i + 1}")), drawn))
        body = element("div", *maps, class_="maps")
        words = (
            words[0] + " Each row of a map is a column: the warmer, the more it has risen since the start, the bluer, "
            "the more it has fallen (full colour: two standard deviations).",
            "Good: changes that come little by little. Bad: jumps from one step to the next.",
        )
    return Panel(title, words, body)


def _ends(labels: np.ndarray | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Where a few lines start and end: at items of different classes, where there are any."""
    lines = min(LINES, n // 2)
    a = np.arange(lines)
    if labels is None:
        return a, a + lines
    b, free = [], list(range(lines, n))
    for i in a:
        other = next((j for j in free if labels[j] != labels[i]), free[0])
        free.remove(other)
        b.append(other)
    return a, np.array(b)


def usage(subject: Subject) -> Panel:
    """The KL of each latent."""
    found = subject.units
    order = np.argsort(-found.kl, kind="stable")
    active = int(found.active.sum())
    chart = bars(found.kl[order], found.active[order], f"KL of {len(order)} latents, sorted",
                 ("latents, the busiest first", "KL, nats per item"))  # fmt: skip
    most = ", ".join(f"z{i} ({found.kl[i]:.2f})" for i in order[:5])
    words = (
        f"What each latent tells about an item, {found.kl.sum():.1f} nats in all. {active} of {len(order)} are active: "
        f"their centre moves with the item, its variance above {ACTIVE}. The busiest: {most}.",
        "Grey bars are latents that are not used: a few cost nothing, but if most are grey, the prior has won over the "
        "data and the model could be smaller.",
    )
    return Panel("Use of the latents", words, chart,
                 {"active_units": active, "latents": len(order), "kl": float(found.kl.sum())})  # fmt: skip


def traversals(subject: Subject) -> Panel:
    """One latent at a time, over its prior."""
    u, schema = np.linspace(0.02, 0.98, STEPS), subject.model.schema
    values, source = _quantiles(subject, u)
    found = subject.units
    chosen = np.argsort(-found.kl, kind="stable")[:10]
    base = encode(subject.model, subject.held.take(np.arange(1)))
    z = np.repeat(base, len(chosen) * STEPS, 0).reshape(len(chosen), STEPS, -1)
    for row, i in enumerate(chosen):
        z[row, :, i] = values[:, i]
    x = decode(subject.model, z.reshape(-1, z.shape[-1])).reshape(len(chosen), STEPS, *schema.shape)
    figures: list[Markup] = []
    ends = (markup.level_word(u[0]), markup.level_word(u[-1]))
    if schema.kind == "image":
        looks = markup.look(x.reshape(-1, *schema.shape), schema).reshape(len(chosen), STEPS, -1)
        one = markup.look(x[0, :1], schema).shape[1:]
        for i, strip_of in zip(chosen, looks, strict=True):
            strip = markup.sheet(strip_of.reshape(STEPS, *one), STEPS, f"Latent {i} from low to high")
            told = f" {found.kl[i]:.2f} nats"
            figures.append(element("figure", element("figcaption", element("b", f"z{i}"), told), strip))
        scale = element("div", element("span", ends[0]), element("span", "quantile of the prior"),
                        element("span", ends[1]), class_="ends-of-rows")  # fmt: skip
        body = element("div", *figures, scale, class_="rows")
        last = "Rows that hardly change are latents with little to say, or whose effect depends on the others."
    else:
        start = decode(subject.model, base)[0].astype(np.float64).ravel()
        for i, rows in zip(chosen[:6], x.reshape(len(chosen), STEPS, -1).astype(np.float64), strict=False):
            drawn = markup.heat_of(rows, start, subject.columns, schema, f"What latent {i} changes", ends)
            told = f" {found.kl[i]:.2f} nats"
            figures.append(element("figure", element("figcaption", element("b", f"z{i}"), told), drawn))
        body = element("div", *figures, class_="maps")
        last = (
            "Rows are columns of the table: warm is above where the item was, blue below (full colour: two "
            "standard deviations). Pale maps are latents with little to say."
        )
    words = (
        f"One item, decoded again and again while one latent alone is moved over {source}, from its 2 % to its 98 % "
        "quantile. The busiest latents come first.",
        f"A good latent changes one thing. {last}",
    )
    return Panel("One latent at a time", words, body)


def _quantiles(subject: Subject, u: np.ndarray) -> tuple[np.ndarray, str]:
    """The prior's quantiles of every latent, ``(len(u), D)``, and where they are from."""
    latents = subject.model.vae.latents
    with torch.no_grad(), seeded(0, "quantiles"):
        found = latents.walk(from_prior(), n=len(u)).levels
        if any(getattr(level.p.support, "is_discrete", False) for level in found if level.p is not None):
            raise Absent("These latents are codes, not numbers, so there are no quantiles to move them over.")
        p = found[0].p
        if len(found) == 1 and p is not None and not p.event_shape:
            try:
                at = torch.tensor(u, dtype=torch.float32, device=found[0].z.device)
                at = at.reshape(-1, *[1] * (found[0].z.dim() - 1)).expand_as(found[0].z)
                return families.quantile(p, at).flatten(1).cpu().numpy(), "its prior"
            except families.NotAvailable:
                pass
        many = [latents.walk(from_prior(), n=250).levels for _ in range(8)]  # a few: wide nets on maps take memory
        z = torch.cat([torch.cat([level.z.flatten(1) for level in some], dim=1) for some in many]).float().cpu().numpy()
    return np.quantile(z, u, axis=0).astype(np.float32), "the values it takes in 2,000 draws from the prior"
