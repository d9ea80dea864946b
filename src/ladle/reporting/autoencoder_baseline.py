"""The panel that compares samples of the model with random vectors decoded by a plain autoencoder of the same nets."""

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
from ladle.html.charts import gauge
from ladle.html.elements import Absent, Panel, element, joined
from ladle.html.items import Group
from ladle.model.latents import from_prior, replay
from ladle.recipes.assemble import assemble
from ladle.reporting.subject import Subject
from ladle.seeds import seeded
from ladle.shapes import numel
from ladle.store.folder import Model, ModelError, load
from ladle.tasks.common import at_once, explained
from ladle.tasks.encode import encode, levels_of
from ladle.training.fit import fit

NAME = "autoencoder"  # its folder, inside that of the run
LONGEST = 1.0  # minutes of training
FEWEST, MOST = 40, 1000  # the least and the largest number of items in each set of a comparison


def plan(subject: Subject) -> dict[str, Any]:
    """The plan of an autoencoder with the nets, latent size and likelihood of the run, for :func:`ladle.assemble`.

    Raises:
        Absent: if the model does not consist of one encoder, one vector of latents and one decoder.
    """
    spec = subject.setting("model") or {}
    latents, likelihood = spec.get("latents", {}), spec.get("likelihood", {})
    posterior = latents.get("posterior", {})
    if latents.get("part") != "latents/flat" or {posterior.get("part"), likelihood.get("part")} != {
        "conditional/amortised"
    }:
        raise Absent("This model does not consist of one encoder, one vector of latents and one decoder, so there is "
                     "no plain autoencoder with the same nets.")  # fmt: skip
    return {
        "latents": {"size": numel(posterior["event"]), "posterior": {"part": "family/point_mass"}, "prior": None},
        "encoder": _free(posterior["net"]),
        "decoder": _free(likelihood["net"]),
        "likelihood": likelihood["family"],
        "objective": {"part": "objective/elbo"},
        "training": subject.setting("training") or {},
    }


def _free(net: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of a net without the sizes that follow from the data."""
    return {k: v for k, v in net.items() if k not in ("inputs", "outputs")}


def autoencoder(subject: Subject) -> Model:
    """The autoencoder in its folder inside that of the run. It is trained first if it does not exist yet.

    Raises:
        Absent: if it does not exist, and there is no time or no data to train it.
    """
    folder = subject.folder / NAME
    if (folder / "model.safetensors").is_file():
        try:
            model = load(folder, subject.model.device)
        except ModelError as error:
            raise Absent(f"The plain autoencoder cannot be loaded: {error}") from None
        if (
            model.schema.shape != subject.model.schema.shape
            or model.vae.latents.events != subject.model.vae.latents.events
        ):
            raise Absent(f"The model in {NAME}/ was fitted to data of another shape, or has other latents.")
        return model
    if subject.quick or subject.data is None:
        made_by = f"`ladle report {subject.folder.name}`, which trains it for at most a minute."
        comparison = "The comparison with a plain autoencoder of the same nets is added by"
        raise Absent(f"{comparison} {made_by}" if subject.data is not None else subject.why)
    assembly = assemble(subject.model.schema, plan(subject), seed=0)
    minutes = min(LONGEST, (subject.figure("result", "seconds") or 60 * LONGEST) / 60)
    show = subject.progress("train an autoencoder, %")
    shutil.rmtree(folder, ignore_errors=True)  # of a report that was interrupted
    for step in fit(assembly, subject.data, minutes=minutes, device=subject.model.device, run=folder,
                    settings={"recipe": "ae", "size": subject.setting("fit", "size")}):  # fmt: skip
        show(round(100 * min(step.fraction, 1.0)), 100)
    return load(folder, subject.model.device)


def random_codes(model: Model, items: Split, n: int, seed: int = 0) -> np.ndarray:
    """Random vectors for an autoencoder, ``(n, D)``: normal, with the mean and standard deviation of each dimension of
    the codes of ``items``."""
    codes = encode(model, items)
    return np.random.default_rng(seed).normal(codes.mean(0), codes.std(0), (n, codes.shape[1])).astype(np.float32)


def drawn(model: Model, n: int, z: np.ndarray | None = None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Decode latents, or draws from the prior: the expectation of p(x|z), and a draw from it, each ``(n, *event)``."""
    means, draws = [], []
    levels = None if z is None else levels_of(model, z)
    size = at_once(model)
    for start in range(0, n, size):
        count = min(size, n - start)
        draw = from_prior() if levels is None else replay([level[start : start + size] for level in levels])
        with torch.no_grad(), seeded(seed, "companion", start):
            batch = model.vae.blank(count)
            d = model.vae.explain(model.vae.walk(draw, batch).h, batch)
            means.append(families.mean(d).float().cpu().numpy())
            draws.append(d.sample().float().cpu().numpy())
    return np.concatenate(means), np.concatenate(draws)


def prior(subject: Subject) -> Panel:
    """Samples of the model beside random vectors decoded by the autoencoder, and how well a classifier separates each
    from data."""
    if subject.plain:
        raise NotAvailable("This is a plain autoencoder. It has no prior p(z), which this panel is about.")
    held, train = subject.held, subject.some("train")
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
    groups = [
        Group("data", "filled", held.x[:n], x[:n], data=True),
        Group("samples of this model", "accent", mean, new),
    ]
    aucs = {"data": two_sample(x[:n], other[:n]), "samples": two_sample(x[:n], new)}
    if companion is not None:
        mean, new = drawn(companion, n, random_codes(companion, train, n))
        groups.append(Group("random vectors, decoded by the autoencoder", "other", mean, new))
        aucs["autoencoder"] = two_sample(x[:n], new)
    names = {"data": "training data, for reference", "samples": "samples of this model",
             "autoencoder": "random vectors, autoencoder"}  # fmt: skip
    rows = [(names[name], auc) for name, auc in aucs.items()]
    table = gauge([(name, f"{auc:.3f}", 2 * abs(auc - 0.5)) for name, auc in rows])
    words = [
        "A decoder maps any vector to something. Only a prior determines which vectors to decode: samples of this "
        "model are decoded from draws of its prior.",
    ]
    if companion is not None:
        seconds = companion.config.get("result", {}).get("seconds")
        took = f" for {seconds:.0f} seconds" if isinstance(seconds, (int, float)) and math.isfinite(seconds) else ""
        words.append(
            f"The plain autoencoder has the same nets and was trained{took}. It has no prior. Its random vectors are "
            "normal, with the mean and standard deviation of its codes for the training data in each dimension, which "
            "favours it."
        )
    else:
        words.append(why)
    words.append(
        f"The numbers are AUCs: how well a classifier separates {n:,} generated items (draws from p(x|z), so they "
        "include the noise of the likelihood) from the same number of held-out items, by the means and covariances of "
        "up to 50 principal components. 0.5 is the best value: the classifier cannot separate them. 1 is the worst."
    )
    return Panel(
        "What the prior is for",
        tuple(words),
        joined([subject.view.groups(groups), element("h3", "AUC against held-out data"), table]),
        {"auc": aucs, "items": n},
    )


def _complete(split: Split, subject: Subject) -> np.ndarray:
    """The items without missing values, as the likelihood models them."""
    x = explained(subject.model, split)
    return x if split.observed is None else x[split.observed.reshape(len(x), -1).all(1)]
