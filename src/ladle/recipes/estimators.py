"""Estimators for the weights of a model. Each changes the plan of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ladle.spec import SpecError

PRECISION = 1.0  # precision of the prior on the decoder's weights
THRIFT = 8  # factor by which the batch is reduced if each item is decoded once per particle
CLOSED = ("net/linear",)  # the decoders that do not need particles


def estimator(plan: Mapping[str, Any], name: str, items: int, precision: float = PRECISION) -> dict[str, Any]:
    """The plan of a recipe with another estimator.

    * ``vi``: variational inference, with the objective of the recipe.
    * ``ml``: maximum likelihood: exact log p(x) if the model is linear and Gaussian, otherwise the importance-weighted
      bound with 64 samples.
    * ``map``: maximum a posteriori: ``ml`` under the prior N(0, 1 / precision) on the decoder's weights.
    * ``em``: expectation-maximisation: exact E-steps if the model is linear and Gaussian, otherwise Monte Carlo.
    * ``laplace``: ``map``, followed by a normal posterior over the decoder's weights
      (:func:`ladle.tasks.laplace.laplace`).

    All except ``vi`` replace the recipe's objective and keep the last weights of training, because the weights with the
    best validation are a different estimate.

    Args:
        plan: from :func:`ladle.recipe`.
        name: the name of the estimator.
        items: the number of training items.
        precision: the precision of the prior on the weights, for ``map`` and ``laplace``.

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
            f"estimator '{name}' needs p(x), but a plain autoencoder has no prior and therefore no p(x); use the "
            "estimator vi or one of the VAE recipes"
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

POSTERIORS = ("laplace",)  # the estimators that compute a posterior of the weights after training
