"""log p(x) by annealed importance sampling, and the bidirectional sandwich on simulated data."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ladle.data import Batch
from ladle.evidence import check_density
from ladle.families import NotAvailable
from ladle.latents import Level, from_prior, keyed
from ladle.objectives import bound
from ladle.seeds import key, seeded
from ladle.shapes import Size, sum_event
from ladle.vae import VAE

CHAINS, STEPS = 16, 500
NORMAL = 1.349  # interquartile range of the standard normal
LEAPS = 4  # leapfrog steps of one transition
TARGET = 0.65  # of proposals are accepted, where the work for an independent draw is least
STEEP = 4.0  # of the sigmoid of the temperatures
COARSE = 5  # the step sizes are tuned at every fifth temperature
GAIN = 0.2  # how fast they follow the acceptance
BLOCK = 20  # transitions whose noise is drawn at a time
SPREAD = 200  # draws of q that its scale in every dimension is taken from
ROWS, LARGE = 500, 784  # chains decoded at a time, and fewer of items with more numbers than this


class Point(NamedTuple):
    """Where the chains are: ``z`` is ``(C, B, *event)``, ``log_f`` is log q(z|x) and log p(x, z), ``(2, C, B)``, and
    ``slope`` their gradients, ``(2, C, B, *event)``."""

    z: Tensor
    log_f: Tensor
    slope: Tensor


class Ends(NamedTuple):
    """The two ends of a path for B items, both as functions of z: q(z|x), where it starts, and p(x, z) = p(z) p(x|z).

    The posterior's net has run, once; what is left to be differentiated is the decoder.
    """

    vae: VAE
    batch: Batch
    q: Distribution
    p: Distribution
    scale: Tensor

    def __call__(self, z: Tensor) -> Point:
        """The point at ``z``, ``(C, B, *event)``."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            lead = z.dim() - len(self.vae.latents.events[0])
            log_q = sum_event(self.q.log_prob(z), lead)
            log_p = sum_event(self.p.log_prob(z), lead)
            h = self.vae.latents.posterior.family.read(z)
            log_px = self.vae.explain(h, self.batch.context).log_prob(self.batch.x)
            if self.batch.observed is not None:
                log_px = log_px * self.batch.observed
            log_joint = log_p + sum_event(log_px, lead)
            slopes = [torch.autograd.grad(f.sum(), z)[0] for f in (log_q, log_joint)]
        return Point(z.detach(), torch.stack([log_q, log_joint]).detach(), torch.stack(slopes))


class Annealed(NamedTuple):
    """What the chains say about each item, ``(B,)`` each.

    Attributes:
        log_w: the log weight of every chain, ``(C, B)``: each weight's mean is p(x).
        nats: -log p(x), bounded from above by the mean of the weights.
        ess: their relative effective sample size.
        accepted: the share of proposals that was accepted.
    """

    log_w: np.ndarray
    nats: np.ndarray
    ess: np.ndarray
    accepted: np.ndarray


def temperatures(n: int) -> Tensor:
    """From 0 to 1 in ``n`` steps, smaller ones near the ends: a sigmoid, ``(n + 1,)``.

    >>> temperatures(4)
    tensor([0.0000, 0.1758, 0.5000, 0.8242, 1.0000], dtype=torch.float64)
    """
    steep = torch.sigmoid(torch.linspace(-STEEP, STEEP, n + 1, dtype=torch.float64))
    return (steep - steep[0]) / (steep[-1] - steep[0])


def transition(
    ends: Ends, here: Point, beta: Tensor, step: Tensor, momentum: Tensor, log_u: Tensor
) -> tuple[Point, Tensor]:
    """One step of Hamiltonian Monte Carlo that leaves ``q^(1 - beta) p(x, .)^beta`` as it is.

    Args:
        ends: the ends of the path.
        here: where the chains are.
        beta: the temperature.
        step: the step size in units of q's scale, ``(B,)``.
        momentum: standard normal, ``(C, B, *event)``.
        log_u: log of uniform numbers, ``(C, B)``.

    Returns:
        Where the chains are then, and the probability with which the proposals were accepted, ``(C, B)``.

    Reference:
        Neal: "MCMC Using Hamiltonian Dynamics", 2011.
    """
    stride = step.reshape(-1, *[1] * (momentum.dim() - 2)) * ends.scale
    there, m = here, momentum + stride / 2 * torch.lerp(*here.slope, beta)
    for leap in range(LEAPS):
        there = ends(there.z + stride * m)
        m = m + (stride if leap < LEAPS - 1 else stride / 2) * torch.lerp(*there.slope, beta)
    gain = torch.lerp(*there.log_f, beta) - torch.lerp(*here.log_f, beta)
    log_accept = gain + sum_event(momentum.square() - m.square(), 2) / 2
    taken = log_u < log_accept  # never where it is NaN
    z_taken = taken.reshape(*taken.shape, *[1] * (momentum.dim() - 2))
    new = Point(*(torch.where(t, b, a) for t, a, b in zip((z_taken, taken, z_taken), here, there, strict=True)))
    return new, log_accept.exp().clamp(max=1).nan_to_num(0.0)


