"""The plain autoencoder, the VAE and its variants."""

from __future__ import annotations

from typing import Any

from ladle.data import Schema
from ladle.recipes.sizes import latents, likelihood, nets, training
from ladle.spec import SpecError, part

STANDARD = {"part": "prior/standard"}
POSTERIOR = {"part": "family/normal", "ceiling": 3.0}
STICKING = {"part": "objective/elbo", "sticking": True}  # for a KL without a closed form


def gaussian(schema: Schema, size: str, objective: dict[str, Any], prior: dict[str, Any]) -> dict[str, Any]:
    """A normal posterior for every latent, under the given prior and objective."""
    return {
        "latents": {"size": latents(schema, size), "posterior": POSTERIOR, "prior": prior},
        **nets(schema, size),
        "likelihood": likelihood(schema),
        "objective": objective,
        "training": training(schema),
    }


@part("recipe", "ae")
def ae(schema: Schema, size: str) -> dict[str, Any]:
    """A plain autoencoder: one point per item and no prior, so it cannot generate.

    Reference:
        Hinton, Salakhutdinov: "Reducing the Dimensionality of Data with Neural Networks", 2006.
    """
    spec = gaussian(schema, size, {"part": "objective/elbo"}, STANDARD)
    point = {"size": spec["latents"]["size"], "posterior": {"part": "family/point_mass"}, "prior": None}
    return {**spec, "latents": point}


@part("recipe", "vae")
def vae(schema: Schema, size: str) -> dict[str, Any]:
    """The variational autoencoder with a standard normal prior.

    Reference:
        Kingma, Welling: "Auto-Encoding Variational Bayes", 2014.
    """
    return gaussian(schema, size, {"part": "objective/elbo"}, STANDARD)


@part("recipe", "beta_vae")
def beta_vae(schema: Schema, size: str) -> dict[str, Any]:
    """A VAE with 4 times the weight on the KL: fewer and better separated latents, at a lower likelihood.

    Reference:
        Higgins et al.: "beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework", 2017.
    """
    return gaussian(schema, size, {"part": "objective/elbo", "beta": 4.0, "warmup": 0.1}, STANDARD)


@part("recipe", "sigma_vae")
def sigma_vae(schema: Schema, size: str) -> dict[str, Any]:
    """A VAE whose likelihood has a single learned scale, which replaces tuning beta.

    Reference:
        Rybkin, Daniilidis, Levine: "Simple and Effective VAE Training with Calibrated Decoders", 2021.
    """
    if schema.support == "binary":
        raise SpecError(
            "sigma_vae learns the scale of its likelihood, but the data are binary and a Bernoulli "
            "likelihood has no scale; recipes that fit: vae, learned_prior, iwae_dreg"
        )
    return {
        **gaussian(schema, size, {"part": "objective/elbo"}, STANDARD),
        "likelihood": likelihood(schema, shared_scale=True),
    }


@part("recipe", "iwae_dreg")
def iwae_dreg(schema: Schema, size: str) -> dict[str, Any]:
    """A VAE trained on the importance-weighted bound with 5 particles and doubly reparameterised gradients.

    Reference:
        Burda, Grosse, Salakhutdinov: "Importance Weighted Autoencoders", 2016.
        Tucker, Lawson, Gu, Maddison: "Doubly Reparameterized Gradient Estimators", 2019.
    """
    return gaussian(schema, size, {"part": "objective/iwae", "particles": 5}, STANDARD)


@part("recipe", "vampprior")
def vampprior(schema: Schema, size: str) -> dict[str, Any]:
    """A VAE whose prior is a mixture of its posteriors at learned pseudo-inputs.

    Reference:
        Tomczak, Welling: "VAE with a VampPrior", 2018.
    """
    return gaussian(schema, size, STICKING, {"part": "prior/vamp"})


@part("recipe", "learned_prior")
def learned_prior(schema: Schema, size: str) -> dict[str, Any]:
    """A VAE whose prior is learned: an autoregressive mixture over the latents. The default.

    Reference:
        Chen et al.: "Variational Lossy Autoencoder", 2017 (autoregressive priors).
    """
    return gaussian(schema, size, STICKING, {"part": "prior/autoregressive", "members": "logistic"})
