"""Linear-Gaussian models in closed form: a public import path of :mod:`ladle.inference.linear_gaussian`."""

from ladle.inference.linear_gaussian import Fit, LinearGaussian, Mixture, em, gaussian, is_linear, mixture, ppca

__all__ = ["Fit", "LinearGaussian", "Mixture", "em", "gaussian", "is_linear", "mixture", "ppca"]
