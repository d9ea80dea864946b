"""Packages that are not everybody's: asked for only where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType


class MissingPackage(ImportError):
    """An optional package that is not installed; the message says how to install it."""


def need(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its name.
        extra: the extra of ladle that installs it.

    Raises:
        MissingPackage: when it cannot be imported.

    >>> need("no_such_module", "hub")
    Traceback (most recent call last):
    ladle.extras.MissingPackage: the package 'no_such_module' is needed for this: pip install 'ladle[hub]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        lacking = getattr(error, "name", None) or package
        why = "" if lacking.partition(".")[0] == package else f" ({error})"
        raise MissingPackage(f"the package '{package}' is needed for this{why}: pip install 'ladle[{extra}]'") from None
