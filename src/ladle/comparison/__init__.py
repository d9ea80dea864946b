"""Comparison of latent families by their evidence."""
