"""Asymmetric numeral systems: fixed-point numbers, bins, the stack and its inner loops, independent of any model."""
