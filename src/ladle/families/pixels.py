"""Families of pixels with levels 0..L-1, in the units of the data (0..255, as floats or bytes).

A logistic density is integrated over bins of width 1 around the integers; the first and the last bin include the
tails, so the L probabilities sum to exactly one::

    p(x) = F(x + 1/2) - F(x - 1/2)                 F(v) = sigmoid((v - loc) / scale)

With a = (x + 1/2 - loc) / scale and b = (x - 1/2 - loc) / scale, the logarithm is computed without the difference, by

    sigmoid(a) - sigmoid(b) = sigmoid(a) * sigmoid(-b) * (1 - e^-(a - b))

as a sum of three logarithms, each finite and differentiable however far x lies from loc.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all, clamp_probs
from torch.nn import functional as F

from ladle.families.family import Family, centre, checked_temperature, mean, positive, quantile, tempered
from ladle.shapes import Size
from ladle.spec import part

FAR = 1e20  # the outer edge of the first and last bin: so far out that its terms and gradients are exactly zero


def log_bin(x: Tensor, loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """log p(x) for integers x, element-wise."""
    upper = torch.where(x < levels - 1, x + 0.5, FAR)
    lower = torch.where(x > 0, x - 0.5, -FAR)
    precision = scale.reciprocal()
    inside = torch.log(-torch.expm1((lower - upper) * precision))
    return F.logsigmoid((upper - loc) * precision) + F.logsigmoid((loc - lower) * precision) + inside


def _cdf(x: Tensor, loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """P(X <= x)."""
    x = x.floor()
    below = torch.sigmoid((x + 0.5 - loc) / scale)
    return torch.where(x < levels - 1, torch.where(x < 0, 0.0, below), 1.0)


def _mean(loc: Tensor, scale: Tensor, levels: int) -> Tensor:
    """The mean of the continuous logistic clipped to the range, ``integral_0^(L-1) (1 - F(v)) dv``.

    The exact mean is the midpoint sum of this integral over L - 1 cells. The two differ by at most half a level, and by
    less than ``1 / (80 scale)`` of a level if ``scale > 0.35``.
    """
    return scale * (F.softplus(loc / scale) - F.softplus((loc - (levels - 1)) / scale))


def _checked_levels(levels: int) -> int:
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}; 8-bit pixels have 256")
    return levels


class Levels(constraints.integer_interval):
    """The integers 0..L-1; instances with equal L compare equal.

    >>> Levels(4) == Levels(4), Levels(4) == Levels(5)
    (True, False)
    """

    def __init__(self, levels: int) -> None:
        super().__init__(0, levels - 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Levels) and other.upper_bound == self.upper_bound

    def __hash__(self) -> int:
        return hash(self.upper_bound)


class Units:
    """The map from raw parameters to levels.

    Raw location 0 is mid-grey, and -1 and 1 are the ends of the range. Raw scale 0 is an eighth of the range, that is,
    a standard deviation of about a quarter of it.
    """

    def __init__(self, levels: int, floor: float) -> None:
        self.half, self.unit = (levels - 1) / 2, (levels - 1) / 8
        if not 0 < floor < self.unit:
            raise ValueError(f"floor must lie between 0 and {self.unit} levels, got {floor}; 0.05 is usual")
        self.floor = floor

    def loc(self, raw: Tensor) -> Tensor:
        """The location in levels of a raw location of any shape."""
        return self.half * (1 + raw)

    def scale(self, raw: Tensor) -> Tensor:
        """The scale in levels of a raw scale of any shape."""
        return self.unit * positive(raw, self.floor / self.unit)


class DiscretisedLogistic(td.Distribution):
    """A logistic distribution discretised to the levels 0..L-1.

    Args:
        loc: the location in levels, ``(*lead, *event)``.
        scale: the scale in levels, ``(*lead, *event)``.
        levels: L, the number of levels.

    >>> d = DiscretisedLogistic(torch.tensor(2.2), torch.tensor(0.7), levels=4)
    >>> float(d.log_prob(torch.arange(4)).exp().sum())  # doctest: +ELLIPSIS
    1.0...
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.loc, self.scale = broadcast_all(loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape, validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """The integers 0..L-1."""
        return Levels(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretisedLogistic:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return DiscretisedLogistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.levels)

    @property
    def mean(self) -> Tensor:
        """The mean of the continuous logistic clipped to the range, within ``min(1/2, 1 / (80 scale))`` of a level."""
        return _mean(self.loc, self.scale, self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """The element-wise log-probabilities of integers ``(*lead, *event)``, as floats or bytes."""
        return log_bin(value.to(self.loc.dtype), self.loc, self.scale, self.levels)

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= x)."""
        return _cdf(value.to(self.loc.dtype), self.loc, self.scale, self.levels)

    def icdf(self, value: Tensor) -> Tensor:
        """The first level whose cumulative probability reaches ``value``."""
        reached = self.loc + self.scale * torch.logit(value)
        return torch.ceil(reached - 0.5).clamp(0, self.levels - 1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Levels as floats, ``(*sample_shape, *lead, *event)``."""
        shape = self._extended_shape(sample_shape)
        with torch.no_grad():
            return self.icdf(clamp_probs(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)))


