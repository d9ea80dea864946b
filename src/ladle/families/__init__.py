"""Distribution families: one file per kind of support."""

from ladle.families.family import (
    Family,
    NotAvailable,
    centre,
    chain,
    draw,
    frozen,
    mapped,
    mean,
    positive,
    quantile,
    separate,
    standard,
    tempered,
    total,
)

__all__ = [
    "Family",
    "NotAvailable",
    "centre",
    "chain",
    "draw",
    "frozen",
    "mapped",
    "mean",
    "positive",
    "quantile",
    "separate",
    "standard",
    "tempered",
    "total",
]
