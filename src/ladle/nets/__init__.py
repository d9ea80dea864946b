"""Networks between data and latents, and the standardisation of the encoder's input."""

from ladle.nets.net import Net, Standardise

__all__ = ["Net", "Standardise"]