@part("family", "discretised_logistic")
class DiscretisedLogisticFamily(Family):
    """A logistic distribution discretised to the levels 0..L-1 of a pixel; see :mod:`ladle.families.pixels`.

    Raw location 0 is mid-grey, -1 black and 1 white; raw scale 0 gives a standard deviation of about a quarter of the
    range.

    Args:
        levels: L; x consists of the integers 0..L-1.
        floor: the smallest scale, in levels; at 0.05 one level can have all but 1e-4 of the probability.
        shared_scale: learn one scale for all elements and items, a parameter of the family, instead of taking one for
            each element from a second raw parameter.

    Reference:
        Kingma, Salimans, Jozefowicz, Chen, Sutskever, Welling: "Improved Variational Inference with Inverse
        Autoregressive Flow", 2016.

    >>> d = DiscretisedLogisticFamily()(torch.full((1,), -1.0), torch.full((1,), -99.0))
    >>> d.log_prob(torch.tensor([0, 1], dtype=torch.uint8)).exp()
    tensor([9.9995e-01, 4.5398e-05])
    """

    def __init__(self, levels: int = 256, floor: float = 0.05, shared_scale: bool = False) -> None:
        super().__init__()
        self.levels, self.shared_scale = _checked_levels(levels), shared_scale
        self.units = Units(levels, floor)
        self.support = Levels(levels)
        if shared_scale:
            self.raw_scale = nn.Parameter(torch.zeros(()))

    def raw(self, event: Size) -> tuple[Size, ...]:
        """Raw location, and raw scale unless it is shared: ``*event`` each."""
        return (event,) if self.shared_scale else (event, event)

    def forward(self, *raw: Tensor) -> DiscretisedLogistic:
        """The element-wise distribution over ``(*lead, *event)``, from raw parameters of the same shape."""
        loc, raw_scale = (raw[0], self.raw_scale) if self.shared_scale else raw
        return DiscretisedLogistic(self.units.loc(loc), self.units.scale(raw_scale), self.levels)


