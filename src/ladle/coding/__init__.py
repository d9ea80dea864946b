"""Lossless and lossy compression: models in whole numbers, asymmetric numeral systems and the file format."""

from ladle.coding.errors import CodingError

__all__ = ["CodingError"]
