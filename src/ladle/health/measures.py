"""What a model's latents do, and how far its samples are from data: the numbers that the report draws."""

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

ACTIVE = 0.01  # the threshold of Burda et al. on the variance of a latent's centre
DRAWS = 8  # per item, where a KL has no closed form
COMPONENTS, FOLDS = 50, 5
FEWEST = 20  # items in a set


class Units(NamedTuple):
    """What each latent carries, over a set of items; the levels of a hierarchy are concatenated, the top first.

    Attributes:
        kl: ``(D,)`` nats per item. Under an autoregressive prior, the part that each latent adds given the ones
            before it. The parts sum to the KL.
        spread: ``(D,)``, the variance over items of the centre of q(z|x); below the top of a hierarchy, of its distance
            from that of p(z|above), which moves with the items too.
    """

    kl: np.ndarray
    spread: np.ndarray

    @property
    def active(self) -> np.ndarray:
        """``(D,)`` bool: the centre moves with x, its variance above 0.01."""
        return self.spread > ACTIVE


def units(model: Model, split: Split, *, seed: int = 0) -> Units:
    """KL per latent, and which latents are active.

    Args:
        model: with a prior.
        split: items as the model wants them, see :func:`ladle.tasks.common.items`.
        seed: of the draws, keyed by item, where a KL has no closed form.

    Raises:
        NotAvailable: for a plain autoencoder, or a posterior or prior without a chain of conditionals.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016 (active units).
    """
    check_density(model.vae)
    kls, where = [], []
    for batch in each_batch(model, split):
        draw = keyed(seed, batch.index.tolist(), (DRAWS,))
        with torch.no_grad():
            levels = model.vae.latents.walk(draw, batch, context=batch.context, samples=(DRAWS,)).levels
            kls.append(torch.cat([_kl(level) for level in levels], dim=1).sum(0))
            top, *below = model.vae.latents.walk(centres, batch, context=batch.context).levels
            steps = [level.z - centre(level.p) for level in below if level.p is not None]
            where.append(torch.cat([v.flatten(1) for v in (top.z, *steps)], dim=1))
    places = torch.cat(where).double()
    kl = torch.stack(kls).sum(0) / len(places)
    return Units(kl.cpu().numpy(), places.var(0, correction=0).cpu().numpy())


def _kl(level: Level) -> Tensor:
    """The KL of one level per item and latent, ``(B, D)``: in closed form, else by its draws; the mean over the draws
    of the levels above."""
    assert level.q is not None
    assert level.p is not None
    if level.q.event_shape == level.p.event_shape == ():
        try:
            return kl_divergence(level.q, level.p).mean(0).flatten(1).double()
        except NotImplementedError:
            pass
    return (chain(level.q, level.z) - chain(level.p, level.z)).mean(0).flatten(1).double()


def two_sample(x: np.ndarray, y: np.ndarray, *, seed: int = 0) -> float:
    """How easily two sets of items are told apart: the area under the ROC curve of a classifier.

    The classifier (quadratic discriminant analysis, so one that compares means and covariances) sees the first 50
    principal components of both sets together (of small sets half as many as the smaller one has items), and judges
    every item in the fold it was not fitted on. 0.5: it cannot tell; 1: it always can.

    Args:
        x: ``(N, *event)``, items of one set.
        y: ``(M, *event)``, items of the other.
        seed: of the folds.

    Raises:
        DataError: with fewer than 20 items in a set, or events of different shapes.

    Reference:
        Lopez-Paz, Oquab: "Revisiting Classifier Two-Sample Tests", 2017.

    >>> import numpy as np
    >>> noise = np.random.default_rng(0)
    >>> x, y = noise.normal(size=(2, 200, 3))
    >>> bool(two_sample(x, y) < 0.6), bool(two_sample(x, y + 5) > 0.99)
    (True, True)
    """
    # slow to import, and needed here alone
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
    components = min(COMPONENTS, min(len(x), len(y)) // 2, both.shape[1])  # a covariance needs more items than numbers
    seen = PCA(components, random_state=seed).fit_transform(both)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    tell = make_pipeline(StandardScaler(), QuadraticDiscriminantAnalysis(reg_param=0.05))
    told = cross_val_predict(tell, seen, which, cv=folds, method="predict_proba")
    return float(roc_auc_score(which, told[:, 1]))
