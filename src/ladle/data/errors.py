"""The one error of this room."""


class DataError(ValueError):
    """Data that cannot be read, used or written. The message says what must be, what was got, what would fit."""
