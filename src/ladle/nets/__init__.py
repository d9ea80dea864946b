"""Nets: what the encoder reads, and the functions between data and latents."""

from ladle.nets.net import Net, Standardise

__all__ = ["Net", "Standardise"]
