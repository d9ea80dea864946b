"""Recipes for published models, each a function ``(schema, size) -> plan`` of about 20 lines."""

from __future__ import annotations

import copy
from typing import Any

from ladle.data import Schema
from ladle.spec import SpecError, lookup

SIZES = ("xs", "s", "m", "l")


def recipe(name: str, schema: Schema, size: str = "s") -> dict[str, Any]:
    """The plan of a recipe for the given data: a copy, which the caller may change.

    Raises:
        SpecError: for an unknown recipe or size; the message lists the known ones.
    """
    if size not in SIZES:
        raise SpecError(f"unknown size '{size}'; known: {', '.join(SIZES)}")
    return copy.deepcopy(lookup(f"recipe/{name}")(schema, size))  # recipes share parts of their plans
