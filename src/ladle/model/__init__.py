"""The model: p(z), q(z|x) and p(x|z), and the walk (the visit of all levels of latents)."""
