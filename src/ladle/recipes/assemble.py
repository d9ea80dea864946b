"""Build a model from a schema and a recipe. Sizes are computed and supports are checked only here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch.distributions import Distribution, constraints

from ladle.data import Schema
from ladle.data.schema import COLUMN_KINDS, Column
from ladle.families import Family, standard
from ladle.families.columns import ColumnSupport
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
from ladle.recipes.plans import check_plan, latents_part
from ladle.seeds import seeded
from ladle.shapes import Size, numel
from ladle.spec import SpecError, build, lookup, nearest, registered


class Training(NamedTuple):
    """The training settings of a recipe.

    ``rate`` is the peak learning rate, ``warmup`` the fraction of the run until it is reached, and ``final`` the
    fraction of it at the end of the cosine schedule. ``last`` keeps the last weights instead of those with the best
    validation, for estimates that are defined as a maximum.
    """

    batch: int = 128
    optimizer: str = "adamw"
    rate: float = 1.5e-3
    warmup: float = 0.02
    final: float = 0.01
    weight_decay: float = 1e-4
    last: bool = False


class Assembly(NamedTuple):
    """A model that is ready to be trained, with everything it was built from."""

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
        schema: the description of the data.
        recipe: a recipe's name, or a plan: the dictionary that ``ladle.recipe(name, schema, size)`` returned, with
            changes.
        size: xs, s, m or l; it determines the widths of the networks and the number of latents.
        seed: the seed of the initial weights.

    Raises:
        SpecError: for a plan with an unknown key, a likelihood whose support is not that of the data, a prior and a
            posterior with different supports, a context that the plan or the data do not have, or an objective that
            does not work with the latents.
    """
    plan = recipe_spec(recipe, schema, size) if isinstance(recipe, str) else recipe
    check_plan(plan)
    with seeded(seed, "weights"):
        model = _model(schema, plan)
        objective = build(plan["objective"])
        objective.attach(model)
    check_context(model, schema, plan.get("context"))
    _check_objective(objective, model)
    try:
        training = Training(**plan.get("training", {}))
    except TypeError as error:
        unknown = [key for key in plan["training"] if key not in Training._fields]
        problem = f"unknown key '{unknown[0]}'{nearest(unknown[0], Training._fields)}" if unknown else str(error)
        raise SpecError(f"training: {problem}; known: {', '.join(Training._fields)}") from None
    return Assembly(model, objective, training, schema, plan)


def _model(schema: Schema, plan: Mapping[str, Any]) -> VAE:
    size = int(plan["latents"]["size"])
    if size < 1:
        raise SpecError(f"a model needs at least 1 latent, got {size}")
    likelihood_family: Family = build(plan["likelihood"])
    check_support(plan["likelihood"]["part"], likelihood_family, schema)
    if schema.missing and _member(plan["likelihood"]["part"], likelihood_family, schema.shape).event_shape:
        raise SpecError(
            f"likelihood '{plan['likelihood']['part']}' is joint over an item, but the data have missing values; "
            "an element-wise family, such as normal, would fit"
        )
    reads = Standardise(*schema.units, masked=schema.missing)
    seen = (schema.shape[0] * (2 if schema.missing else 1), *schema.places)
    latents, read = LATENTS[latents_part(plan)](plan, schema, reads, seen)

    decoder_sizes: dict[str, Any] = {"inputs": read}
    if "outputs" in _arguments(plan["decoder"]["part"]):
        decoder_sizes["outputs"] = schema.places
    decoder = build({**plan["decoder"], **decoder_sizes})
    likelihood = Amortised(decoder, likelihood_family, list(schema.shape))
    return VAE(latents, likelihood)


def _flat(plan: Mapping[str, Any], schema: Schema, reads: Standardise, seen: Size) -> tuple[Latents, Size]:
    """One level of latents, and the shape of the decoder's input."""
    family: Family = build(plan["latents"]["posterior"])
    event: Size = (int(plan["latents"]["size"]),)
    _member(plan["latents"]["posterior"]["part"], family, event)
    encoder = build({**plan["encoder"], "inputs": seen})
    posterior = Amortised(encoder, family, list(event))
    return Flat(reads, posterior, _prior(plan, schema, family, event, seen)), family.read_size(event)


def _ladder(plan: Mapping[str, Any], schema: Schema, reads: Standardise, seen: Size) -> tuple[Latents, Size]:
    """Several levels of latents, which include an encoder, and the shape of the decoder's input."""
    latents = plan["latents"]
    family: Family = build(latents["posterior"])
    top = parse(latents["blocks"], seen, latents["size"])[0]
    prior = _prior(plan, schema, family, (numel(top),), seen)
    if prior is None:
        raise SpecError("a ladder needs a prior for its top level, got none; prior/standard would fit")
    ladder = Ladder(reads, list(seen), latents["blocks"], latents["width"], latents["size"], family, prior)
    return ladder, ladder.features


