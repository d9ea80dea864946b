"""Exact log p(x): in closed form for linear models, by quadrature over at most two real latents, by enumeration of
discrete latents with few configurations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn import functional as F

from ladle.data import Batch
from ladle.families import NotAvailable
from ladle.families.directional import circle
from ladle.families.discrete import OneHotBlocks
from ladle.inference.evidence import (
    Items,
    Measure,
    check_density,
    decoder_width,
    describe_latents,
    in_double_precision,
    items_of,
    latent_support,
    on_real_line,
)
from ladle.inference.linear_gaussian import gaussian, is_linear
from ladle.model.latents import from_prior, replay
from ladle.model.vae import VAE
from ladle.seeds import seeded
from ladle.shapes import Size, numel

MOST = 65_536  # the largest number of configurations that are enumerated
DIMENSIONS = 2  # the largest number of latents that are integrated over
POINTS = 64  # points of the first grid, along each axis
FINEST = {1: 65_536, 2: 1024}  # points of the finest grid along each axis, by the number of axes
TOLERANCE = 5e-4  # nats between a grid and one twice as fine, whose error is about a third of this
NEGLIGIBLE = 25.0  # nats below the largest density, where the mass is negligible
CONVERGED = 0.8  # a box has converged when more than this share of every axis is kept
ZOOMS = 30  # the largest number of times that a box shrinks
FAR = 1e4  # the reach of a grid over the real line, in interquartile ranges of the prior
ENDS = 36.0  # logits: closer to the ends of an interval, double precision cannot distinguish values from the ends
DRAWS = 1000  # draws of the prior, from which its location and scale are estimated
NUMBERS = 8192 * 784  # decoder outputs computed together
LOG_ZERO = -1e30  # stands for the logarithm of zero


class Chart(NamedTuple):
    """Coordinates t for z: a map ``(*lead, D) -> z (*lead, D), log |dz/dt| (*lead,)``, and the bound on |t|."""

    of: Callable[[Tensor], tuple[Tensor, Tensor]]
    reach: float


def real_line(vae: VAE) -> Chart:
    """``z = loc + scale sinh(t)``: the resolution is that of z near the median of the prior, and that of log z far
    from it."""
    with torch.no_grad(), seeded(0, "chart"):
        z = vae.walk(from_prior(), vae.blank(DRAWS)).levels[0].z.flatten(1)
    low, loc, high = z.quantile(torch.tensor([0.25, 0.5, 0.75]).to(z), dim=0)
    scale = high - low
    return Chart(lambda t: (loc + scale * t.sinh(), (scale * t.cosh()).log().sum(-1)), math.asinh(FAR))


def interval(vae: VAE) -> Chart:
    """``z = lower + (upper - lower) sigmoid(t)``: towards both ends, the resolution is that of the logarithm of the
    distance."""
    support = latent_support(vae)
    lower = float(support.lower_bound)  # type: ignore[union-attr]
    width = float(support.upper_bound - support.lower_bound)  # type: ignore[union-attr]

    def of(t: Tensor) -> tuple[Tensor, Tensor]:
        return lower + width * t.sigmoid(), (math.log(width) + F.logsigmoid(t) + F.logsigmoid(-t)).sum(-1)

    return Chart(of, ENDS)


def angle(vae: VAE) -> Chart:
    """``z = t`` around the whole circle: for periodic functions the midpoint rule converges fastest."""
    return Chart(lambda t: (t, torch.zeros_like(t[..., 0])), math.pi)


def chart_of(vae: VAE) -> Callable[[VAE], Chart] | None:
    """The coordinates for integration over the latents; ``None`` if they cannot be integrated over."""
    support = latent_support(vae)
    if support is None or numel(vae.latents.events[0]) > DIMENSIONS:
        return None
    if on_real_line(vae):
        return real_line
    if support is circle:
        return angle
    return interval if isinstance(support, constraints.interval) else None


def values(support: Constraint | None) -> int:
    """The number of values of one discrete variable; 0 for a continuous one or an unlimited number.

    >>> values(constraints.boolean), values(OneHotBlocks(5)), values(constraints.real)
    (2, 5, 0)
    """
    if isinstance(support, OneHotBlocks):
        return support.classes
    return 2 if isinstance(support, type(constraints.boolean)) else 0  # a copied model has a copy of the constraint


def countable(vae: VAE) -> bool:
    """Whether the latents have at most 65,536 configurations."""
    support = latent_support(vae)
    classes = values(support)
    if not classes:
        return False
    variables = numel(vae.latents.events[0]) // (classes if isinstance(support, OneHotBlocks) else 1)
    return variables * math.log(classes) <= math.log(MOST) + 1e-9


def has_exact_evidence(vae: VAE) -> bool:
    """Whether log p(x) can be computed exactly."""
    return is_linear(vae) or countable(vae) or chart_of(vae) is not None


def configurations(support: Constraint, event: Size) -> Tensor:
    """Every value of z, ``(M, *event)``.

    >>> configurations(constraints.boolean, (2,)).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    >>> configurations(OneHotBlocks(2), (2,)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    classes, blocks = values(support), isinstance(support, OneHotBlocks)
    variables = numel(event) // (classes if blocks else 1)
    number = torch.arange(classes**variables)
    digits = number[:, None] // classes ** torch.arange(variables) % classes
    z = F.one_hot(digits, classes) if blocks else digits
    return z.double().reshape(-1, *event)


def log_joint(vae: VAE, batch: Batch, z: Tensor) -> Tensor:
    """log p(x, z): ``(G, B, *event) -> (G, B)``, in chunks that bound the memory."""
    size = max(1, min(8192, NUMBERS // decoder_width(vae)) // len(batch.x))
    chunks = []
    with torch.no_grad():
        for chunk in z.split(size):
            terms = vae(batch, (len(chunk),), replay([chunk]))
            chunks.append(terms.log_px + terms.levels[0].log_p)
    return torch.cat(chunks)


def enumerate_latents(vae: VAE, batch: Batch) -> Tensor:
    """``log p(x) = log sum_z p(x, z)`` over every configuration, ``(B,)``."""
    (event,), support = vae.latents.events, latent_support(vae)
    assert support is not None
    z = configurations(support, event).to(batch.x)
    return log_joint(vae, batch, z[:, None].expand(-1, len(batch.x), *event)).logsumexp(0)


def integrate(vae: VAE, batch: Batch, chart: Chart) -> Tensor:
    """``log p(x) = log int p(x, z) dz`` on grids that shrink around the mass of the posterior, ``(B,)``.

    Raises:
        NotAvailable: if the finest grid still disagrees with one half as fine.
    """
    axes = numel(vae.latents.events[0])
    points, before = POINTS, on_grid(vae, batch, chart, POINTS)
    while points < FINEST[axes]:
        points *= 2
        now = on_grid(vae, batch, chart, points)
        difference = (now - before).abs().max()
        if difference < TOLERANCE:
            return now
        before = now
    raise NotAvailable(
        f"quadrature did not converge: between {points // 2} and {points} points along each axis, log p(x) of an item "
        f"still changes by {difference:.2g} nats; the posterior is too narrow for a grid. A method that fits: ais"
    )


def on_grid(vae: VAE, batch: Batch, chart: Chart, points: int) -> Tensor:
    """log p(x) by the midpoint rule with ``points`` points along each axis of a box that shrinks around the mass,
    ``(B,)``.
    """
    (event,) = vae.latents.events
    n, axes = len(batch.x), numel(event)
    low = torch.full((n, axes), -chart.reach, dtype=torch.float64, device=batch.x.device)
    high = -low
    midpoints = (torch.arange(points, device=low.device) + 0.5) / points
    unit = torch.cartesian_prod(*[midpoints] * axes).reshape(-1, 1, axes).to(low)
    for _ in range(ZOOMS):
        z, log_dz = chart.of(low + (high - low) * unit)
        log_f = log_joint(vae, batch, z.reshape(-1, n, *event)) + log_dz
        log_f = log_f.masked_fill(log_f == -math.inf, LOG_ZERO)
        kept = has_mass(log_f.mT.reshape(n, *[points] * axes))
        edges = [extent(kept.any([1 + other for other in range(axes) if other != axis])) for axis in range(axes)]
        first, last = (torch.stack(ends, dim=-1) / points for ends in zip(*edges, strict=True))
        if ((last - first) > CONVERGED).all():
            break
        low, high = low + (high - low) * first, low + (high - low) * last
    log_cell = (high - low).log().sum(-1) - axes * math.log(points)
    return log_f.logsumexp(0) + log_cell


def has_mass(log_f: Tensor) -> Tensor:
    """The cells whose mass may not be negligible: ``(B, points) -> bool`` or ``(B, points, points) -> bool``.

    Between two points the density may be higher than at both. If its logarithm is about quadratic, the excess is at
    most half of the difference between neighbouring points, which is added before the comparison.
    """
    pool = F.max_pool1d if log_f.dim() == 2 else F.max_pool2d
    highest, lowest = (sign * pool((sign * log_f)[:, None], 3, 1, 1)[:, 0] for sign in (1, -1))
    largest = log_f + torch.maximum(highest - log_f, log_f - lowest) / 2
    return largest > log_f.flatten(1).amax(1).reshape(-1, *[1] * (log_f.dim() - 1)) - NEGLIGIBLE


def extent(kept: Tensor) -> tuple[Tensor, Tensor]:
    """The range of cells that holds every kept one and one more on either side: ``(B, points)`` to its start ``(B,)``
    and end ``(B,)``.

    >>> extent(torch.tensor([[False, False, False, True, False, False]]))
    (tensor([2]), tensor([5]))
    """
    points = kept.shape[-1]
    number = torch.arange(points, device=kept.device).expand_as(kept)
    first = number.masked_fill(~kept, points).amin(-1) - 1
    last = number.masked_fill(~kept, -1).amax(-1) + 2
    return first.clamp(min=0), last.clamp(max=points)


def exact_evidence(vae: VAE) -> Measure:
    """Exact log p(x), prepared for a model.

    In closed form for a linear-Gaussian model; by enumeration where z has at most 65,536 configurations; by quadrature,
    to 0.001 nat, where z is at most two real numbers: a grid must agree with one half as fine to 0.0005 nat.

    Args:
        vae: a model with one level of latents.

    Returns:
        A function from a batch, of at most :func:`batch_size` items, to the evidence of its items.

    Raises:
        NotAvailable: for other latents, or a model without a density. The returned function raises it for a posterior
            that is too narrow for the finest grid.
    """
    check_density(vae)
    if not has_exact_evidence(vae):
        raise NotAvailable(
            f"exact evidence needs a linear-Gaussian model, at most {DIMENSIONS} real latents, or at most {MOST:,} "
            f"configurations of discrete latents, got {describe_latents(vae)}; methods that fit: ais, iwae"
        )
    method, log_prob = log_prob_of(vae)

    def measure(batch: Batch) -> Items:
        with torch.no_grad():
            log_p = log_prob(batch._replace(x=batch.x.double())).cpu().numpy()
        return items_of(batch, method, "exact", 0, -log_p)

    return measure


def log_prob_of(vae: VAE) -> tuple[str, Callable[[Batch], Tensor]]:
    """The name of the way to log p(x), and the function that computes it for a batch in float64, ``(B,)``."""
    if is_linear(vae):
        model = gaussian(vae)
        return "closed form", lambda batch: model.log_prob(batch.x, batch.observed)
    make_chart, vae = chart_of(vae), in_double_precision(vae)
    if make_chart is None:
        return "enumeration", lambda batch: enumerate_latents(vae, batch)
    chart = make_chart(vae)
    return "quadrature", lambda batch: integrate(vae, batch, chart)


def batch_size(vae: VAE, samples: int) -> int:
    """The largest number of items in a batch; there are no samples."""
    return max(1, min(16, NUMBERS // 512 // decoder_width(vae)))
