"""From a trained model to its form in whole numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ladle.coding.ans.fixed_point import FINE, PRECISION, RAW
from ladle.coding.bits_back import measured
from ladle.coding.coders.autoregressive import rewritten
from ladle.coding.coders.coder import Coder, LatentCoder, curve, exponentials
from ladle.coding.coders.codes import ClassCodes, LevelCodes
from ladle.coding.coders.latent import Grid, Quantiles, curve_of, rates
from ladle.coding.coders.local import LIKELIHOODS
from ladle.coding.coders.priors import CodedPrior, Codes, One, Sequential, Several
from ladle.coding.errors import NotCodable
from ladle.coding.integer.program import Program
from ladle.coding.integer.rewriter import Rewriter, Value
from ladle.coding.model import Exact, ExactFlat, ExactLadder
from ladle.families.codes import FSQ, VectorQuantised
from ladle.families.discrete import OneHotFamily
from ladle.families.family import Family, positive
from ladle.families.pixels import DiscretisedLogisticFamily, DiscretisedLogisticMixtureFamily
from ladle.families.real import LocationScale
from ladle.model.conditional import Amortised, Conditional
from ladle.model.latents.flat import Flat
from ladle.model.latents.ladder import Below, Ladder
from ladle.model.priors import Prior
from ladle.model.priors.autoregressive import FLOOR, Autoregressive
from ladle.model.priors.mixture import Mixture
from ladle.model.priors.prior import Learned, Standard
from ladle.model.priors.vamp import Vamp
from ladle.model.vae import VAE
from ladle.seeds import seeded
from ladle.shapes import numel

CODES: dict[type, Any] = {FSQ: LevelCodes, OneHotFamily: ClassCodes, VectorQuantised: ClassCodes}
LEVELS: dict[type, Any] = {DiscretisedLogisticFamily: LevelCodes, DiscretisedLogisticMixtureFamily: LevelCodes}
SPREAD = 1.25  # z of calibration are drawn from posteriors that much wider


def exact(vae: VAE, x: Tensor) -> Exact:
    """The model in whole numbers.

    Args:
        vae: in evaluation mode, on a CPU.
        x: some of its data, ``(N, *event)``: what ranges of numbers are chosen by.

    Raises:
        NotCodable: for a part that there is no coder for; it is named.
        InexactError: for a net with an operation that there is no step for.
    """
    latents, family = vae.latents, vae.likelihood.family
    if type(family) not in LIKELIHOODS:
        known = ", ".join(f"family/{t.__name__.removesuffix('Family').lower()}" for t in LIKELIHOODS)
        raise NotCodable(f"a likelihood of {type(family).__name__} has no coder; those that fit are of {known}")
    likelihood = LIKELIHOODS[type(family)].of(family)
    if not isinstance(latents, (Flat, Ladder)):
        raise NotCodable(f"latents of {type(latents).__name__} have no coder; those that fit: flat, ladder")
    with torch.no_grad(), seeded("exact"):
        made = (
            _flat(vae, latents, likelihood, x.float()) if isinstance(latents, Flat)
            else _ladder(vae, latents, likelihood, x.float())
        )  # fmt: skip
    made.bits_per_item, made.growth = measured(made, x.numpy().astype(np.int64))
    return made


def _pixels(new: Rewriter, x: Tensor) -> Value:
    """Items as the first input."""
    return new.put_in(x, 0, 0, 255)


def _drawn(loc: Tensor, scale: Tensor) -> Tensor:
    return loc + SPREAD * scale * torch.randn_like(loc)


def _flat(vae: VAE, latents: Flat, likelihood: Coder, x: Tensor) -> Exact:
    family, says = latents.posterior.family, raws(latents.posterior)
    grid: LatentCoder
    encode = Rewriter()
    q: Any = latents.posterior(latents.reads(x, None), {})
    if type(family) in CODES:
        grid = CODES[type(family)].of(family, numel(latents.posterior.event))
        z = q.sample()
    else:
        grid = Grid.of(_location_scale(family), q.loc, q.scale)
        z = _drawn(q.loc, q.scale)
    raw = encode.trace(lambda x: _spoken(family, says(latents.reads(x, None))), _pixels(encode, x))
    decode, explains = Rewriter(), raws(vae.likelihood)
    low = -grid.most if isinstance(grid, Grid) else 0
    said = decode.trace(lambda z: explains(family.read(z)), decode.put_in(z, grid.exponent, low, grid.most))
    programs = {
        "encode": encode.program([encode.finish(*pair) for pair in zip(raw, grid.exponents, strict=True)]),
        "decode": decode.program([decode.finish(*pair) for pair in zip(said, likelihood.exponents, strict=True)]),
    }
    prior = _prior(latents.prior, latents, z, grid) if isinstance(grid, Grid) else _code_prior(latents.prior)
    return ExactFlat(programs, likelihood, tuple(x.shape[1:]), grid, prior)


def _spoken(family: Family, raw: Sequence[Tensor]) -> list[Tensor]:
    """What the coder of a family of latents reads, from its raw inputs."""
    if isinstance(family, FSQ):
        return [raw[0].tanh(), raw[1]]
    if isinstance(family, VectorQuantised):
        return [family.likenesses(raw[0])]
    return list(raw)


def _code_prior(prior: Prior | None) -> CodedPrior:
    """The coder of a prior over codes."""
    if not isinstance(prior, (Standard, Learned)) or type(prior.family) not in {**CODES, **LEVELS}:
        fitting = "standard or learned, of fsq, one_hot, vq or discretised_logistic_mixture"
        raise NotCodable(f"a prior of {type(prior).__name__} over codes has no coder; those that fit: {fitting}")
    family = prior.family
    raw = list(prior.raw) if isinstance(prior, Learned) else [torch.zeros(size) for size in family.raw(prior.event)]
    coder = {**CODES, **LEVELS}[type(family)].of(family, numel(prior.event))
    spoken = zip(_spoken(family, [r.detach() for r in raw]), coder.exponents, strict=True)
    numbers = {f"raw {i}": np.round(r.double().numpy() * (1 << e)).astype(np.int64) for i, (r, e) in enumerate(spoken)}
    return Codes({**coder.about, "kind": coder.name}, {**coder.tables, **numbers})


def raws(conditional: Conditional) -> Callable[[Tensor], Sequence[Tensor]]:
    """The function from what a conditional reads to its family's raw inputs."""
    if not isinstance(conditional, Amortised):
        raise NotCodable(f"a conditional of {type(conditional).__name__} has no coder; what fits: amortised")
    return conditional.raw


