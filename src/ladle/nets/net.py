"""The protocol of a network, and the standardisation of the encoder's input."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ladle.shapes import Size
from ladle.spec import part


class Net(nn.Module, ABC):
    """A function from one tensor to features: ``(N, *inputs) -> (N, *features)``.

    Attributes:
        inputs: the shape of one input.
        features: the shape of its features.
        rank: the number of spatial dimensions of the features: 2 for a map ``(C, H, W)``, 1 for ``(C, T)``, 0 for a
            vector.
    """

    inputs: Size
    features: Size
    rank: int = 0

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``(N, *inputs) -> (N, *features)``."""


@part("net", "standardise")
class Standardise(nn.Module):
    """The encoder's input: ``(x - loc) / scale``, and zero for elements that were not observed.

    Only the encoder uses it; the likelihood is always in the units of the data.

    Args:
        loc: one number, or one for each column of a table.
        scale: positive, of the same form as ``loc``.
        masked: append the mask of observed elements along the first event dimension.

    >>> read = Standardise(loc=[1.0, 0.0], scale=[2.0, 1.0], masked=True)
    >>> read(torch.tensor([[3.0, 5.0]]), torch.tensor([[True, False]]))
    tensor([[1., 0., 1., 0.]])
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, loc: float | list[float], scale: float | list[float], masked: bool = False) -> None:
        super().__init__()
        self.masked = masked
        self.register_buffer("loc", torch.as_tensor(loc, dtype=torch.float32))
        self.register_buffer("scale", torch.as_tensor(scale, dtype=torch.float32))

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """``(B, *event) -> (B, *event)``, or twice as many channels when masked."""
        read = (x - self.loc) / self.scale
        if observed is not None:
            read = torch.where(observed, read, torch.zeros_like(read))
        if self.masked:
            mask = torch.ones_like(read) if observed is None else observed.to(read.dtype)
            read = torch.cat([read, mask], dim=1)
        return read
