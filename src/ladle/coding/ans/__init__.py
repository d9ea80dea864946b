"""Asymmetric numeral systems: fixed-point numbers, bins, the stack and its loops. Nothing here knows a model."""
