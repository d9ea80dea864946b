"""Whether the prior knows where the latents are, and whether the model holds for items it has not seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ladle.families import NotAvailable
from ladle.health.findings import Context, Finding, rung
from ladle.health.measures import FEWEST, two_sample

# Areas under the ROC curve. Between samples and reconstructions healthy models have up to 0.89, and 0.95 with a
# posterior trained by importance weights; those with next to no weight on the KL (beta 0.01), whose samples are
# broken, have 0.99. Between the latents of the prior and of data a classifier sees more: 0.97 does no harm to samples
# yet, and the broken models have 0.999. A standard prior on grey clothes has 1 and 1, and its samples are as bad.
APART = {"samples": 0.97, "prior": 0.99}
SURE = 4.0  # standard errors
# Of the standard deviation of the bound over items. Healthy models differ by up to 0.14, and by 0.4 after a long fit to
# the digits that was stopped by validation; digits fitted without validation to 200 items by 1.3, to 50 by 3.7, clothes
# to 200 by 1.2.
MATERIAL = 0.5

MIND_THE_PRIOR = (
    "learn the prior (`--recipe learned_prior`), train it for longer, or give the KL its full weight (beta 1)"
)


def _need_enough(context: Context) -> None:
    context.need_prior()
    if len(context.test) < FEWEST:
        raise NotAvailable(f"needs at least {FEWEST} test items, got {len(context.test)}: not applicable")


def _rows(zs: Sequence[Tensor]) -> np.ndarray:
    """The latents of all levels side by side, ``(N, D)``."""
    return np.concatenate([z.flatten(1).float().cpu().numpy() for z in zs], axis=1)


@rung(6, "prior")
def prior(context: Context) -> Finding:
    """Draws of the prior cannot be told from the aggregate posterior, one draw of q(z|x) for each test item.

    Where they can, the prior draws z from which the decoder never learned anything.

    Reference:
        Tomczak, Welling: "VAE with a VampPrior", 2018 (the aggregate posterior as the best prior).
    """
    _need_enough(context)
    apart = two_sample(_rows(context.tested.zs), _rows(context.dreamt))
    told = f"draws of the prior are told from the latents of data with an AUC of {apart:.2f} (0.5: not at all)"
    if apart > APART["prior"]:
        return Finding("prior", False, {"auc": apart}, f"{told}: it draws where no data are", MIND_THE_PRIOR)
    return Finding("prior", True, {"auc": apart}, told)


@rung(6, "samples")
def samples(context: Context) -> Finding:
    """Samples are as good as reconstructions, for both come from one decoder: what is between them is the prior's.

    Beside it stand the AUC of each against data. Expectations of p(x|z) are smoother than data, so that it may be 1
    for both.
    """
    _need_enough(context)
    again, new = context.decoded(context.tested.zs), context.decoded(context.dreamt)
    apart, good, drawn = two_sample(again, new), two_sample(context.x, again), two_sample(context.x, new)
    measured = {"auc": apart, "auc of reconstructions": good, "auc of samples": drawn}
    told = (
        f"samples are told from reconstructions with an AUC of {apart:.2f} "
        f"(from data {drawn:.2f}, reconstructions {good:.2f})"
    )
    if apart > APART["samples"]:
        return Finding("samples", False, measured, f"{told}: generation suffers from the prior", MIND_THE_PRIOR)
    return Finding("samples", True, measured, told)


@rung(7, "generalisation")
def generalisation(context: Context) -> Finding:
    """The bound is as good on test items as on training items.

    Over-fitting is a gap that is sure (four standard errors) and material (half the standard deviation over items).
    """
    if context.trained is None or min(len(context.test), len(context.trained.bound)) < 2:
        raise NotAvailable("needs the data set it was fitted to, with test and training items: not applicable")
    context.need_prior()
    train, test = context.trained.bound, context.tested.bound
    gap = float(train.mean() - test.mean())
    error = math.sqrt(train.var(ddof=1) / len(train) + test.var(ddof=1) / len(test))
    spread = math.sqrt((train.var() + test.var()) / 2)
    measured = {"gap": gap, "se": error, "relative": gap / spread if spread else 0.0}
    told = f"the bound is {abs(gap):.3g} ± {error:.2g} nats {'worse' if gap > 0 else 'better'} on test items"
    if gap > SURE * error and gap > MATERIAL * spread:
        return Finding(
            "generalisation", False, measured, f"over-fitting: {told} than on training items",
            "more data, a smaller size, an earlier stop (by a validation split of its own), or weight decay",
        )  # fmt: skip
    return Finding("generalisation", True, measured, f"{told} than on training items")
