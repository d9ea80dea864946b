"""From a schema and a recipe to a model: the only place where sizes are computed and supports are checked."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch.distributions import Distribution, constraints

from ladle.data import Schema
from ladle.families import Family, standard
from ladle.model.conditional import Amortised
from ladle.model.latents import Latents
from ladle.model.latents.flat import Flat
from ladle.model.latents.ladder import Ladder
from ladle.model.latents.levels import parse
from ladle.model.priors import Prior
from ladle.model.vae import VAE
from ladle.nets import Standardise
from ladle.objectives import Objective
from ladle.recipes import recipe as recipe_spec
from ladle.seeds import seeded
from ladle.shapes import Size, numel
from ladle.spec import SpecError, build, lookup, registered


class Training(NamedTuple):
    """How a recipe wants to be trained.

    ``rate`` is the peak learning rate, ``warmup`` the fraction of the run that it takes to reach it, and
    ``final`` the share of it that the cosine ends at. ``last`` keeps the weights of the end instead of those that
    validated best: for an estimate that is defined by what it maximises.
    """

    batch: int = 128
    optimizer: str = "adamw"
    rate: float = 1.5e-3
    warmup: float = 0.02
    final: float = 0.01
    weight_decay: float = 1e-4
    last: bool = False


class Assembly(NamedTuple):
    """A model that is ready to be trained, and everything it was made from."""

    model: VAE
    objective: Objective
    training: Training
    schema: Schema
    recipe: Mapping[str, Any]


def assemble(
    schema: Schema, recipe: str | Mapping[str, Any] = "learned_prior", size: str = "s", seed: int = 0
) -> Assembly:
    """Build a model for the data that a schema describes.

    Args:
        schema: what the data is.
        recipe: a recipe's name, or the dictionary that ``ladle.recipe(name, schema, size)`` returned, changed
            to taste.
        size: the dial that computes the rest: xs, s, m or l.
        seed: of the initial weights.

    Raises:
        SpecError: for a likelihood that does not explain the data, a prior and a posterior that do not live on
            the same support, or an objective that the latents cannot serve.
    """
    plan = recipe_spec(recipe, schema, size) if isinstance(recipe, str) else recipe
    with seeded(seed, "weights"):
        model = _model(schema, plan)
        objective = build(plan["objective"])
        objective.attach(model)
    _check_objective(objective, model)
    try:
        training = Training(**plan.get("training", {}))
    except TypeError as error:
        raise SpecError(f"training: {error}; known: {', '.join(Training._fields)}") from None
    return Assembly(model, objective, training, schema, plan)


def _model(schema: Schema, plan: Mapping[str, Any]) -> VAE:
    size = int(plan["latents"]["size"])
    if size < 1:
        raise SpecError(f"a model needs at least 1 latent, got {size}")
    likelihood_family: Family = build(plan["likelihood"])
    check_support(plan["likelihood"]["part"], likelihood_family, schema)
    if schema.missing and _member(plan["likelihood"]["part"], likelihood_family, schema.shape).event_shape:
        raise SpecError(
            f"likelihood '{plan['likelihood']['part']}' explains all numbers of an item at once, but the data has "
            "missing ones; an element-wise family, such as normal, would do"
        )
    masked = schema.missing
    reads = Standardise(*_units(schema), masked=masked)
    seen = (schema.shape[0] * (2 if masked else 1), *schema.shape[1:])
    latents, read = (_ladder if "blocks" in plan["latents"] else _flat)(plan, reads, seen)

    decoder_sizes: dict[str, Any] = {"inputs": read}
    if "outputs" in _arguments(plan["decoder"]["part"]):
        decoder_sizes["outputs"] = schema.shape[1:]
    decoder = build({**plan["decoder"], **decoder_sizes})
    likelihood = Amortised(decoder, likelihood_family, list(schema.shape))
    return VAE(latents, likelihood)


def _flat(plan: Mapping[str, Any], reads: Standardise, seen: Size) -> tuple[Latents, Size]:
    """One level of latents, and the size of what the decoder reads of it."""
    family: Family = build(plan["latents"]["posterior"])
    event: Size = (int(plan["latents"]["size"]),)
    _member(plan["latents"]["posterior"]["part"], family, event)
    encoder = build({**plan["encoder"], "inputs": seen})
    posterior = Amortised(encoder, family, list(event))
    return Flat(reads, posterior, _prior(plan["latents"], family, event, seen)), family.read_size(event)


def _ladder(plan: Mapping[str, Any], reads: Standardise, seen: Size) -> tuple[Latents, Size]:
    """Several levels of latents, which have an encoder of their own, and the size of what the decoder reads of them."""
    latents = plan["latents"]
    family: Family = build(latents["posterior"])
    top = parse(latents["blocks"], seen, latents["size"])[0]
    prior = _prior(latents, family, (numel(top),), seen)
    if prior is None:
        raise SpecError("a ladder needs a prior at its top, got none; prior/standard would fit")
    ladder = Ladder(reads, list(seen), latents["blocks"], latents["width"], latents["size"], family, prior)
    return ladder, ladder.features


def _prior(latents: Mapping[str, Any], family: Family, event: Size, seen: Size) -> Prior | None:
    """The prior of a plan's latents over one event, which must live where their posterior does."""
    prior = latents["prior"]
    if prior is None:
        return None
    takes = _arguments(prior["part"])
    default = {"family": latents["posterior"]} if "family" in takes else {}
    sizes = {name: size for name, size in (("event", event), ("inputs", seen)) if name in takes}
    made: Prior = build({**default, **prior, **sizes})
    if made.support != family.support:
        raise SpecError(
            f"the posterior '{latents['posterior']['part']}' lives on {family.support}, "
            f"but the prior '{prior['part']}' on {made.support}; they must agree"
        )
    return made


