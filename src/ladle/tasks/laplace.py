"""The Laplace posterior of a decoder's weights, and the evidence averaged over it."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from ladle.data import DataError, order
from ladle.families import NotAvailable
from ladle.inference.bounds import bound
from ladle.inference.evidence import check_density
from ladle.inference.importance import log_weights
from ladle.inference.linear_gaussian import gaussian
from ladle.model.conditional import Amortised
from ladle.model.vae import VAE
from ladle.seeds import seeded
from ladle.store.files import ModelError, read_json, read_tensors, write_json, write_tensors
from ladle.store.folder import Model
from ladle.tasks.common import Progress, Source, each_batch, items
from ladle.tasks.score import score

FILE = "laplace.safetensors"
HEAD = "likelihood.head."
MOST = 4096  # the most weights: their curvature is a square matrix
PARTICLES = 64
LEVEL, DRAWS = 0.9, 40
FLAT = 1e-8  # curvature below this fraction of the largest is rounding error
PROBES = 100  # importance samples per item for each draw of the weights


class Laplace(NamedTuple):
    """``weights = mode + factor @ e`` with standard normal e: the posterior is N(mode, factor factor').

    Attributes:
        names: the names of the parameters, which are flattened and concatenated; the others stay at the mode.
        factor: ``(P, R)``. Directions without curvature, such as rotations of the latents, are left out: R <= P.
        curvature: ``exact`` or ``last layer``; see :func:`laplace`.
    """

    names: tuple[str, ...]
    factor: Tensor
    curvature: str

    def draws(self, vae: VAE, n: int, seed: int = 0) -> Iterator[VAE]:
        """Draw n models from the posterior. All are the same object, whose weights are replaced before each yield."""
        drawn = copy.deepcopy(vae)
        with seeded(seed, "laplace"):
            steps = torch.randn(n, self.factor.shape[1]).double() @ self.factor.double().mT.cpu()
        for step in steps:
            _set_weights(drawn, vae, self.names, step)
            yield drawn


class Interval(NamedTuple):
    """The evidence of a data set under the posterior of the weights: the mean over its items, in nats.

    Attributes:
        nats: the predictive evidence, ``-log E[p(x | weights)]``.
        low: the lower end of the interval of ``-log p(x | weights)``.
        high: the upper end of the interval.
        level: the posterior probability of the interval.
        draws: the number of draws of the weights.
    """

    nats: float
    low: float
    high: float
    level: float
    draws: int

    def __str__(self) -> str:
        """The interval as one sentence."""
        return (
            f"with {self.draws} draws of the decoder's weights from their Laplace posterior: predictive "
            f"{self.nats:.3f} nats, {self.level:.0%} of the models between {self.low:.3f} and {self.high:.3f}"
        )


def laplace(
    model: Model, data: Source, *, split: str | None = "train", seed: int = 0, progress: Progress | None = None
) -> Laplace:
    """The Laplace posterior of a decoder's weights: a normal distribution whose mean is the mode of the posterior and
    whose covariance is the inverse of the curvature of ``-log p(weights) - sum log p(x)`` at the mode.

    * For a linear-Gaussian model of data without missing values, it covers all weights of the decoder and the noise
      level, and the curvature is exact. Rotations of the latents, which do not change p(x), are left out.
    * For any other model, it covers the decoder's last layer, and the curvature is the sum over items of ``g g'``,
      where g is the gradient of the item's importance-weighted bound with 64 samples (the empirical Fisher
      information).

    Args:
        model: a model at its mode: fitted by the estimator ``laplace`` or ``map``.
        data: the data it was fitted to; see :func:`ladle.tasks.common.items`.
        split: the split of a data set that has splits.
        seed: the seed of the importance samples.
        progress: called with (items done, items in total).

    Raises:
        NotAvailable: if the model is not a maximum a posteriori, has no p(x), has no linear last layer, or has too many
            weights for the matrix of their curvature.

    Reference:
        MacKay: "A Practical Bayesian Framework for Backpropagation Networks", 1992.
    """
    check_density(model.vae)
    objective = model.config.get("objective", {})
    precision = objective.get("precision") if isinstance(objective, Mapping) else None
    if not precision:
        raise NotAvailable("a Laplace posterior needs a maximum a posteriori model; fit with --estimator laplace")
    last_layer(model.vae)
    chosen = items(model, data, split)
    batches = each_batch(model, chosen, progress=progress)
    try:
        linear = gaussian(model.vae) if not model.schema.missing else None
    except NotAvailable:
        linear = None
    names = tuple(n for n, _ in model.vae.named_parameters() if n.startswith("likelihood." if linear else HEAD))
    named = dict(model.vae.named_parameters())
    count = sum(named[name].numel() for name in names)
    if linear:
        curvature, rotations = _curvature_of_evidence(model.vae, names, batches), _rotations(model.vae, names)
    else:
        curvature, rotations = _fisher(model.vae, names, batches, seed), torch.zeros(count, 0).double()
    prior = torch.cat([torch.full_like(named[n], precision if named[n].dim() > 1 else 0.0).flatten() for n in names])
    curvature = curvature + prior.double().cpu().diag()
    return Laplace(names, _factor(curvature, rotations), "exact" if linear else "last layer")


def last_layer(vae: VAE) -> nn.Linear:
    """The last layer of the decoder. Its weights are those that the posterior of a nonlinear model describes.

    Call this function before a long training to find out whether :func:`laplace` can be used after it.

    Raises:
        NotAvailable: if the layer is not linear, or has too many weights.
    """
    head = getattr(vae.likelihood, "head", None)
    if not isinstance(head, nn.Linear):
        raise NotAvailable(
            f"the decoder's last layer must be linear, got {type(head).__name__}; use fully connected networks"
        )
    inputs, count = head.in_features, head.in_features * head.out_features + head.out_features
    if count >= MOST:
        raise NotAvailable(
            f"a posterior of the weights of the decoder's last layer needs fewer than {MOST:,} weights, got {count:,}. "
            f"With {inputs} features, the last layer may have at most {(MOST - 1) // (inputs + 1)} outputs; it has "
            f"{head.out_features}. Use fewer columns or pixels, or the recipe linear_vae"
        )
    return head


def _factor(curvature: Tensor, excluded: Tensor) -> Tensor:
    """``V diag(values)^-1/2`` from the eigenvectors of the curvature, without the excluded directions ``(P, R)`` and
    without those whose curvature is zero up to rounding."""
    projection = torch.eye(len(curvature)).double() - excluded @ excluded.mT
    values, vectors = torch.linalg.eigh(projection @ curvature @ projection)
    keep = values > FLAT * values.max()
    return (vectors[:, keep] / values[keep].sqrt()).float()


def _split(vae: VAE, names: tuple[str, ...], flat: Tensor) -> dict[str, Tensor]:
    """The flat vector as named parameters."""
    shapes = [vae.get_parameter(name).shape for name in names]
    parts = flat.split([shape.numel() for shape in shapes])
    return {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}


def _set_weights(drawn: VAE, mode: VAE, names: tuple[str, ...], step: Tensor) -> None:
    """Set the weights of ``drawn`` to those of ``mode`` plus a step."""
    with torch.no_grad():
        for name, part in _split(mode, names, step).items():
            drawn.get_parameter(name).copy_(mode.get_parameter(name) + part.to(mode.get_parameter(name)))


# ------------------------------------------------------------------------------------- linear and Gaussian


class _Evidence(nn.Module):
    """Minus the log evidence of a set of items, a function of their number, mean and covariance."""

    def __init__(self, vae: VAE) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, n: int, mean: Tensor, covariance: Tensor) -> Tensor:
        """In nats, the sum over items."""
        return -n * gaussian(self.vae).average(mean, covariance)


def _curvature_of_evidence(vae: VAE, names: tuple[str, ...], batches: Iterator[Any]) -> Tensor:
    """The second derivatives of minus the log evidence, which depends on the data only through mean and covariance."""
    centre = gaussian(vae).mean.detach()
    n, total, square = 0, torch.zeros_like(centre), torch.zeros(len(centre), len(centre)).to(centre)
    for batch in batches:
        rows = batch.x.flatten(1).double() - centre
        n, total, square = n + len(rows), total + rows.sum(0), square + rows.mT @ rows
    mean = total / n
    covariance = square / n - mean.outer(mean)
    flat = torch.cat([vae.get_parameter(name).detach().flatten() for name in names]).double()
    evidence = _Evidence(vae)

    def loss(flat: Tensor) -> Tensor:
        weights = {f"vae.{name}": part for name, part in _split(vae, names, flat).items()}
        return functional_call(evidence, weights, (n, centre + mean, covariance))

    return jacrev(jacrev(loss))(flat).detach().cpu()


def _rotations(vae: VAE, names: tuple[str, ...]) -> Tensor:
    """An orthonormal basis ``(P, R)`` of the changes ``weight A``, A skew, of the weights when the latents rotate."""
    weight = vae.get_parameter(HEAD + "weight").detach().double().cpu()
    d, q = weight.shape
    start = 0
    for name in names:
        if name == HEAD + "weight":
            break
        start += vae.get_parameter(name).numel()
    total = sum(vae.get_parameter(name).numel() for name in names)
    moves = torch.zeros(q * (q - 1) // 2, total).double()
    for row, (i, j) in enumerate(torch.combinations(torch.arange(q), 2).tolist()):
        move = torch.zeros(d, q).double()
        move[:, i], move[:, j] = weight[:, j], -weight[:, i]
        moves[row, start : start + d * q] = move.flatten()
    _, sizes, basis = torch.linalg.svd(moves, full_matrices=False)
    return basis[sizes > 1e-6 * sizes.max()].mT if len(sizes) else moves.mT


# ------------------------------------------------------------------------------------------ other models


def _fisher(vae: VAE, names: tuple[str, ...], batches: Iterator[Any], seed: int) -> Tensor:
    """The sum over items of ``g g'``, where g is the outer product of the input of the last layer and the gradient of
    its output, summed over the samples."""
    assert isinstance(vae.likelihood, Amortised)
    calls: list[tuple[Tensor, Tensor]] = []

    def record(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        output = output.detach().requires_grad_()
        calls.append((inputs[0].detach(), output))
        return output

    total = torch.zeros((), dtype=torch.float64)
    handle = vae.likelihood.head.register_forward_hook(record)
    try:
        for batch in batches:
            for start in range(0, len(batch.x), 32):  # every item has a gradient of the size of the weights
                part = _rows(batch, slice(start, start + 32))
                calls.clear()
                with torch.enable_grad():
                    nats = bound(log_weights(vae, part, PARTICLES, seed))
                    (gradient,) = torch.autograd.grad(nats.sum(), calls[0][1])
                shape = (PARTICLES, len(part.x), -1)
                inputs, gradient = calls[0][0].reshape(shape), gradient.reshape(shape)
                weight = torch.einsum("kbo,kbi->boi", gradient, inputs).flatten(1)
                by_name = {HEAD + "weight": weight, HEAD + "bias": gradient.sum(0)}
                g = torch.cat([by_name[name] for name in names], dim=1).double().cpu()
                total = total + g.mT @ g
    finally:
        handle.remove()
    return total


def _rows(batch: Any, rows: slice) -> Any:
    """Some items of a batch."""
    observed = None if batch.observed is None else batch.observed[rows]
    context = {name: value[rows] for name, value in batch.context.items()}
    return batch._replace(x=batch.x[rows], observed=observed, context=context, index=batch.index[rows])


# ----------------------------------------------------------------------------------- predictive evidence


def predictive(
    model: Model,
    posterior: Laplace,
    data: Source,
    *,
    draws: int = DRAWS,
    level: float = LEVEL,
    at_most: int | None = None,
    split: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Interval:
    """The evidence of a data set, averaged over the posterior of the decoder's weights.

    For each draw of the weights, the evidence of every item is exact if the model is linear and Gaussian, and otherwise
    the bound with 100 importance samples. The interval describes the uncertainty of the weights: it covers the models
    that are plausible under the posterior. It does not describe the process that generated the data, which may lie
    outside of it.

    Args:
        model: a model at its mode.
        posterior: from :func:`laplace`.
        data: the items; see :func:`ladle.tasks.common.items`.
        draws: the number of draws of the weights.
        level: the posterior probability of the interval, between 0 and 1.
        at_most: measure at most this many items, drawn at random: those that :func:`ladle.measure` draws for this seed.
        split: the split of a data set that has splits.
        seed: the seed of the weights and the importance samples.
        progress: called with (draws done, draws in total).

    Raises:
        DataError: for fewer than 2 draws, or a level that is not between 0 and 1.
    """
    if draws < 2 or not 0 < level < 1:
        raise DataError(f"an interval needs at least 2 draws and a level between 0 and 1, got {draws} and {level}")
    chosen = items(model, data, split)
    if at_most is not None:
        chosen = chosen.take(np.sort(order(len(chosen), seed, 0)[:at_most]))
    nats = []
    for done, vae in enumerate(posterior.draws(model.vae, draws, seed)):
        if progress:
            progress(done, draws)
        drawn = dataclasses.replace(model, vae=vae)
        try:
            linear = gaussian(vae)
        except NotAvailable:
            nats.append(score(drawn, chosen, samples=PROBES, seed=seed))
        else:
            scores = [-linear.log_prob(batch.x, batch.observed).cpu() for batch in each_batch(drawn, chosen)]
            nats.append(torch.cat(scores).numpy())
    if progress:
        progress(draws, draws)
    each = np.stack(nats).astype(np.float64)
    low, high = np.quantile(each.mean(1), [(1 - level) / 2, (1 + level) / 2])
    mixed = np.logaddexp.reduce(-each, axis=0) - math.log(draws)
    return Interval(float(-mixed.mean()), float(low), float(high), level, draws)


def write_laplace(folder: str | Path, posterior: Laplace) -> None:
    """Write the posterior of the weights to the model's folder."""
    folder = Path(folder)
    config = read_json(folder / "config.json")
    about = {
        "curvature": posterior.curvature,
        "parameters": list(posterior.names),
        "directions": posterior.factor.shape[1],
    }
    write_tensors(folder / FILE, {"factor": posterior.factor})
    write_json(folder / "config.json", {**config, "result": {**config.get("result", {}), "laplace": about}})


def read_laplace(folder: str | Path, model: Model) -> Laplace | None:
    """Read the posterior of the weights from a model's folder, or return ``None`` if it has none.

    Raises:
        ModelError: if the posterior does not fit the model.
    """
    path, about = Path(folder) / FILE, model.config.get("result", {}).get("laplace")
    if about is None or not path.exists():
        return None
    named = dict(model.vae.named_parameters())
    fits = isinstance(about, Mapping) and set(about) == {"curvature", "parameters", "directions"}
    names = about["parameters"] if fits else None
    if not (isinstance(names, list) and names and all(isinstance(n, str) and n in named for n in names)):
        raise ModelError(f"'{folder}/config.json': 'laplace' must name parameters of the model")
    count, directions = sum(named[n].numel() for n in names), about["directions"]
    if count > MOST or type(directions) is not int or not 0 <= directions <= count:
        raise ModelError(
            f"'{folder}/config.json': 'laplace' must have at most {MOST} weights and no more directions than weights"
        )
    factor = read_tensors(path, {"factor": (torch.Size([count, directions]), torch.float32)})["factor"]
    if not factor.isfinite().all():
        raise ModelError(f"'{path}' holds NaN or infinity")
    return Laplace(tuple(names), factor, str(about["curvature"])[:20])
