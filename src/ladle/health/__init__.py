"""The health of a model: checks that each report a measurement, its meaning and, for a problem, a remedy."""

from ladle.health.check import check
from ladle.health.findings import Context, Finding, Health, stage
from ladle.health.latents import predicted_units

__all__ = ["Context", "Finding", "Health", "check", "predicted_units", "stage"]
