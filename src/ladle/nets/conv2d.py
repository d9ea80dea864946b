"""Convolutional and residual networks for images of any size and number of channels.

Both directions share one plan: the image is halved (rounding up) until neither side is longer than 8, and
the width doubles at each halving, up to four times the first.

        down                              up
    C x 28 x 28  --stem-->  w x 28 x 28   <--  w x 28 x 28
                 --halve->  2w x 14 x 14  <--  2w x 14 x 14
                 --halve->  4w x 7 x 7    <--  4w x 7 x 7   <--linear-- D

There is no normalisation layer, because the density of an item must not depend on the other items of the batch.
Residual branches start at zero instead (Zhang, Dauphin, Ma, "Fixup Initialization", 2019).
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from ladle.nets.net import Net
from ladle.shapes import numel
from ladle.spec import part

SMALLEST = 8  # halve until no side is longer than this


def plan(height: int, width: int, channels: int) -> list[tuple[int, int, int]]:
    """The (channels, height, width) of each stage, from full size to smallest.

    >>> plan(28, 28, 32)
    [(32, 28, 28), (64, 14, 14), (128, 7, 7)]
    """
    stages = [(channels, height, width)]
    while max(height, width) > SMALLEST:
        height, width = -(-height // 2), -(-width // 2)
        stages.append((channels * min(2 ** len(stages), 4), height, width))
    return stages


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution, initialised for the ReLU that follows (He et al. 2015)."""
    layer = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class UpConv(nn.Module):
    """Nearest-neighbour upsampling by two and a 3x3 convolution, computed as one transposed convolution.

    Every pixel of the result sees only 2x2 different pixels of the small image, so the two together are a transposed
    convolution of stride 2 whose 4x4 kernel sums the 3x3 one: the same function and parameters at 4/9 of the cost.

    Args:
        inputs: channels.
        outputs: channels.

    >>> import torch
    >>> up, x = UpConv(2, 3), torch.randn(1, 2, 4, 5)
    >>> plain = F.conv2d(F.interpolate(x, scale_factor=2), up.weight, up.bias, padding=1)
    >>> bool(torch.allclose(up(x), plain, atol=1e-5))
    True
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        plain = conv(inputs, outputs)
        self.weight, self.bias = plain.weight, plain.bias

    def forward(self, x: Tensor) -> Tensor:
        """``(N, inputs, H, W) -> (N, outputs, 2 H, 2 W)``."""
        outputs, inputs = self.weight.shape[:2]
        flipped = self.weight.flip(2, 3).reshape(-1, 1, 3, 3)
        kernel = F.conv2d(flipped, flipped.new_ones(1, 1, 2, 2), padding=1).reshape(outputs, inputs, 4, 4)
        return F.conv_transpose2d(x, kernel.transpose(0, 1), self.bias, stride=2, padding=1)


class Block(nn.Module):
    """A residual block: ``relu(x + conv(relu(conv(x))))``, the identity on non-negative x at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = conv(width, width)
        self.second = conv(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, width, H, W)`` to the same."""
        return F.relu_(self.second(F.relu_(self.first(x))) + x)


@part("net", "conv_down")
class ConvDown(Net):
    """An image encoder: strided convolutions, with ``blocks`` residual blocks at each size.

    Args:
        inputs: ``(C, H, W)``.
        width: channels at full size.
        blocks: residual blocks per stage; 0 is a plain convolutional net.

    >>> import torch
    >>> ConvDown(inputs=(3, 30, 17), width=8)(torch.zeros(2, 3, 30, 17)).shape
    torch.Size([2, 1280])
    """

    def __init__(self, inputs: list[int], width: int = 32, blocks: int = 0) -> None:
        super().__init__()
        channels, h, w = inputs
        stages = plan(h, w, width)
        layers: list[nn.Module] = []
        for stage, (size, _, _) in enumerate(stages):
            layers += [conv(channels, size, stride=2 if stage else 1), nn.ReLU(inplace=True)]
            layers += [Block(size) for _ in range(blocks)]
            channels = size
        self.layers = nn.Sequential(*layers)
        self.inputs, self.features = tuple(inputs), (numel(stages[-1]),)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W) -> (N, F)``."""
        # Channels last, as in memory, so that flattening does not copy.
        return self.layers(x).permute(0, 2, 3, 1).flatten(1)


@part("net", "conv_up")
class ConvUp(Net):
    """An image decoder: a linear map to the smallest size, then nearest-neighbour upsampling and convolutions.

    For an odd size, the last row or column of the doubled map is cut off.

    Args:
        inputs: the shape of the input, usually ``(D,)``.
        outputs: ``(H, W)`` of the image.
        width: channels at full size.
        blocks: residual blocks per stage; 0 is a plain convolutional net.

    >>> import torch
    >>> ConvUp(inputs=(4,), outputs=(30, 17), width=8)(torch.zeros(2, 4)).shape
    torch.Size([2, 8, 30, 17])
    """

    def __init__(self, inputs: list[int], outputs: list[int], width: int = 32, blocks: int = 0) -> None:
        super().__init__()
        h, w = outputs
        stages = plan(h, w, width)[::-1]
        self.smallest = stages[0]
        self.sizes = [(h, w) for _, h, w in stages]
        self.start = nn.Linear(numel(inputs), numel(stages[0]))
        nn.init.kaiming_normal_(self.start.weight, nonlinearity="relu")
        nn.init.zeros_(self.start.bias)
        self.grow, self.blocks = nn.ModuleList(), nn.ModuleList()
        channels = stages[0][0]
        for stage, (size, _, _) in enumerate(stages):
            self.grow.append(UpConv(channels, size) if stage else conv(channels, size))
            self.blocks.append(nn.Sequential(*(Block(size) for _ in range(blocks))))
            channels = size
        self.inputs, self.features, self.rank = tuple(inputs), (width, *outputs), 2

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *inputs) -> (N, width, H, W)``."""
        channels, height, width = self.smallest
        y = F.relu_(self.start(x.flatten(1))).unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
        for (height, width), grow, blocks in zip(self.sizes, self.grow, self.blocks, strict=True):
            # cut after the ReLU: autograd loses the memory layout of a view that is changed in place
            y = blocks(F.relu_(grow(y))[..., :height, :width])
        return y
