"""The report: an HTML page with panels on training, reconstructions, samples and latents of a model."""
