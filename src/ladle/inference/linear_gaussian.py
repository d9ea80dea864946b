"""Linear-Gaussian models, whose evidence, posterior and maximum likelihood have closed forms.

::

    z ~ N(0, I)  --weight, mean-->  x = mean + weight z + e,   e ~ N(0, diag(noise))

One noise level for all dimensions of x gives probabilistic PCA, one for each dimension factor analysis. A VAE with a
linear decoder is such a model (:func:`gaussian`), so a trained one can be compared with the optimum. All in float64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from ladle.data import DataError
from ladle.families import NotAvailable
from ladle.families.affine import AffineFamily
from ladle.families.real import NormalFamily
from ladle.model.conditional import Amortised
from ladle.model.latents.flat import Flat
from ladle.model.priors.prior import Standard
from ladle.model.vae import VAE
from ladle.nets.linear import Linear
from ladle.seeds import seeded

COLLAPSED = 1e-10  # noise below this fraction of the variance: the items lie in a subspace


class LinearGaussian(NamedTuple):
    """``x = mean + weight z + e``: ``log p(x) = log N(x; mean, weight weight' + diag(noise))``.

    Attributes:
        weight: ``(D, Q)``, for D dimensions and Q latents.
        mean: ``(D,)``.
        noise: ``(D,)``, the *variance* of each dimension given z.

    Reference:
        Tipping, Bishop: "Probabilistic Principal Component Analysis", 1999.

    >>> model = LinearGaussian(torch.tensor([[1.0], [0.0]]), torch.zeros(2), torch.ones(2))
    >>> model.covariance.tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    >>> q = model.posterior(torch.tensor([[2.0, 5.0]]))
    >>> q.mean.tolist(), round(float(q.variance), 6)
    ([[1.0]], 0.5)
    """

    weight: Tensor
    mean: Tensor
    noise: Tensor

    @property
    def covariance(self) -> Tensor:
        """The covariance of x: ``weight weight' + diag(noise)``, ``(D, D)``."""
        return self.weight @ self.weight.mT + self.noise.diag()

    def log_prob(self, x: Any, observed: Any = None) -> Tensor:
        """The exact evidence; where values are missing, of the observed ones only.

        Args:
            x: ``(N, *event)``, D values each.
            observed: ``(N, *event)`` bool, or ``None`` for all.

        Returns:
            ``(N,)`` nats.
        """
        residual, gain, chol, mean = self._solved(x, observed)
        pull = (residual * gain) @ self.weight
        fit = (gain * residual.square()).sum(-1) - (pull * mean).sum(-1)
        constant = ((gain > 0) * (2 * math.pi * self.noise).log()).sum(-1)
        log_det = 2 * chol.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (fit + constant + log_det)

    def posterior(self, x: Any, observed: Any = None) -> MultivariateNormal:
        """``p(z|x) = N(M^-1 weight' diag(1/noise) (x - mean), M^-1)`` with ``M = I + weight' diag(1/noise) weight``.

        The arguments are those of :meth:`log_prob`; the result is over ``(N, Q)``.
        """
        _, _, chol, mean = self._solved(x, observed)
        return MultivariateNormal(mean, scale_tril=torch.linalg.cholesky(torch.cholesky_inverse(chol)))

    def _solved(self, x: Any, observed: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x - mean; the precision of each value, 0 where it is missing; the Cholesky factor of M; E[z|x]."""
        residual = _rows(x).to(self.mean) - self.mean
        gain = (1 / self.noise)[None]
        if observed is not None:
            seen = torch.as_tensor(observed).flatten(1).to(self.mean.device)
            gain = torch.where(seen, gain, torch.zeros_like(gain))
            residual = torch.where(seen, residual, torch.zeros_like(residual))
        inner = (self.weight.mT * gain[:, None]) @ self.weight
        chol = torch.linalg.cholesky(inner + torch.eye(inner.shape[-1]).to(inner))
        pull = (residual * gain) @ self.weight
        return residual, gain, chol, torch.cholesky_solve(pull[..., None], chol)[..., 0]

    def expected(self, q: MultivariateNormal, x: Any, observed: Any = None) -> Tensor:
        """``E_q[log p(x, z)]``, which the M-step of EM maximises: ``(N,)`` nats.

        The variance of q lowers ``E log p(x|z)`` by half of ``sum_d Var_q[(weight z)_d] / noise_d``.

        Args:
            q: over ``(N, Q)``, such as the :meth:`posterior` of an earlier model.
            x: ``(N, *event)``.
            observed: as for :meth:`log_prob`.
        """
        residual = _rows(x).to(self.mean) - self.mean - q.mean @ self.weight.mT
        spread = (self.weight @ q.covariance_matrix * self.weight).sum(-1)
        log_px = -0.5 * ((residual.square() + spread) / self.noise + (2 * math.pi * self.noise).log())
        if observed is not None:
            log_px = log_px * torch.as_tensor(observed).flatten(1).to(self.mean.device)
        log_pz = -0.5 * (q.mean.square() + q.variance + math.log(2 * math.pi))
        return log_px.sum(-1) + log_pz.sum(-1)

    def moved(self, loc: Any, scale: Any) -> LinearGaussian:
        """The model of ``loc + scale * x``, a number or ``(D,)`` numbers each: from the units of standardised data to
        those of the data."""
        loc, scale = (torch.as_tensor(v).to(self.mean).flatten().expand_as(self.mean) for v in (loc, scale))
        return LinearGaussian(scale[:, None] * self.weight, loc + scale * self.mean, scale.square() * self.noise)

    def average(self, mean: Tensor, covariance: Tensor) -> Tensor:
        """The mean of :meth:`log_prob` over items, from their mean ``(D,)`` and covariance ``(D, D)`` alone."""
        chol = torch.linalg.cholesky(self.covariance)
        off = mean - self.mean
        fit = torch.cholesky_solve(covariance + off.outer(off), chol).trace()
        return -0.5 * (len(mean) * math.log(2 * math.pi) + 2 * chol.diag().log().sum() + fit)

    @property
    def active(self) -> int:
        """The number of active latents: the rank of ``diag(noise)^-1/2 weight``."""
        return int(torch.linalg.matrix_rank(self.weight / self.noise.sqrt()[:, None], atol=1e-2))


class Fit(NamedTuple):
    """A model, and the evidence before the first and after each step: nats, the mean over items; higher is better."""

    model: Any
    evidence: Tensor


def ppca(x: Any, q: int, precision: float = 0.0) -> LinearGaussian:
    """Probabilistic PCA by maximum likelihood or, with a precision, maximum a posteriori.

    ``weight = U_q (L_q - s2 I)^(1/2)`` for the largest eigenvalues L_q of the covariance, and ``s2`` is the mean of the
    others. Under the prior ``weight ~ N(0, 1 / precision)`` each eigenvalue l is first shrunk to the v with
    ``a v^2 + v = l``, where ``a = precision / N``; directions with v below the noise are unused. Other priors are flat.

    Args:
        x: ``(N, *event)``, D values each.
        q: the number of latents, below D.
        precision: of the prior on the weights; 0 for maximum likelihood.

    Raises:
        DataError: for a q of D or more, values that are not finite, or items without noise.

    Reference:
        Tipping, Bishop: "Probabilistic Principal Component Analysis", 1999.

    >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1.0, 1.0])
    >>> model = ppca(x, 1)
    >>> [round(float(v)) for v in model.covariance.diag()]
    [9, 1, 1]
    >>> bool(ppca(x, 1, precision=100.0).covariance[0, 0] < model.covariance[0, 0])
    True
    """
    mean, covariance, n = _moments(x, q)
    return _principal(mean, covariance, q, precision / n)


def _principal(mean: Tensor, covariance: Tensor, q: int, a: float = 0.0) -> LinearGaussian:
    """See :func:`ppca`."""
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    if not a:
        return _used(values, vectors, values, mean, q, q, float(values[q:].mean()))
    shrunk = (torch.sqrt(1 + 4 * a * values) - 1) / (2 * a)
    found = []
    for used in range(q + 1):  # under a strong prior there may be a mode for each of several numbers of latents
        rest, count = float(values[used:].sum()), len(values) - used
        root = count**2 - 4 * a * used * rest
        noise = 2 * rest / (count + math.sqrt(max(root, 0.0)))  # a used s2^2 - count s2 + rest = 0
        if root >= 0 and (not used or float(shrunk[used - 1]) > noise):
            found.append(_used(values, vectors, shrunk, mean, q, used, noise))
    return max(found, key=lambda m: float(m.average(mean, covariance) - a / 2 * m.weight.square().sum()))


def _used(
    values: Tensor, vectors: Tensor, kept: Tensor, mean: Tensor, q: int, used: int, noise: float
) -> LinearGaussian:
    """``U (kept - noise)^(1/2)`` in the first ``used`` directions, and 0 in the others."""
    _check_noise(noise, float(values.sum()), q)
    weight = torch.zeros(len(values), q, dtype=values.dtype)
    weight[:, :used] = vectors[:, :used] * (kept[:used] - noise).clamp_min(0).sqrt()
    return LinearGaussian(weight, mean, torch.full_like(values, noise))


def _check_noise(noise: float, total: float, q: int) -> None:
    """Refuse a model without noise."""
    if not noise > COLLAPSED * total:
        raise DataError(f"without noise the evidence is infinite: items must vary in more than {q} directions")


def em(x: Any, q: int, steps: int = 100, *, shared: bool = True, seed: int = 0) -> Fit:
    """Exact expectation-maximisation for probabilistic PCA or factor analysis.

    E: ``beta = weight' C^-1``, ``E[z|x] = beta (x - mean)``, ``R = I - beta weight + beta S beta'``.
    M: ``weight = S beta' R^-1``, ``noise = diag(S - weight beta S)``. The evidence never falls.

    Args:
        x: ``(N, *event)``, D values each; S is its covariance.
        q: the number of latents, below D.
        steps: the number of EM steps.
        shared: one noise level for all dimensions (probabilistic PCA), or one for each (factor analysis).
        seed: of the initial weights.

    Raises:
        DataError: as for :func:`ppca`, for a dimension that is constant, or steps below 0.

    Reference:
        Rubin, Thayer: "EM algorithms for ML factor analysis", 1982.
        Dempster, Laird, Rubin: "Maximum Likelihood from Incomplete Data via the EM Algorithm", 1977.

    >>> x = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> found = em(x, 2, steps=50)
    >>> found.evidence.shape, bool((found.evidence.diff() > -1e-12).all())
    (torch.Size([51]), True)
    """
    mean, covariance, _ = _moments(x, q, steps)
    variance = covariance.diag()
    if not (variance > 0).all():
        raise DataError(f"no dimension may be constant, got {int((variance <= 0).sum())} of {len(variance)}")
    with seeded(seed, "em"):
        weight = torch.randn(len(mean), q, dtype=mean.dtype) * (variance / (2 * max(q, 1))).sqrt()[:, None]
    model = LinearGaussian(weight, mean, _noise(variance / 2, shared))
    evidence = [model.average(mean, covariance)]
    for _ in range(steps):
        beta = torch.linalg.solve(model.covariance, model.weight).mT
        seen = beta @ covariance
        second = torch.eye(q).to(mean) - beta @ model.weight + seen @ beta.mT
        weight = torch.linalg.solve(second, seen).mT
        model = LinearGaussian(weight, mean, _noise((covariance - weight @ seen).diag(), shared))
        _check_noise(float(model.noise.min()), float(variance.sum()), q)
        evidence.append(model.average(mean, covariance))
    return Fit(model, torch.stack(evidence))


def _noise(variance: Tensor, shared: bool) -> Tensor:
    return variance.mean().expand_as(variance).clone() if shared else variance


class Mixture(NamedTuple):
    """``p(x) = sum_k share_k p_k(x)``: the latent variable is the component.

    Attributes:
        shares: ``(K,)``, they sum to 1.
        components: K linear-Gaussian models.
    """

    shares: Tensor
    components: tuple[LinearGaussian, ...]

    def joint(self, x: Any) -> Tensor:
        """``log p(x, k)``, ``(N, K)``."""
        return torch.stack([c.log_prob(x) for c in self.components], dim=-1) + self.shares.log()

    def log_prob(self, x: Any) -> Tensor:
        """The evidence, ``(N,)`` nats."""
        return self.joint(x).logsumexp(-1)

    def posterior(self, x: Any) -> torch.distributions.Categorical:
        """``p(k|x)``, over ``(N,)``."""
        return torch.distributions.Categorical(logits=self.joint(x))


def mixture(x: Any, k: int, q: int, steps: int = 100, *, seed: int = 0) -> Fit:
    """Exact EM for a mixture of probabilistic PCAs: the E-step computes the posterior of the components for each item,
    the M-step is :func:`ppca` of the weighted items. ``q = 0`` gives spherical components, ``q = D - 1`` any Gaussians.

    Args:
        x: ``(N, *event)``, D values each.
        k: the number of components.
        q: the number of latents of each, below D.
        steps: the number of EM steps.
        seed: of the items that the components start at.

    Raises:
        DataError: as for :func:`ppca`, and for a component with too few items.

    Reference:
        Tipping, Bishop: "Mixtures of Probabilistic Principal Component Analysers", 1999.

    >>> x = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    >>> found = mixture(torch.cat([x, x + 9]), 2, q=1, steps=20)
    >>> [round(float(s), 2) for s in found.model.shares]
    [0.5, 0.5]
    """
    _moments(x, q, steps)
    rows = _rows(x)
    if not 1 <= k <= len(rows):
        raise DataError(f"a mixture needs between 1 and {len(rows)} components (the items), got {k}")
    with seeded(seed, "mixture"):
        chosen = [int(torch.randint(len(rows), ()))]
        for _ in range(k - 1):  # k-means++: the next one is likely far from those already chosen
            far = torch.cdist(rows, rows[chosen]).amin(1).square()
            chosen.append(int(torch.multinomial(far + 1e-300, 1)))
    share = torch.nn.functional.one_hot(torch.cdist(rows, rows[chosen]).argmin(1), k).double()
    evidence = []
    for _ in range(steps + 1):
        model = _weighted(rows, share, q)
        joint = model.joint(rows)
        evidence.append(joint.logsumexp(-1).mean())
        share = joint.softmax(-1)
    return Fit(model, torch.stack(evidence))


def _weighted(rows: Tensor, share: Tensor, q: int) -> Mixture:
    """The M-step: probabilistic PCA for each component."""
    components = []
    for weights in share.mT:
        mean = weights @ rows / weights.sum()
        centred = rows - mean
        components.append(_principal(mean, (weights * centred.mT) @ centred / weights.sum(), q))
    return Mixture(share.mean(0), tuple(components))


def gaussian(vae: VAE) -> LinearGaussian:
    """A VAE with a linear decoder as a linear-Gaussian model, with exact evidence and posterior.

    The result is differentiable in the decoder's weights and does not depend on the encoder.

    Args:
        vae: flat latents with a standard normal prior, ``net/linear`` as decoder, and a normal likelihood with a
            shared scale, optionally in the data's units by ``affine``.

    Raises:
        NotAvailable: for another model, with the part that is not linear or not Gaussian.

    Reference:
        Lucas, Tucker, Grosse, Norouzi: "Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse", 2019.

    >>> import ladle
    >>> schema = ladle.Schema("table", (4,), [ladle.Column("real", loc=0.0, scale=1.0)] * 4)
    >>> vae = ladle.assemble(schema, "linear_vae", "xs").model
    >>> gaussian(vae).weight.shape
    torch.Size([4, 3])
    """
    latents, decoder = vae.latents, vae.likelihood
    affine = decoder.family if isinstance(decoder.family, AffineFamily) else None
    family = affine.family if affine else decoder.family
    prior = latents.prior if isinstance(latents, Flat) else None
    if not (isinstance(prior, Standard) and isinstance(prior.family, NormalFamily) and not prior.family.shared_scale):
        raise _not("the prior must be the standard normal ('prior/standard' of 'family/normal')")
    if not (isinstance(decoder, Amortised) and isinstance(decoder.net, Linear)):
        raise _not("the decoder must have no hidden layer ('net/linear')")
    if not (isinstance(family, NormalFamily) and family.shared_scale):
        raise _not("the likelihood must be a normal whose scale does not depend on z ('shared_scale': true)")
    assert isinstance(decoder.head, nn.Linear)
    weight, mean = decoder.head.weight.double(), decoder.head.bias.double()
    scale = family(torch.zeros_like(mean)).scale.double()  # type: ignore[attr-defined]
    model = LinearGaussian(weight, mean, scale.square())
    if affine is None:
        return model
    loc, unit = (torch.as_tensor(v).double().expand(decoder.event).flatten() for v in (affine.loc, affine.scale))
    return model.moved(loc, unit)


def is_linear(vae: VAE) -> bool:
    """Whether a model is linear-Gaussian, so that its evidence has a closed form."""
    try:
        gaussian(vae)
    except NotAvailable:
        return False
    return True


def _not(why: str) -> NotAvailable:
    return NotAvailable(f"this model is not linear and Gaussian, so its evidence has no closed form: {why}")


def _rows(x: Any) -> Tensor:
    """``(N, *event)`` as ``(N, D)`` in float64."""
    return torch.as_tensor(x).flatten(1).double()


def _moments(x: Any, q: int, steps: int = 0) -> tuple[Tensor, Tensor, int]:
    """Mean, covariance (by maximum likelihood) and number of the items."""
    rows = _rows(x)
    n, d = rows.shape
    if not 0 <= q < d:
        raise DataError(f"there must be fewer latents than dimensions, between 0 and {d - 1}, got {q}")
    if steps < 0:
        raise DataError(f"the number of steps must be at least 0, got {steps}")
    if n < 2 or not rows.isfinite().all():
        raise DataError(f"there must be at least 2 items and only finite values, got {n} items")
    mean = rows.mean(0)
    centred = rows - mean
    return mean, centred.mT @ centred / n, n
