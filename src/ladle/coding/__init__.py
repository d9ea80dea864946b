"""Models in whole numbers, the stack, and the file format: what compresses, and decompresses elsewhere."""

from ladle.coding.errors import CodingError

__all__ = ["CodingError"]
