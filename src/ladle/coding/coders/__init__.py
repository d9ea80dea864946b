"""Coders of distributions, which push values on the stack and pop them."""
