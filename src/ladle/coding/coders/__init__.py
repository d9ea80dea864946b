"""Coders of distributions: what pushes a value under p onto the stack, and pops it again."""
