"""The check that densities are normalised: each is summed or integrated over all values of an element.

The integral does not need a cumulative distribution function. Around some anchors (draws of the distribution, and the
ends of a bounded support), points are placed at distances that grow from ``FINEST`` to ``REACH`` times the spread like
a hyperbolic sine, so that the resolution is relative to the distance from the nearest anchor. The sorted points are
integrated with the trapezoidal rule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.distributions.constraints import Constraint

from ladle.families import NotAvailable, chain, mapped, separate
from ladle.health.findings import Context, Finding, stage
from ladle.model.latents.latents import device_of
from ladle.seeds import seeded

# A sum over a discrete support is exact except for float32 parameters, and an integral is accurate to 3e-3 in healthy
# models. A missing constant is at least a factor of 1.4, and missing bins are several percent.
ALLOWED = {True: 1e-3, False: 1e-2}
CONSTANT = 0.01  # totals with a smaller relative spread count as equal
FINEST, REACH, STEP = 1e-3, 1e6, 0.1  # in units of the spread of the draws; the step is relative to the distance
ANCHORS, DRAWS = 16, 256
ITEMS, ELEMENTS = 8, 256
CONTEXTS, LATENTS = 2, 4  # of a joint prior, where each conditional needs a pass of its network
MOST_VALUES = 1 << 16
AT_ONCE = 256  # values of a discrete support per batch
KNOWN = {
    "√(2π)": math.sqrt(2 * math.pi), "1/√(2π)": 1 / math.sqrt(2 * math.pi), "2π": 2 * math.pi, "π": math.pi,
    "√π": math.sqrt(math.pi), "√2": math.sqrt(2), "2": 2.0, "1/2": 0.5, "4": 4.0, "1/4": 0.25, "1/255": 1 / 255,
    "1/256": 1 / 256, "255": 255.0, "256": 256.0,
}  # fmt: skip


@stage(4, "normalisation")
def normalisation(context: Context) -> Finding:
    """Whether p(x|z), q(z|x) and p(z) sum to one over all values: for some elements, at several z."""
    measured: dict[str, float] = {}
    names, wrong = [], []
    for what, totals, discrete in _parts(context):
        if totals is None:
            continue
        worst = totals[(totals.log().abs()).nan_to_num(math.inf).argmax()]
        measured[what] = float(worst)
        names.append(what)
        if not abs(float(worst) - 1) <= ALLOWED[discrete]:
            wrong.append(f"{what} {diagnosis(totals, discrete)}")
    if wrong:
        return Finding(
            "normalisation", False, measured, "; ".join(wrong),
            "correct log_prob of that family: its values are not log densities and cannot be compared between models",
        )  # fmt: skip
    off = max(abs(v - 1) for v in measured.values())
    return Finding("normalisation", True, measured, f"{', '.join(names)} sum to 1 (within {off:.0e})")


def diagnosis(totals: Tensor, discrete: bool) -> str:
    """A description of the error in totals that are not one.

    >>> diagnosis(torch.tensor([2.5066, 2.5067]), False)
    'integrates to 2.507 = √(2π) everywhere: a constant was dropped'
    >>> diagnosis(torch.tensor([0.83, 1.0]), True)
    'sums to 0.83 .. 1: not a mass function; some values lack mass, for example missing edge bins'
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
        return f"{between}: not a mass function; some values lack mass, for example missing edge bins"
    return f"{between}: the error depends on the parameters, for example a dropped log scale"


def _parts(context: Context) -> list[tuple[str, Tensor | None, bool]]:
    """The likelihood, the posterior and the prior: a name, the totals of some elements, and whether it is discrete."""
    vae, latents = context.vae, context.vae.latents
    rows = slice(0, ITEMS)
    given = [context.tested.zs, context.prior_draws] if latents.has_prior else [context.tested.zs]
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
    with seeded(seed, "normalisation"):
        pieces = separate(d)
    return torch.cat([_totals_of_piece(piece, own or support, seed) for piece, own in pieces])


def _totals_of_piece(d: Distribution, support: Constraint, seed: int) -> Tensor:
    """The totals of some elements of an element-wise distribution, or of all elements of a few joint ones."""
    dims, count = len(d.batch_shape), d.batch_shape.numel()
    generator = torch.Generator().manual_seed(seed)
    index = torch.randperm(count, generator=generator)[:ELEMENTS].sort().values
    chosen = mapped(d, lambda t: (t.flatten(0, dims - 1)[index.to(t.device)] if t.dim() >= dims else t).double())
    if chosen.event_shape:
        return _of_channels(chosen, support, seed)
    if support.is_discrete:
        values = torch.arange(listed(support).start, listed(support).stop, dtype=torch.float64, device=device_of(d))
        masses = [chosen.log_prob(some[:, None].expand(-1, len(index))).exp().sum(0) for some in values.split(AT_ONCE)]
        return torch.stack(masses).double().sum(0).cpu()
    with seeded(seed, "normalisation"):
        draws = chosen.sample((DRAWS,)).double()
    nodes = points(draws, support)
    density = chosen.log_prob(nodes).exp().nan_to_num(math.inf)
    return torch.trapezoid(torch.where(support.check(nodes), density, 0.0), nodes, dim=0).cpu()


def _of_channels(d: Distribution, support: Constraint, seed: int) -> Tensor:
    """The totals of each channel's conditional density given the previous channels, at a draw of those."""
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
    z = context.prior_draws[0]
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
        NotAvailable: if the values cannot be listed.
    """
    if support == constraints.boolean:
        return range(2)
    if isinstance(support, type(constraints.nonnegative_integer)) and support == constraints.nonnegative_integer:
        return range(MOST_VALUES)  # the mass of larger values is negligible
    if isinstance(support, constraints.integer_interval) and support.upper_bound - support.lower_bound < MOST_VALUES:
        return range(int(support.lower_bound), int(support.upper_bound) + 1)
    raise NotAvailable(f"the values of {support} cannot be listed")


def points(draws: Tensor, support: Constraint) -> Tensor:
    """Sorted points in the support, dense around the draws: ``(DRAWS, E) -> (P, E)``, float64.

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