def _member(name: str, family: Family, event: Size) -> Distribution:
    """The standard member of a family over one item.

    Raises:
        SpecError: for an event that the family cannot have.
    """
    try:
        return standard(family, event)
    except ValueError as error:
        raise SpecError(f"'{name}' cannot have an event of size {event}: {error}") from None


def _arguments(name: str) -> tuple[str, ...]:
    return tuple(inspect.signature(lookup(name)).parameters)


def _units(schema: Schema) -> tuple[Any, Any]:
    """Location and scale of what the encoder reads. Centred inputs are worth nats in a short run."""
    if not schema.loc:
        return (0.5, 0.5) if schema.support == "binary" else (127.5, 127.5)
    if schema.kind == "image":
        return schema.loc[0], schema.scale[0]
    return list(schema.loc), list(schema.scale)


def explained(family: Family) -> str:
    """The kind of data that a family's support explains, as a schema names it."""
    support = family.support
    if support == constraints.boolean:
        return "binary"
    if isinstance(support, constraints.integer_interval):
        return "bytes" if support.upper_bound == 255 else f"integers up to {support.upper_bound}"
    return "real" if support == constraints.real else str(support)


def check_support(name: str, family: Family, schema: Schema) -> None:
    """Refuse a likelihood whose support is not where the data lies.

    Raises:
        SpecError: naming the families that fit.
    """
    if explained(family) == schema.support:
        return
    fitting = []
    for other, maker in registered("family").items():
        try:
            candidate = maker()
        except TypeError:
            continue
        if explained(candidate) == schema.support:
            fitting.append(other)
    raise SpecError(
        f"likelihood '{name}' explains {explained(family)} data, but the data is {schema.support}; "
        f"families that fit: {', '.join(fitting)}"
    )


def _check_objective(objective: Objective, model: VAE) -> None:
    if not objective.one_level:
        return
    if not isinstance(model.latents, Flat):
        raise SpecError(
            "sticking the landing and DReG need log q with frozen parameters, which only one-level "
            "('flat') latents have; use doubly=False or sticking=False"
        )
    if model.latents.prior is None:
        raise SpecError("a plain autoencoder has no log q: use the 'elbo' objective without sticking")
    q = _member("the posterior", model.latents.posterior.family, model.latents.events[0])
    if not q.has_rsample:
        raise SpecError(
            f"sticking the landing and DReG need a reparameterised posterior, and {type(q).__name__} "
            "is not; use doubly=False or sticking=False"
        )