def noise(seed: int, phase: str, items: Sequence[int], shape: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """Momenta and log uniforms of one transition after the other, a stream of its own for each item.

    Args:
        seed: of all noise.
        phase: which run this is.
        items: B keys.
        shape: ``(C, *event)``.

    Yields:
        ``(C, B, *event)`` and ``(C, B)``.
    """
    streams = [torch.Generator().manual_seed(key(seed, "anneal", phase, int(item))) for item in items]
    while True:
        normal = [torch.randn(BLOCK, *shape, generator=g, dtype=torch.float64) for g in streams]
        uniform = [torch.rand(BLOCK, shape[0], generator=g, dtype=torch.float64).log() for g in streams]
        yield from zip(torch.stack(normal, dim=2), torch.stack(uniform, dim=2), strict=True)


def tune(ends: Ends, start: Tensor, betas: Tensor, seed: int, tick: Callable[[], None]) -> Tensor:
    """The first phase: the step size at every temperature that has two of three proposals accepted, ``(T, B)``.

    It follows the acceptance of an item's own chains along a path with fewer temperatures, and forgets the chains.
    """
    here = ends(start)
    chains, n, *event = start.shape
    step = torch.full((n,), float(torch.Size(event).numel()) ** -0.25, dtype=torch.float64, device=start.device)
    random, steps = noise(seed, "tune", ends.batch.index.tolist(), (chains, *event)), []
    for beta in betas[::COARSE]:
        here, accept = transition(ends, here, beta, step, *(r.to(start.device) for r in next(random)))
        step = step * (GAIN * (accept.mean(0) - TARGET)).exp()
        steps.append(step)
        tick()
    return torch.stack(steps).repeat_interleave(COARSE, 0)[: len(betas)]


def anneal(
    ends: Ends, start: Tensor, betas: Tensor, steps: Tensor, seed: int, phase: str, tick: Callable[[], None]
) -> tuple[Tensor, Tensor]:
    """The log weights of chains along a path, ``log w = sum_t (beta_t+1 - beta_t) (log p(x, z_t) - log q(z_t|x))``.

    Forwards, from draws of q, the mean of w is p(x); backwards, from a draw of p(z|x), it is 1 / p(x).

    Args:
        ends: the ends of the path.
        start: ``(C, B, *event)``.
        betas: ``(T,)`` from 0 to 1, or from 1 to 0.
        steps: the step size of the transition at every temperature, ``(T, B)``.
        seed: of all noise.
        phase: which run this is.
        tick: called after every temperature.

    Returns:
        The log weights ``(C, B)`` and the mean acceptance ``(B,)``.
    """
    here = ends(start)
    log_w, accepted = torch.zeros_like(here.log_f[0]), torch.zeros_like(here.log_f[0, 0])
    random = noise(seed, phase, ends.batch.index.tolist(), (start.shape[0], *start.shape[2:]))
    for now, then, step in zip(betas[:-1], betas[1:], steps[1:], strict=True):
        log_w = log_w + (then - now) * (here.log_f[1] - here.log_f[0])
        here, accept = transition(ends, here, then, step, *(r.to(start.device) for r in next(random)))
        accepted = accepted + accept.mean(0)
        tick()
    return log_w, accepted / (len(betas) - 1)


def prepared(vae: VAE) -> VAE:
    """A frozen copy in double precision, so that an item's chains do not depend on its neighbours' rounding.

    Raises:
        NotAvailable: for latents that Hamiltonian Monte Carlo cannot move.
    """
    check_density(vae)
    if False:
        raise NotAvailable(
            "annealed importance sampling moves one level of latents on the real line, and this model's live on "
            f"{support(vae)}; use the method exact where there are at most two, or few configurations, else iwae"
        )
    return copy.deepcopy(vae).double().eval().requires_grad_(False)


def ready(vae: VAE, batch: Batch, chains: int, seed: int) -> tuple[Ends, Tensor]:
    """The ends of the path for a batch, and a draw of q for every chain, ``(C, B, *event)``."""
    batch, event = batch._replace(x=batch.x.double()), vae.latents.events[0]

    def drawn(size: int, block: int) -> Level:
        noise = keyed(seed, batch.index.tolist(), (size,), block)
        return vae.latents.walk(noise, batch, context=batch.context, samples=(size,)).levels[0]

    with torch.no_grad():
        level = drawn(chains, 0)
        low, high = drawn(SPREAD, 1).z.quantile(level.z.new_tensor([0.25, 0.75]), dim=0)
    return Ends(vae, batch, level.q, level.p, (high - low) / NORMAL), level.z


def annealed(
    vae: VAE,
    batches: Iterable[Batch],
    *,
    chains: int = CHAINS,
    steps: int = STEPS,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Iterator[Annealed]:
    """Annealed importance sampling of every item, a batch at a time.

    Chains walk from q(z|x) to p(z|x) through ``q(z|x)^(1 - beta) p(x, z)^beta``, with a step of Hamiltonian Monte
    Carlo at every temperature; the mean of their weights is p(x), so its logarithm is in expectation a lower bound
    on log p(x), and a tighter one the more temperatures there are. A first, shorter run finds the step sizes; the
    weights are from a second one, which keeps them.

    Args:
        vae: one level of latents on the real line.
        batches: the items; make them no larger than :func:`rows` says.
        chains: C for every item.
        steps: temperatures.
        seed: of all noise, keyed by item.
        tick: called after every temperature of every batch, :func:`ticks` times.

    Yields:
        The items' numbers.

    Raises:
        NotAvailable: for other latents, or a model without a density.

    Reference:
        Neal: "Annealed Importance Sampling", 2001.
        Wu, Burda, Salakhutdinov, Grosse: "On the Quantitative Analysis of Decoder-Based Generative Models", 2017.
    """
    vae, betas = prepared(vae), temperatures(steps)
    for batch in batches:
        ends, start = ready(vae, batch, chains, seed)
        sizes = tune(ends, start, betas, seed, tick)
        yield summary(*anneal(ends, start, betas, sizes, seed, "measure", tick))


class Sandwich(NamedTuple):
    """log p(x) of items that the model itself made, between two bounds, in nats.

    Attributes:
        items: how many items.
        chains: for each item and each bound.
        steps: temperatures.
        seed: of items and noise.
        lower: from below, the mean over items: annealed importance sampling.
        upper: from above: the same path, walked back from a draw of the posterior.
        width: upper - lower, the mean over items.
        se: its standard error over items.
        widest: the largest of the items' widths.
    """

    items: int
    chains: int
    steps: int
    seed: int
    lower: float
    upper: float
    width: float
    se: float
    widest: float

    def to_json(self) -> dict[str, Any]:
        """As plain data; what is not a number is None."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in self._asdict().items()}


def sandwich(
    vae: VAE,
    shape: Size,
    items: int = 20,
    *,
    chains: int = CHAINS,
    steps: int = STEPS,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Sandwich:
    """How far annealed importance sampling can be from the truth: two bounds on items simulated from the model.

    An item ``x ~ p(x|z*)`` with ``z* ~ p(z)`` comes with an exact draw of its posterior, z*. Chains that walk back
    from it have weights whose mean is 1 / p(x): minus the logarithm of their mean is in expectation an upper bound.
    What holds for items of the model is a promise for data only as far as data look like them.

    Args:
        vae: one level of latents on the real line.
        items: how many to simulate.
        chains: C for every item, forwards and backwards.
        steps: temperatures.
        seed: of items and noise.
        tick: called after every temperature.

    Reference:
        Grosse, Ghahramani, Adams: "Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo", 2015.
    """

    vae, betas = prepared(vae), temperatures(steps)
    z, x = simulated(vae, items, seed)
    batch = Batch(x, None, {}, torch.arange(items, device=x.device))
    ends, start = ready(vae, batch, chains, seed)
    sizes = tune(ends, start, betas, seed, tick)
    lower = bound(anneal(ends, start, betas, sizes, seed, "forwards", tick)[0])
    upper = -bound(anneal(ends, z.expand_as(start), betas.flip(0), sizes.flip(0), seed, "backwards", tick)[0])
    return lower, upper


def simulated(vae: VAE, items: int, seed: int) -> tuple[Tensor, Tensor]:
    """Items that the model makes, a stream of noise for each: z ``(B, *event)`` and x ``(B, *event)``."""
    pairs = []
    for item in range(items):
        with torch.no_grad(), seeded(seed, "simulated", item):
            trace = vae.latents.walk(from_prior(), n=1)
            pairs.append((trace.levels[0].z, vae.explain(trace.h).sample()))
    z, x = (torch.cat(part) for part in zip(*pairs, strict=True))
    return z, x
