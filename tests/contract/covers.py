"""Covers of a support: all values of a discrete support, a fine grid over a continuous one."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families import centre
from ladle.families.columns import ColumnSupport
from ladle.families.directional import circle, sphere
from ladle.families.discrete import OneHotBlocks
from ladle.families.simplex import open_simplex
from ladle.shapes import Size


class Cover(NamedTuple):
    """Values ``(N, *batch, *event_shape)`` and weights ``(N, *batch)`` with ``sum(w f(x))`` the integral of f."""

    values: Tensor
    weights: Tensor
    discrete: bool

    def masses(self, d: td.Distribution) -> Tensor:
        """``(N, *batch)``: the probability of each cell."""
        return d.log_prob(self.values).exp() * self.weights


def cover(d: td.Distribution, support: constraints.Constraint) -> Cover:
    """All values of a discrete support; for a continuous one, a fine grid that is uniform in a stretched coordinate."""
    ones = (1,) * len(d.batch_shape)

    def listed(values: Tensor) -> Cover:
        values = values.double().reshape(len(values), *ones, *d.event_shape)
        values = values.expand(len(values), *d.batch_shape, *d.event_shape)
        return Cover(values, torch.ones(len(values), *d.batch_shape, dtype=torch.float64), True)

    def grid(values: Tensor, weights: Tensor) -> Cover:
        size = (len(values), *d.batch_shape)
        return Cover(values.expand(size), weights.reshape(-1, *ones).expand(size), False)

    if isinstance(support, ColumnSupport):
        return of_columns(d, support)
    if isinstance(support, OneHotBlocks):
        eye, blocks = torch.eye(support.classes), d.event_shape[0] // support.classes
        return listed(torch.stack([torch.cat(choice) for choice in itertools.product(eye, repeat=blocks)]))
    if support == constraints.boolean:
        return listed(torch.cartesian_prod(*[torch.arange(2)] * max(1, math.prod(d.event_shape))))
    if isinstance(support, constraints.integer_interval):
        values = torch.arange(support.lower_bound, support.upper_bound + 1)
        return listed(torch.cartesian_prod(*[values] * math.prod(d.event_shape)))
    if support == constraints.nonnegative_integer:
        return listed(torch.arange(4096))
    if d.event_shape:
        return joint(d, support)
    if support == circle:
        t = math.pi * (2 * torch.arange(4000, dtype=torch.float64) + 1) / 4000 - math.pi
        return grid(t.reshape(-1, *ones), torch.full_like(t, 2 * math.pi / 4000))
    if support == constraints.real:  # relative resolution 1% at every distance from 1e-7 to 1e10 from the centre
        t = torch.arange(-4000, 4001, dtype=torch.float64) / 100
        return grid(centre(d) + 1e-7 * torch.sinh(t).reshape(-1, *ones), 1e-7 * torch.cosh(t) / 100)
    if isinstance(support, constraints.interval) and (support.lower_bound, support.upper_bound) == (0, 1):
        t = torch.arange(-3600, 3601, dtype=torch.float64) / 100
        return grid(torch.sigmoid(t).reshape(-1, *ones), torch.sigmoid(t) * torch.sigmoid(-t) / 100)
    if support in (constraints.positive, constraints.nonnegative):
        t = torch.arange(-6000, 4001, dtype=torch.float64) / 100
        return grid(t.exp().reshape(-1, *ones), t.exp() / 100)
    raise AssertionError(f"these checks cannot integrate over {support} yet; extend covers.cover")


def of_columns(d: td.Distribution, support: ColumnSupport) -> Cover:
    """The covers of the columns side by side; those that need fewer values are filled up with values of no weight."""
    covers = [cover(member, of) for member, of in zip(d.members, support.supports, strict=True)]
    longest = max(len(each.values) for each in covers)

    def filled(values: Tensor, last: bool) -> Tensor:
        more = longest - len(values)
        tail = values[-1:] if last else torch.zeros_like(values[-1:])
        return torch.cat([values, tail.expand(more, *values.shape[1:])])

    values = support.places.join([filled(each.values, True) for each in covers])
    weights = support.places.join([filled(each.weights, False) for each in covers])
    return Cover(values, weights, all(each.discrete for each in covers))


def joint(d: td.Distribution, support: constraints.Constraint) -> Cover:
    """A product of grids over the support of a joint continuous distribution of two or three numbers."""

    def over(values: Tensor, weights: Tensor) -> Cover:
        """A cover from values ``(N, *batch, D)`` and weights ``(N, *batch)``; batch sizes of 1 are expanded."""
        size = (len(values), *d.batch_shape)
        return Cover(values.expand(*size, *d.event_shape), weights.expand(size), False)

    def product(*axes: Tensor) -> Tensor:
        return torch.cartesian_prod(*(axis.double() for axis in axes))

    ones = (1,) * len(d.batch_shape)
    if support == sphere and d.event_shape == (3,):
        nodes, weights = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(300))
        turns = 2 * math.pi * torch.arange(300) / 300
        t, angle = product(nodes, turns).unbind(-1)
        flat = (1 - t.square()).sqrt()
        values = torch.stack([flat * angle.cos(), flat * angle.sin(), t], -1)
        weights = weights.repeat_interleave(300) * 2 * math.pi / 300
        return over(values.reshape(-1, *ones, 3), weights.reshape(-1, *ones))
    if support == open_simplex and d.event_shape == (3,):  # the log-ratios to the last number, dense around the centre
        t = torch.arange(-160, 161, dtype=torch.float64) / 20
        steps, sizes = product(*[0.05 * torch.sinh(t)] * 2), product(*[0.05 * torch.cosh(t) / 20] * 2).prod(-1)
        middle = centre(d).log()
        ratios = (middle[..., :-1] - middle[..., -1:]) + steps.reshape(-1, *ones, 2)
        values = torch.nn.functional.pad(ratios, (0, 1)).softmax(-1).clamp_min(torch.finfo(torch.float64).tiny)
        return over(values, values.prod(-1) * sizes.reshape(-1, *ones))
    if support == constraints.real and d.event_shape == (2,):  # along axes estimated from samples
        with torch.random.fork_rng():
            torch.manual_seed(0)
            draws = d.sample((5000,))
        off = draws - draws.mean(0)
        axes = torch.linalg.cholesky(torch.einsum("n...i,n...j->...ij", off, off) / len(off))
        steps = product(*[torch.linspace(-9, 9, 181)] * 2).reshape(-1, *ones, 2, 1)
        return over(centre(d) + (axes @ steps).squeeze(-1), 0.01 * torch.linalg.det(axes)[None])
    raise AssertionError(f"cannot integrate over {support} of {tuple(d.event_shape)} yet; extend covers.joint")


def columns(values: Tensor, batch: Size) -> np.ndarray:
    """Reshape ``(N, *batch) -> (prod(batch), N)``, as a NumPy array."""
    return values.detach().reshape(len(values), math.prod(batch)).T.numpy()


def ranks(values: Tensor, cells: Cover, batch: Size) -> Tensor:
    """The row of the cover that equals each discrete value ``(n, *batch, *event_shape)``, or -1."""
    rank = torch.full(values.shape[: 1 + len(batch)], -1)
    for row, cell in enumerate(cells.values):
        same = (values == cell).flatten(1 + len(batch)).all(-1) if values.dim() > 1 + len(batch) else values == cell
        rank[same] = row
    return rank
