"""What the prior is for: the same nets as a plain autoencoder, and what its random vectors decode to."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ladle import families
from ladle.data import Split
from ladle.families import NotAvailable
from ladle.health.measures import two_sample
from ladle.html import items as markup
from ladle.html.charts import Marks, gauge, legend
from ladle.html.elements import Absent, Markup, Panel, element, joined
from ladle.model.latents import from_prior, replay
from ladle.recipes.assemble import assemble
from ladle.reporting.subject import Subject
from ladle.seeds import seeded
from ladle.shapes import numel
from ladle.store.folder import Model, ModelError, load
from ladle.tasks.common import at_once, explained
from ladle.tasks.encode import encode, levels_of
from ladle.training.fit import fit

NAME = "autoencoder"  # its folder, inside the run's
LONGEST = 1.0  # minutes of training
FEWEST, MOST = 40, 1000  # items on each side of a comparison
SEEN = 16  # images of each kind


def plan(subject: Subject) -> dict[str, Any]:
    """The run's nets, latent size and likelihood as the plan of an autoencoder, for :func:`ladle.assemble`.

    Raises:
        Absent: when the model is not one encoder, one vector of latents and one decoder.
    """
    spec = subject.setting("model") or {}
    latents, likelihood = spec.get("latents", {}), spec.get("likelihood", {})
    posterior = latents.get("posterior", {})
    if latents.get("part") != "latents/flat" or {posterior.get("part"), likelihood.get("part")} != {
        "conditional/amortised"
    }:
        raise Absent("This model is not one encoder, one vector of latents and one decoder, so there is no plain "
                     "autoencoder of the same nets.")  # fmt: skip
    return {
        "latents": {"size": numel(posterior["event"]), "posterior": {"part": "family/point_mass"}, "prior": None},
        "encoder": _free(posterior["net"]),
        "decoder": _free(likelihood["net"]),
        "likelihood": likelihood["family"],
        "objective": {"part": "objective/elbo"},
        "training": subject.setting("training") or {},
    }


def _free(net: Mapping[str, Any]) -> dict[str, Any]:
    """A net without the sizes that follow from the data."""
    return {k: v for k, v in net.items() if k not in ("inputs", "outputs")}


def autoencoder(subject: Subject) -> Model:
    """The companion from its folder inside the run's, trained first where it is not there yet.

    Raises:
        Absent: when it is not there, and there is no time or no data to train it.
    """
    folder = subject.folder / NAME
    if (folder / "model.safetensors").is_file():
        try:
            model = load(folder, subject.model.device)
        except ModelError as error:
            raise Absent(f"The companion cannot be opened: {error}") from None
        if (
            model.schema.shape != subject.model.schema.shape
            or model.vae.latents.events != subject.model.vae.latents.events
        ):
            raise Absent(f"The model in {NAME}/ was fitted to other data.")
        return model
    if subject.quick or subject.data is None:
        command = f"`ladle report {subject.folder.name}`"
        made_by = f"{command}, which trains a plain autoencoder of the same nets for at most a minute."
        raise Absent(f"The comparison is made by {made_by}" if subject.data is not None else subject.why)
    made = plan(subject)
    assembly = assemble(subject.model.schema, made, seed=0)
    minutes = min(LONGEST, (subject.figure("result", "seconds") or 60 * LONGEST) / 60)
    show = subject.progress("train an autoencoder, %")
    shutil.rmtree(folder, ignore_errors=True)  # half of one, from a report that was interrupted
    for step in fit(assembly, subject.data, minutes=minutes, device=subject.model.device, run=folder,
                    settings={"recipe": "ae", "size": subject.setting("fit", "size")}):  # fmt: skip
        show(round(100 * min(step.fraction, 1.0)), 100)
    return load(folder, subject.model.device)


def random_codes(model: Model, items: Split, n: int, seed: int = 0) -> np.ndarray:
    """Vectors for an autoencoder: normal, with the mean and deviation of each dimension of the codes of ``items``."""
    codes = encode(model, items)
    return np.random.default_rng(seed).normal(codes.mean(0), codes.std(0), (n, codes.shape[1])).astype(np.float32)


def drawn(model: Model, n: int, z: np.ndarray | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Items from latents, or from the prior: the expectation of p(x|z), and x drawn from it, each ``(n, *event)``."""
    means, draws = [], []
    levels = None if z is None else levels_of(model, z)
    size = at_once(model)
    for start in range(0, n, size):
        count = min(size, n - start)
        draw = from_prior() if levels is None else replay([level[start : start + size] for level in levels])
        with torch.no_grad(), seeded(seed, "companion", start):
            d = model.vae.explain(model.vae.latents.walk(draw, n=count).h)
            means.append(families.mean(d).float().cpu().numpy())
            draws.append(d.sample().float().cpu().numpy())
    return np.concatenate(means), np.concatenate(draws)


