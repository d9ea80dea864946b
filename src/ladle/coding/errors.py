"""What can go wrong between a model, a file and a machine."""

from __future__ import annotations


class CodingError(ValueError):
    """Something cannot be compressed or decompressed; the message says why."""


class NotCodable(CodingError):
    """A part of a model that there is no coder for; the message names it, and what would fit."""


class InexactError(CodingError):
    """A net that has no form in whole numbers, or a program that is not proved to be exact."""


class Desynchronised(CodingError):
    """What was popped cannot have been pushed: the stream is damaged, or the arithmetic differs."""


class NumericsError(CodingError):
    """This machine does not compute what the model's file says that it should."""


class WrongModel(CodingError):
    """A file that was compressed with another model; the message names both."""


class NotALadleFile(CodingError):
    """A file of another kind."""


class Newer(CodingError):
    """A file of a later format."""


class Damaged(CodingError):
    """A file that was changed or cut.

    Attributes:
        chunk: the number of the chunk; none for the header or the index.
    """

    def __init__(self, message: str, chunk: int | None = None) -> None:
        super().__init__(message)
        self.chunk = chunk
