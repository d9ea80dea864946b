"""Nets in whole numbers: programs whose results are exact, and their derivation from trained nets."""
