"""Distribution families: one file per kind of support."""

from ladle.families.family import (
    Family,
    NotAvailable,
    centre,
    draw,
    frozen,
    mapped,
    mean,
    positive,
    quantile,
    tempered,
)

__all__ = ["Family", "NotAvailable", "centre", "draw", "frozen", "mapped", "mean", "positive", "quantile", "tempered"]
