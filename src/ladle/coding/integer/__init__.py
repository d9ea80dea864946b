"""Networks in whole numbers: programs without rounding, and their derivation from trained networks."""
