"""Residual networks on maps of one width, for ladders. For a map of a single pixel, all layers are dense.

There is no normalisation, as in :mod:`ladle.nets.conv2d`. A stack of many branches keeps its variance because the
initial weights of the last layer of each branch are divided by the square root of their number
(Child, "Very Deep VAEs", 2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ladle.nets.conv2d import UpConv, conv
from ladle.nets.net import Net
from ladle.spec import part


class Pointwise(nn.Linear):
    """A linear map of the channels, the same at every pixel: a 1x1 convolution.

    Args:
        inputs: the number of input channels.
        outputs: the number of output channels.
        gain: the initial standard deviation of the outputs for inputs of standard deviation 1.

    >>> import torch
    >>> layer, x = Pointwise(2, 3, gain=1.0), torch.randn(4, 2, 5, 6)
    >>> bool(torch.allclose(layer(x)[..., :1, :1], layer(x[..., :1, :1]), atol=1e-6))
    True
    """

    def __init__(self, inputs: int, outputs: int, gain: float) -> None:
        super().__init__(inputs, outputs)
        nn.init.normal_(self.weight, std=gain / math.sqrt(inputs))
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W) -> (N, outputs, H, W)``."""
        if x.shape[2:] == (1, 1):  # several times faster than as a convolution
            return F.linear(x.flatten(1), self.weight, self.bias)[..., None, None]
        return F.conv2d(x, self.weight[..., None, None], self.bias)


def mixing(inputs: int, outputs: int, side: int, gain: float = 1.0) -> nn.Module:
    """A layer over the neighbours of a pixel: a 3x3 convolution, or a linear map if there is only one pixel. It is
    initialised so that, after a ReLU, its outputs have ``gain`` times the standard deviation of the ReLU's input.

    >>> mixing(2, 3, side=7)
    Conv2d(2, 3, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    >>> mixing(2, 3, side=1)
    Pointwise(in_features=2, out_features=3, bias=True)
    """
    if side == 1:
        return Pointwise(inputs, outputs, gain * math.sqrt(2))
    layer = conv(inputs, outputs)
    layer.weight.data.mul_(gain)
    return layer


class Residual(nn.Module):
    """``x + second(relu(first(relu(x))))``, on ``(N, width, H, W)``.

    Args:
        width: channels.
        side: the longer side of the map.
        depth: the total number of branches that are added up.
    """

    def __init__(self, width: int, side: int, depth: int) -> None:
        super().__init__()
        self.first = mixing(width, width, side)
        self.second = mixing(width, width, side, 1 / math.sqrt(depth))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, width, H, W)`` to the same."""
        return x + self.second(F.relu_(self.first(F.relu(x))))


class Pyramid(nn.Module):
    """The features of an item at several sizes, the largest map first.

    ::

        x --stem--> w x 14 x 14 --halve--> w x 7 x 7 --halve--> w x 4 x 4 ...
                    --residual--> features  --residual--> features

    Args:
        inputs: the number of channels of the input.
        sizes: height and width of every map, starting with x; each is half of the previous one, rounded up.
        residuals: the number of residual branches at each size. Features are returned for sizes that have some; before
            the first of these sizes, there is only one strided convolution per halving.
        width: the number of channels.

    >>> import torch
    >>> pyramid = Pyramid(3, [(9, 17), (5, 9), (3, 5)], [0, 1, 1], width=8)
    >>> [tuple(f.shape) for f in pyramid(torch.zeros(2, 3, 9, 17))]
    [(2, 8, 5, 9), (2, 8, 3, 5)]
    """

    def __init__(self, inputs: int, sizes: Sequence[tuple[int, int]], residuals: Sequence[int], width: int) -> None:
        super().__init__()
        self.down, self.branches = nn.ModuleList(), nn.ModuleList()
        for i, (size, count) in enumerate(zip(sizes, residuals, strict=True)):
            if i == 0 and not count:
                continue  # the first convolution halves
            channels = width if self.down else inputs
            layer = conv(channels, width, stride=2) if i else mixing(channels, width, max(size))
            self.down.append(nn.Sequential(nn.ReLU(), layer) if self.down else layer)
            self.branches.append(nn.Sequential(*(Residual(width, max(size), sum(residuals)) for _ in range(count))))

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(N, inputs, H, W)`` to a ``(N, width, h, w)`` for each size that has residual branches."""
        features = []
        for down, branches in zip(self.down, self.branches, strict=True):
            x = branches(down(x))
            if len(branches):  # type: ignore[arg-type]
                features.append(x)
        return features


@part("net", "map_up")
class MapUp(Net):
    """A decoder from a map to an image: nearest-neighbour upsampling and a convolution for each doubling.

    For an odd size, the last row or column of the doubled map is cut off. If map and image have the same size, there is
    one convolution.

    Args:
        inputs: ``(C, h, w)`` of the map.
        outputs: ``(H, W)`` of the image.
        width: channels of the image's features.

    Raises:
        ValueError: if the image is not reached from the map by doublings.

    >>> import torch
    >>> MapUp(inputs=(4, 5, 9), outputs=(9, 17), width=8)(torch.zeros(2, 4, 5, 9)).shape
    torch.Size([2, 8, 9, 17])
    """

    def __init__(self, inputs: list[int], outputs: list[int], width: int = 32) -> None:
        super().__init__()
        channels, *small = inputs
        sizes = [tuple(outputs)]
        while sizes[-1] != tuple(small) and max(sizes[-1]) > 1:
            sizes.append(tuple(-(-side // 2) for side in sizes[-1]))
        if sizes[-1] != tuple(small):
            halves = ", ".join(" x ".join(map(str, size)) for size in sizes)
            raise ValueError(f"a map of {' x '.join(map(str, small))} does not grow to this image; these do: {halves}")
        self.sizes = sizes[-2::-1]
        self.grow = nn.ModuleList(UpConv(width if i else channels, width) for i in range(len(self.sizes)))
        self.even = None if self.sizes else mixing(channels, width, max(outputs))
        self.inputs, self.features, self.rank = tuple(inputs), (width, *outputs), 2

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, h, w) -> (N, width, H, W)``."""
        x = F.relu(x)
        if self.even is not None:
            return F.relu_(self.even(x))
        for (height, width), grow in zip(self.sizes, self.grow, strict=True):
            x = F.relu_(grow(x))[..., :height, :width]
        return x
