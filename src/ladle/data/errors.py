"""The error of this package."""


class DataError(ValueError):
    """Raised for data that cannot be read, used or written.

    The message says what is expected, what was found and, where possible, what would be accepted.
    """
