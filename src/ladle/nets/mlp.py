"""The multilayer perceptron."""

from __future__ import annotations

from torch import Tensor, nn

from ladle.nets.net import Net
from ladle.shapes import numel
from ladle.spec import part


@part("net", "mlp")
class MLP(Net):
    """Fully connected layers with ReLU; reads events of any shape, flattened.

    Args:
        inputs: the shape of one input.
        width: units per hidden layer.
        depth: number of hidden layers.

    >>> import torch
    >>> MLP(inputs=(1, 28, 28), width=64, depth=2)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 64])
    """

    def __init__(self, inputs: list[int], width: int = 512, depth: int = 2) -> None:
        super().__init__()
        self.inputs, self.features = tuple(inputs), (width,)
        layers: list[nn.Module] = []
        size = numel(inputs)
        for _ in range(depth):
            layer = nn.Linear(size, width)
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            layers += [layer, nn.ReLU(inplace=True)]
            size = width
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *inputs) -> (N, width)``."""
        return self.layers(x.flatten(1))
