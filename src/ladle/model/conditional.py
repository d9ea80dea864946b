"""Conditional distributions p(y | given): posterior and likelihood are both this."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ladle.families import Family
from ladle.nets import Net
from ladle.shapes import Size, fold, numel, unfold, wide
from ladle.spec import part


class Conditional(nn.Module, ABC):
    """p(y | given)."""

    family: Family
    event: Size

    @abstractmethod
    def forward(self, given: Tensor, context: Mapping[str, Tensor]) -> Distribution:
        """The distribution of y for each ``given``: ``(*lead, *inputs)`` to a distribution over ``(*lead, *event)``."""


@part("conditional", "amortised")
class Amortised(Conditional):
    """A net puts out the raw parameters of a family.

    ::

        given (*lead, *inputs) --net--> features --head--> raw (*lead, *raw_size) --family--> distribution

    Where the net's features are a map over the same pixels as the event, the head is a 1x1 convolution;
    otherwise it is linear.

    Args:
        net: the features.
        family: what the raw numbers mean.
        event: the shape of one y.
    """

    def __init__(self, net: Net, family: Family, event: list[int]) -> None:
        super().__init__()
        self.net, self.family, self.event = net, family, tuple(event)
        self.sizes = family.raw(self.event)
        maps = [net.features, *self.sizes]
        self.spatial = all(len(size) >= 3 and size[1:3] == self.event[1:] for size in maps)
        head: nn.Conv2d | nn.Linear
        if self.spatial:
            outputs = sum(numel(size) // numel(self.event[1:]) for size in self.sizes)
            head = nn.Conv2d(net.features[0], outputs, 1)
        else:
            head = nn.Linear(numel(net.features), sum(numel(size) for size in self.sizes))
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.head = head

    def raw(self, given: Tensor) -> list[Tensor]:
        """The family's raw inputs, at least float32, each ``(*lead, *raw_size)``."""
        flat, lead = fold(given, len(self.net.inputs))
        features = self.net(flat)
        if self.spatial:
            return [unfold(r, lead) for r in self._split_map(wide(self.head(features)))]
        numbers = wide(self.head(features.flatten(1)))
        parts = numbers.split([numel(size) for size in self.sizes], dim=-1)
        return [p.reshape(*lead, *size) for p, size in zip(parts, self.sizes, strict=True)]

    def _split_map(self, numbers: Tensor) -> list[Tensor]:
        """``(N, R, H, W)`` to one ``(N, C, H, W, *extra)`` per raw input."""
        pixels = self.event[1:]
        parts = numbers.split([numel(size) // numel(pixels) for size in self.sizes], dim=1)
        split = []
        for part_, size in zip(parts, self.sizes, strict=True):
            extra = size[3:]
            view = part_.unflatten(1, (size[0], *extra))
            split.append(view.permute(0, 1, view.dim() - 2, view.dim() - 1, *range(2, view.dim() - 2)))
        return split

    def forward(self, given: Tensor, context: Mapping[str, Tensor]) -> Distribution:
        """``(*lead, *inputs)`` to a distribution over ``(*lead, *event)``, computed in float32."""
        raw = self.raw(given)
        # On the meta device, where a stranger's model is tried out before it is loaded, there is no autocast.
        with torch.autocast("cpu" if given.is_meta else given.device.type, enabled=False):
            return self.family(*raw)