def _location_scale(family: object) -> LocationScale:
    if not isinstance(family, LocationScale) or family.shared_scale:
        raise NotCodable(f"latents of {type(family).__name__} have no coder; families that fit: normal, logistic")
    curve_of(family)
    return family


def _fixed(loc: Tensor, raw_scale: Tensor) -> dict[str, np.ndarray]:
    """Constant parameters as tables."""
    return {
        "loc": np.round(loc.double().numpy() * (1 << FINE)).astype(np.int64),
        "scale": np.round(raw_scale.double().numpy() * (1 << RAW)).astype(np.int64),
    }


def _prior(prior: Prior | None, latents: Flat | Ladder, z: Tensor, grid: Grid) -> CodedPrior:
    """The coder of a prior."""
    if isinstance(prior, (Standard, Learned)):
        family = _location_scale(prior.family)
        raw = prior.raw if isinstance(prior, Learned) else [torch.zeros(size) for size in family.raw(prior.event)]
        return One({}, _fixed(raw[0], raw[1]))
    if isinstance(prior, Autoregressive):
        tables = {"exponentials": exponentials(), "rates": rates(prior.members, lambda raw: positive(raw, FLOOR))}
        tables["curve"] = curve(prior.members, 0).values
        return Sequential({"components": prior.components}, tables, rewritten(prior, z, grid))
    if isinstance(prior, (Mixture, Vamp)):
        if isinstance(prior, Mixture):
            logits, loc, scale = prior.raw[0], prior.raw[1], prior.raw[2]
        else:
            logits, (loc, scale) = prior.logits, raws(latents.posterior)(prior.inputs)
        shares = torch.softmax(logits.double(), -1).numpy() * ((1 << PRECISION) - len(logits))
        rows = np.concatenate([[0], np.cumsum(np.floor(shares).astype(np.int64) + 1)])
        rows[-1] = 1 << PRECISION
        mantissa = np.maximum(np.arange(512), 256) / 256
        tables = {
            **_fixed(loc, scale), "rows": rows, "exponentials": exponentials(),
            "logarithms": np.round(np.log(mantissa) * (1 << RAW)).astype(np.int64),
            "octaves": np.round(np.log(2) * np.arange(PRECISION + 2) * (1 << RAW)).astype(np.int64),
        }  # fmt: skip
        return Several({}, tables)
    name = "no prior" if prior is None else f"a prior of {type(prior).__name__}"
    raise NotCodable(f"{name} has no coder; those that fit: standard, learned, autoregressive, mixture, vamp")


