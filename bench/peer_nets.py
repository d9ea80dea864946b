"""The networks of Ladle's recipes in plain torch, for libraries that need their own modules.

The layers are the same as those of ``ladle.nets``; ``throughput.py`` checks that the numbers of parameters agree.
"""

import torch
from torch import nn
from torch.nn import functional as F

LATENTS = 40


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        return F.relu(self.second(F.relu(self.first(x))) + x)


class Layer(nn.Linear):
    def forward(self, x):
        return x + F.relu(super().forward(x))


def mlp(inputs, outputs, width=512):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, width), nn.ReLU(), Layer(width, width), nn.Linear(width, outputs)
    )


def down(width=32):
    layers, channels = [], 1
    for stage, size in enumerate((width, 2 * width, 4 * width)):
        layers += [nn.Conv2d(channels, size, 3, stride=2 if stage else 1, padding=1), nn.ReLU(), Block(size)]
        channels = size
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 49, 2 * LATENTS))


def up(width=32):
    layers = [nn.Linear(LATENTS, 4 * width * 49), nn.ReLU(), nn.Unflatten(1, (4 * width, 7, 7))]
    channels = 4 * width
    for stage, size in enumerate((4 * width, 2 * width, width)):
        layers += [nn.Upsample(scale_factor=2)] if stage else []
        layers += [nn.Conv2d(channels, size, 3, padding=1), nn.ReLU(), Block(size)]
        channels = size
    return nn.Sequential(*layers, nn.Conv2d(width, 1, 1))


def make(kind):
    """The encoder, with outputs ``(N, 2 * LATENTS)``, and the decoder, with logits ``(N, 1, 28, 28)``."""
    torch.manual_seed(0)
    if kind == "mlp":
        return mlp(784, 2 * LATENTS), nn.Sequential(mlp(LATENTS, 784), nn.Unflatten(1, (1, 28, 28)))
    return down(), up()
