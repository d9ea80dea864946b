"""The amortisation gap: the loss in the bound because one encoder serves all items."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from ladle.data import Batch, DataError, Split
from ladle.health.findings import Context, Finding, stage
from ladle.inference.evidence import check_density
from ladle.inference.importance import weigh
from ladle.inference.refine import LEARN, encoded, proposed, refined
from ladle.model.latents import keyed
from ladle.model.vae import VAE
from ladle.store.folder import Model
from ladle.tasks.common import Progress, at_once, each_batch

ITEMS, STEPS = 32, 100  # a second or two for small nets
MEASURE = 64  # draws per item for the measurement


class Gap(NamedTuple):
    """The mean gap over items, in nats, and its standard error."""

    nats: float
    se: float


def amortisation_gap(
    model: Model,
    split: Split,
    *,
    items: int = 100,
    steps: int = 300,
    seed: int = 0,
    progress: Progress | None = None,
) -> Gap:
    """The improvement of the bound when the posterior is optimised for each item instead of computed by the encoder.

    ``E [max_phi ELBO(x; phi) - ELBO(x; encoder(x))]`` over items, where phi are the parameters of a member of the
    posterior's family, optimised by Adam. The remaining distance to log p(x) is due to the family, not the encoder.

    Args:
        model: a model with one level of latents.
        split: items in the model's form, see :func:`ladle.tasks.common.items`.
        items: the number of items to use, from the start of the split.
        steps: the number of optimisation steps; with too few, the gap is underestimated.
        seed: the seed of all noise, which is keyed by item.
        progress: called with (items done, items in total).

    Raises:
        DataError: if there is less than 1 item or step.
        NotAvailable: for a plain autoencoder, several levels of latents, a posterior whose parameters do not come from
            a network, or a posterior that is not reparameterised.

    Reference:
        Cremer, Li, Duvenaud: "Inference Suboptimality in Variational Autoencoders", 2018.
        Roeder, Wu, Duvenaud: "Sticking the Landing", 2017 (the gradient).
    """
    if items < 1 or steps < 1:
        raise DataError(f"there must be at least 1 item and 1 step, got {items} and {steps}")
    check_density(model.vae)
    few = split.take(np.arange(min(items, len(split))))
    size = max(1, at_once(model) // LEARN)
    each = np.concatenate([_gaps(model.vae, b, steps, seed) for b in each_batch(model, few, size, progress)])
    return Gap(float(each.mean()), float(each.std(ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.nan)


def _gaps(vae: VAE, batch: Batch, steps: int, seed: int) -> np.ndarray:
    """The gap of each item, ``(B,)``, measured with noise that the optimisation did not use."""
    start = encoded(vae, batch)
    best = refined(vae, batch, start, steps, seed)
    noise = keyed(seed, batch.index.tolist(), (MEASURE,))  # the same noise for both
    with torch.no_grad():
        before, after = (weigh(vae, batch, (MEASURE,), noise, proposed(vae, raw, (MEASURE,))) for raw in (start, best))
    return (after - before).mean(0).double().cpu().numpy()


@stage(6, "amortisation")
def amortisation(context: Context) -> Finding:
    """The improvement of the bound when the posterior is optimised for each item instead of computed by the encoder.

    This check is informative and never reports a problem: a gap makes the bound looser but does not change the density
    of the model, and no threshold separates healthy from damaged encoders. Healthy small models have gaps of 0.7 nats
    (binary digits, KL 1.1), 6 (digits, KL 11) and 24 (a table of 569 rows, KL 14); the same models with far too narrow
    posteriors have 24, 28 and 30.

    Reference:
        Cremer, Li, Duvenaud: "Inference Suboptimality in Variational Autoencoders", 2018.
    """
    context.need_prior()
    few = min(ITEMS, at_once(context.model), len(context.test))
    gap = amortisation_gap(context.model, context.test, items=few, steps=STEPS, seed=context.seed)
    return Finding(
        "amortisation", True, {"gap": gap.nats, "se": gap.se, "items": few},
        f"optimising the posterior of each item raises the bound by {gap.nats:.3g} ± {gap.se:.2g} nats ({few} items, "
        f"{STEPS} steps)",
    )  # fmt: skip
