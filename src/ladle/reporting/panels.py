"""The panels of training, of items and of latents. Each is a function from a :class:`Subject` to a :class:`Panel`."""

from __future__ import annotations

import numpy as np
import torch

from ladle import families
from ladle.health.measures import ACTIVE
from ladle.html.charts import Marks, bars, limits, plot
from ladle.html.elements import Absent, Panel, element, joined
from ladle.html.items import Traversal, percent
from ladle.model.latents import from_prior
from ladle.reporting.pictures import curve, visible
from ladle.reporting.subject import Subject
from ladle.seeds import seeded
from ladle.tasks.encode import decode, encode
from ladle.tasks.interpolate import interpolate
from ladle.tasks.reconstruct import reconstruct
from ladle.tasks.sample import sample

STEPS, LINES = 9, 4
COLOURS = 10  # of classes on the map


def training(subject: Subject) -> Panel:
    """The bound during training."""
    title = "Training"
    if not subject.log:
        raise Absent("There is no log in this folder (log.jsonl), so the training curve cannot be drawn.")
    marks = []
    for kind, look, name in (("train", "soft", "training batches"), ("valid", "accent", "validation")):
        points = curve(subject.log, kind)
        if points:
            x, y = zip(*points, strict=True)
            marks.append(Marks(x, y, look, "line", f"{name}, final value {points[-1][1]:,.2f}"))
    if not marks:
        raise Absent("The log holds no measurement of the bound.")
    values = [float(y) for m in marks for y in m.y]
    bottom, top = visible(values)
    drawn = [m._replace(y=np.where(np.asarray(m.y) > top, np.nan, m.y)) for m in marks]
    left_out = " The first, much higher values are cut off." if max(values) > top else ""
    notes = [r for r in subject.log if r["kind"] == "note"]
    clipped = max((r["clipped"] or 0 for r in subject.log), default=0)
    listed = [element("li", f"minute {r['seconds'] / 60:.1f}: {r['message'][:400]}") for r in notes[:20]]
    if len(notes) > 20:
        listed.append(element("li", f"and {len(notes) - 20} more"))
    if clipped:
        listed.append(element("li", f"{clipped} outlier gradient{'s were' if clipped > 1 else ' was'} clipped"))
    what = "reconstruction loss −log p(x|z)" if subject.plain else "bound on −log p(x)"
    chart = plot(drawn, f"The {what} in nats over {max(m.x[-1] for m in marks):.1f} minutes of training",
                 x=(0.0, max(float(m.x[-1]) for m in marks) * 1.01 or 1.0), y=(bottom, top),
                 axes=("minutes", f"{what}, nats per item"),
                 events=[r["seconds"] / 60 for r in notes])  # fmt: skip
    words = (
        f"The {what}; lower is better. The model is not trained on the validation items.{left_out}",
        "The curve should fall and level off. If the validation curve rises while the training curve falls, the model "
        "overfits. If it is still falling at the end, longer training would help.",
    )
    return Panel(title, words, joined([chart, element("ul", *listed, class_="notes") if listed else None]),
                 {"notes": len(notes), "clipped": clipped})  # fmt: skip


def reconstructions(subject: Subject) -> Panel:
    """Held-out items and their reconstructions."""
    view, held = subject.view, subject.held
    shown = held if view.most_pairs is None else held.take(np.arange(min(view.most_pairs, len(held))))
    decoded = reconstruct(subject.model, shown)
    drawn = view.reconstructions(subject.originals.first(len(shown)), decoded, subject.codes.shape[1])
    return Panel("Reconstructions", drawn.words, drawn.body, drawn.numbers)


def samples(subject: Subject) -> Panel:
    """New items."""
    view = subject.view
    new = sample(subject.model, view.samples_drawn, noise=view.with_noise, progress=subject.progress("sample"))
    drawn = view.samples(subject.originals if view.beside_data else None, new)
    return Panel("Samples", drawn.words, drawn.body, drawn.numbers)


def latent_map(subject: Subject) -> Panel:
    """The centres of q(z|x) on their first two principal components."""
    title, z, labels = "Map of the latents", subject.codes.astype(np.float64), subject.held.labels
    if z.shape[1] < 2 or len(z) < 3:
        raise Absent(f"The map needs at least 3 items and 2 latents, got {len(z)} items and {z.shape[1]} latents.")
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
            name = "other classes, or no label" if len(known) > COLOURS else "no label"
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
    read = (
        "the model reads the labels" if "label" in subject.model.vae.context else "the model was not given the labels"
    )
    coloured = f", coloured by label ({read})" if known else " (the items have no labels)"
    words = (
        f"Each dot is the centre of q(z|x) of one of {len(z):,} items{coloured}. The axes are the first two principal "
        f"components of the {z.shape[1]} latents, with {share:.0%} of their variance.",
        "Clusters of one colour mean that the latents separate the classes. Classes that overlap here may still be "
        "separate in the other dimensions.",
    )
    return Panel(title, words, element("div", chart, class_="square"), {"variance_shown": share})


