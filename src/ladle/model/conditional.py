"""Conditional distributions p(y | given), used for the posterior and the likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ladle.families import Family
from ladle.nets import Net
from ladle.shapes import Size, fold, numel, unfold, wide
from ladle.spec import SpecError, part

LARGEST_HEAD = 1 << 27  # weights of a linear head: half a gigabyte
HEADS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d}  # by the rank of the map
NO_CONTEXT: Mapping[str, int] = {}


def joint_context(*parts: Any) -> Mapping[str, int]:
    """The union of the context that several parts of a model read; ``None`` stands for a missing part.

    Raises:
        SpecError: if two parts read a context of the same name with different sizes.

    >>> from types import SimpleNamespace
    >>> joint_context(SimpleNamespace(context={"label": 3}), None, SimpleNamespace(context={}))
    {'label': 3}
    """
    found: dict[str, int] = {}
    for part_ in parts:
        for name, size in getattr(part_, "context", NO_CONTEXT).items():
            if found.setdefault(name, size) != size:
                raise SpecError(f"all parts of a model must read a '{name}' of one size, got {found[name]} and {size}")
    return found


class Conditional(nn.Module, ABC):
    """p(y | given, context).

    Attributes:
        family: the family of y.
        event: the shape of one y.
        context: the names of the context that it reads, with their sizes: for ``label`` the number of classes. It
            never gets any other context; a context that a batch lacks is unknown.
    """

    family: Family
    event: Size
    context: Mapping[str, int] = NO_CONTEXT

    @abstractmethod
    def forward(self, given: Tensor, context: Mapping[str, Tensor]) -> Distribution:
        """The distribution of y for each ``given``: ``(*lead, *inputs)`` to a distribution over ``(*lead, *event)``."""


@part("conditional", "amortised")
class Amortised(Conditional):
    """A family whose raw parameters are computed by a network.

    ::

        given (*lead, *inputs) --net--> features --head--> raw (*lead, *raw_size) --family--> distribution

    If the features are a map over the same positions as the event, the head is a convolution of kernel size 1;
    otherwise it is linear.

    Args:
        net: the network that computes the features.
        family: the family whose raw parameters are computed.
        event: the shape of one y.

    Raises:
        SpecError: if a linear head has more than 134,217,728 weights.
    """

    def __init__(self, net: Net, family: Family, event: list[int]) -> None:
        super().__init__()
        self.net, self.family, self.event = net, family, tuple(event)
        self.sizes = family.raw(self.event)
        places = self.event[1:]
        self.is_map = len(places) == net.rank > 0 and all(
            size[1 : 1 + net.rank] == places for size in (net.features, *self.sizes)
        )
        outputs = sum(numel(size) for size in self.sizes)
        head: nn.Module
        if self.is_map:
            head = HEADS[net.rank](net.features[0], outputs // numel(places), 1)
        else:
            self._check_head(numel(net.features), outputs)
            head = nn.Linear(numel(net.features), outputs)
        nn.init.zeros_(head.bias)  # type: ignore[arg-type]
        self.head = head

    def _check_head(self, features: int, outputs: int) -> None:
        if features * outputs <= LARGEST_HEAD:
            return
        maps = {1: "net/conv1d_up", 2: "net/conv_up or net/map_up"}
        fitting = maps.get(len(self.event) - 1, "a narrower net")
        raise SpecError(
            f"a linear head may have at most {LARGEST_HEAD:,} weights, but {type(self.net).__name__} with {features:,} "
            f"features and an event of {' x '.join(map(str, self.event))}, {outputs:,} raw numbers, needs "
            f"{features * outputs:,}; what would fit: {fitting}"
        )

    def raw(self, given: Tensor) -> list[Tensor]:
        """The raw parameters of the family, at least float32, each ``(*lead, *raw_size)``."""
        flat, lead = fold(given, len(self.net.inputs))
        features = self.net(flat)
        if self.is_map:
            return [unfold(r, lead) for r in self._split_map(wide(self.head(features)))]
        numbers = wide(self.head(features.flatten(1)))
        parts = numbers.split([numel(size) for size in self.sizes], dim=-1)
        return [p.reshape(*lead, *size) for p, size in zip(parts, self.sizes, strict=True)]

    def _split_map(self, numbers: Tensor) -> list[Tensor]:
        """``(N, R, *places)`` to one ``(N, C, *places, *extra)`` per raw parameter."""
        places = self.event[1:]
        parts = numbers.split([numel(size) // numel(places) for size in self.sizes], dim=1)
        split = []
        for part_, size in zip(parts, self.sizes, strict=True):
            extra = size[1 + len(places) :]
            view = part_.unflatten(1, (size[0], *extra))
            first = view.dim() - len(places)  # of the places, which come before the extra dimensions
            split.append(view.permute(0, 1, *range(first, view.dim()), *range(2, first)))
        return split

    def forward(self, given: Tensor, context: Mapping[str, Tensor]) -> Distribution:
        """``(*lead, *inputs)`` to a distribution over ``(*lead, *event)``, computed in float32."""
        raw = self.raw(given)
        # Untrusted models are first built on the meta device, which has no autocast.
        with torch.autocast("cpu" if given.is_meta else given.device.type, enabled=False):
            return self.family(*raw)
