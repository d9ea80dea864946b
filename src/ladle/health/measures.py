"""Measures of a model's latents, and of the distance between two sets of items, such as samples and data."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from ladle.data import DataError, Split
from ladle.families import centre, chain
from ladle.inference.evidence import check_density
from ladle.model.latents import Level, centres, keyed
from ladle.store.folder import Model
from ladle.tasks.common import each_batch

ACTIVE = 0.01  # the threshold of Burda et al. for the variance of the centre of q(z|x)
DRAWS = 8  # per item, if a KL has no closed form
COMPONENTS, FOLDS = 50, 5
FEWEST = 20  # the least number of items in a set


class Units(NamedTuple):
    """The information in each latent, over a set of items. The levels of a hierarchical model are concatenated, the
    top one first.

    Attributes:
        kl: ``(D,)``, the KL divergence in nats per item. With an autoregressive prior it is the contribution of each
            latent given the ones before it. The contributions sum to the KL divergence of all latents.
        spread: ``(D,)``, the variance over items of the centre of q(z|x). Below the top level it is the variance of the
            difference between the centres of q and of p(z|levels above), because the latter depends on the item too.
    """

    kl: np.ndarray
    spread: np.ndarray

    @property
    def active(self) -> np.ndarray:
        """``(D,)`` bool: the latents whose ``spread`` is above 0.01, because their centre depends on x."""
        return self.spread > ACTIVE


def units(model: Model, split: Split, *, seed: int = 0) -> Units:
    """Measure the KL divergence of each latent, and which latents are active.

    Args:
        model: a model with a prior.
        split: items in the model's form, see :func:`ladle.tasks.common.items`.
        seed: the seed of the draws that are taken if a KL has no closed form; their noise is keyed by item.

    Raises:
        NotAvailable: for a plain autoencoder, or a posterior or prior that does not factorise into conditionals.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016 (active units).
    """
    check_density(model.vae)
    kls, centred = [], []
    for batch in each_batch(model, split):
        draw = keyed(seed, batch.index.tolist(), (DRAWS,))
        with torch.no_grad():
            levels = model.vae.walk(draw, batch, (DRAWS,)).levels
            kls.append(torch.cat([_kl(level) for level in levels], dim=1).sum(0))
            top, *below = model.vae.walk(centres, batch).levels
            steps = [level.z - centre(level.p) for level in below if level.p is not None]
            centred.append(torch.cat([v.flatten(1) for v in (top.z, *steps)], dim=1))
    positions = torch.cat(centred).double()
    kl = torch.stack(kls).sum(0) / len(positions)
    return Units(kl.cpu().numpy(), positions.var(0, correction=0).cpu().numpy())


def _kl(level: Level) -> Tensor:
    """The KL divergence of one level per item and latent, ``(B, D)``: in closed form if there is one, otherwise
    estimated from the draws. It is averaged over the draws of the levels above."""
    assert level.q is not None
    assert level.p is not None
    if level.q.event_shape == level.p.event_shape == ():
        try:
            return kl_divergence(level.q, level.p).mean(0).flatten(1).double()
        except NotImplementedError:
            pass
    return (chain(level.q, level.z) - chain(level.p, level.z)).mean(0).flatten(1).double()


def two_sample(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> float:
    """Measure how well a classifier separates two sets of items, by the area under its ROC curve (AUC).

    The classifier is quadratic discriminant analysis, which compares means and covariances. Its input is the first 50
    principal components of both sets together; for small sets, half as many as the smaller one has items. By
    cross-validation, it predicts every item in the fold that it was not fitted to. An AUC of 0.5 means that it cannot
    separate the sets, 1 that it separates them perfectly.

    Args:
        x: ``(N, *event)``, the items of one set.
        y: ``(M, *event)``, the items of the other set.
        seed: the seed of the folds and of the principal components.

    Raises:
        DataError: if a set has fewer than 20 items, or the items of the two sets have different shapes.

    Reference:
        Lopez-Paz, Oquab: "Revisiting Classifier Two-Sample Tests", 2017.

    >>> import numpy as np
    >>> noise = np.random.default_rng(0)
    >>> x, y = noise.normal(size=(2, 200, 3))
    >>> bool(two_sample(x, y) < 0.6), bool(two_sample(x, y + 5) > 0.99)
    (True, True)
    """
    # imported here because they are slow to import
    from sklearn.decomposition import PCA
    from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(x), len(y)) < FEWEST or x.shape[1:] != y.shape[1:]:
        raise DataError(
            f"a two-sample test needs at least {FEWEST} items of one shape on each side, got {x.shape} and {y.shape}"
        )
    both = np.concatenate([x.reshape(len(x), -1), y.reshape(len(y), -1)]).astype(np.float32)
    which = np.repeat([0, 1], [len(x), len(y)])
    components = min(COMPONENTS, min(len(x), len(y)) // 2, both.shape[1])  # fewer dimensions than items
    features = PCA(components, random_state=seed).fit_transform(both)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    classifier = make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=0.05))
    probabilities = cross_val_predict(classifier, features, which, cv=folds, method="predict_proba")
    return float(roc_auc_score(which, probabilities[:, 1]))