# The functions that build latents from a plan, by part.
LATENTS: dict[str, Callable[[Mapping[str, Any], Schema, Standardise, Size], tuple[Latents, Size]]] = {
    "latents/flat": _flat,
    "latents/ladder": _ladder,
}


def _prior(plan: Mapping[str, Any], schema: Schema, family: Family, event: Size, seen: Size) -> Prior | None:
    """The prior of a plan's latents over one event; its support must be that of the posterior."""
    latents = plan["latents"]
    prior = latents["prior"]
    if prior is None:
        return None
    takes = _arguments(prior["part"])
    default = {"family": latents["posterior"]} if "family" in takes else {}
    sizes: dict[str, Any] = {name: size for name, size in (("event", event), ("inputs", seen)) if name in takes}
    if "classes" in takes and "classes" not in prior:
        if not schema.label_names:
            raise SpecError(f"'{prior['part']}' reads labels, but the data have none: {schema.describe()}")
        sizes["classes"] = len(schema.label_names)
    made: Prior = build({**default, **prior, **sizes})
    if made.support != family.support:
        raise SpecError(
            f"prior and posterior must have the same support, but that of the posterior "
            f"'{latents['posterior']['part']}' is {family.support}, and that of the prior '{prior['part']}' is "
            f"{made.support}"
        )
    return made


def _member(name: str, family: Family, event: Size) -> Distribution:
    """The standard member of a family over one item.

    Raises:
        SpecError: if the family does not support the event.
    """
    try:
        return standard(family, event)
    except ValueError as error:
        raise SpecError(f"'{name}' cannot have an event of size {event}: {error}") from None


def _arguments(name: str) -> tuple[str, ...]:
    return tuple(inspect.signature(lookup(name)).parameters)


def check_context(model: VAE, schema: Schema, named: Sequence[str] | None = None) -> None:
    """Refuse a model whose context differs from that of its data or that of its plan.

    Args:
        model: the model.
        schema: the schema of its data.
        named: the names under the plan's key ``context``; ``None`` if the plan does not have this key.

    Raises:
        SpecError: with the context that the model reads and the context that is available.
    """
    if named is not None and set(named) != set(model.context):
        reads = ", ".join(model.context) or "nothing"
        raise SpecError(
            f"the parts of a model must read the context that its plan names, but the plan names "
            f"{', '.join(named) or 'nothing'} and the parts read {reads}; a prior that reads labels: prior/conditional"
        )
    there = schema.context_sizes()
    for name, size in model.context.items():
        if there.get(name) != size:
            got = f"{there[name]} classes" if name in there else "none"
            raise SpecError(
                f"the model reads the context '{name}' of {size} classes, but the data have {got}"
                + ("" if name in there else "; give the labels when reading the data, or use another prior")
            )


def column_fits(support: constraints.Constraint, column: Column) -> bool:
    """Whether the support of a family is that of a column.

    >>> column_fits(constraints.boolean, Column("binary")), column_fits(constraints.real, Column("bytes"))
    (True, False)
    """
    if column.kind == "binary":
        return isinstance(support, type(constraints.boolean))
    if column.kind == "count":
        return isinstance(support, type(constraints.nonnegative_integer)) and support == constraints.nonnegative_integer
    if column.top is not None:
        whole = isinstance(support, constraints.integer_interval)
        return whole and (support.lower_bound, support.upper_bound) == (0, column.top)  # type: ignore[attr-defined]
    return isinstance(support, type(constraints.real))


def check_support(name: str, family: Family, schema: Schema) -> None:
    """Refuse a likelihood whose support is not that of the data, column by column.

    Args:
        name: the name of the likelihood, for the message.
        family: the family of the likelihood.
        schema: the schema of the data.

    Raises:
        SpecError: with the column, and the families that fit it.
    """
    support = family.support
    if isinstance(support, ColumnSupport):
        if support.places.count != len(schema.columns) or schema.rank:
            raise SpecError(
                f"likelihood '{name}' has {support.places.count} columns, but the data are {schema.describe()}"
            )
        each = support.by_column()
    else:
        each = [support] * len(schema.columns)
    for i, (column, has) in enumerate(zip(schema.columns, each, strict=True)):
        if not column_fits(has, column):
            which = f"column '{column.name or i}' of the data" if schema.rank == 0 else "the data"
            raise SpecError(
                f"likelihood '{name}' has the support {has}, but {which} holds {column.kind} values, "
                f"{COLUMN_KINDS[column.kind]}; families that fit: {', '.join(fitting(column)) or 'none'}"
            )


def fitting(column: Column) -> list[str]:
    """The names of the families whose support matches a column."""
    found = []
    for name, maker in registered("family").items():
        for arguments in ({}, {"classes": (column.top or 0) + 1}, {"levels": (column.top or 0) + 1}):
            try:
                support = maker(**arguments).support
            except (TypeError, ValueError):
                continue
            if column_fits(support, column):
                found.append(name)
                break
    return found


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
            f"sticking the landing and DReG need a reparameterised posterior, but {type(q).__name__} "
            "is not one; use doubly=False or sticking=False"
        )
