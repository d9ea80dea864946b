"""A family over images whose pixels follow their neighbours.

Pixels come one after the other, row by row, and of each pixel the channels. Given z every one has a member of an
element-wise family, the *base*, whose raw numbers follow how far its neighbours among those before it are from where z
would have them::

    p(x|z) = prod_i p_base(x_i | raw_i + sum_j k_(i-j) (x_j - m_j))        j before i, within ``reach`` of it

``m`` is where the base's raw numbers put the pixel, in the units of raw locations; the kernel k is learned, the same
for all pixels. So the latents need not tell what the neighbours tell, and as no pixel depends on a later one, the sum
over all images is exactly one.

Pixels that are far enough from each other to the left and down do not need each other: all of such a *wave* are drawn
together, and an image takes ``width + (reach + 1) (height - 1)`` steps for each channel.
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
from ladle.families.family import Family, centre, checked_temperature, mean, tempered, total
from ladle.families.pixels import DiscretisedLogisticFamily, DiscretisedLogisticMixtureFamily
from ladle.shapes import Size, numel
from ladle.spec import SpecError, part


def waves(height: int, width: int, reach: int) -> Iterator[Tensor]:
    """The pixels that can be drawn together, wave by wave, as places in an image that is one row: (P,) int64 each.

    >>> [wave.tolist() for wave in waves(2, 3, 1)]
    [[0], [1], [2, 3], [4], [5]]
    """
    turn = torch.arange(width) + (reach + 1) * torch.arange(height)[:, None]
    for t in range(int(turn.max()) + 1):
        wave = (turn.flatten() == t).nonzero()[:, 0]
        if len(wave):
            yield wave


def before(channels: int, reach: int) -> Tensor:
    """Which neighbours come before a pixel: ``(C, C, reach + 1, 2 reach + 1)`` of zeros and ones, of which the first
    dimension is the channel of the pixel and the second that of the neighbour. The last row is the pixel's own.

    >>> before(1, 1)[0, 0].tolist()
    [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    """
    mask = torch.ones(channels, channels, reach + 1, 2 * reach + 1)
    mask[:, :, reach, reach:] = 0
    mask[:, :, reach, reach] = torch.ones(channels, channels).tril(-1)
    return mask


class LocalAutoregressive(td.Distribution):
    """Images whose pixels follow their neighbours: batch ``(*lead,)``, event ``(C, H, W)``.

    Args:
        family: the local family.
        raw: of its base, ``(*lead, C, H, W, *extra)`` each.
        kernel: ``(*lead, outputs, C, reach + 1, 2 reach + 1)``, the same for every item.
        temperature: of every pixel's member.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, family: LocalFamily, raw: Sequence[Tensor], kernel: Tensor, temperature: float = 1.0) -> None:
        self.family, self.raw, self.kernel, self.temperature = family, list(raw), kernel, temperature
        dims = kernel.dim() - 4
        super().__init__(kernel.shape[:dims], raw[0].shape[dims : dims + 3], validate_args=False)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """As the base, every pixel."""
        return constraints.independent(self.family.support, 3)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LocalAutoregressive:
        """See :meth:`torch.distributions.Distribution.expand`."""
        dims = len(self.batch_shape)
        raw, kernel = ([t.expand(*batch_shape, *t.shape[dims:]) for t in ts] for ts in (self.raw, [self.kernel]))
        return LocalAutoregressive(self.family, raw, kernel[0], self.temperature)

    def given(self, value: Tensor) -> td.Distribution:
        """The base's members that the neighbours in ``value``, ``(*lead, C, H, W)``, make: element-wise over it."""
        dims = max(len(self.batch_shape), value.dim() - 3)
        raw = [r[(None,) * (dims - len(self.batch_shape))] for r in self.raw]
        apart = self.family.apart(value.to(raw[0].dtype), raw)
        return self._member(raw, F.pad(apart, self.family.margin))

    def _member(self, raw: Sequence[Tensor], padded: Tensor) -> td.Distribution:
        """The base's members that ``padded``, how far all pixels and the ones in their margin are from their places,
        makes of raw numbers."""
        lead = padded.shape[:-3]
        weight = self.kernel.flatten(0, -5)[0] if self.batch_shape else self.kernel
        with torch.autocast("cpu" if padded.is_meta else padded.device.type, enabled=False):
            out = F.conv2d(padded.reshape(-1, *padded.shape[-3:]), weight.to(padded.dtype))
        moved = self.family.split(out.unflatten(0, lead) if lead else out[0])
        found = self.family.base(*(r + m for r, m in zip(raw, moved, strict=True)))
        return found if self.temperature == 1 else tempered(found, self.temperature)

    def log_prob(self, value: Tensor) -> Tensor:
        """``(*lead, C, H, W)`` integers, as floats or bytes, to ``(*lead,)``."""
        members = self.given(value)
        return total(members, value.to(self.raw[0].dtype), len(members.batch_shape) - 3)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        """Images, as floats: ``(*sample_shape, *lead, C, H, W)``. One wave after the other."""
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
            # every pixel as an image of its own: (*lead, P, C, 1, 1, *extra) and (*lead, P, C, *window)
            here = [r.index_select(lead + 1, wave).movedim(lead + 1, lead) for r in raw]
            here = [r.unflatten(lead + 1, (channels, 1, 1)) for r in here]
            for c in range(channels):
                near = windows[..., rows, columns, :, :].movedim(-3, lead)
                drawn = d._member(here, near).sample()
                x[..., c, rows, columns] = drawn[..., c, 0, 0]
                padded[..., c, rows + reach, columns + reach] = self.family.apart(drawn, here)[..., c, 0, 0]
        return x


@part("family", "local_autoregressive")
class LocalFamily(Family):
    """Images whose pixels follow their neighbours; see the head of this file.

    With all neighbours where z would have them, a pixel has the base's member of its raw numbers: that is what
    :func:`mean` and :func:`centre` say. At the beginning every channel but the first moves as the one before it does.

    Args:
        family: the base: ``bernoulli``, ``discretised_logistic`` or ``discretised_logistic_mixture``.
        channels: C.
        reach: how many rows and columns away neighbours may be.

    Raises:
        SpecError: for another base, or one that has parameters of its own.

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
                f"pixels that follow their neighbours need bernoulli, discretised_logistic or "
                f"discretised_logistic_mixture, without a shared scale, got {type(family).__name__}"
            )
        if channels < 1 or not 1 <= reach <= 8:
            raise ValueError(f"channels must be at least 1 and reach 1 to 8, got {channels} and {reach}")
        self.base, self.channels, self.reach = family, channels, reach
        self.margin = [reach, reach, reach, 0]  # left, right, above, below
        self.extras = [size[3:] for size in family.raw((channels, 1, 1))]
        mask = torch.cat([before(channels, reach).repeat_interleave(numel(extra), 0) for extra in self.extras])
        kernel = torch.zeros_like(mask)
        for c in range(1, channels):  # of the location, which is the first raw number or the second
            first = channels * numel(self.extras[0]) * (len(self.extras) == 3)
            every = numel(self.extras[-1])
            kernel[first + c * every : first + (c + 1) * every, c - 1, reach, reach] = 1
        self.register_buffer("mask", mask, persistent=False)
        self.kernel = nn.Parameter(kernel)

    @property
    def support(self) -> constraints.Constraint:  # type: ignore[override]
        """As the base."""
        return self.base.support

    def raw(self, event: Size) -> tuple[Size, ...]:
        """As the base: ``(C, H, W, *extra)`` each."""
        if len(event) != 3 or event[0] != self.channels:
            raise ValueError(f"this family is over images of {self.channels} channels, got an event of size {event}")
        return self.base.raw(event)

    def forward(self, *raw: Tensor) -> LocalAutoregressive:
        """The raw numbers of an image to a joint distribution over it."""
        kernel = self.masked()
        lead = raw[0].shape[: raw[0].dim() - 3 - len(self.extras[0])]
        return LocalAutoregressive(self, raw, kernel.expand(*lead, *kernel.shape))

    def masked(self) -> Tensor:
        """The kernel, nothing of which reads what comes later: ``(outputs, C, reach + 1, 2 reach + 1)``."""
        return self.kernel * self.mask

    def apart(self, x: Tensor, raw: Sequence[Tensor]) -> Tensor:
        """How far pixels are from where raw numbers put them, in the units of raw locations: ``(*lead, C, H, W)``. For
        a bit, that is from one half."""
        if isinstance(self.base, BernoulliFamily):
            return x - 0.5
        loc = raw[0] if isinstance(self.base, DiscretisedLogisticFamily) else raw[1].mean(-1)
        return x / self.base.units.half - 1 - loc

    def split(self, moved: Tensor) -> list[Tensor]:
        """What the kernel puts out, ``(*lead, outputs, H, W)``, as a part for each raw number."""
        counts = [self.channels * numel(extra) for extra in self.extras]
        parts = zip(moved.split(counts, -3), self.extras, strict=True)
        return [p.unflatten(-3, (self.channels, *e)).movedim(-3, -1) if e else p for p, e in parts]


BASES = (BernoulliFamily, DiscretisedLogisticFamily, DiscretisedLogisticMixtureFamily)


@centre.register
def _(d: LocalAutoregressive) -> Tensor:
    """Of every pixel when its neighbours are where z would have them."""
    return centre(d.family.base(*d.raw))


@mean.register
def _(d: LocalAutoregressive) -> Tensor:
    """Of every pixel when its neighbours are where z would have them."""
    return mean(d.family.base(*d.raw))


@tempered.register
def _(d: LocalAutoregressive, t: float) -> LocalAutoregressive:
    return LocalAutoregressive(d.family, d.raw, d.kernel, d.temperature * checked_temperature(t))
