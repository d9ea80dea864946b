"""Whether densities are normalised: each is summed over all values of an element, or integrated.

The integral needs no distribution function. Around some anchors (draws of the distribution itself, and the ends of a
bounded support) it takes points that grow from ``FINEST`` to ``REACH`` times the spread like a hyperbolic sine, so
that the resolution is relative to the distance from the nearest anchor, sorts them, and adds trapezia.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from ladle.families import NotAvailable, chain, mapped
from ladle.families.colour import ColourMixture
from ladle.families.local import LocalAutoregressive
from ladle.health.findings import Context, Finding, rung
from ladle.model.latents.latents import device_of
from ladle.seeds import seeded

# A sum over a discrete support is exact but for float32 parameters, an integral is good to 3e-3 in healthy models; a
# constant that was dropped is at least a factor of 1.4, bins that are lost are several percent.
ALLOWED = {True: 1e-3, False: 1e-2}
CONSTANT = 0.01  # relative spread of totals below which all are the same
FINEST, REACH, STEP = 1e-3, 1e6, 0.1  # of the spread of the draws; the step is relative to the distance
ANCHORS, DRAWS = 16, 256
ITEMS, ELEMENTS = 8, 256
CONTEXTS, LATENTS = 2, 4  # of a joint prior, whose conditionals are each a pass of its net
MOST_VALUES = 1 << 16
KNOWN = {
    "√(2π)": math.sqrt(2 * math.pi), "1/√(2π)": 1 / math.sqrt(2 * math.pi), "2π": 2 * math.pi, "π": math.pi,
    "√π": math.sqrt(math.pi), "√2": math.sqrt(2), "2": 2.0, "1/2": 0.5, "4": 4.0, "1/4": 0.25, "1/255": 1 / 255,
    "1/256": 1 / 256, "255": 255.0, "256": 256.0,
}  # fmt: skip


@rung(4, "normalisation")
def normalisation(context: Context) -> Finding:
    """p(x|z), q(z|x) and p(z) sum to one: for some elements, at several z, over all values."""
    measured: dict[str, float] = {}
    seen, ill = [], []
    for what, totals, discrete in _parts(context):
        if totals is None:
            continue
        worst = totals[(totals.log().abs()).nan_to_num(math.inf).argmax()]
        measured[what] = float(worst)
        seen.append(what)
        if not abs(float(worst) - 1) <= ALLOWED[discrete]:
            ill.append(f"{what} {diagnosis(totals, discrete)}")
    if ill:
        return Finding(
            "normalisation", False, measured, "; ".join(ill),
            "correct log_prob of that family: its nats are no nats, and compare with no other model's",
        )  # fmt: skip
    off = max(abs(v - 1) for v in measured.values())
    return Finding("normalisation", True, measured, f"{', '.join(seen)} sum to 1 (within {off:.0e})")


def diagnosis(totals: Tensor, discrete: bool) -> str:
    """What is wrong with totals that are not one, in words.

    >>> diagnosis(torch.tensor([2.5066, 2.5067]), False)
    'integrates to 2.507 = √(2π) everywhere: a constant was dropped'
    >>> diagnosis(torch.tensor([0.83, 1.0]), True)
    'sums to 0.83 .. 1: it is no mass function; values lack their mass, as when edge bins are missing'
    """
    verb = "sums" if discrete else "integrates"
    low, high = float(totals.min()), float(totals.max())
    if not math.isfinite(high):
        return f"{verb} to {high}: log_prob is not finite"
    if high - low <= CONSTANT * abs(high):
        middle = float(totals.median())
        named = [f" = {name}" for name, value in KNOWN.items() if abs(middle / value - 1) < CONSTANT]
        return f"{verb} to {middle:.4g}{named[0] if named else ''} everywhere: a constant was dropped"
    between = f"{verb} to {low:.3g} .. {high:.3g}"
    if discrete:
        return f"{between}: it is no mass function; values lack their mass, as when edge bins are missing"
    return f"{between}: what is missing depends on the parameters, as a dropped log scale does"


def _parts(context: Context) -> list[tuple[str, Tensor | None, bool]]:
    """The likelihood, the posterior and the prior: what it is, the totals of some elements, whether it is discrete."""
    vae, latents = context.vae, context.vae.latents
    rows = slice(0, ITEMS)
    given = [context.tested.zs, context.dreamt] if latents.has_prior else [context.tested.zs]
    likelihood, support = [context.likelihood(zs, rows) for zs in given], vae.likelihood.family.support
    found: list[tuple[str, Tensor | None, bool]] = [
        ("p(x|z)", torch.cat([_totals(d, support, context.seed) for d in likelihood]), support.is_discrete)
    ]
    posterior, prior = getattr(latents, "posterior", None), getattr(latents, "prior", None)
    if posterior is None or prior is None:
        return found
    batch = torch.from_numpy(context.x[rows]).to(context.model.device)
    observed = None if context.test.observed is None else torch.from_numpy(context.test.observed[rows])
    with torch.no_grad():
        q = posterior(latents.reads(batch, None if observed is None else observed.to(batch.device)), {})  # type: ignore[operator]
        p = prior(1, {}, posterior)  # type: ignore[operator]
    for what, d, support in (("q(z|x)", q, posterior.family.support), ("p(z)", p, prior.support)):
        try:
            found.append((what, _totals(d, support, context.seed), support.is_discrete))
        except NotAvailable:  # a joint distribution
            if what == "p(z)":
                found.append((what, _conditionals(d, context), support.is_discrete))
    return found


def _totals(d: Distribution, support: Constraint, seed: int) -> Tensor:
    """The sum or integral of the density of some elements, ``(E,)``.

    Raises:
        NotAvailable: for a joint distribution.
    """
    if isinstance(d, LocalAutoregressive):
        with seeded(seed, "normalisation"):
            d = d.given(d.sample())
    colours = isinstance(d, ColourMixture)
    if isinstance(d, ColourMixture):
        d = d.pixels()
    elif d.event_shape:
        raise NotAvailable(f"{type(d).__name__} is a joint distribution")
    dims, count = len(d.batch_shape), d.batch_shape.numel()
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(count, generator=generator)[:ELEMENTS].sort().values
    chosen = mapped(d, lambda t: (t.flatten(0, dims - 1)[index.to(t.device)] if t.dim() >= dims else t).double())
    if colours:
        return _of_channels(chosen, support, seed)
    if support.is_discrete:
        masses = [chosen.log_prob(torch.full((len(index),), float(v)).to(device_of(d))).exp() for v in listed(support)]
        return torch.stack([m.double().cpu() for m in masses]).sum(0)
    with seeded(seed, "normalisation"):
        draws = chosen.sample((DRAWS,)).double()
    nodes = points(draws, support)
    density = chosen.log_prob(nodes).exp().nan_to_num(math.inf)
    return torch.trapezoid(torch.where(support.check(nodes), density, 0.0), nodes, dim=0).cpu()


def _of_channels(d: Distribution, support: Constraint, seed: int) -> Tensor:
    """The sums of the densities of every channel given the ones before it, at a draw of those."""
    with seeded(seed, "normalisation"):
        x = d.sample()
    totals = []
    for c in range(d.event_shape[0]):
        masses = []
        for value in listed(support):
            tried = x.clone()
            tried[:, c] = value
            masses.append(chain(d, tried)[:, c].exp())
        totals.append(torch.stack(masses).sum(0).flatten().cpu())
    return torch.cat(totals)


def _conditionals(p: Distribution, context: Context) -> Tensor | None:
    """The integrals of p(z_i | z_1 .. z_(i-1)) for some i at some draws; ``None`` where p has no such chain."""
    z = context.dreamt[0]
    try:
        chain(p, z[:1])
    except NotAvailable:
        return None
    size = z.shape[-1]
    totals = []
    for row in range(min(CONTEXTS, len(z))):
        for i in sorted({round(k * (size - 1) / max(LATENTS - 1, 1)) for k in range(LATENTS)}):
            draws = torch.cat([z[row, i].reshape(1), z[:DRAWS, i]]).double()[:, None]
            nodes = points(draws, constraints.real)[:, 0]
            values = z[row].expand(len(nodes), 1, size).clone()
            values[:, 0, i] = nodes.to(values.dtype)
            with torch.no_grad():
                density = chain(p, values)[:, 0, i].double().exp()
            totals.append(torch.trapezoid(density, nodes).cpu())
    return torch.stack(totals)


def listed(support: Constraint) -> range:
    """All values of a discrete support.

    Raises:
        NotAvailable: where they cannot be listed.
    """
    if support == constraints.boolean:
        return range(2)
    if isinstance(support, constraints.integer_interval) and support.upper_bound - support.lower_bound < MOST_VALUES:
        return range(int(support.lower_bound), int(support.upper_bound) + 1)
    raise NotAvailable(f"the values of {support} cannot be listed")


def points(draws: Tensor, support: Constraint) -> Tensor:
    """Sorted points over a support, dense around draws: ``(DRAWS, E) -> (P, E)``, float64.

    >>> nodes = points(torch.randn(64, 1).double(), constraints.real)
    >>> normal = torch.distributions.Normal(0.0, 1.0).log_prob(nodes).exp()
    >>> round(float(torch.trapezoid(normal, nodes, dim=0)), 2)
    1.0
    """
    ordered = draws.sort(0).values
    at = torch.linspace(0, len(draws) - 1, ANCHORS).round().long()
    anchors = [*ordered[at], ordered.new_tensor(0.0).expand(ordered.shape[1]) + ordered.mean(0)]
    spread = ordered[(9 * len(draws)) // 10] - ordered[len(draws) // 10]
    spread = torch.where(spread > 0, spread, 1e-6 * (ordered.abs().amax(0) + 1))
    ends = [getattr(support, name, None) for name in ("lower_bound", "upper_bound")]
    anchors += [ordered.new_tensor(float(end)).expand(ordered.shape[1]) for end in ends if end is not None]
    last = math.asinh(REACH / FINEST)
    grow = FINEST * torch.sinh(torch.arange(-last, last, STEP, dtype=torch.float64, device=draws.device))
    nodes = torch.cat([anchor + grow[:, None] * spread for anchor in anchors])
    low, high = (float(e) if e is not None else None for e in ends)
    if low is not None or high is not None:
        nodes = nodes.clamp(low, high)
    return nodes.sort(0).values
