"""Whether the prior knows where the latents are, and whether the model holds for items it has not seen."""

from __future__ import annotations

import math

import numpy as np

from ladle.families import NotAvailable
from ladle.health.findings import Context, Finding, rung
from ladle.measures import FEWEST, two_sample

APART = 0.95
GAP = 0.3
SURE = 4.0  # standard errors
MATERIAL = 0.5

BETTER_PRIOR = "learn the prior (`--recipe learned_prior`), train it for longer, or give the KL more weight"


def _enough(context: Context) -> None:
    context.need_prior()
    if len(context.test) < FEWEST:
        raise NotAvailable(f"needs at least {FEWEST} items, got {len(context.test)}")


def _rows(zs) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The latents of all levels side by side, ``(N, D)``."""
    return np.concatenate([z.flatten(1).float().cpu().numpy() for z in zs], axis=1)


@rung(6, "prior")
def prior(context: Context) -> Finding:
    """Whether draws of the prior can be told from the aggregate posterior, one z of each test item."""
    _enough(context)
    apart = two_sample(_rows(context.tested.zs), _rows(context.dreamt))
    return Finding("prior", apart < APART, {"auc": apart}, f"auc {apart:.3f}")


@rung(6, "samples")
def samples(context: Context) -> Finding:
    """Whether samples are as good as reconstructions: both are told from data by the same classifier."""
    _enough(context)
    again, new = context.decoded(context.tested.zs), context.decoded(context.dreamt)
    a, b, c = two_sample(context.x, again), two_sample(context.x, new), two_sample(again, new)
    return Finding("samples", True, {"recon": a, "sample": b, "rs": c}, f"recon {a:.3f} sample {b:.3f} r-s {c:.3f}")


@rung(7, "generalisation")
def generalisation(context: Context) -> Finding:
    """Whether the bound is as good on test items as on training items."""
    if context.trained is None:
        raise NotAvailable("needs the data it was fitted to, with its training items: not applicable")
    context.need_prior()
    train, test = context.trained.bound, context.tested.bound
    gap = float(train.mean() - test.mean())
    error = math.sqrt(train.var(ddof=1) / len(train) + test.var(ddof=1) / len(test))
    size = gap / math.sqrt((train.var() + test.var()) / 2)
    size_train = gap / math.sqrt(train.var())
    return Finding("generalisation", True, {"gap": gap, "se": error, "size": size}, f"gap {gap:.3f} z {gap/error:.1f} size {size:.3f}/{size_train:.3f} rel {gap/abs(test.mean()):.3f} per kl {gap/max(1e-9,(context.tested.log_px-test).mean()):.3f}")
