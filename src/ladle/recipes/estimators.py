"""Estimators: what is asked of the same model and the same data. Each makes a plan of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ladle.spec import SpecError

PRECISION = 1.0  # of the prior on a decoder's weights
THRIFT = 8  # a step takes so many times fewer items where each is decoded once for every particle
CLOSED = ("net/linear",)  # the decoders that need no particles


def estimator(plan: Mapping[str, Any], name: str, items: int, precision: float = PRECISION) -> dict[str, Any]:
    """A recipe's plan with another estimator.

    * ``vi``: variational inference, as the recipe has it.
    * ``ml``: maximum likelihood: log p(x) exactly where the model is linear and Gaussian, else the importance-weighted
      bound with 64 samples.
    * ``map``: maximum a posteriori: ``ml`` under the prior N(0, 1 / precision) on the decoder's weights.
    * ``em``: expectation-maximisation: exact E-steps where the model is linear and Gaussian, else Monte Carlo.
    * ``laplace``: ``map``, and after training a normal posterior over the decoder's weights
      (:func:`ladle.tasks.laplace.laplace`).

    All but ``vi`` take the place of the recipe's objective, and keep the weights of the end of training: those that
    validated best are another estimate.

    Args:
        plan: from :func:`ladle.recipe`.
        name: of the estimator.
        items: how many the model is trained on.
        precision: of the prior on the weights, for ``map`` and ``laplace``.

    Raises:
        SpecError: for an unknown estimator, or a plain autoencoder, which has no p(x).

    >>> import ladle
    >>> plan = ladle.recipe("vae", ladle.Schema("image", (1, 8, 8), "binary"))
    >>> plan["objective"], estimator(plan, "ml", items=100)["objective"]
    ({'part': 'objective/elbo'}, {'part': 'objective/ml'})
    """
    if name not in ESTIMATORS:
        raise SpecError(f"unknown estimator '{name}'; known: {', '.join(ESTIMATORS)}")
    objective = ESTIMATORS[name](items, precision)
    if objective is None:
        return dict(plan)
    if plan["latents"].get("prior", plan) is None:
        raise SpecError(
            f"'{name}' needs p(x), and a plain autoencoder has no prior and so no p(x); the estimator that fits: vi. "
            "Or take one of the VAE recipes"
        )
    training = dict(plan.get("training", {}))
    thrift = 1 if plan["decoder"]["part"] in CLOSED else THRIFT
    batch = max(1, training.get("batch", 128) // thrift)
    return {**plan, "objective": objective, "training": {**training, "batch": batch, "last": True}}


def _map(items: int, precision: float) -> dict[str, Any]:
    return {"part": "objective/map", "objective": {"part": "objective/ml"}, "items": items, "precision": precision}


ESTIMATORS: dict[str, Callable[[int, float], dict[str, Any] | None]] = {
    "vi": lambda items, precision: None,
    "ml": lambda items, precision: {"part": "objective/ml"},
    "map": _map,
    "em": lambda items, precision: {"part": "objective/em"},
    "laplace": _map,
}

POSTERIORS = ("laplace",)  # those that end with a posterior of the weights, made after training
