"""Whether the latents carry information, and whether the decoder uses them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ladle.families import NotAvailable
from ladle.health.findings import Context, Finding, stage
from ladle.model.latents import centres
from ladle.seeds import seeded
from ladle.tasks.common import each_batch, explained

DEAD = 0.01  # nats: a latent with less is dead (Burda et al. use the same number for the variance of its centre)
# Half a bit in total: with less, z cannot even split the data into halves. Digits at beta 15 and 50 have 0.16 and 0.15
# nats of KL and 0.13 of information; the lowest of the healthy models tried (beta 4) has 0.62 and 0.49, the others 2
# and more.
LEAST = 0.5 * math.log(2)
# Standard errors. log p(x|z) falls by 0.2 of one for collapsed models, and by at least 3.2 for the smallest healthy
# models (18 and 44 test items) with one partner per item; several partners reduce the error.
SURE, PARTNERS = 3.0, 4
NEAR = 1.0  # nats below log N: the number of items limits the estimate of the information
PIECE = 4_000_000  # numbers processed at a time
NOISE_ITEMS, NOISE_DRAWS, ROUNDED = 64, 32, 1 / 12

COLLAPSED = "reduce the weight of the KL (beta 1, a warm-up, free bits) or the noise of the likelihood, or train longer"


@stage(5, "collapse")
def collapse(context: Context) -> Finding:
    """Posterior collapse: the KL of every latent is near 0, so the posterior is the prior and z is independent of x.

    A few latents without information are normal: training prunes latents that the data do not need.
    """
    context.need_prior()
    try:
        kl = context.units.kl
    except NotAvailable:  # for a joint posterior or prior, the KL of all latents together
        kl = np.array([(context.tested.log_px - context.tested.bound).mean()])
    dead, count, total = int((kl < DEAD).sum()), len(kl), float(kl.sum())
    measured = {"dead latents": dead, "latents": count, "kl": total}
    if dead == count or total < LEAST:
        return Finding(
            "collapse", False, measured,
            f"posterior collapse: {count} latents carry {total:.2g} nats in total, less than half a bit "
            f"({dead} of them less than {DEAD} each), so samples do not depend on z",
            COLLAPSED,
        )  # fmt: skip
    pruned = f"; {dead} carry no information, which is normal pruning" if dead else ""
    return Finding("collapse", True, measured, f"{count - dead} of {count} latents carry {total:.3g} nats{pruned}")


@stage(5, "active units")
def active_units(context: Context) -> Finding:
    """The number of active units: latents whose posterior centre has a variance over x above 0.01.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
    """
    found = context.units
    active, count = int(found.active.sum()), len(found.spread)
    measured = {"active": active, "latents": count}
    if not active:
        return Finding(
            "active units", False, measured,
            f"none of {count} latents depends on x: the largest variance of a posterior centre is "
            f"{found.spread.max():.2g}, and an active latent has more than 0.01",
            COLLAPSED,
        )  # fmt: skip
    return Finding("active units", True, measured, f"{active} of {count} latents depend on x")


def information(context: Context) -> tuple[float, float]:
    """I_q(x; z), ``E log q(z|x) - log 1/N sum_n q(z|x_n)`` over the N test items, and its standard error, in nats.

    It is ``E KL(q(z|x) || p(z)) - KL(q(z) || p(z))`` with q(z) the mixture of the N posteriors, and is at most log N.

    Raises:
        NotAvailable: for more than one level, or a posterior without a density.

    Reference:
        Hoffman, Johnson: "ELBO surgery: yet another way to carve up the variational evidence lower bound", 2016.
    """
    if len(context.tested.zs) != 1:
        raise NotAvailable("needs a model with one level of latents: not applicable")
    (z,) = context.tested.zs
    parts = [  # the density of every z under every posterior, (M, N), in chunks of z
        (context.vae.walk(centres, b).levels[0].q, len(b.x)) for b in each_batch(context.model, context.test)
    ]
    rows = max(1, PIECE // z.numel())
    found = []
    for start in range(0, len(z), rows):
        chunk = z[start : start + rows]
        with torch.no_grad():
            columns = [q.log_prob(chunk.unsqueeze(1)).reshape(len(chunk), n, -1).sum(-1) for q, n in parts if q]
        log_q = torch.cat(columns, dim=1).double()
        diagonal = log_q[torch.arange(len(chunk)), torch.arange(start, start + len(chunk))]
        found.append(diagonal - log_q.logsumexp(1) + math.log(len(z)))
    each = torch.cat(found).cpu().numpy()
    return float(each.mean()), _error(each)


@stage(5, "information")
def mutual_information(context: Context) -> Finding:
    """The mutual information of x and z under the encoder.

    The KL can be large although z carries no information about x: when all posteriors are equal but differ from the
    prior.
    """
    context.need_prior()
    nats, error = information(context)
    ceiling = math.log(len(context.test))
    measured = {"nats": nats, "se": error, "ceiling": ceiling}
    if nats < LEAST:
        return Finding(
            "information", False, measured,
            f"x and z share {max(nats, 0):.2g} nats, less than half a bit: the latents carry no information about x",
            COLLAPSED,
        )  # fmt: skip
    least = "at least " if nats > ceiling - NEAR else ""
    return Finding(
        "information", True, measured,
        f"x and z share {least}{nats:.2f} ± {error:.2f} nats (the estimate is at most log {len(context.test):,} = "
        f"{ceiling:.2f})",
    )  # fmt: skip


@stage(5, "shuffle")
def shuffle(context: Context) -> Finding:
    """Whether log p(x|z) falls when z is replaced by the latents of another item. If not, the decoder ignores z.

    For a decoder that uses all information in z, the fall is at least the mutual information of x and z.
    """
    order = np.random.default_rng(context.seed).permutation(len(context.test))
    partner = np.empty_like(order)
    falls = []
    for step in range(1, min(PARTNERS, len(order) - 1) + 1):
        partner[order] = np.roll(order, -step)
        index = torch.from_numpy(partner.copy())
        other = context.walk(context.test, tuple(z[index.to(z.device)] for z in context.tested.zs))
        falls.append(context.tested.log_px - other.log_px)
    if not falls:
        raise NotAvailable("needs at least 2 items")
    fall = np.mean(falls, axis=0)
    drop, error = float(fall.mean()), _error(fall)
    measured = {"drop": drop, "se": error}
    if not drop > max(LEAST, SURE * error):
        return Finding(
            "shuffle", False, measured,
            f"with the latents of another item log p(x|z) falls by only {max(drop, 0):.2g} ± {error:.2g} nats: "
            "the decoder ignores z",
            "train for longer; or use a weaker decoder, less noise or a longer warm-up of the KL",
        )  # fmt: skip
    return Finding(
        "shuffle", True, measured,
        f"log p(x|z) falls by {drop:.4g} ± {error:.2g} nats with the latents of another item: the decoder uses z",
    )  # fmt: skip


def predicted_units(x: np.ndarray, variance: float | np.ndarray) -> int:
    """The number of latents that a linear VAE with this decoder noise keeps active, predicted from the data alone.

    A latent stays active if its principal direction has an eigenvalue above the variance of the decoder; the others
    collapse at the optimum of the bound. With one variance per element, each element is scaled by its own noise.

    Args:
        x: ``(N, *event)``, in the original units of the data.
        variance: the variance of the likelihood in the same units, squared: one number, or ``(*event)``.

    Raises:
        ValueError: if there are fewer than 2 items, or a variance is not positive.

    Reference:
        Lucas, Tucker, Grosse, Norouzi: "Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse", 2019.

    >>> x = np.random.default_rng(0).normal(size=(500, 3)) * [10, 5, 1]
    >>> predicted_units(x, 4.0), predicted_units(x, 400.0)
    (2, 0)
    """
    variance = np.broadcast_to(np.asarray(variance, np.float64), x.shape[1:]).reshape(-1)
    if len(x) < 2 or not (variance > 0).all():
        raise ValueError(f"at least 2 items and a positive variance are needed, got {len(x)} and {variance.min()}")
    return int((eigenvalues(x.reshape(len(x), -1) / np.sqrt(variance)) > 1).sum())


def eigenvalues(x: np.ndarray) -> np.ndarray:
    """The eigenvalues of the covariance of rows ``(N, D)``, in descending order: ``(min(N, D),)``."""
    x = np.asarray(x, np.float64)
    return np.linalg.svd(x - x.mean(0), compute_uv=False) ** 2 / len(x)


@stage(5, "predicted units")
def predicted(context: Context) -> Finding:
    """The number of principal directions of the data with more variance than the decoder's noise, which is the number
    of latents that a linear model would keep. If it is zero, collapse is the optimum and training cannot avoid it."""
    if context.schema.support == "binary":
        raise NotAvailable("the likelihood has no location and scale: not applicable")
    context.need_prior()
    x = context.x if context.train is None else explained(context.model, context.train)
    variance = noise(context)
    if not (np.isfinite(variance).all() and (variance > 0).all()):
        raise NotAvailable("the likelihood has no finite variance: not applicable")
    count = predicted_units(x, variance)
    latents = sum(math.prod(event) for event in context.vae.latents.events)
    measured = {"predicted": count, "latents": latents}
    if not count:
        return Finding(
            "predicted units", False, measured,
            "no principal direction of the data has more variance than the decoder's noise: collapse is the optimum",
            "reduce the noise (learn it, with a lower minimum), or train for longer",
        )  # fmt: skip
    return Finding(
        "predicted units", True, measured,
        f"{count} principal directions of the data have more variance than the decoder's noise; the model has "
        f"{latents} latents",
    )  # fmt: skip


def noise(context: Context) -> np.ndarray:
    """The variance of p(x|z) of each element, averaged over some items, ``(*event)``, estimated from samples. For
    integers it is at least the variance of rounding."""
    d = context.likelihood(context.tested.zs, slice(0, NOISE_ITEMS))
    with seeded(context.seed, "noise"):
        draws: Tensor = d.sample((NOISE_DRAWS,)).double()
    variance = draws.var(0).mean(0).cpu().numpy()
    return np.maximum(variance, ROUNDED) if context.schema.support == "bytes" else variance


def _error(values: np.ndarray) -> float:
    """The standard error of the mean."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
