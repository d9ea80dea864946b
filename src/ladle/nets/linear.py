"""A network without hidden layers, which makes the layer after it linear in the input."""

from __future__ import annotations

from torch import Tensor

from ladle.nets.net import Net
from ladle.shapes import numel
from ladle.spec import part


@part("net", "linear")
class Linear(Net):
    """The flattened input. The head of a :class:`ladle.model.conditional.Amortised` makes it a linear map. A VAE with a
    linear decoder and a normal likelihood of one scale is probabilistic PCA, whose evidence has a closed form.

    Args:
        inputs: the shape of one input.

    Reference:
        Lucas, Tucker, Grosse, Norouzi: "Don't Blame the ELBO! A Linear VAE Perspective on Posterior Collapse", 2019.

    >>> import torch
    >>> Linear(inputs=(2, 3))(torch.ones(5, 2, 3)).shape
    torch.Size([5, 6])
    """

    def __init__(self, inputs: list[int]) -> None:
        super().__init__()
        self.inputs, self.features = tuple(inputs), (numel(inputs),)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, *inputs) -> (N, prod(inputs))``."""
        return x.flatten(1)