def prior(subject: Subject) -> Panel:
    """Samples of the model beside random vectors decoded by its companion, and how far both are from data."""
    if subject.plain:
        raise NotAvailable("This is a plain autoencoder: it has no prior p(z), which is what this panel is about.")
    schema, held, train = subject.model.schema, subject.held, subject.some("train")
    x, other = (_complete(part, subject) for part in (held, train))
    n = min(len(x), len(other), MOST // 2 if subject.quick else MOST)
    if n < FEWEST:
        raise Absent(f"This comparison needs at least {FEWEST} held-out items without missing values, got {n}.")
    companion: Model | None
    try:
        companion, why = autoencoder(subject), ""
    except Absent as error:
        companion, why = None, str(error)
    mean, new = drawn(subject.model, n)
    sets = [("data", "filled", x[:n], x[:n]), ("samples of this model", "accent", mean, new)]
    aucs = {"data": two_sample(x[:n], other[:n]), "samples": two_sample(x[:n], new)}
    if companion is not None:
        mean, new = drawn(companion, n, random_codes(companion, train, n))
        sets.append(("random vectors through the autoencoder", "other", mean, new))
        aucs["autoencoder"] = two_sample(x[:n], new)
    names = {"data": "training data, the yardstick", "samples": "samples of this model",
             "autoencoder": "random vectors, autoencoder"}  # fmt: skip
    rows = [(names[name], auc) for name, auc in aucs.items()]
    table = gauge([(name, f"{auc:.3f}", 2 * abs(auc - 0.5)) for name, auc in rows])
    if schema.kind == "image":
        pictures = _pictures(subject, held, sets)
    else:
        pictures = joined([
            markup.histograms(subject.columns, [(name, look, new.reshape(n, -1)) for name, look, _, new in sets]),
            legend([Marks([], [], look, "area" if look == "filled" else "line", name) for name, look, _, _ in sets]),
        ])  # fmt: skip
    words = [
        "A decoder turns any vector into something. Only a prior says which vectors to decode: samples of this model "
        "start from its prior.",
    ]
    if companion is not None:
        seconds = companion.config.get("result", {}).get("seconds")
        took = f" for {seconds:.0f} seconds" if isinstance(seconds, (int, float)) and math.isfinite(seconds) else ""
        words.append(
            f"The plain autoencoder has the same nets and was trained{took}. It has no prior, so its vectors are "
            "normal, with the mean and deviation that its own codes have in each dimension on training data, which is "
            "generous."
        )
    else:
        words.append(why)
    words.append(
        f"The numbers are AUCs: how well a classifier tells {n:,} drawn items (x drawn from p(x|z), so with the noise "
        "that the model itself says there is) from as many of the data, by means and covariances of 50 principal "
        "components. 0.5: not at all, good. 1: always, bad."
    )
    return Panel(
        "What the prior is for",
        tuple(words),
        joined([pictures, element("h3", "AUC against held-out data"), table]),
        {"auc": aucs, "items": n},
    )


def _complete(split: Split, subject: Subject) -> np.ndarray:
    """The items without a missing value, as the likelihood explains them."""
    x = explained(subject.model, split)
    return x if split.observed is None else x[split.observed.reshape(len(x), -1).all(1)]


def _pictures(subject: Subject, held: Split, sets: list[tuple[str, str, np.ndarray, np.ndarray]]) -> Markup:
    """Some images of each set: the data as it is, of the others the expectation of p(x|z)."""
    schema, figures = subject.model.schema, []
    for i, (name, _, mean, _) in enumerate(sets):
        some = held.x[:SEEN] if i == 0 else mean[:SEEN]
        levels = markup.look(some, schema, binarised=i > 0)
        caption = element("figcaption", element("b", name), "" if i == 0 else ", the expectation of p(x|z)")
        figures.append(element("figure", caption, markup.sheet(levels, 8, f"{len(levels)} images: {name}")))
    return element("div", *figures, class_="stack")
