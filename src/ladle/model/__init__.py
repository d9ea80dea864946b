"""The model: p(z), q(z|x) and p(x|z), and the walk through its latents."""
