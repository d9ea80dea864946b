"""A family of images with local autoregression: each pixel depends on its neighbours.

Pixels are ordered row by row, and within a pixel by channel. Given z, each element follows an element-wise family, the
*base*. Its raw parameters are shifted linearly by the deviations of the preceding neighbours from their locations given
z::

    p(x|z) = prod_i p_base(x_i | raw_i + sum_j k_(i-j) (x_j - m_j))        j precedes i, within ``reach``

``m`` is the location that the raw parameters of the base give a pixel, in the units of raw locations. The kernel k is
learned and shared by all pixels. So the latents need not encode what the neighbours predict. No pixel depends on a
later one, so the probabilities of all images sum to exactly one.

Pixels that are far enough apart along a diagonal (to the left and down) do not depend on each other given the earlier
ones. Such a *wave* of pixels is drawn at once, and an image takes ``width + (reach + 1) (height - 1)`` steps for each
channel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints
from torch.nn import functional as F

from ladle.families.discrete import BernoulliFamily
from ladle.families.family import Family, centre, checked_temperature, mean, separate, tempered, total
from ladle.families.pixels import DiscretisedLogisticFamily, DiscretisedLogisticMixtureFamily
from ladle.shapes import Size, numel
from ladle.spec import SpecError, part


def waves(height: int, width: int, reach: int) -> Iterator[Tensor]:
    """The pixels of each wave, which can be drawn at once, as indices into the flattened image: (P,) int64 each.

    >>> [wave.tolist() for wave in waves(2, 3, 1)]
    [[0], [1], [2, 3], [4], [5]]
    """
    turn = torch.arange(width) + (reach + 1) * torch.arange(height)[:, None]
    for t in range(int(turn.max()) + 1):
        wave = (turn.flatten() == t).nonzero()[:, 0]
        if len(wave):
            yield wave


def before(channels: int, reach: int) -> Tensor:
    """The mask of the neighbours that precede a pixel: zeros and ones, ``(C, C, reach + 1, 2 reach + 1)``.

    The first dimension is the channel of the pixel, the second that of the neighbour. The last row of the window is the
    row of the pixel.

    >>> before(1, 1)[0, 0].tolist()
    [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    """
    mask = torch.ones(channels, channels, reach + 1, 2 * reach + 1)
    mask[:, :, reach, reach:] = 0
    mask[:, :, reach, reach] = torch.ones(channels, channels).tril(-1)
    return mask


class LocalAutoregressive(td.Distribution):
    """Images whose pixels depend on their neighbours: batch shape ``(*lead,)``, event shape ``(C, H, W)``.

    Args:
        family: the local family.
        raw: the raw parameters of its base, ``(*lead, C, H, W, *extra)`` each.
        kernel: ``(*lead, outputs, C, reach + 1, 2 reach + 1)``, the same for every item.
        temperature: the temperature of the distribution of every pixel.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, family: LocalFamily, raw: Sequence[Tensor], kernel: Tensor, temperature: float = 1.0) -> None:
        self.family, self.raw, self.kernel, self.temperature = family, list(raw), kernel, temperature
        dims = kernel.dim() - 4
        super().__init__(kernel.shape[:dims], raw[0].shape[dims : dims + 3], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """The support of the base, for every pixel."""
        return constraints.independent(self.family.support, 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LocalAutoregressive:
        """See :meth:`torch.distributions.Distribution.expand`."""
        dims = len(self.batch_shape)
        raw, kernel = ([t.expand(*batch_shape, *t.shape[dims:]) for t in ts] for ts in (self.raw, [self.kernel]))
        return LocalAutoregressive(self.family, raw, kernel[0], self.temperature)

    def given(self, value: Tensor) -> td.Distribution:
        """The conditional distributions of the elements of ``value`` given their neighbours in it: element-wise over
        ``(*lead, C, H, W)``."""
        dims = max(len(self.batch_shape), value.dim() - 3)
        raw = [r[(None,) * (dims - len(self.batch_shape))] for r in self.raw]
        offsets = self.family.deviation(value.to(raw[0].dtype), raw)
        return self._member(raw, F.pad(offsets, self.family.margin))

    def _member(self, raw: Sequence[Tensor], padded: Tensor) -> td.Distribution:
        """The members of the base with raw parameters shifted by the convolution of ``padded``, the deviations of the
        pixels and of their margin from their locations."""
        lead = padded.shape[:-3]
        weight = self.kernel.flatten(0, -5)[0] if self.batch_shape else self.kernel
        with torch.autocast("cpu" if padded.is_meta else padded.device.type, enabled=False):
            out = F.conv2d(padded.reshape(-1, *padded.shape[-3:]), weight.to(padded.dtype))
        shifts = self.family.split(out.unflatten(0, lead) if lead else out[0])
        found = self.family.base(*(r + s for r, s in zip(raw, shifts, strict=True)))
        return found if self.temperature == 1 else tempered(found, self.temperature)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log-probability, ``(*lead,)``, of integers ``(*lead, C, H, W)`` as floats or bytes."""
        members = self.given(value)
        return total(members, value.to(self.raw[0].dtype), len(members.batch_shape) - 3)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Images as floats, ``(*sample_shape, *lead, C, H, W)``, drawn wave by wave."""
        d = self.expand((*sample_shape, *self.batch_shape))
        lead, (channels, height, width) = len(d.batch_shape), self.event_shape
        reach = self.family.reach
        x = d.raw[0].new_zeros(*d.batch_shape, channels, height, width)
        raw = [r.flatten(lead + 1, lead + 2) for r in d.raw]
        padded = F.pad(x, self.family.margin)
        windows = padded.unfold(-2, reach + 1, 1).unfold(-2, 2 * reach + 1, 1)  # a view: (*lead, C, H, W, *window)
        for wave in waves(height, width, reach):
            wave = wave.to(x.device)
            rows, columns = wave // width, wave % width
            # each pixel as a separate image: (*lead, P, C, 1, 1, *extra) and (*lead, P, C, *window)
            here = [r.index_select(lead + 1, wave).movedim(lead + 1, lead) for r in raw]
            here = [r.unflatten(lead + 1, (channels, 1, 1)) for r in here]
            for c in range(channels):
                near = windows[..., rows, columns, :, :].movedim(-3, lead)
                drawn = d._member(here, near).sample()
                x[..., c, rows, columns] = drawn[..., c, 0, 0]
                padded[..., c, rows + reach, columns + reach] = self.family.deviation(drawn, here)[..., c, 0, 0]
        return x


@part("family", "local_autoregressive")
class LocalFamily(Family):
    """Images with local autoregression over pixels; see :mod:`ladle.families.local`.

    If all neighbours are at their locations given z, a pixel follows the member of the base with its raw parameters;
    :func:`mean` and :func:`centre` return those of this member. Initially, each channel but the first has weight 1 on
    the preceding one.

    Args:
        family: the base: ``bernoulli``, ``discretised_logistic`` or ``discretised_logistic_mixture``.
        channels: C.
        reach: the largest distance of a neighbour, in rows and columns, 1 to 8.

    Raises:
        SpecError: for any other base, or a base with parameters (such as a shared scale).
        ValueError: if ``channels`` or ``reach`` is out of range.

    Reference:
        Zhang, Zhang, McDonagh: "On the Out-of-distribution Generalization of Probabilistic Image Modelling", 2021
        (local autoregressive models).
        Gulrajani et al.: "PixelVAE: A Latent Variable Model for Natural Images", 2017.

    >>> family = LocalFamily(BernoulliFamily(), channels=1, reach=1)
    >>> images = torch.cartesian_prod(*torch.tensor([[0.0, 1.0]]).expand(4, 2)).view(16, 1, 2, 2)
    >>> round(family(torch.randn(1, 2, 2)).log_prob(images).exp().sum().item(), 4)
    1.0
    """

    mask: Tensor

    def __init__(self, family: Family, channels: int = 1, reach: int = 2) -> None:
        super().__init__()
        if not isinstance(family, BASES) or next(family.parameters(), None) is not None:
            raise SpecError(
                f"the base of local_autoregressive must be bernoulli, discretised_logistic or "
                f"discretised_logistic_mixture, without a shared scale, got {type(family).__name__}"
            )
        if channels < 1 or not 1 <= reach <= 8:
            raise ValueError(f"channels must be at least 1 and reach 1 to 8, got channels={channels} and reach={reach}")
        self.base, self.channels, self.reach = family, channels, reach
        self.margin = [reach, reach, reach, 0]  # left, right, top, bottom
        self.extras = [size[3:] for size in family.raw((channels, 1, 1))]
        mask = torch.cat([before(channels, reach).repeat_interleave(numel(extra), 0) for extra in self.extras])
        kernel = torch.zeros_like(mask)
        for c in range(1, channels):  # of the location, which is the first raw parameter or, for mixtures, the second
            first = channels * numel(self.extras[0]) * (len(self.extras) == 3)
            every = numel(self.extras[-1])
            kernel[first + c * every : first + (c + 1) * every, c - 1, reach, reach] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.kernel = nn.Parameter(kernel)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """The support of the base."""
        return self.base.support

    def raw(self, event: Size) -> tuple[Size, ...]:
        """The sizes of the raw parameters of the base: ``(C, H, W, *extra)`` each."""
        if len(event) != 3 or event[0] != self.channels:
            raise ValueError(
                f"the event must be an image of {self.channels} channels (C, H, W), got an event of size {event}"
            )
        return self.base.raw(event)

    def forward(self, *raw: Tensor) -> LocalAutoregressive:
        """The joint distribution over an image, from the raw parameters of the base."""
        kernel = self.masked()
        lead = raw[0].shape[: raw[0].dim() - 3 - len(self.extras[0])]
        return LocalAutoregressive(self, raw, kernel.expand(*lead, *kernel.shape))

    def masked(self) -> Tensor:
        """The kernel with the weights on later pixels set to zero: ``(outputs, C, reach + 1, 2 reach + 1)``."""
        return self.kernel * self.mask

    def deviation(self, x: Tensor, raw: Sequence[Tensor]) -> Tensor:
        """The deviations of pixels from the locations of the raw parameters, in the units of raw locations:
        ``(*lead, C, H, W)``. For Bernoulli pixels the deviation is from one half."""
        if isinstance(self.base, BernoulliFamily):
            return x - 0.5
        loc = raw[0] if isinstance(self.base, DiscretisedLogisticFamily) else raw[1].mean(-1)
        return x / self.base.units.half - 1 - loc

    def split(self, shifts: Tensor) -> list[Tensor]:
        """The output of the kernel, ``(*lead, outputs, H, W)``, split into one tensor for each raw parameter."""
        counts = [self.channels * numel(extra) for extra in self.extras]
        parts = zip(shifts.split(counts, -3), self.extras, strict=True)
        return [p.unflatten(-3, (self.channels, *e)).movedim(-3, -1) if e else p for p, e in parts]


BASES = (BernoulliFamily, DiscretisedLogisticFamily, DiscretisedLogisticMixtureFamily)


@separate.register
def _(d: LocalAutoregressive) -> list[tuple[td.Distribution, Any]]:
    """Every pixel given its neighbours in a draw of the image."""
    return separate(d.given(d.sample()))


@centre.register
def _(d: LocalAutoregressive) -> Tensor:
    """The centre of every pixel given neighbours at their locations."""
    return centre(d.family.base(*d.raw))


@mean.register
def _(d: LocalAutoregressive) -> Tensor:
    """The mean of every pixel given neighbours at their locations."""
    return mean(d.family.base(*d.raw))


@tempered.register
def _(d: LocalAutoregressive, t: float) -> LocalAutoregressive:
    return LocalAutoregressive(d.family, d.raw, d.kernel, d.temperature * checked_temperature(t))
