"""The contract of families, as functions: each takes a family and the size of one event, and raises
``AssertionError`` if the family violates the contract.

Densities are integrated in float64 over a cover of the support. ``test_faults.py`` shows, for each check, a fault that
it finds.
"""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import torch
from covers import Cover, columns, cover, ranks
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from ladle.families import Family, NotAvailable, centre, chain, draw, mapped, mean, quantile, tempered
from ladle.families.colour import ColourMixture
from ladle.families.columns import ColumnsFamily
from ladle.families.directional import VonMises, sphere
from ladle.families.discrete import OneHot, OneHotBlocks
from ladle.families.mixture import Mixture
from ladle.families.pixels import DiscretisedLogisticMixture
from ladle.families.simplex import LogisticNormal, open_simplex
from ladle.shapes import Size, sum_event
from ladle.spec import build, to_spec

FALSE_ALARM = 1e-6  # the false-alarm probability of each test of a sampler


def raws(
    family: Family, event: Size, spread: float, lead: Size = (3,), seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Random raw parameters, clamped to ±4 (or to ±``spread`` if that is larger)."""
    generator = torch.Generator().manual_seed(seed)
    bound = max(4.0, spread)
    return [
        (spread * torch.randn(*lead, *size, generator=generator, dtype=dtype)).clamp(-bound, bound)
        for size in family.raw(event)
    ]


def exact(family: Family) -> Family:
    """A copy of the family in float64 with fixed parameters."""
    return copy.deepcopy(family).double().requires_grad_(False)


def has_density(family: Family, event: Size) -> bool:
    """Whether members have a ``log_prob``."""
    d = family(*raws(family, event, 0.0))
    try:
        d.log_prob(centre(d))
    except NotAvailable:
        return False
    return True


# ------------------------------------------------------------------------------------------------- the checks


def density_sums_to_one(family: Family, event: Size) -> None:
    """The integral of ``exp(log_prob)`` is 1: to 1e-6 over a discrete support, to 2e-3 over a continuous one
    (where float64 cannot resolve values near 1)."""
    family = exact(family)
    for spread, seed in ((0.0, 0), (1.0, 1), (4.0, 2)):
        d = family(*raws(family, event, spread, seed=seed))
        cells = cover(d, family.support)
        total = cells.masses(d).sum(0)
        assert total.shape == d.batch_shape
        error, allowed = float((total - 1).abs().max()), 1e-6 if cells.discrete else 2e-3
        assert error < allowed, f"the density integrates to 1 ± {error:.1e} at spread {spread}"


def directions(size: int) -> list[Tensor]:
    """The directions on which the values of a joint distribution are projected, oblique so that no two cells of a grid
    have the same projection."""
    return [torch.tensor([math.cos(k * i + k) for i in range(size)], dtype=torch.float64) for k in (1, 2, 3)]


def sampler_agrees_with_density(family: Family, event: Size, n: int = 20_000, seed: int = 0) -> None:
    """The empirical distribution function of n samples is within the Dvoretzky-Kiefer-Wolfowitz bound of the integral
    of ``log_prob``. The bound also holds for discrete distributions. Joint continuous distributions are tested on three
    projections."""
    family = exact(family)
    d = family(*raws(family, event, 1.0, lead=(2,)))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        samples = d.sample((n,))
    assert samples.shape == (n, *d.batch_shape, *d.event_shape)
    assert bool(family.support.check(samples).all()), "a sample is outside the support"
    cells = cover(d, family.support)
    masses = columns(cells.masses(d), d.batch_shape)
    tests = len(masses) * len(directions(math.prod(d.event_shape)))
    bound = math.sqrt(math.log(2 * tests / FALSE_ALARM) / (2 * n))
    if cells.discrete:
        found = columns(ranks(samples, cells, d.batch_shape), d.batch_shape)
        for mass, rank in zip(masses, found, strict=True):
            empirical = np.cumsum(np.bincount(rank, minlength=len(mass))) / n
            assert np.abs(empirical - np.cumsum(mass)).max() < bound, "the sampler follows another distribution"
    elif d.event_shape:
        for values, edges in ((samples @ w, cells.values @ w) for w in directions(d.event_shape[0])):
            for mass, edge, here in zip(
                masses, columns(edges, d.batch_shape), columns(values, d.batch_shape), strict=True
            ):
                order = np.argsort(edge, kind="stable")
                u = np.interp(np.sort(here), edge[order], np.cumsum(mass[order]))
                distance = np.abs(np.arange(1, n + 1) / n - u).max()
                assert distance < bound + 5e-3, "the sampler follows another distribution"
    else:
        edges, found = columns(cells.values, d.batch_shape), columns(samples, d.batch_shape)
        for mass, edge, values in zip(masses, edges, found, strict=True):
            u = np.interp(np.sort(values), edge, np.cumsum(mass) - mass / 2)
            steps = np.arange(n + 1) / n
            distance = max(np.abs(steps[1:] - u).max(), np.abs(steps[:-1] - u).max())
            assert distance < bound + 1e-3, "the sampler follows another distribution"


def kl_equals_monte_carlo(q: td.Distribution, p: td.Distribution, n: int = 20_000, seed: int = 0) -> bool:
    """``kl_divergence(q, p)`` agrees with the mean of ``log q - log p`` over n samples of q, to 4 standard errors
    (a false alarm in 16,000 comparisons). Returns False if there is no closed form."""
    try:
        closed = td.kl_divergence(q, p)
    except NotImplementedError:
        return False
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        z = q.sample((n,))
    lead = 1 + min(len(q.batch_shape), len(p.batch_shape))  # with a joint distribution, an element-wise one is summed
    ratio = sum_event(q.log_prob(z), lead) - sum_event(p.log_prob(z), lead)
    error = ratio.std(0) / math.sqrt(n)
    assert closed.shape == ratio.shape[1:]
    assert bool(((closed - ratio.mean(0)).abs() <= 4 * error + 1e-6).all()), "the closed form of the KL is wrong"
    return True


def extremes(family: Family, d: td.Distribution) -> list[Tensor]:
    """Values at the extremes of a support, within the range of float32 data."""
    support = family.support
    if support == constraints.real:
        return [torch.full(d.batch_shape + d.event_shape, v) for v in (-1e6, 1e6)]
    if support == open_simplex:
        corner = torch.tensor([1e-7, 1e-30, 1 - 1e-7]).expand(d.batch_shape + d.event_shape)
        return [corner, corner.flip(-1)]
    if support == sphere:
        axis = torch.eye(d.event_shape[0])[0].expand(d.batch_shape + d.event_shape)
        return [axis, -axis, centre(d), -centre(d)]
    if isinstance(support, constraints.interval):
        return [v for v in (torch.full(d.batch_shape, v) for v in (0.0, 1e-7, 1 - 1e-7, 1.0)) if support.check(v).all()]
    if support in (constraints.positive, constraints.nonnegative):
        return [torch.full(d.batch_shape, v) for v in (1e-6, 1e6)]
    if isinstance(support, constraints.integer_interval):
        return [torch.full(d.batch_shape + d.event_shape, float(v)) for v in (support.lower_bound, support.upper_bound)]
    return []


def gradients_reach_every_parameter(family: Family, event: Size) -> None:
    """In float32, the gradient of ``log_prob`` (of a draw, if there is no density) with respect to every raw parameter
    and every learned parameter exists and is finite, even for extreme raw parameters and values, and is not zero for
    ordinary ones."""
    for spread in (0.0, 1.0, 100.0):
        raw = [r.requires_grad_() for r in raws(family, event, spread, dtype=torch.float32)]
        d = family(*raw)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if not has_density(family, event):
                outcomes = [draw(d)]
            else:
                sample = d.sample()
                inside = family.support.check(sample)
                while inside.dim() < sample.dim():
                    inside = inside.unsqueeze(-1)
                outcomes = [
                    d.log_prob(x)
                    for x in (torch.where(inside, sample, centre(d).to(sample.dtype)), *extremes(family, d))
                ]
        parameters = {f"raw[{i}]": r for i, r in enumerate(raw)} | dict(family.named_parameters())
        for number, outcome in enumerate(outcomes):
            assert bool(outcome.isfinite().all()), f"log_prob is not finite at spread {spread}"
            found = torch.autograd.grad(outcome.sum(), list(parameters.values()), allow_unused=True, retain_graph=True)
            for name, gradient in zip(parameters, found, strict=True):
                assert gradient is not None, f"no gradient reaches {name}"
                assert bool(gradient.isfinite().all()), f"the gradient to {name} is not finite at spread {spread}"
                if spread == 1.0 and number == 0:
                    assert bool(gradient.any()), f"the gradient to {name} is zero"


def masks_add_up(family: Family, event: Size) -> None:
    """For an element-wise family, the masked sum of ``log_prob`` is the sum over the observed elements, whatever the
    values of the others. ``event`` is repeated along a new first dimension, which is masked."""
    if isinstance(family, ColumnsFamily):  # it has no wider event; test_columns masks its columns
        return
    family, wide, keep = exact(family), (4, *event), torch.tensor([0, 2])
    raw = raws(family, wide, 1.0)
    d = family(*raw)
    if tuple(d.batch_shape) == (3,):
        return  # joint over the whole event
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, other = d.sample(), d.sample()
    mask = torch.zeros(4).index_fill(0, keep, 1.0).reshape(4, *(1,) * (len(d.batch_shape) - 2))
    masked = (d.log_prob(x) * mask).flatten(1).sum(1)

    observed = family(*(r[:, keep] for r in raw)).log_prob(x[:, keep]).flatten(1).sum(1)
    torch.testing.assert_close(masked, observed)

    hidden = torch.tensor([1, 3])
    changed = x.index_copy(1, hidden, other[:, hidden])
    shifted = family(*(r.index_add(1, hidden, torch.ones_like(r[:, hidden])) for r in raw))
    torch.testing.assert_close((shifted.log_prob(changed) * mask).flatten(1).sum(1), masked)


def chain_adds_up(family: Family, event: Size) -> bool:
    """The conditionals of ``chain`` sum to log p(z), and no element depends on later ones. Returns False if the family
    has no chain."""
    family = exact(family)
    d = family(*raws(family, event, 1.0))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x, other = d.sample(), d.sample()
    try:
        found = chain(d, x)
    except NotAvailable:
        return False
    shape = tuple(d.batch_shape + d.event_shape)
    assert found.shape == shape
    lead = len(shape) - len(event)
    torch.testing.assert_close(sum_event(found, lead), sum_event(d.log_prob(x), lead))
    for i in range(math.prod(event)):
        keep = (torch.arange(math.prod(event)) <= i).reshape(event)
        partial = chain(d, torch.where(keep, x, other))
        torch.testing.assert_close(*(each.reshape(*shape[:lead], -1)[..., i] for each in (partial, found)))
    return True


def spec_round_trips(family: Family, event: Size) -> None:
    """A family built from the JSON of its spec has the same spec, and the same density for the same raw parameters."""
    text = json.dumps(to_spec(family))
    rebuilt = build(json.loads(text))
    assert type(rebuilt) is type(family)
    assert json.loads(json.dumps(to_spec(rebuilt))) == json.loads(text)
    rebuilt.load_state_dict(family.state_dict())
    raw = raws(family, event, 1.0, dtype=torch.float32)
    assert family.raw(event) == rebuilt.raw(event)
    assert torch.equal(centre(family(*raw)), centre(rebuilt(*raw)))
    if has_density(family, event):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = family(*raw).sample()
        assert torch.equal(family(*raw).log_prob(x), rebuilt(*raw).log_prob(x)), "the spec is incomplete"


def zeros_are_standard(
    family: Family, event: Size, loc: float | list[float] = 0.0, scale: float | list[float] = 1.0
) -> None:
    """Raw zeros give the standard member, the same for every item.

    On the real line it is symmetric around ``loc``, with between 0.45 and 0.7 of its mass within ``scale``. On the unit
    interval, the circle, the sphere, the simplex and one-hot vectors it is uniform (the logistic-normal: centred). On
    an interval of integers it is symmetric.
    """
    family = exact(family)
    d = family(*raws(family, event, 0.0))
    middle = centre(d)
    assert bool((middle == middle[:1]).all())
    on_line = family.support == constraints.real
    loc, scale = (torch.as_tensor(v, dtype=torch.float32).double() for v in (loc, scale))
    if on_line:
        torch.testing.assert_close(middle, loc.expand(middle.shape))
    if not has_density(family, event):
        return
    cells = cover(d, family.support)
    log_p, masses = d.log_prob(cells.values), cells.masses(d)
    if on_line:
        torch.testing.assert_close(log_p, d.log_prob(2 * loc - cells.values), rtol=1e-6, atol=1e-6)
        each = masses.unsqueeze(-1) if d.event_shape else masses
        within = (each * ((cells.values - loc).abs() <= scale)).sum(0)
        assert bool(((within > 0.45) & (within < 0.7)).all()), f"the standard scale is not 1: {within}"
    elif isinstance(d, LogisticNormal):
        torch.testing.assert_close(middle, torch.full_like(middle, 1 / 3))
    elif isinstance(family.support, (constraints.interval, OneHotBlocks)) or family.support in (sphere, open_simplex):
        assert float(log_p.max() - log_p.min()) < 1e-6, "raw zeros do not give the uniform distribution"
    elif cells.discrete and family.support != constraints.nonnegative_integer:
        torch.testing.assert_close(masses, masses.flip(0))
    else:
        assert bool(log_p.isfinite().any())


def mapped_agrees(family: Family, event: Size) -> None:
    """Slicing or detaching a distribution is equivalent to building it from sliced or detached raw parameters, so the
    leading dimensions of its tensors come first and in order."""
    lead = (4, 3)
    raw = [r.requires_grad_() for r in raws(family, event, 1.0, lead=lead, dtype=torch.float32)]
    d = family(*raw)
    changes = {
        "an item": lambda t: t[1],
        "a slice": lambda t: t[1:3],
        "a column": lambda t: t[:, 2],
        "detached": Tensor.detach,
        "copied": Tensor.clone,
    }
    for name, change in changes.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            here, there = mapped(d, change), family(*(change(r) for r in raw))
            x = there.sample()
            torch.manual_seed(0)
            y = here.sample()
        assert here.batch_shape == there.batch_shape, f"{name}: the batch shape differs"
        assert x.shape == y.shape, f"{name}: the samples' shape differs"
        torch.testing.assert_close(y, x, msg=f"{name}: the samples differ")
        torch.testing.assert_close(centre(here), centre(there), msg=f"{name}: the centres differ")
        torch.testing.assert_close(mean(here), mean(there), msg=f"{name}: the means differ")
        if has_density(family, event):
            log_p = here.log_prob(x)
            torch.testing.assert_close(log_p, there.log_prob(x), msg=f"{name}: log_prob differs")
            assert name != "detached" or not log_p.requires_grad, "a gradient passes through a detached distribution"
    assert tuple(d.batch_shape + d.event_shape) == (*lead, *event), "batch and event shapes do not end in the event"


def expand_agrees(family: Family, event: Size) -> None:
    """``expand`` repeats the distribution along new leading dimensions."""
    d = family(*raws(family, event, 1.0))
    wide = d.expand((5, *d.batch_shape))
    assert wide.batch_shape == (5, *d.batch_shape)
    assert wide.event_shape == d.event_shape
    x = wide.sample()
    assert x.shape == (5, *d.batch_shape, *d.event_shape)
    if has_density(family, event):
        torch.testing.assert_close(wide.log_prob(x), d.log_prob(x))
    narrow = mapped(wide, lambda t: t[2])
    torch.testing.assert_close(centre(narrow), centre(d))


def cdf_agrees_with_density(family: Family, event: Size) -> bool:
    """``cdf`` is the integral of the density. Returns False if there is no ``cdf``."""
    family = exact(family)
    d = family(*raws(family, event, 1.0))
    cells = cover(d, family.support)
    try:
        cdf = d.cdf(cells.values)
    except NotImplementedError:
        return False
    masses = cells.masses(d)
    integral = masses.cumsum(0) - (0 if cells.discrete else masses / 2)
    assert float((cdf - integral).abs().max()) < 1e-3, "cdf is not the integral of the density"
    return True


def quantile_inverts_cdf(family: Family, event: Size) -> bool:
    """``quantile(d, u)`` is the first value at which the integrated density reaches u. Returns False without one."""
    family = exact(family)
    d = family(*raws(family, event, 1.0))
    u = torch.tensor([1e-3, 0.1, 0.3, 0.5, 0.77, 0.999], dtype=torch.float64)
    u = u.reshape(-1, *(1,) * len(d.batch_shape)).expand(-1, *d.batch_shape)
    try:
        x = quantile(d, u)
    except NotAvailable:
        return False
    assert x.shape == u.shape
    cells = cover(d, family.support)
    if cells.discrete:
        rank = ranks(x, cells, d.batch_shape)
        reached = cells.masses(d).cumsum(0)
        assert bool((rank >= 0).all())
        before = torch.where(rank > 0, reached.gather(0, (rank - 1).clamp(min=0)), 0.0)
        assert bool(((reached.gather(0, rank) >= u - 1e-9) & (before <= u + 1e-9)).all()), "not the inverse of the cdf"
        return True
    masses = cells.masses(d)
    shape = d.batch_shape
    for mass, edge, values, target in zip(*(columns(v, shape) for v in (masses, cells.values, x, u)), strict=True):
        reached = np.interp(values, edge, np.cumsum(mass) - mass / 2)
        assert np.abs(reached - target).max() < 1e-4, "not the inverse of the cdf"
    return True


def spread_of(d: td.Distribution, cells: Cover) -> Tensor:
    """A measure of spread: the variance (the circular variance of angles); for unordered values, the probability that
    two draws differ; for pixel mixtures, the mean scale of the components (the variance of the mixture may decrease as
    components widen, because they are truncated at the ends of the range)."""
    if isinstance(d, DiscretisedLogisticMixture):
        return (d.logits.softmax(-1) * d.scale).sum(-1)
    if isinstance(d, ColourMixture):
        return (d.logits.softmax(-1) * d.scale).flatten(len(d.batch_shape)).sum(-1)
    masses = cells.masses(d)
    if isinstance(d.components if isinstance(d, Mixture) else d, (OneHot, td.Categorical)):
        return 1 - masses.square().sum(0)
    if isinstance(d, VonMises):
        return 1 - torch.hypot((masses * cells.values.cos()).sum(0), (masses * cells.values.sin()).sum(0))
    if d.event_shape:
        values = cells.values.flatten(masses.dim())
        middle = (masses.unsqueeze(-1) * values).sum(0)
        return (masses * (values - middle).square().sum(-1)).sum(0)
    middle = (masses * cells.values).sum(0)
    return (masses * (cells.values - middle).square()).sum(0)


def temperature_acts(family: Family, event: Size) -> bool:
    """``tempered`` changes nothing at 1, narrows below 1, widens above 1, and refuses values of 0 and less. Returns
    False if the family has no temperature."""
    family = exact(family)
    d = family(*raws(family, event, 0.3))
    try:
        same = tempered(d, 1.0)
    except NotAvailable:
        return False
    for t in (0.0, -1.0):
        try:
            tempered(d, t)
        except ValueError:
            continue
        raise AssertionError(f"temperature {t} is accepted")
    torch.testing.assert_close(centre(same), centre(d))
    if has_density(family, event):
        cells = cover(d, family.support)
        torch.testing.assert_close(same.log_prob(cells.values), d.log_prob(cells.values))
        cold, usual, hot = (spread_of(tempered(d, t), cells) for t in (0.5, 1.0, 2.0))
        assert bool((cold < usual).all()), "a temperature of 1/2 does not narrow"
        assert bool((usual < hot).all()), "a temperature of 2 does not widen"
    return True


def centre_in_support(family: Family, event: Size) -> None:
    """``centre`` is in the support, has the shape of a value, and is deterministic; ``mean`` is finite."""
    for spread in (0.0, 1.0, 100.0):
        d = family(*raws(family, event, spread, dtype=torch.float32))
        middle = centre(d)
        assert middle.shape == d.batch_shape + d.event_shape
        assert bool(family.support.check(middle).all()), f"the centre is outside the support at spread {spread}"
        assert torch.equal(middle, centre(d))
        assert mean(d).shape == middle.shape
        assert bool(mean(d).isfinite().all()), f"the mean is not finite at spread {spread}"


def draw_carries_gradient(family: Family, event: Size) -> bool:
    """``draw`` gives a value in the support with a gradient to every raw and every learned parameter. Returns False if
    the family has no gradient estimator."""
    raw = [r.requires_grad_() for r in raws(family, event, 1.0, dtype=torch.float32)]
    d = family(*raw)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            z = draw(d)
        except NotAvailable:
            return False
        assert z.shape == d.batch_shape + d.event_shape
        assert bool(family.support.check(z.detach()).all()), "a draw is outside the support"
        outcome = (family.read(z) * torch.randn(family.read(z).shape)).sum()
    assert outcome.requires_grad, "the draw has no gradient"
    parameters = {f"raw[{i}]": r for i, r in enumerate(raw)} | dict(family.named_parameters())
    found = torch.autograd.grad(outcome, list(parameters.values()), allow_unused=True)
    for name, gradient in zip(parameters, found, strict=True):
        assert gradient is not None, f"no gradient reaches {name} from a draw"
        assert bool(gradient.isfinite().all()), f"the gradient to {name} is not finite"
        assert bool(gradient.any()), f"the gradient to {name} is zero"
    return True


def read_fits_its_size(family: Family, event: Size) -> None:
    """The result of ``read`` has the size given by ``read_size``."""
    d = family(*raws(family, event, 1.0, lead=(2, 3), dtype=torch.float32))
    size = tuple(family.read(d.sample()).shape)
    assert size == (2, 3, *family.read_size(event)), f"read gives {size}, which differs from read_size"


def bytes_are_numbers(family: Family, event: Size) -> None:
    """For a support of integers, ``log_prob`` is the same for integer and float values."""
    if not isinstance(family.support, constraints.integer_interval):
        return
    d = family(*raws(family, event, 1.0, dtype=torch.float32))
    x = d.sample().to(torch.uint8)
    torch.testing.assert_close(d.log_prob(x), d.log_prob(x.float()))
