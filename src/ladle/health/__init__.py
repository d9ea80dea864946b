"""The health of a model: a ladder of checks, each with what was found, why it matters and what would help."""

from ladle.health.check import check
from ladle.health.findings import Context, Finding, Health, rung
from ladle.health.latents import predicted_units

__all__ = ["Context", "Finding", "Health", "check", "predicted_units", "rung"]
