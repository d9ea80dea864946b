"""Simulation-based calibration: the rank of the true z among draws of a correct posterior is uniform.

With ``z* ~ p(z), x ~ p(x|z*)``, z* is itself a draw of p(z|x). So its rank among L draws of q(z|x) is uniform on 0..L
if q is the posterior.

Reference:
    Talts, Betancourt, Simpson, Vehtari, Gelman: "Validating Bayesian Inference Algorithms with Simulation-Based
    Calibration", 2018.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import ladle
from gaussians import linear_gaussian, narrower, shifted
from ladle.data import Batch
from ladle.inference.importance import weigh
from ladle.inference.proposals import PROPOSALS, Proposal
from ladle.model.latents import keyed, replay
from ladle.seeds import seeded

ITEMS, DRAWS, POOL = 600, 19, 500
ALARM = 1e-3  # the false-alarm rate for each latent; the seeds below are fixed


def ranks(model: ladle.Model, x: np.ndarray, z: np.ndarray, resampled: bool) -> np.ndarray:
    """The rank of each true z among ``DRAWS`` draws, ``(N, D)`` in 0..DRAWS: draws of q or, if ``resampled``, draws
    chosen from ``POOL`` draws of q by their importance weights."""
    count = POOL if resampled else DRAWS
    recorded: list[torch.Tensor] = []

    def noise(i, q, p):  # type: ignore[no-untyped-def]
        recorded.append(keyed(0, range(len(x)), (count,))(i, q, p))
        return recorded[0]

    batch = Batch(torch.from_numpy(x).double(), None, {}, torch.arange(len(x)))
    propose: Proposal = PROPOSALS["q"]
    log_w = weigh(model.vae, batch, (count,), noise, propose)
    draws = recorded[0]
    if resampled:
        with seeded(1):
            chosen = torch.multinomial(log_w.softmax(0).T, DRAWS, replacement=True).T
        draws = draws.gather(0, chosen.unsqueeze(-1).expand(-1, -1, draws.shape[-1]))
    return (draws < torch.from_numpy(z)).sum(0).numpy()


def p_values(found: np.ndarray) -> np.ndarray:
    """The p-values of chi-square tests that the ranks are uniform, one for each latent."""
    return np.array([chisquare(np.bincount(column, minlength=DRAWS + 1)).pvalue for column in found.T])


def test_ranks_of_an_exact_posterior_are_uniform() -> None:
    model, x, _, z = linear_gaussian(n=ITEMS)
    assert (p_values(ranks(model, x, z, resampled=False)) > ALARM).all()
    assert (p_values(ranks(model, x, z, resampled=True)) > ALARM).all()


@pytest.mark.parametrize("spoil", [lambda m: narrower(m, 0.7), lambda m: shifted(m, 0.5)], ids=["narrow", "shifted"])
def test_a_wrong_posterior_is_rejected_and_resampling_corrects_it(spoil) -> None:  # type: ignore[no-untyped-def]
    """With 600 items the planted faults are found at a level of 1e-6."""
    model, x, _, z = linear_gaussian(n=ITEMS)
    spoil(model)
    assert (p_values(ranks(model, x, z, resampled=False)) < 1e-6).all()
    assert (p_values(ranks(model, x, z, resampled=True)) > ALARM).all()


def test_the_model_has_the_likelihood_of_the_data() -> None:
    """The model in ``gaussians`` has the distribution of its data: log p(x|z) is the normal density of the noise."""
    model, x, _, z = linear_gaussian(n=5)
    batch = Batch(torch.from_numpy(x).double(), None, {}, torch.arange(5))
    terms = model.vae(batch, draw=replay([torch.from_numpy(z)]))
    head = model.vae.likelihood.head
    mean = torch.from_numpy(z) @ head.weight.T + head.bias
    expected = torch.distributions.Normal(mean, 0.5).log_prob(batch.x).sum(-1)
    torch.testing.assert_close(terms.log_px, expected)
