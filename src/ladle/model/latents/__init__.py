"""Latents: everything between the data and the input of the likelihood."""

from ladle.model.latents.latents import (
    Draw,
    Latents,
    Level,
    Trace,
    centres,
    from_posterior,
    from_prior,
    keyed,
    kl,
    replay,
)

__all__ = ["Draw", "Latents", "Level", "Trace", "centres", "from_posterior", "from_prior", "keyed", "kl", "replay"]
