"""Convert a trained model to whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ladle.coding.ans.fixed_point import FINE, PRECISION, RAW
from ladle.coding.bits_back import estimate_rate
from ladle.coding.coders.autoregressive import autoregressive_program
from ladle.coding.coders.coder import Coder, LatentCoder, exponential_table, make_curve
from ladle.coding.coders.codes import ClassCodes, LevelCodes
from ladle.coding.coders.latent import Grid, Quantiles, curve_name, rate_table
from ladle.coding.coders.local import LIKELIHOODS
from ladle.coding.coders.priors import AutoregressivePrior, CodedPrior, CodesPrior, MixturePrior, SinglePrior
from ladle.coding.errors import NotCodable
from ladle.coding.integer.program import Program
from ladle.coding.integer.rewriter import Rewriter, Value
from ladle.coding.model import FlatModel, IntegerModel, LadderModel
from ladle.families.codes import FSQ, VectorQuantised
from ladle.families.discrete import OneHotFamily
from ladle.families.family import Family, positive
from ladle.families.pixels import DiscretisedLogisticFamily, DiscretisedLogisticMixtureFamily
from ladle.families.real import LocationScale
from ladle.model.conditional import Amortised, Conditional
from ladle.model.latents import Latents
from ladle.model.latents.flat import Flat
from ladle.model.latents.ladder import Below, Ladder
from ladle.model.priors import Prior
from ladle.model.priors.autoregressive import FLOOR, Autoregressive
from ladle.model.priors.conditional import ClassConditional
from ladle.model.priors.mixture import Mixture
from ladle.model.priors.prior import Learned, Standard
from ladle.model.priors.vamp import Vamp
from ladle.model.vae import VAE
from ladle.seeds import seeded
from ladle.shapes import numel

CODES: dict[type, Any] = {FSQ: LevelCodes, OneHotFamily: ClassCodes, VectorQuantised: ClassCodes}
LEVELS: dict[type, Any] = {DiscretisedLogisticFamily: LevelCodes, DiscretisedLogisticMixtureFamily: LevelCodes}
SPREAD = 1.25  # calibration draws z from posteriors wider by this factor


def convert(vae: VAE, x: Tensor) -> IntegerModel:
    """Convert a model to whole numbers.

    Args:
        vae: the model, in evaluation mode, on a CPU.
        x: calibration items, ``(N, *event)``, by which the ranges of numbers are chosen.

    Raises:
        NotCodable: for a part without a coder; the message names it.
        InexactError: for a network with an operation that has no step.
    """
    latents, family = vae.latents, vae.likelihood.family
    if type(family) not in LIKELIHOODS:
        known = ", ".join(f"family/{t.__name__.removesuffix('Family').lower()}" for t in LIKELIHOODS)
        raise NotCodable(f"a likelihood of {type(family).__name__} has no coder; those that fit are of {known}")
    likelihood = LIKELIHOODS[type(family)].of(family)
    with torch.no_grad(), seeded("exact"):
        model = convert_latents(latents, vae, likelihood, x.float())
    model.bits_per_item, model.growth = estimate_rate(model, x.numpy().astype(np.int64))
    return model


@singledispatch
def convert_latents(latents: Latents, vae: VAE, likelihood: Coder, x: Tensor) -> IntegerModel:
    """Convert a model to whole numbers by the function that is registered for its type of latents.

    Args:
        latents: the latents of the model.
        vae: the model.
        likelihood: the coder of the likelihood.
        x: calibration items, ``(N, *event)``.

    Raises:
        NotCodable: for latents without a registered function.
    """
    raise NotCodable(f"latents of {type(latents).__name__} have no coder; those that fit: flat, ladder")


def _pixels(new: Rewriter, x: Tensor) -> Value:
    """Add items as the first input."""
    return new.add_input(x, 0, 0, 255)


def _wider_draw(loc: Tensor, scale: Tensor) -> Tensor:
    return loc + SPREAD * scale * torch.randn_like(loc)


@convert_latents.register
def _(latents: Flat, vae: VAE, likelihood: Coder, x: Tensor) -> IntegerModel:
    family, posterior_raw = latents.posterior.family, raw_parameters(latents.posterior)
    grid: LatentCoder
    encode = Rewriter()
    q: Any = latents.posterior(latents.reads(x, None), {})
    if type(family) in CODES:
        grid = CODES[type(family)].of(family, numel(latents.posterior.event))
        z = q.sample()
    else:
        grid = Grid.of(_location_scale(family), q.loc, q.scale)
        z = _wider_draw(q.loc, q.scale)
    raw = encode.trace(lambda x: coder_inputs(family, posterior_raw(latents.reads(x, None))), _pixels(encode, x))
    decode, likelihood_raw = Rewriter(), raw_parameters(vae.likelihood)
    low = -grid.most if isinstance(grid, Grid) else 0
    outputs = decode.trace(lambda z: likelihood_raw(family.read(z)), decode.add_input(z, grid.exponent, low, grid.most))
    programs = {
        "encode": encode.program([encode.finish(*pair) for pair in zip(raw, grid.exponents, strict=True)]),
        "decode": decode.program([decode.finish(*pair) for pair in zip(outputs, likelihood.exponents, strict=True)]),
    }
    prior = (
        prior_coder(latents.prior, latents.posterior, z, grid)
        if isinstance(grid, Grid) else _code_prior(latents.prior)
    )  # fmt: skip
    return FlatModel(programs, likelihood, tuple(x.shape[1:]), grid, prior)


@singledispatch
def coder_inputs(family: Family, raw: Sequence[Tensor]) -> list[Tensor]:
    """The inputs of the coder of a family of latents, given the family's raw parameters. They are these parameters,
    unless a function is registered for the family."""
    return list(raw)


@coder_inputs.register
def _(family: FSQ, raw: Sequence[Tensor]) -> list[Tensor]:
    return [raw[0].tanh(), raw[1]]


@coder_inputs.register
def _(family: VectorQuantised, raw: Sequence[Tensor]) -> list[Tensor]:
    return [family.likenesses(raw[0])]


def _code_prior(prior: Prior | None) -> CodedPrior:
    """The coder of a prior over codes."""
    if not isinstance(prior, (Standard, Learned)) or type(prior.family) not in {**CODES, **LEVELS}:
        fitting = "standard or learned, of fsq, one_hot, vq or discretised_logistic_mixture"
        raise NotCodable(f"a prior of {type(prior).__name__} over codes has no coder; those that fit: {fitting}")
    family = prior.family
    raw = list(prior.raw) if isinstance(prior, Learned) else [torch.zeros(size) for size in family.raw(prior.event)]
    coder = {**CODES, **LEVELS}[type(family)].of(family, numel(prior.event))
    pairs = zip(coder_inputs(family, [r.detach() for r in raw]), coder.exponents, strict=True)
    numbers = {f"raw {i}": np.round(r.double().numpy() * (1 << e)).astype(np.int64) for i, (r, e) in enumerate(pairs)}
    return CodesPrior({**coder.about, "kind": coder.name}, {**coder.tables, **numbers})


def raw_parameters(conditional: Conditional) -> Callable[[Tensor], Sequence[Tensor]]:
    """The function from the input of a conditional to the raw parameters of its family."""
    if not isinstance(conditional, Amortised):
        raise NotCodable(f"a conditional of {type(conditional).__name__} has no coder; the one that fits: amortised")
    if conditional.context:
        raise NotCodable(f"a model must decode without context, this one needs {', '.join(conditional.context)}")
    return conditional.raw


def _location_scale(family: object) -> LocationScale:
    if not isinstance(family, LocationScale) or family.shared_scale:
        raise NotCodable(f"latents of {type(family).__name__} have no coder; families that fit: normal, logistic")
    curve_name(family)
    return family


def _fixed(loc: Tensor, raw_scale: Tensor) -> dict[str, np.ndarray]:
    """Constant parameters as tables."""
    return {
        "loc": np.round(loc.double().numpy() * (1 << FINE)).astype(np.int64),
        "scale": np.round(raw_scale.double().numpy() * (1 << RAW)).astype(np.int64),
    }


@singledispatch
def prior_coder(prior: Prior | None, posterior: Conditional, z: Tensor, grid: Grid) -> CodedPrior:
    """The coder of a prior over latents on a grid, by the function that is registered for its type.

    Args:
        prior: the prior of the model.
        posterior: the posterior of the model.
        z: calibration latents, ``(N, *event)``, by which the ranges of numbers are chosen.
        grid: the coder of the latents.

    Raises:
        NotCodable: for a prior without a registered function.
    """
    name = "no prior" if prior is None else f"a prior of {type(prior).__name__}"
    raise NotCodable(
        f"{name} has no coder; those that fit: standard, learned, autoregressive, mixture, vamp, conditional"
    )


@prior_coder.register
def _(prior: Standard, posterior: Conditional, z: Tensor, grid: Grid) -> CodedPrior:
    family = _location_scale(prior.family)
    loc, scale = (torch.zeros(size) for size in family.raw(prior.event))
    return SinglePrior({}, _fixed(loc, scale))


@prior_coder.register
def _(prior: Learned, posterior: Conditional, z: Tensor, grid: Grid) -> CodedPrior:
    _location_scale(prior.family)
    return SinglePrior({}, _fixed(prior.raw[0], prior.raw[1]))


@prior_coder.register
def _(prior: Autoregressive, posterior: Conditional, z: Tensor, grid: Grid) -> CodedPrior:
    tables = {
        "exponentials": exponential_table(),
        "rates": rate_table(prior.members, lambda raw: positive(raw, FLOOR)),
        "curve": make_curve(prior.members, 0).values,
    }
    return AutoregressivePrior({"components": prior.components}, tables, autoregressive_program(prior, z, grid))


@prior_coder.register
def _(prior: Mixture, posterior: Conditional, z: Tensor, grid: Grid) -> CodedPrior:
    return _mixture_prior(prior.raw[0], prior.raw[1], prior.raw[2])


@prior_coder.register
def _(prior: Vamp, posterior: Conditional, z: Tensor, grid: Grid) -> CodedPrior:
    loc, scale = raw_parameters(posterior)(prior.inputs)
    return _mixture_prior(prior.logits, loc, scale)


@prior_coder.register
def _(prior: ClassConditional, posterior: Conditional, z: Tensor, grid: Grid) -> CodedPrior:
    """The marginal prior over the labels, because a file is decoded without labels."""
    _location_scale(prior.mixture.family)
    return _mixture_prior(prior.log_joint(), prior.raw[0], prior.raw[1])


def _mixture_prior(logits: Tensor, loc: Tensor, scale: Tensor) -> CodedPrior:
    """The coder of a mixture: ``(K,)`` logits, and locations and raw scales ``(K, *event)``."""
    shares = torch.softmax(logits.double(), -1).numpy() * ((1 << PRECISION) - len(logits))
    rows = np.concatenate([[0], np.cumsum(np.floor(shares).astype(np.int64) + 1)])
    rows[-1] = 1 << PRECISION
    mantissa = np.maximum(np.arange(512), 256) / 256
    tables = {
        **_fixed(loc, scale), "rows": rows, "exponentials": exponential_table(),
        "logarithms": np.round(np.log(mantissa) * (1 << RAW)).astype(np.int64),
        "octaves": np.round(np.log(2) * np.arange(PRECISION + 2) * (1 << RAW)).astype(np.int64),
    }  # fmt: skip
    return MixturePrior({}, tables)


@convert_latents.register
def _(latents: Ladder, vae: VAE, likelihood: Coder, x: Tensor) -> IntegerModel:
    family = _location_scale(latents.posterior.family)
    programs: dict[str, Program] = {}

    def features(x: Tensor) -> Sequence[Tensor]:
        maps = latents.posterior.features(latents.reads(x, None))
        loc, scale = latents.posterior.head(F.relu(maps[0])).chunk(2, 1)
        return [loc.flatten(1), scale.flatten(1), *maps]

    new = Rewriter()
    loc, scale, *maps = new.trace(features, _pixels(new, x))
    programs["features"] = new.program([new.finish(loc, FINE), new.finish(scale), *maps])
    deviation = family.scale(scale.real)
    grid = Grid.of(family, loc.real, deviation)
    z = _wider_draw(loc.real, deviation)

    def start(z: Tensor) -> Sequence[Tensor]:
        return [latents.residual(latents.place + latents.enter(z.unflatten(1, tuple(latents.rung))))]

    new = Rewriter()
    (state,) = new.trace(start, new.add_input(z, grid.exponent, -grid.most, grid.most))
    programs["start"] = new.program([state])
    reads, doublings = [], 0  # the index of the feature map that every level reads
    for i, below in enumerate(latents.below, start=1):
        assert isinstance(below, Below)
        doublings += bool(below.doublings)
        reads.append(doublings)
        state = _below(programs, i, below, state, maps[doublings])
    new = Rewriter()
    outputs = new.trace(raw_parameters(vae.likelihood), _add_result(new, state))
    programs["decode"] = new.program([new.finish(*pair) for pair in zip(outputs, likelihood.exponents, strict=True)])
    prior = prior_coder(latents.prior, latents.posterior, z, grid)
    return LadderModel(programs, likelihood, tuple(x.shape[1:]), grid, prior, Quantiles.of(family), reads)


def _add_result(new: Rewriter, value: Value) -> Value:
    """Add the result of another program as an input."""
    return new.add_input(value.real, value.exponent, value.range.low, value.range.high)


def _below(programs: dict[str, Program], i: int, below: Below, state: Value, features: Value) -> Value:
    """Write the programs of one level below the top, and return the state after it."""

    def prior(state: Tensor) -> Sequence[Tensor]:
        grown = below.grow(state)
        return [*below.prior(F.relu(grown)).chunk(2, 1), grown]

    new = Rewriter()
    loc, scale, grown = new.trace(prior, _add_result(new, state))
    programs[f"{i}.p"] = new.program([new.finish(loc, FINE), new.finish(scale), grown])

    def step(state: Tensor, features: Tensor) -> Sequence[Tensor]:
        both = below.of_state(F.relu(state)) + below.of_features(F.relu(features))
        return below.step(F.relu(both)).chunk(2, 1)

    new = Rewriter()
    d, e = new.trace(step, _add_result(new, grown), _add_result(new, features))
    programs[f"{i}.q"] = new.program([new.finish(d, FINE), new.finish(e)])

    u = _wider_draw(d.real, below.family.scale(e.real)).clamp(-4, 4)
    z = loc.real + below.family.scale(scale.real) * u
    new = Rewriter()
    inputs = _add_result(new, grown), new.add_input(z, FINE, -(1 << 18), 1 << 18)
    (state,) = new.trace(lambda state, z: [below.add(state, z)], *inputs)
    programs[f"{i}.add"] = new.program([state])
    return state
