"""Convolutional networks for signals ``(C, T)`` of any length and number of channels.

Both directions share one plan: the signal is shortened four times at each stage (rounding up) until it has at most 16
positions, and the width doubles at each stage, up to four times the first.

        down                            up
    C x 16000  --stem-->  w x 16000   <--  w x 16000
               --/ 4-->  2w x 4000    <--  2w x 4000
               --/ 4-->  4w x 1000    <--  4w x 1000
                  ...                        ...
               --/ 4-->  4w x 16      <--  4w x 16     <--linear-- D

As in :mod:`ladle.nets.conv2d` there is no normalisation layer, because the density of an item must not depend on
the other items of the batch.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from ladle.nets.net import Net
from ladle.shapes import numel
from ladle.spec import part

SHORTEST = 16  # positions: longer signals are shortened further
STRIDE, KERNEL = 4, 9


def plan(length: int, width: int) -> list[tuple[int, int]]:
    """The (channels, length) of each stage, from full length to the shortest.

    >>> plan(1000, 8)
    [(8, 1000), (16, 250), (32, 63), (32, 16)]
    """
    stages = [(width, length)]
    while stages[-1][1] > SHORTEST:
        stages.append((width * min(2 ** len(stages), 4), -(-stages[-1][1] // STRIDE)))
    return stages


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv1d:
    """A convolution over 9 positions, initialised for the ReLU that follows (He et al. 2015)."""
    layer = nn.Conv1d(inputs, outputs, KERNEL, stride=stride, padding=KERNEL // 2)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


@part("net", "conv1d_down")
class Conv1dDown(Net):
    """An encoder of signals: one convolution at full length, then strided ones.

    Args:
        inputs: ``(C, T)``.
        width: channels at full length.

    >>> import torch
    >>> Conv1dDown(inputs=(2, 1000), width=8)(torch.zeros(3, 2, 1000)).shape
    torch.Size([3, 512])
    """

    def __init__(self, inputs: list[int], width: int = 16) -> None:
        super().__init__()
        channels, length = inputs
        stages = plan(length, width)
        layers: list[nn.Module] = []
        for stage, (size, _) in enumerate(stages):
            layers += [conv(channels, size, stride=STRIDE if stage else 1), nn.ReLU(inplace=True)]
            channels = size
        self.layers = nn.Sequential(*layers)
        self.inputs, self.features = tuple(inputs), (numel(stages[-1]),)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, T) -> (N, F)``."""
        return self.layers(x).flatten(1)


@part("net", "conv1d_up")
class Conv1dUp(Net):
    """A decoder of signals: a linear map to the shortest stage, then nearest-neighbour upsampling and convolutions.

    For a length that is not a multiple of four, the end of the upsampled signal is cut off.

    Args:
        inputs: the shape of the input, usually ``(D,)``.
        outputs: ``(T,)`` of the signal.
        width: channels at full length.

    >>> import torch
    >>> Conv1dUp(inputs=(4,), outputs=(1000,), width=8)(torch.zeros(2, 4)).shape
    torch.Size([2, 8, 1000])
    """

    def __init__(self, inputs: list[int], outputs: list[int], width: int = 16) -> None:
        super().__init__()
        (length,) = outputs
        stages = plan(length, width)[::-1]
        self.shortest, self.lengths = stages[0], [size for _, size in stages]
        self.start = nn.Linear(numel(inputs), numel(stages[0]))
        nn.init.kaiming_normal_(self.start.weight, nonlinearity="relu")
        nn.init.zeros_(self.start.bias)
        channels = [stages[0][0], *(size for size, _ in stages)]
        self.grow = nn.ModuleList(conv(before, after) for before, after in pairwise(channels))
        self.inputs, self.features, self.rank = tuple(inputs), (width, *outputs), 1

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *inputs) -> (N, width, T)``."""
        y = F.relu_(self.start(x.flatten(1))).unflatten(1, self.shortest)
        for stage, (length, grow) in enumerate(zip(self.lengths, self.grow, strict=True)):
            y = F.interpolate(y, scale_factor=float(STRIDE), mode="nearest")[..., :length] if stage else y
            y = F.relu_(grow(y))
        return y