def interpolation(subject: Subject) -> Panel:
    """Items along straight lines between the latents of two items."""
    held = subject.held
    if len(held) < 2:
        raise Absent("An interpolation needs at least 2 items.")
    a, b = _ends(held.labels, len(held))
    lines = interpolate(subject.model, held.take(a), held.take(b), steps=STEPS)
    drawn = subject.view.interpolations(lines.reshape(len(a), STEPS, *subject.model.schema.shape))
    return Panel("Between two items", drawn.words, drawn.body, drawn.numbers)


def _ends(labels: np.ndarray | None, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first and last items of a few lines, of different classes if possible."""
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
    """The KL divergence of each latent."""
    found = subject.units
    order = np.argsort(-found.kl, kind="stable")
    active = int(found.active.sum())
    chart = bars(found.kl[order], found.active[order], f"KL of {len(order)} latents, sorted",
                 ("latents, sorted by KL", "KL, nats per item"))  # fmt: skip
    most = ", ".join(f"z{i} ({found.kl[i]:.2f})" for i in order[:5])
    words = (
        f"The information about an item in each latent: {found.kl.sum():.1f} nats in total. {active} of {len(order)} "
        f"latents are active: the variance of their centre over items is above {ACTIVE}. The latents with the highest "
        f"KL: {most}.",
        "Grey bars are unused latents. A few of them do no harm. If most are grey, the posterior has collapsed to the "
        "prior in these dimensions, and fewer latents would be enough.",
    )
    return Panel("Use of the latents", words, chart,
                 {"active_units": active, "latents": len(order), "kl": float(found.kl.sum())})  # fmt: skip


def traversals(subject: Subject) -> Panel:
    """One item, decoded while one latent at a time moves over its prior."""
    u, view = np.linspace(0.02, 0.98, STEPS), subject.view
    values, source = _quantiles(subject, u)
    found = subject.units
    chosen = np.argsort(-found.kl, kind="stable")[: view.most_latents]
    base = encode(subject.model, subject.held.take(np.arange(1)))
    z = np.repeat(base, len(chosen) * STEPS, 0).reshape(len(chosen), STEPS, -1)
    for row, i in enumerate(chosen):
        z[row, :, i] = values[:, i]
    x = decode(subject.model, z.reshape(-1, z.shape[-1])).reshape(len(chosen), STEPS, *subject.model.schema.shape)
    start = decode(subject.model, base)[0]
    moved = [Traversal(f"z{i}", f"{found.kl[i]:.2f} nats", steps) for i, steps in zip(chosen, x, strict=True)]
    drawn = view.traversals(start, moved, (percent(u[0]), percent(u[-1])))
    words = (
        f"One item, decoded repeatedly while a single latent moves over {source}, from the 2 % to the 98 % quantile. "
        "The latents are sorted by their KL.",
        *drawn.words,
    )
    return Panel("One latent at a time", words, drawn.body, drawn.numbers)


def _quantiles(subject: Subject, u: np.ndarray) -> tuple[np.ndarray, str]:
    """The quantiles of the prior of every latent, ``(len(u), D)``, and a description of their source."""
    vae = subject.model.vae
    with torch.no_grad(), seeded(0, "quantiles"):
        found = vae.walk(from_prior(), vae.blank(len(u))).levels
        if any(getattr(level.p.support, "is_discrete", False) for level in found if level.p is not None):
            raise Absent("The latents are discrete, so they have no quantiles to move over.")
        p = found[0].p
        if len(found) == 1 and p is not None and not p.event_shape:
            try:
                at = torch.tensor(u, dtype=torch.float32, device=found[0].z.device)
                at = at.reshape(-1, *[1] * (found[0].z.dim() - 1)).expand_as(found[0].z)
                return families.quantile(p, at).flatten(1).cpu().numpy(), "its prior"
            except families.NotAvailable:
                pass
        many = [
            vae.walk(from_prior(), vae.blank(250)).levels for _ in range(8)
        ]  # in batches, because feature maps need memory
        z = (
            torch.cat([torch.cat([level.z.flatten(1) for level in levels], dim=1) for levels in many])
            .float()
            .cpu()
            .numpy()
        )
    return np.quantile(z, u, axis=0).astype(np.float32), "its values in 2,000 draws from the prior"
