"""Whether the prior matches the aggregate posterior, and whether the model generalises to held-out items."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ladle.families import NotAvailable
from ladle.health.findings import Context, Finding, stage
from ladle.health.measures import FEWEST, two_sample

# Areas under the ROC curve. For samples and reconstructions, healthy models have up to 0.89, or 0.95 with a posterior
# trained by importance weights; models with almost no weight on the KL (beta 0.01), whose samples are broken, have
# 0.99. The latents of the prior and of the data are easier to separate: at 0.97 samples are still good, and the broken
# models have 0.999. A standard prior on greyscale clothes has 1 and 1, and its samples are equally bad.
MAX_AUC = {"samples": 0.97, "prior": 0.99}
SURE = 4.0  # standard errors
# In standard deviations of the bound over items. The difference is up to 0.14 for healthy models, and 0.4 after a long
# fit to the digits that was stopped by validation. Without validation it is 1.3 for 200 digits, 3.7 for 50 digits and
# 1.2 for 200 clothes.
MATERIAL = 0.5

IMPROVE_PRIOR = "learn the prior (`--recipe learned_prior`), train for longer, or give the KL its full weight (beta 1)"


def _need_enough(context: Context) -> None:
    context.need_prior()
    if len(context.test) < FEWEST:
        raise NotAvailable(f"needs at least {FEWEST} test items, got {len(context.test)}: not applicable")


def _rows(zs: Sequence[Tensor]) -> np.ndarray:
    """The latents of all levels side by side, ``(N, D)``."""
    return np.concatenate([z.flatten(1).float().cpu().numpy() for z in zs], axis=1)


@stage(6, "prior")
def prior(context: Context) -> Finding:
    """Whether a classifier separates prior draws from the aggregate posterior (one draw of q(z|x) per test item).

    If it does, the prior draws z that the decoder was not trained on.

    Reference:
        Tomczak, Welling: "VAE with a VampPrior", 2018 (the aggregate posterior as the best prior).
    """
    _need_enough(context)
    auc = two_sample(_rows(context.tested.zs), _rows(context.prior_draws))
    reason = f"a classifier separates prior draws from encoded data with an AUC of {auc:.2f} (0.5: chance level)"
    if auc > MAX_AUC["prior"]:
        return Finding(
            "prior", False, {"auc": auc}, f"{reason}: the prior draws latents far from the data", IMPROVE_PRIOR
        )
    return Finding("prior", True, {"auc": auc}, reason)


@stage(6, "samples")
def samples(context: Context) -> Finding:
    """Whether samples are as good as reconstructions. Both use the same decoder, so a difference is due to the prior.

    The AUC of each against the data is also reported. Expectations of p(x|z) are smoother than data, so both of these
    may be 1.
    """
    _need_enough(context)
    reconstructions, draws = context.decoded(context.tested.zs), context.decoded(context.prior_draws)
    auc = two_sample(reconstructions, draws)
    of_reconstructions, of_draws = two_sample(context.x, reconstructions), two_sample(context.x, draws)
    measured = {"auc": auc, "auc of reconstructions": of_reconstructions, "auc of samples": of_draws}
    reason = (
        f"a classifier separates samples from reconstructions with an AUC of {auc:.2f} "
        f"(samples from data: {of_draws:.2f}, reconstructions from data: {of_reconstructions:.2f})"
    )
    if auc > MAX_AUC["samples"]:
        return Finding("samples", False, measured, f"{reason}: the prior degrades the samples", IMPROVE_PRIOR)
    return Finding("samples", True, measured, reason)


@stage(7, "generalisation")
def generalisation(context: Context) -> Finding:
    """Whether the bound is as good on test items as on training items.

    The model over-fits if the gap is significant (over four standard errors) and material (over half the standard
    deviation over items).
    """
    if context.trained is None or min(len(context.test), len(context.trained.bound)) < 2:
        raise NotAvailable("needs test and training items of the data set that the model was fitted to: not applicable")
    context.need_prior()
    train, test = context.trained.bound, context.tested.bound
    gap = float(train.mean() - test.mean())
    error = math.sqrt(train.var(ddof=1) / len(train) + test.var(ddof=1) / len(test))
    spread = math.sqrt((train.var() + test.var()) / 2)
    measured = {"gap": gap, "se": error, "relative": gap / spread if spread else 0.0}
    reason = f"the bound is {abs(gap):.3g} ± {error:.2g} nats {'worse' if gap > 0 else 'better'} on test items"
    if gap > SURE * error and gap > MATERIAL * spread:
        return Finding(
            "generalisation", False, measured, f"over-fitting: {reason} than on training items",
            "use more data, a smaller size, early stopping (on a separate validation split) or weight decay",
        )  # fmt: skip
    return Finding("generalisation", True, measured, f"{reason} than on training items")
