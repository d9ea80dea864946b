"""A family of colour images in which the channels of a pixel are dependent.

A pixel of C channels is drawn from one of K components, the same for all its channels. Within a component each channel
is a discretised logistic (:mod:`ladle.families.pixels`) whose location is linear in the preceding channels::

    p(x) = sum_k w_k prod_c p(x_c | m_kc, s_kc)        m_kc = loc_kc + sum_(j<c) slope_kcj (x_j - loc_kj)

With the preceding channels at their locations, ``loc`` is the location of every channel. The probabilities of all
colours sum to exactly one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families.family import centre, chain, checked_temperature, mean, separate, tempered
from ladle.families.pixels import DiscretisedLogistic, Levels, PixelMixtureFamily, log_bin
from ladle.shapes import Size
from ladle.spec import part

CHANNELS = -3  # the channel dimension of a tensor that ends in ``(C, H, W)``


class ColourMixture(td.Distribution):
    """A mixture over the colours of pixels: batch shape ``(*lead,)``, event shape ``(C, H, W)``.

    Args:
        logits: the logits of the weights, ``(*lead, 1, H, W, K)``.
        loc: the locations in levels, ``(*lead, C, H, W, K)``.
        scale: the scales in levels, ``(*lead, C, H, W, K)``.
        slopes: the coefficients of channel c on channel j < c, ``(*lead, C (C - 1) / 2, H, W, K)``, in the order
            (1, 0), (2, 0), (2, 1), (3, 0) ...
        levels: L, the number of levels.

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
        """The integers 0..L-1, in every channel of every pixel."""
        return constraints.independent(Levels(self.levels), 3)

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parameter tensors, in the order of the constructor."""
        return self.logits, self.loc, self.scale, self.slopes

    def expand(self, batch_shape: Any, _instance: Any = None) -> ColourMixture:
        """See :meth:`torch.distributions.Distribution.expand`."""
        return self._changed(lambda t: t.expand(*batch_shape, *t.shape[-4:]))

    def _changed(self, change: Callable[[Tensor], Tensor]) -> ColourMixture:
        """The distribution with ``change`` applied to every parameter."""
        logits, loc, scale, slopes = map(change, self.parameters)
        return ColourMixture(logits, loc, scale, slopes, self.levels)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability, ``(*lead,)``, of integers ``(*lead, C, H, W)`` as floats or bytes."""
        logits, each = self._bins(value)
        joint = logits + each.sum(CHANNELS, keepdim=True)
        return (joint.logsumexp(0) - logits.logsumexp(0)).sum((-3, -2, -1))

    def conditionals_log_prob(self, value: Tensor) -> Tensor:
        """log p(x_c | x_1 .. x_(c-1)) for every channel of every pixel: ``(*lead, C, H, W)``, as ``value``."""
        logits, each = self._bins(value)
        upto = (logits + each.cumsum(CHANNELS)).logsumexp(0)  # unnormalised log p(x_1 .. x_c)
        start = logits.logsumexp(0).expand(*upto.shape[:-3], 1, *upto.shape[-2:])
        return upto.diff(dim=CHANNELS, prepend=start)

    def _bins(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, ``(K, *lead, 1, H, W)``, and log p(x_c | x_1 .. x_(c-1)) under each component,
        ``(K, *lead, C, H, W)``. The components come first because short sums are fastest along the first dimension."""
        ones = (None,) * max(0, value.dim() - 3 - len(self.batch_shape))
        logits, loc, scale, slopes = (t[(*ones, ...)].movedim(-1, 0) for t in self.parameters)
        offsets = (value.to(loc.dtype) - loc).unbind(CHANNELS)
        shifted = torch.broadcast_tensors(*(_follow(c, loc, slopes, offsets) for c in range(len(offsets))))
        return logits, log_bin(value.to(loc.dtype), torch.stack(shifted, CHANNELS), scale, self.levels)

    def pixels(self) -> ColourMixture:
        """Each pixel as a separate image, since pixels are independent: batch shape ``(*lead, H W)``, event shape
        ``(C, 1, 1)``."""
        return self._changed(lambda t: t.flatten(-3, -2).movedim(-2, -3)[..., None, None, :])

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Colours as floats, ``(*sample_shape, *lead, C, H, W)``: draw a component, then the channels in order."""
        with torch.no_grad():
            component = td.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
            return self.of(component, lambda loc, scale: DiscretisedLogistic(loc, scale, self.levels).sample())

    def of(self, component: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Colours ``(*lead, C, H, W)`` of the given components, ``(*lead, 1, H, W)``.

        ``step`` maps the location and scale of a channel, ``(*lead, H, W)`` each, to its levels; it is called once for
        each channel, in order.
        """
        lead = component.shape[:-3]
        loc, scale, slopes = (
            t.expand(*lead, *t.shape[-4:]).gather(-1, component.unsqueeze(-1).expand(*lead, *t.shape[-4:-1], 1))[..., 0]
            for t in (self.loc, self.scale, self.slopes)
        )
        channels: list[Tensor] = []
        offsets: list[Tensor] = []
        for c, spread in enumerate(scale.unbind(CHANNELS)):
            channels.append(step(_follow(c, loc, slopes, offsets), spread))
            offsets.append(channels[c] - loc.select(CHANNELS, c))
        return torch.stack(channels, CHANNELS)


def _follow(c: int, loc: Tensor, slopes: Tensor, offsets: Sequence[Tensor]) -> Tensor:
    """The location of channel c, given the deviations of the preceding channels from their locations."""
    shifted, first = loc.select(CHANNELS, c), c * (c - 1) // 2
    for j in range(c):
        shifted = shifted + slopes.select(CHANNELS, first + j) * offsets[j]
    return shifted


@part("family", "colour_mixture")
class ColourMixtureFamily(PixelMixtureFamily):
    """A mixture over the colours of pixels with dependent channels; see :mod:`ladle.families.colour`.

    At raw zeros each channel has slope 1 on the preceding one. Locations, scales and the spread of the components are
    as in :class:`ladle.families.pixels.DiscretisedLogisticMixtureFamily`.

    Args:
        components: K.
        levels: L; x consists of the integers 0..L-1.
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
        """Logits, raw locations, raw scales and slopes: ``(*, H, W, K)`` each."""
        if len(event) != 3 or event[0] < 2:
            raise ValueError(
                f"a colour family needs events (C, H, W) with at least 2 channels, got an event of size {event}"
            )
        channels, *pixels = event
        counts = (1, channels, channels, channels * (channels - 1) // 2)
        return tuple((count, *pixels, self.components) for count in counts)

    def forward(self, *raw: Tensor) -> ColourMixture:
        """The joint distribution over an event, from its raw parameters."""
        logits, loc, scale, slopes = self.read_raw(*raw)
        previous = [float(j == c - 1) for c in range(loc.shape[-4]) for j in range(c)]
        slopes = slopes + slopes.new_tensor(previous).view(-1, 1, 1, 1)
        return ColourMixture(logits, loc, scale, slopes, self.levels)


@separate.register
def _(d: ColourMixture) -> list[tuple[td.Distribution, Any]]:
    """The pixels, which are independent; the channels of each have a chain."""
    return [(d.pixels(), None)]


@chain.register
def _(d: ColourMixture, z: Tensor) -> Tensor:
    return d.conditionals_log_prob(z)


@centre.register
def _(d: ColourMixture) -> Tensor:
    """The medians of the most probable component: of the first channel, of the second given the first, and so on."""
    return d.of(d.logits.argmax(-1), lambda loc, scale: loc.round().clamp(0, d.levels - 1))


@mean.register
def _(d: ColourMixture) -> Tensor:
    """The weighted mean of the locations of the components, clipped to the range."""
    return (d.logits.softmax(-1) * d.loc.clamp(0, d.levels - 1)).sum(-1).clamp(0, d.levels - 1)


@tempered.register
def _(d: ColourMixture, t: float) -> ColourMixture:
    return ColourMixture(d.logits, d.loc, d.scale * checked_temperature(t), d.slopes, d.levels)