def _ladder(vae: VAE, latents: Ladder, likelihood: Coder, x: Tensor) -> Exact:
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
    z = _drawn(loc.real, deviation)

    def start(z: Tensor) -> Sequence[Tensor]:
        return [latents.residual(latents.place + latents.enter(z.unflatten(1, tuple(latents.rung))))]

    new = Rewriter()
    (state,) = new.trace(start, new.put_in(z, grid.exponent, -grid.most, grid.most))
    programs["start"] = new.program([state])
    reads, read = [], 0
    for i, below in enumerate(latents.below, start=1):
        assert isinstance(below, Below)
        read += bool(below.doublings)
        reads.append(read)
        state = _below(programs, i, below, state, maps[read])
    new = Rewriter()
    said = new.trace(raws(vae.likelihood), _again(new, state))
    programs["decode"] = new.program([new.finish(*pair) for pair in zip(said, likelihood.exponents, strict=True)])
    prior = _prior(latents.prior, latents, z, grid)
    return ExactLadder(programs, likelihood, tuple(x.shape[1:]), grid, prior, Quantiles.of(family), reads)


def _again(new: Rewriter, value: Value) -> Value:
    """The result of one program as the input of another."""
    return new.put_in(value.real, value.exponent, value.range.low, value.range.high)


def _below(programs: dict[str, Program], i: int, below: Below, state: Value, features: Value) -> Value:
    """The programs of one level below the top; returns the state after it."""

    def prior(state: Tensor) -> Sequence[Tensor]:
        grown = below.grow(state)
        return [*below.prior(F.relu(grown)).chunk(2, 1), grown]

    new = Rewriter()
    loc, scale, grown = new.trace(prior, _again(new, state))
    programs[f"{i}.p"] = new.program([new.finish(loc, FINE), new.finish(scale), grown])

    def step(state: Tensor, features: Tensor) -> Sequence[Tensor]:
        known = below.of_state(F.relu(state)) + below.of_features(F.relu(features))
        return below.step(F.relu(known)).chunk(2, 1)

    new = Rewriter()
    d, e = new.trace(step, _again(new, grown), _again(new, features))
    programs[f"{i}.q"] = new.program([new.finish(d, FINE), new.finish(e)])

    u = _drawn(d.real, below.family.scale(e.real)).clamp(-4, 4)
    z = loc.real + below.family.scale(scale.real) * u
    new = Rewriter()
    inputs = _again(new, grown), new.put_in(z, FINE, -(1 << 18), 1 << 18)
    (state,) = new.trace(lambda state, z: [below.add(state, z)], *inputs)
    programs[f"{i}.add"] = new.program([state])
    return state
