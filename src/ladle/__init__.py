"""Ladle: variational autoencoders put to work."""

__version__ = "0.1.0"
