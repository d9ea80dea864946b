"""Priors p(z)."""

from ladle.model.priors.prior import Learned, Prior, Standard

__all__ = ["Learned", "Prior", "Standard"]
