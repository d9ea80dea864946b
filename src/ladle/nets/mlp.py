"""The multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from ladle.nets.net import Net
from ladle.shapes import numel
from ladle.spec import part

ACTIVATIONS: dict[str, Callable[..., Tensor]] = {"relu": F.relu_, "silu": F.silu}


@part("net", "mlp")
class MLP(Net):
    """Fully connected layers with residual connections from the second on: ``h_1 = a(W_1 x)``,
    ``h_i = h_{i-1} + a(W_i h_{i-1})``. Inputs of any shape are flattened.

    Args:
        inputs: the shape of one input.
        width: units per hidden layer.
        depth: number of hidden layers.
        activation: ``a``, either ``relu`` or ``silu``, ``x sigmoid(x)``, which learns more in the same number of steps.

    Reference:
        Elfwing, Uchibe, Doya: "Sigmoid-Weighted Linear Units for Neural Network Function Approximation in
        Reinforcement Learning", 2018.

    >>> import torch
    >>> MLP(inputs=(1, 28, 28), width=64, depth=2)(torch.zeros(5, 1, 28, 28)).shape
    torch.Size([5, 64])
    """

    def __init__(self, inputs: list[int], width: int = 512, depth: int = 2, activation: str = "relu") -> None:
        super().__init__()
        if width < 1 or depth < 1:
            raise ValueError(f"width and depth must be at least 1, got {width} and {depth}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be {' or '.join(ACTIVATIONS)}, got '{activation}'")
        self.activation = ACTIVATIONS[activation]
        self.inputs, self.features = tuple(inputs), (width,)
        self.layers = nn.ModuleList(nn.Linear(width if i else numel(inputs), width) for i in range(depth))
        for layer in self.layers:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *inputs) -> (N, width)``."""
        first, *more = self.layers
        h = self.activation(first(x.flatten(1)))
        for layer in more:
            h = h + self.activation(layer(h))
        return h
