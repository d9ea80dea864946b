"""Recipes: published models, each a function ``(schema, size) -> spec`` of about 20 lines."""

from __future__ import annotations

import copy
from typing import Any

from ladle.data import Schema
from ladle.spec import SpecError, lookup

SIZES = ("xs", "s", "m", "l")


def recipe(name: str, schema: Schema, size: str = "s") -> dict[str, Any]:
    """The spec that a recipe gives for this data, the caller's own to change.

    Raises:
        SpecError: for an unknown recipe or size; the known ones are listed.
    """
    if size not in SIZES:
        raise SpecError(f"unknown size '{size}'; known: {', '.join(SIZES)}")
    return copy.deepcopy(lookup(f"recipe/{name}")(schema, size))  # recipes share parts of their plans
