"""Priors p(z)."""

from ladle.priors.prior import Learned, Prior, Standard

__all__ = ["Learned", "Prior", "Standard"]
