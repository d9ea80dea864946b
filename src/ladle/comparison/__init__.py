"""Latent families compared by evidence."""
