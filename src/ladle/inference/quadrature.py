"""log p(x) exactly: in closed form where the model is linear, by quadrature over at most two latents, by enumeration
where they have few configurations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.constraints import Constraint
from torch.nn import functional as F

from ladle.data import Batch
from ladle.families import NotAvailable
from ladle.families.directional import circle
from ladle.families.discrete import OneHotBlocks
from ladle.inference.evidence import Items, check_density, doubled, lives, on_real_line, outputs, support
from ladle.inference.linear_gaussian import gaussian, is_linear
from ladle.model.latents import from_prior, replay
from ladle.model.vae import VAE
from ladle.seeds import seeded
from ladle.shapes import Size, numel

MOST = 65_536  # configurations that are enumerated
DIMENSIONS = 2  # that are integrated over
POINTS = 64  # of the first grid, along each axis
FINEST = {1: 65_536, 2: 1024}  # points along each axis where refining ends
TOLERANCE = 5e-4  # nats between a grid and one twice as fine, whose own error is about a third of it
FADED = 25.0  # nats below the largest density, where there is no mass to speak of
SHRUNK = 0.8  # a box that keeps more than this of an axis has settled
ZOOMS = 30  # at most
FAR = 1e4  # the reach of a grid over the real line, in quartile distances of the prior
ENDS = 36.0  # in logits: closer to the ends of an interval no double can be told from them
DRAWS = 1000  # of the prior, for its place and scale
NUMBERS = 8192 * 784  # that the decoder's net puts out at a time
NONE = -1e30  # the logarithm of no density


class Chart(NamedTuple):
    """Coordinates t for z: a map ``(*lead, D) -> z (*lead, D), log |dz/dt| (*lead,)``, and the largest |t|."""

    of: Callable[[Tensor], tuple[Tensor, Tensor]]
    reach: float


def real_line(vae: VAE) -> Chart:
    """``z = loc + scale sinh(t)``: near the middle of the prior as fine as z itself, far out as coarse as log z."""
    with torch.no_grad(), seeded(0, "chart"):
        z = vae.latents.walk(from_prior(), n=DRAWS).levels[0].z.flatten(1)
    low, loc, high = z.quantile(torch.tensor([0.25, 0.5, 0.75]).to(z), dim=0)
    scale = high - low
    return Chart(lambda t: (loc + scale * t.sinh(), (scale * t.cosh()).log().sum(-1)), math.asinh(FAR))


def interval(vae: VAE) -> Chart:
    """``z = lower + (upper - lower) sigmoid(t)``: towards both ends as fine as the logarithm of the distance."""
    over = support(vae)
    lower, width = float(over.lower_bound), float(over.upper_bound - over.lower_bound)  # type: ignore[union-attr]

    def of(t: Tensor) -> tuple[Tensor, Tensor]:
        return lower + width * t.sigmoid(), (math.log(width) + F.logsigmoid(t) + F.logsigmoid(-t)).sum(-1)

    return Chart(of, ENDS)


def angle(vae: VAE) -> Chart:
    """``z = t``, all around the circle, where the midpoint rule is at its best."""
    return Chart(lambda t: (t, torch.zeros_like(t[..., 0])), math.pi)


def chart_of(vae: VAE) -> Callable[[VAE], Chart] | None:
    """How to integrate over the latents, if that can be done."""
    over = support(vae)
    if over is None or numel(vae.latents.events[0]) > DIMENSIONS:
        return None
    if on_real_line(vae):
        return real_line
    if over is circle:
        return angle
    return interval if isinstance(over, constraints.interval) else None


def values(over: Constraint | None) -> int:
    """How many values one choice has, 0 where they cannot be counted.

    >>> values(constraints.boolean), values(OneHotBlocks(5)), values(constraints.real)
    (2, 5, 0)
    """
    if isinstance(over, OneHotBlocks):
        return over.classes
    return 2 if isinstance(over, type(constraints.boolean)) else 0  # a copied model has its own copy


def countable(vae: VAE) -> bool:
    """Whether the latents have at most 65,536 configurations."""
    over = support(vae)
    classes = values(over)
    if not classes:
        return False
    choices = numel(vae.latents.events[0]) // (classes if isinstance(over, OneHotBlocks) else 1)
    return choices * math.log(classes) <= math.log(MOST) + 1e-9


def solvable(vae: VAE) -> bool:
    """Whether log p(x) can be had exactly."""
    return is_linear(vae) or countable(vae) or chart_of(vae) is not None


def configurations(over: Constraint, event: Size) -> Tensor:
    """Every value of z, ``(M, *event)``.

    >>> configurations(constraints.boolean, (2,)).tolist()
    [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    >>> configurations(OneHotBlocks(2), (2,)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    classes, blocks = values(over), isinstance(over, OneHotBlocks)
    choices = numel(event) // (classes if blocks else 1)
    number = torch.arange(classes**choices)
    digits = number[:, None] // classes ** torch.arange(choices) % classes
    z = F.one_hot(digits, classes) if blocks else digits
    return z.double().reshape(-1, *event)


def log_joint(vae: VAE, batch: Batch, z: Tensor) -> Tensor:
    """log p(x, z): ``(G, B, *event) -> (G, B)``, some of them at a time."""
    size = max(1, min(8192, NUMBERS // outputs(vae)) // len(batch.x))
    found = []
    with torch.no_grad():
        for some in z.split(size):
            terms = vae(batch, (len(some),), replay([some]))
            found.append(terms.log_px + terms.levels[0].log_p)
    return torch.cat(found)


def enumerated(vae: VAE, batch: Batch) -> Tensor:
    """``log p(x) = log sum_z p(x, z)`` over every configuration, ``(B,)``."""
    (event,), over = vae.latents.events, support(vae)
    assert over is not None
    z = configurations(over, event).to(batch.x)
    return log_joint(vae, batch, z[:, None].expand(-1, len(batch.x), *event)).logsumexp(0)


def integrated(vae: VAE, batch: Batch, chart: Chart) -> Tensor:
    """``log p(x) = log int p(x, z) dz`` on grids that close in on the posterior's mass, ``(B,)``.

    Raises:
        NotAvailable: where the finest grid still disagrees with one half as fine.
    """
    axes = numel(vae.latents.events[0])
    points, before = POINTS, on_grid(vae, batch, chart, POINTS)
    while points < FINEST[axes]:
        points *= 2
        now = on_grid(vae, batch, chart, points)
        apart = (now - before).abs().max()
        if apart < TOLERANCE:
            return now
        before = now
    raise NotAvailable(
        f"quadrature did not settle: with {points} points along each axis, log p(x) of an item still differs by "
        f"{apart:.2g} nats from half as many; the posterior is too narrow for a grid, and the method ais would fit"
    )


def on_grid(vae: VAE, batch: Batch, chart: Chart, points: int) -> Tensor:
    """log p(x) by the midpoint rule, so many points along each axis of a box that shrinks around the mass, ``(B,)``.

    Between two points the density may be higher than at both: by no more than half of what it changes from one to
    the next, where it is about quadratic. So a point's surroundings are kept if that much more would matter.
    """
    (event,) = vae.latents.events
    n, axes = len(batch.x), numel(event)
    low = torch.full((n, axes), -chart.reach, dtype=torch.float64, device=batch.x.device)
    high = -low
    middle = (torch.arange(points, device=low.device) + 0.5) / points
    unit = torch.cartesian_prod(*[middle] * axes).reshape(-1, 1, axes).to(low)
    for _ in range(ZOOMS):
        z, log_dz = chart.of(low + (high - low) * unit)
        log_f = log_joint(vae, batch, z.reshape(-1, n, *event)) + log_dz
        log_f = log_f.masked_fill(log_f == -math.inf, NONE)
        kept = mass(log_f.mT.reshape(n, *[points] * axes))
        edges = [within(kept.any([1 + other for other in range(axes) if other != axis])) for axis in range(axes)]
        first, last = (torch.stack(ends, dim=-1) / points for ends in zip(*edges, strict=True))
        if ((last - first) > SHRUNK).all():
            break
        low, high = low + (high - low) * first, low + (high - low) * last
    log_cell = (high - low).log().sum(-1) - axes * math.log(points)
    return log_f.logsumexp(0) + log_cell


def mass(log_f: Tensor) -> Tensor:
    """Where there may be mass: ``(B, points) -> bool`` or ``(B, points, points) -> bool``."""
    pool = F.max_pool1d if log_f.dim() == 2 else F.max_pool2d
    above, below = (sign * pool((sign * log_f)[:, None], 3, 1, 1)[:, 0] for sign in (1, -1))
    most = log_f + torch.maximum(above - log_f, log_f - below) / 2
    return most > log_f.flatten(1).amax(1).reshape(-1, *[1] * (log_f.dim() - 1)) - FADED


def within(kept: Tensor) -> tuple[Tensor, Tensor]:
    """The cells that hold every kept point and one more on either side, ``(B, points) -> (B,), (B,)``: from, to.

    >>> within(torch.tensor([[False, False, False, True, False, False]]))
    (tensor([2]), tensor([5]))
    """
    points = kept.shape[-1]
    number = torch.arange(points, device=kept.device).expand_as(kept)
    first = number.masked_fill(~kept, points).amin(-1) - 1
    last = number.masked_fill(~kept, -1).amax(-1) + 2
    return first.clamp(min=0), last.clamp(max=points)


def exact(vae: VAE, batches: Iterable[Batch]) -> Iterator[Items]:
    """log p(x) of every item without an error to speak of, a batch at a time.

    In closed form where the model is linear-Gaussian; by enumeration where z has at most 65,536 configurations; by
    quadrature, to 0.001 nat, where z is at most two real numbers: a grid must agree with one half as fine to 0.0005
    nat.

    Args:
        vae: a model with one level of latents.
        batches: the items; make them no larger than :func:`rows` says.

    Yields:
        What was found of a batch.

    Raises:
        NotAvailable: for other latents, a model without a density, or a posterior too narrow for the finest grid.
    """
    check_density(vae)
    if not solvable(vae):
        raise NotAvailable(
            f"log p(x) is exact for linear-Gaussian models, at most {DIMENSIONS} real latents or {MOST:,} "
            "configurations of discrete ones, and here are "
            f"{lives(vae)}; "
            "methods that fit: ais, iwae"
        )
    method, log_prob = solution(vae)
    for batch in batches:
        with torch.no_grad():
            log_p = log_prob(batch._replace(x=batch.x.double())).cpu().numpy()
        unknown = np.full(len(log_p), np.nan)  # there are no weights
        index = batch.index.cpu().numpy()
        yield Items(method, "exact", 0, index, -log_p, unknown, unknown, np.empty((len(log_p), 0)))


def solution(vae: VAE) -> tuple[str, Callable[[Batch], Tensor]]:
    """How log p(x) is had, and the function that gives it for a batch in float64, ``(B,)``."""
    if is_linear(vae):
        model = gaussian(vae)
        return "closed form", lambda batch: model.log_prob(batch.x, batch.observed)
    chart, vae = chart_of(vae), doubled(vae)
    if chart is None:
        return "enumeration", lambda batch: enumerated(vae, batch)
    on = chart(vae)
    return "quadrature", lambda batch: integrated(vae, batch, on)


def rows(vae: VAE, samples: int) -> int:
    """How many items to take at a time; there are no samples."""
    return max(1, min(16, NUMBERS // 512 // outputs(vae)))
