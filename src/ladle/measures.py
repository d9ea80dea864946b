"""Measures of latents and samples: a public import path of :mod:`ladle.health.measures`."""

from ladle.health.measures import Units, two_sample, units

__all__ = ["Units", "two_sample", "units"]
