"""The protocol of a net, and what the encoder reads of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from ladle.shapes import Size
from ladle.spec import part


class Net(nn.Module, ABC):
    """A function from one tensor to features: ``(N, *inputs) -> (N, *features)``."""

    inputs: Size
    features: Size

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """``(N, *inputs) -> (N, *features)``."""


@part("net", "standardise")
class Standardise(nn.Module):
    """What the encoder reads: ``(x - loc) / scale``, zero where nothing was observed.

    Only the encoder sees this; the likelihood always speaks in the data's own units.

    Args:
        loc: one number, or one per element of the last (tables) or first (images) dimension.
        scale: as ``loc``, positive.
        masked: also hand over the mask of observed elements, appended along the first event dimension.

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
