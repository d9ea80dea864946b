"""The errors of compression and decompression."""

from __future__ import annotations


class CodingError(ValueError):
    """Something cannot be compressed or decompressed; the message says why."""


class NotCodable(CodingError):
    """A part of a model has no coder; the message names the part and the alternatives."""


class InexactError(CodingError):
    """A network has no form in whole numbers, or a program is not proved to be free of rounding."""


class Desynchronised(CodingError):
    """The decoded symbols cannot have been encoded: the stream is damaged, or the arithmetic differs."""


class NumericsError(CodingError):
    """This machine does not compute the numbers that the model's file requires."""


class WrongModel(CodingError):
    """The file was compressed with another model; the message names both."""


class NotALadleFile(CodingError):
    """The file is of another kind."""


class Newer(CodingError):
    """The file has a later format version than this library supports."""


class Damaged(CodingError):
    """The file was changed or truncated.

    Attributes:
        chunk: the number of the damaged chunk; None for the header or the index.
    """

    def __init__(self, message: str, chunk: int | None = None) -> None:
        super().__init__(message)
        self.chunk = chunk