class DiscretisedLogisticMixture(td.Distribution):
    """A mixture of K discretised logistic distributions for each element.

    Args:
        logits: the logits of the weights, ``(*lead, *event, K)``.
        loc: the locations in levels, ``(*lead, *event, K)``.
        scale: the scales in levels, ``(*lead, *event, K)``.
        levels: L, the number of levels.

    >>> d = DiscretisedLogisticMixture(torch.zeros(2), torch.tensor([0.0, 3.0]), torch.ones(2), levels=4)
    >>> float(d.log_prob(torch.arange(4)).exp().sum()), float(d.mean)  # doctest: +ELLIPSIS
    (1.0..., 1.5)
    """

    arg_constraints = {"logits": constraints.real, "loc": constraints.real, "scale": constraints.positive}

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, levels: int) -> None:
        self.logits, self.loc, self.scale = broadcast_all(logits, loc, scale)
        self.levels = levels
        super().__init__(self.loc.shape[:-1], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """The integers 0..L-1."""
        return Levels(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretisedLogisticMixture:
        """See :meth:`torch.distributions.Distribution.expand`."""
        size = (*batch_shape, self.loc.shape[-1])
        return DiscretisedLogisticMixture(
            self.logits.expand(size), self.loc.expand(size), self.scale.expand(size), self.levels
        )

    @property
    def mean(self) -> Tensor:
        """The mean of the continuous mixture clipped to the range, within ``min(1/2, 1 / (80 scale))`` of a level."""
        return (self.logits.softmax(-1) * _mean(self.loc, self.scale, self.levels)).sum(-1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The element-wise log-probabilities of integers ``(*lead, *event)``, as floats or bytes."""
        # The components go first: torch reduces a short last dimension several times more slowly.
        logits, loc, scale = (t.movedim(-1, 0) for t in self._aligned(value.dim()))
        joint = logits + log_bin(value.to(loc.dtype), loc, scale, self.levels)
        return joint.logsumexp(0) - logits.logsumexp(0)

    def _aligned(self, dims: int) -> list[Tensor]:
        """The parameters, with leading ones in their shapes to broadcast against values of ``dims`` dimensions."""
        ones = (None,) * max(0, dims - len(self.batch_shape))
        return [t[(*ones, ...)] for t in (self.logits, self.loc, self.scale)]

    def cdf(self, value: Tensor) -> Tensor:
        """P(X <= x)."""
        below = _cdf(value.to(self.loc.dtype).unsqueeze(-1), self.loc, self.scale, self.levels)
        return (self.logits.softmax(-1) * below).sum(-1)

    def icdf(self, value: Tensor) -> Tensor:
        """The first level whose cumulative probability reaches ``value``, by bisection over the levels (exact)."""
        low = torch.full_like(self.loc[..., 0] + value, -1.0)
        high = torch.full_like(low, self.levels - 1.0)
        for _ in range((self.levels - 1).bit_length()):
            middle = torch.floor((low + high) / 2)
            reached = self.cdf(middle) >= value
            low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
        return high

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Levels as floats, ``(*sample_shape, *lead, *event)``: draw a component, then a level from it."""
        with torch.no_grad():
            component = td.Categorical(logits=self.logits, validate_args=False).sample(sample_shape).unsqueeze(-1)
            size = (*component.shape[:-1], self.loc.shape[-1])
            loc, scale = (t.expand(size).gather(-1, component).squeeze(-1) for t in (self.loc, self.scale))
            return DiscretisedLogistic(loc, scale, self.levels).sample()


class PixelMixtureFamily(Family):
    """The base class of mixtures of K discretised logistic distributions: arguments and the map of raw parameters."""

    def __init__(self, components: int = 5, levels: int = 256, floor: float = 0.05) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"components must be at least 1, got {components}; 5 is usual")
        self.components, self.levels = components, _checked_levels(levels)
        self.units = Units(levels, floor)
        self.support = Levels(levels)

    def read_raw(self, logits: Tensor, loc: Tensor, scale: Tensor, *others: Tensor) -> list[Tensor]:
        """The logits, locations and scales (and ``others`` unchanged), ``(*, K)`` each, from raw parameters.

        The locations of the components are spread over the range. The components come first in memory, which makes
        ``log_prob`` faster; the shapes are unchanged.
        """
        logits, loc, scale, *others = (  # type: ignore[assignment]
            r.movedim(-1, 0).contiguous().movedim(0, -1) for r in (logits, loc, scale, *others)
        )
        k = torch.arange(self.components, dtype=loc.dtype, device=loc.device)
        spread = (2 * k + 1) / self.components - 1
        return [logits, self.units.loc(loc + spread), self.units.scale(scale), *others]


@part("family", "discretised_logistic_mixture")
class DiscretisedLogisticMixtureFamily(PixelMixtureFamily):
    """A mixture of K discretised logistic distributions for each pixel.

    ``p(x) = sum_k softmax(logits)_k p(x | loc_k, scale_k)``. At raw zeros the components are spread evenly over
    the range, since equal components receive equal gradients and stay equal; their mixture is centred at mid-grey.

    Args:
        components: K, the number of components.
        levels: L; x consists of the integers 0..L-1.
        floor: the smallest scale, in levels.

    Reference:
        Salimans, Karpathy, Chen, Kingma: "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
        Likelihood and Other Modifications", 2017 (here without the dependence between
        colour channels, for which see :mod:`ladle.families.colour`).

    >>> family = DiscretisedLogisticMixtureFamily(components=3)
    >>> family.raw((1, 28, 28))
    ((1, 28, 28, 3), (1, 28, 28, 3), (1, 28, 28, 3))
    >>> family(*torch.zeros(3, 1, 3)).loc
    tensor([[ 42.5000, 127.5000, 212.5000]])
    """

    def raw(self, event: Size) -> tuple[Size, ...]:
        """Logits, raw locations and raw scales: ``(*event, K)`` each."""
        return ((*event, self.components),) * 3

    def forward(self, *raw: Tensor) -> DiscretisedLogisticMixture:
        """The element-wise distribution over ``(*lead, *event)``, from raw parameters ``(*lead, *event, K)``."""
        logits, loc, scale = self.read_raw(*raw)
        return DiscretisedLogisticMixture(logits, loc, scale, self.levels)


@centre.register(DiscretisedLogistic)
@centre.register(DiscretisedLogisticMixture)
def _(d: Any) -> Tensor:
    """The median."""
    return d.icdf(torch.full((), 0.5, dtype=d.loc.dtype, device=d.loc.device))


@mean.register(DiscretisedLogistic)
@mean.register(DiscretisedLogisticMixture)
def _(d: Any) -> Tensor:
    return d.mean


@tempered.register
def _(d: DiscretisedLogistic, t: float) -> DiscretisedLogistic:
    return DiscretisedLogistic(d.loc, d.scale * checked_temperature(t), d.levels)


@tempered.register
def _(d: DiscretisedLogisticMixture, t: float) -> DiscretisedLogisticMixture:
    return DiscretisedLogisticMixture(d.logits, d.loc, d.scale * checked_temperature(t), d.levels)


@quantile.register(DiscretisedLogistic)
@quantile.register(DiscretisedLogisticMixture)
def _(d: Any, u: Tensor) -> Tensor:
    return d.icdf(u)
