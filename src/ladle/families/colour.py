"""A family over the colours of an image's pixels, whose channels move together.

A pixel of C channels is drawn from one of K components, the same for all its channels; within a component every
channel is a discretised logistic (:mod:`ladle.families.pixels`) whose location follows the channels before it::

    p(x) = sum_k w_k prod_c p(x_c | m_kc, s_kc)        m_kc = loc_kc + sum_(j<c) slope_kcj (x_j - loc_kj)

So ``loc`` stays the middle of every channel, whatever the others are, and the sum over all colours is exactly one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families.family import centre, chain, checked_temperature, mean, tempered
from ladle.families.pixels import DiscretisedLogistic, Levels, PixelMixtureFamily, log_bin
from ladle.shapes import Size
from ladle.spec import part

CHANNELS = -3  # the dimension of them, in a tensor that ends in ``(C, H, W)``


class ColourMixture(td.Distribution):
    """A mixture over the colours of pixels: batch ``(*lead,)``, event ``(C, H, W)``.

    Args:
        logits: of the weights, ``(*lead, 1, H, W, K)``.
        loc: in levels, ``(*lead, C, H, W, K)``.
        scale: in levels, ``(*lead, C, H, W, K)``.
        slopes: of channel c on channel j < c, ``(*lead, C (C - 1) / 2, H, W, K)``, in the order (1, 0), (2, 0),
            (2, 1), (3, 0) ...
        levels: L.

    >>> one, two = torch.ones(1, 1, 1, 1), torch.ones(2, 1, 1, 1)
    >>> colours = torch.cartesian_prod(torch.arange(3), torch.arange(3)).view(9, 2, 1, 1)
    >>> float(ColourMixture(one, two, two, one, levels=3).log_prob(colours).exp().sum())  # doctest: +ELLIPSIS
    1.0...
    """

    arg_constraints = {"logits": constraints.real, "loc": constraints.real, "scale": constraints.positive}

    def __init__(self, logits: Tensor, loc: Tensor, scale: Tensor, slopes: Tensor, levels: int) -> None:
        self.logits, self.loc, self.scale, self.slopes, self.levels = logits, loc, scale, slopes, levels
        super().__init__(loc.shape[:-4], loc.shape[-4:-1], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """0..L-1, every channel of every pixel."""
        return constraints.independent(Levels(self.levels), 3)

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """In the order of the constructor."""
        return self.logits, self.loc, self.scale, self.slopes

    def expand(self, batch_shape: Any, _instance: Any = None) -> ColourMixture:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return self._changed(lambda t: t.expand(*batch_shape, *t.shape[-4:]))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> ColourMixture:
        """The same with every parameter changed."""
        logits, loc, scale, slopes = map(change, self.parameters)
        return ColourMixture(logits, loc, scale, slopes, self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(*lead, C, H, W)`` integers, as floats or bytes, to ``(*lead,)``."""
        logits, each = self._bins(value)
        joint = logits + each.sum(CHANNELS, keepdim=True)
        return (joint.logsumexp(0) - logits.logsumexp(0)).sum((-3, -2, -1))

    def conditionals_log_prob(self, value: Tensor) -> Tensor:
        """log p(x_c | x_1 .. x_(c-1)) of every channel of every pixel, ``(*lead, C, H, W)`` to the same shape."""
        logits, each = self._bins(value)
        ahead = (logits + each.cumsum(CHANNELS)).logsumexp(0)  # of the channels so far, together
        none = logits.logsumexp(0).expand(*ahead.shape[:-3], 1, *ahead.shape[-2:])
        return ahead.diff(dim=CHANNELS, prepend=none)

    def _bins(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, ``(K, *lead, 1, H, W)``, and log p(x_c | x_1 .. x_(c-1)) of each component,
        ``(K, *lead, C, H, W)``: sums over so few are fast along the first dimension."""
        ones = (None,) * max(0, value.dim() - 3 - len(self.batch_shape))
        logits, loc, scale, slopes = (t[(*ones, ...)].movedim(-1, 0) for t in self.parameters)
        apart = (value.to(loc.dtype) - loc).unbind(CHANNELS)
        moved = torch.broadcast_tensors(*(_follow(c, loc, slopes, apart) for c in range(len(apart))))
        return logits, log_bin(value.to(loc.dtype), torch.stack(moved, CHANNELS), scale, self.levels)

    def pixels(self) -> ColourMixture:
        """Every pixel as an image of its own, since they are independent: batch ``(*lead, H W)``, event
        ``(C, 1, 1)``."""
        return self._changed(lambda t: t.flatten(-3, -2).movedim(-2, -3)[..., None, None, :])

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Colours, as floats: ``(*sample_shape, *lead, C, H, W)``. First a component, then one channel after the
        other."""
        with torch.no_grad():
            component = td.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
            return self.of(component, lambda loc, scale: DiscretisedLogistic(loc, scale, self.levels).sample())

    def of(self, component: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Colours of the given components, ``(*lead, 1, H, W)``: ``step`` chooses the levels of a channel from its
        location and scale, ``(*lead, H, W)`` each, the first channel first."""
        lead = component.shape[:-3]
        loc, scale, slopes = (
            t.expand(*lead, *t.shape[-4:]).gather(-1, component.unsqueeze(-1).expand(*lead, *t.shape[-4:-1], 1))[..., 0]
            for t in (self.loc, self.scale, self.slopes)
        )
        channels: list[Tensor] = []
        apart: list[Tensor] = []
        for c, spread in enumerate(scale.unbind(CHANNELS)):
            channels.append(step(_follow(c, loc, slopes, apart), spread))
            apart.append(channels[c] - loc.select(CHANNELS, c))
        return torch.stack(channels, CHANNELS)


def _follow(c: int, loc: Tensor, slopes: Tensor, apart: Sequence[Tensor]) -> Tensor:
    """The location of channel c, given how far the channels before it are from theirs."""
    moved, first = loc.select(CHANNELS, c), c * (c - 1) // 2
    for j in range(c):
        moved = moved + slopes.select(CHANNELS, first + j) * apart[j]
    return moved


@part("family", "colour_mixture")
class ColourMixtureFamily(PixelMixtureFamily):
    """A mixture over the colours of pixels whose channels move together; see the head of this file.

    At raw zeros every channel moves as the one before it does. Locations, scales and the spread of the components are
    those of :class:`ladle.families.pixels.DiscretisedLogisticMixtureFamily`.

    Args:
        components: K.
        levels: L; x holds the integers 0..L-1.
        floor: the smallest scale, in levels.

    Reference:
        Salimans, Karpathy, Chen, Kingma: "PixelCNN++: Improving the PixelCNN with Discretized Logistic Mixture
        Likelihood and Other Modifications", 2017.

    >>> ColourMixtureFamily(components=2).raw((3, 8, 8))
    ((1, 8, 8, 2), (3, 8, 8, 2), (3, 8, 8, 2), (3, 8, 8, 2))
    """

    def __init__(self, components: int = 3, levels: int = 256, floor: float = 0.05) -> None:
        super().__init__(components, levels, floor)

    def raw(self, event: Size) -> tuple[Size, ...]:
        """Logits, locations, scales and slopes: ``(*, H, W, K)`` each."""
        if len(event) != 3 or event[0] < 2:
            raise ValueError(f"colours are events (C, H, W) with at least 2 channels, got an event of size {event}")
        channels, *pixels = event
        counts = (1, channels, channels, channels * (channels - 1) // 2)
        return tuple((count, *pixels, self.components) for count in counts)

    def forward(self, *raw: Tensor) -> ColourMixture:
        """The raw numbers of an event to a joint distribution over it."""
        logits, loc, scale, slopes = self.read_raw(*raw)
        one_before = [float(j == c - 1) for c in range(loc.shape[-4]) for j in range(c)]
        slopes = slopes + slopes.new_tensor(one_before).view(-1, 1, 1, 1)
        return ColourMixture(logits, loc, scale, slopes, self.levels)


@chain.register
def _(d: ColourMixture, z: Tensor) -> Tensor:
    return d.conditionals_log_prob(z)


@centre.register
def _(d: ColourMixture) -> Tensor:
    """The median of the likeliest component's first channel, of the second one given that, and so on."""
    return d.of(d.logits.argmax(-1), lambda loc, scale: loc.round().clamp(0, d.levels - 1))


@mean.register
def _(d: ColourMixture) -> Tensor:
    """Of the components' locations, clipped to the range."""
    return (d.logits.softmax(-1) * d.loc.clamp(0, d.levels - 1)).sum(-1).clamp(0, d.levels - 1)


@tempered.register
def _(d: ColourMixture, t: float) -> ColourMixture:
    return ColourMixture(d.logits, d.loc, d.scale * checked_temperature(t), d.slopes, d.levels)
