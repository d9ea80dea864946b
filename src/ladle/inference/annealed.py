"""log p(x) by annealed importance sampling, and between two bounds on items that are simulated from the model.

::

    q(z|x) = f_0 --HMC--> f_b --HMC--> ... --HMC--> f_1 = p(x, z),      f_b = q(z|x)^(1 - b) p(x, z)^b

The encoder runs once per item. Every step computes the decoder and its gradient for all chains of all items together.
Double precision makes the result of an item independent of the other items of its batch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Distribution

from ladle.data import Batch
from ladle.families import NotAvailable
from ladle.inference.bounds import bound
from ladle.inference.evidence import (
    Items,
    Measure,
    check_density,
    decoder_width,
    describe_latents,
    in_double_precision,
    items_of,
    on_real_line,
)
from ladle.inference.proposals import Proposal, proposal_of
from ladle.model.latents import from_prior, keyed
from ladle.model.vae import VAE
from ladle.seeds import key, seeded
from ladle.shapes import Size, numel, sum_event

CHAINS, TEMPERATURES = 16, 500
LEAPS = 4  # leapfrog steps per transition
TARGET = 0.65  # the acceptance rate at which an independent draw costs least
COARSE = 5  # step sizes are tuned at every fifth temperature
GAIN = 0.2  # how fast step sizes follow the acceptance rate
STEEP = 1.0  # the slope of the sigmoid schedule: from q to the posterior a nearly linear one is best
BLOCK = 20  # transitions whose noise is drawn together
SPREAD = 200  # draws of q from which its scale is estimated
NORMAL = 1.349  # the distance between the quartiles of the standard normal
NUMBERS = 128 * 784  # decoder outputs computed together


class Point(NamedTuple):
    """The state of the chains: ``z``, ``(C, B, *event)``; log q(z|x) and log p(x, z), ``(2, C, B)``; and their
    gradients, ``(2, C, B, *event)``."""

    z: Tensor
    log_f: Tensor
    slope: Tensor


class Path(NamedTuple):
    """The path from q(z|x) to p(x, z) for B items.

    ``scale`` is the scale of q in every dimension, ``(B, *event)``: the unit of the steps.
    """

    vae: VAE
    batch: Batch
    q: Distribution
    p: Distribution
    scale: Tensor

    def at(self, z: Tensor) -> Point:
        """The densities at both ends of the path and their gradients at ``z``, ``(C, B, *event)``."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_q, log_p = (sum_event(d.log_prob(z), 2) for d in (self.q, self.p))
            h = self.vae.latents.posterior.family.read(z)  # type: ignore[union-attr, operator]
            both = log_q, log_p + self.vae.log_px(h, self.batch, 2)
            slopes = [torch.autograd.grad(log_f.sum(), z)[0] for log_f in both]
        return Point(z.detach(), torch.stack(both).detach(), torch.stack(slopes))


def schedule(temperatures: int) -> Tensor:
    """Inverse temperatures from 0 to 1, on a sigmoid whose steps are smaller near the ends: ``(temperatures + 1,)``.

    >>> [round(b, 3) for b in schedule(4).tolist()]
    [0.0, 0.235, 0.5, 0.765, 1.0]
    """
    curve = torch.sigmoid(torch.linspace(-STEEP, STEEP, temperatures + 1, dtype=torch.float64))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def mixed(ends: Tensor, beta: Tensor) -> Tensor:
    """Interpolate between ``ends[0]`` and ``ends[1]``."""
    return torch.lerp(ends[0], ends[1], beta)


def transition(
    path: Path, here: Point, beta: Tensor, step: Tensor, momentum: Tensor, log_u: Tensor
) -> tuple[Point, Tensor]:
    """One step of Hamiltonian Monte Carlo, which leaves ``q(z|x)^(1 - beta) p(x, z)^beta`` invariant.

    Args:
        path: from q(z|x) to p(x, z).
        here: the state of the chains.
        beta: the inverse temperature, from 0 to 1.
        step: the leapfrog step in units of q's scale, ``(B,)``.
        momentum: standard normal, ``(C, B, *event)``.
        log_u: logarithms of uniform numbers, ``(C, B)``.

    Returns:
        The new state of the chains, and the acceptance probability of each proposal, ``(C, B)``.

    Reference:
        Neal: "MCMC Using Hamiltonian Dynamics", 2011.
    """
    stride = step.reshape(-1, *[1] * (momentum.dim() - 2)) * path.scale
    there, m = here, momentum + stride / 2 * mixed(here.slope, beta)
    for leap in range(1, LEAPS + 1):
        there = path.at(there.z + stride * m)
        m = m + (stride if leap < LEAPS else stride / 2) * mixed(there.slope, beta)
    gain = mixed(there.log_f, beta) - mixed(here.log_f, beta)
    log_accept = gain + sum_event(momentum.square() - m.square(), 2) / 2
    accepted = log_u < log_accept  # False where log_accept is NaN
    wide = accepted.reshape(*accepted.shape, *[1] * (momentum.dim() - 2))
    new = Point(*(torch.where(t, b, a) for t, a, b in zip((wide, accepted, wide), here, there, strict=True)))
    return new, log_accept.exp().clamp(max=1).nan_to_num(0.0)


def noise(seed: int, phase: str, items: Sequence[int], shape: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """The momenta and log uniforms of successive transitions, from a separate stream for each item.

    Args:
        seed: of all noise.
        phase: the name of the run, part of the key.
        items: B keys.
        shape: ``(C, *event)``.

    Yields:
        ``(C, B, *event)`` and ``(C, B)``, drawn on the CPU: the same on every device.
    """
    streams = [torch.Generator().manual_seed(key(seed, "anneal", phase, int(item))) for item in items]
    while True:
        normal = [torch.randn(BLOCK, *shape, generator=g, dtype=torch.float64) for g in streams]
        uniform = [torch.rand(BLOCK, shape[0], generator=g, dtype=torch.float64) for g in streams]
        yield from zip(torch.stack(normal, dim=2), torch.stack(uniform, dim=2).log(), strict=True)


def tune(path: Path, start: Tensor, betas: Tensor, seed: int) -> Tensor:
    """The first phase: for each item and temperature, the step size at which 65 % of the proposals are accepted,
    ``(T, B)``.

    The step follows the acceptance rate of the item's chains along a path with fewer temperatures. The chains are
    discarded.
    """
    here = path.at(start)
    chains, _, *event = start.shape
    step, steps = torch.full_like(here.log_f[0, 0], numel(event) ** -0.25), []
    random = noise(seed, "tune", path.batch.index.tolist(), (chains, *event))
    for beta in betas[::COARSE]:
        here, accept = transition(path, here, beta, step, *(r.to(start.device) for r in next(random)))
        step = step * (GAIN * (accept.mean(0) - TARGET)).exp()
        steps.append(step)
    return torch.stack(steps).repeat_interleave(COARSE, 0)[: len(betas)]


def anneal(path: Path, start: Tensor, betas: Tensor, steps: Tensor, seed: int, phase: str) -> Tensor:
    """The log weights of chains, ``log w = sum_t (beta_t+1 - beta_t) (log p(x, z_t) - log q(z_t|x))``, ``(C, B)``.

    Forwards from draws of q(z|x), the mean of w is p(x). Backwards from a draw of p(z|x), the mean is 1 / p(x): the
    same transitions run in reverse order, and each of them is reversible.

    Args:
        path: from q(z|x) to p(x, z).
        start: ``(C, B, *event)``.
        betas: ``(T,)``, from 0 to 1 or from 1 to 0.
        steps: the leapfrog step at every temperature, ``(T, B)``.
        seed: of all noise.
        phase: the name of the run, part of the key of its noise.
    """
    here, log_w = path.at(start), torch.zeros(start.shape[:2], dtype=torch.float64, device=start.device)
    random = noise(seed, phase, path.batch.index.tolist(), (start.shape[0], *start.shape[2:]))
    for t, (now, then) in enumerate(itertools.pairwise(betas), start=1):
        log_w = log_w + (then - now) * (here.log_f[1] - here.log_f[0])
        if t < len(betas) - 1:  # the weight does not depend on a last transition
            here, _ = transition(path, here, then, steps[t], *(r.to(start.device) for r in next(random)))
    return log_w


def prepared(vae: VAE) -> VAE:
    """A frozen copy in double precision.

    Raises:
        NotAvailable: for a model without a density, or latents that Hamiltonian Monte Carlo cannot move.
    """
    check_density(vae)
    if not on_real_line(vae):
        raise NotAvailable(
            "annealed importance sampling needs one level of latents on the real line, got "
            f"{describe_latents(vae)}; methods that fit: exact, where there are few latents, and iwae"
        )
    return in_double_precision(vae)


def path_of(vae: VAE, batch: Batch, chains: int, seed: int, propose: Proposal) -> tuple[Path, Tensor]:
    """The path for a batch, and a starting point for every chain, ``(C, B, *event)``."""
    batch, (event,) = batch._replace(x=batch.x.double()), vae.latents.events

    def drawn(size: int, block: int) -> tuple[Tensor, Distribution, Distribution]:
        noise_of_items, ends = keyed(seed, batch.index.tolist(), (size,), block), []

        def draw(i: int, q: Distribution | None, p: Distribution | None) -> Tensor:
            assert q is not None
            assert p is not None
            ends.extend([propose(q, p, event), p])
            return noise_of_items(i, ends[0], p)

        walk = vae.walk(draw, batch, (size,))
        return walk.levels[0].z, ends[0], ends[1]

    with torch.no_grad():
        z, q, p = drawn(chains, 0)
        low, high = drawn(SPREAD, 1)[0].quantile(torch.tensor([0.25, 0.75]).to(z), dim=0)
    return Path(vae, batch, q, p, (high - low) / NORMAL), z


def annealed(
    vae: VAE,
    *,
    samples: int = CHAINS,
    temperatures: int = TEMPERATURES,
    seed: int = 0,
    proposal: str = "q",
) -> Measure:
    """Annealed importance sampling, prepared for a model.

    Chains move from q(z|x) to p(z|x) through ``q(z|x)^(1 - b) p(x, z)^b``, with a step of Hamiltonian Monte Carlo at
    every inverse temperature b. The mean of their weights is an unbiased estimate of p(x), so its logarithm is in
    expectation a lower bound on log p(x), tighter with more temperatures. A first, shorter run tunes the step sizes;
    the weights are those of a second run with fixed step sizes and fresh noise.

    Args:
        vae: a model with one level of latents on the real line.
        samples: chains per item, C.
        temperatures: the number of steps from q to the posterior.
        seed: of all noise, keyed by item.
        proposal: the distribution that the chains start from: ``q``, ``inflated`` or ``defensive``, see
            :mod:`ladle.inference.proposals`.

    Returns:
        A function from a batch, of at most :func:`batch_size` items, to the evidence of its items.

    Raises:
        NotAvailable: for other latents, or a model without a density.

    Reference:
        Neal: "Annealed Importance Sampling", 2001.
        Wu, Burda, Salakhutdinov, Grosse: "On the Quantitative Analysis of Decoder-Based Generative Models", 2017.
    """
    vae, betas, propose = prepared(vae), schedule(temperatures), proposal_of(proposal)

    def measure(batch: Batch) -> Items:
        path, start = path_of(vae, batch, samples, seed, propose)
        log_w = anneal(path, start, betas, tune(path, start, betas, seed), seed, "measure").cpu()
        ess = 1 / log_w.softmax(0).square().sum(0) / samples
        return items_of(batch, "ais", "bound", samples, -bound(log_w).numpy(), ess.numpy())  # too few chains for k_hat

    return measure


def batch_size(vae: VAE, samples: int) -> int:
    """The largest number of items in a batch, so that memory and the time between progress reports stay bounded."""
    return max(1, min(128, NUMBERS // decoder_width(vae)) // samples)


class Sandwich(NamedTuple):
    """Two bounds on log p(x) of items that are simulated from the model, in nats.

    Attributes:
        items: the number of items, N.
        samples: chains per item and bound.
        temperatures: the number of temperatures.
        seed: of the items and of all noise.
        lower: the lower bound, the mean over items.
        upper: the upper bound, the mean over items.
        width: upper - lower. Both are bounds in expectation, so a width near 0 may be negative by chance.
        se: the standard error of the width over items.
        widths: the width for each item.
    """

    items: int
    samples: int
    temperatures: int
    seed: int
    lower: float
    upper: float
    width: float
    se: float
    widths: tuple[float, ...]

    def __str__(self) -> str:
        """One sentence."""
        return (
            f"{self.lower:.3f} <= log p(x) <= {self.upper:.3f} nats, {self.width:.3f} ± {self.se:.3f} wide, on "
            f"{self.items} items simulated from the model, by {self.samples} chains through {self.temperatures} "
            "temperatures both ways"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, with None for NaN and infinity."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in self._asdict().items()}


def sandwich(
    vae: VAE,
    items: int = 20,
    *,
    samples: int = CHAINS,
    temperatures: int = TEMPERATURES,
    seed: int = 0,
    proposal: str = "q",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Sandwich:
    """Bound the error of annealed importance sampling on simulated items, where log p(x) has an upper bound as well.

    A simulated item, ``z ~ p(z), x ~ p(x|z)``, comes with an exact draw from its posterior. Chains that start at this
    draw and run backwards have weights whose mean is 1 / p(x): minus the logarithm of their mean is in expectation an
    upper bound on log p(x), and chains that run forwards give a lower bound. The result holds for data as far as data
    resemble samples of the model.

    Args:
        vae: a model with one level of latents on the real line.
        items: the number of items to simulate.
        samples: chains per item, for each bound.
        temperatures: the number of steps from q to the posterior.
        seed: of the items and of all noise.
        proposal: the start of the path: ``q``, ``inflated`` or ``defensive``, see :mod:`ladle.inference.proposals`.
        progress: called with (items done, items in all).

    Raises:
        NotAvailable: for other latents, or a model without a density.

    Reference:
        Grosse, Ghahramani, Adams: "Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo", 2015.
    """
    vae, betas, propose = prepared(vae), schedule(temperatures), proposal_of(proposal)
    size, found = batch_size(vae, samples), []
    for first in range(0, items, size):
        index = torch.arange(first, min(first + size, items))
        z, x = simulated(vae, index.tolist(), seed)
        path, start = path_of(vae, Batch(x, None, {}, index), samples, seed, propose)
        steps = tune(path, start, betas, seed)
        lower = bound(anneal(path, start, betas, steps, seed, "forwards"))
        upper = -bound(anneal(path, z.expand_as(start), betas.flip(0), steps.flip(0), seed, "backwards"))
        found.append(torch.stack([lower, upper, upper - lower]).cpu())
        progress(int(index[-1]) + 1, items)
    bounds = torch.cat(found, dim=1)
    lower_mean, upper_mean, width = bounds.mean(1).tolist()
    se, widths = float(bounds[2].std()) / math.sqrt(items), tuple(bounds[2].tolist())
    return Sandwich(items, samples, temperatures, seed, lower_mean, upper_mean, width, se, widths)


def simulated(vae: VAE, items: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Items simulated from the model, each with separate noise: z ``(B, *event)`` and x ``(B, *event)``."""
    pairs = []
    for item in items:
        with torch.no_grad(), seeded(seed, "simulated", item):
            blank = vae.blank(1)
            trace = vae.walk(from_prior(), blank)
            pairs.append((trace.levels[0].z, vae.explain(trace.h, blank).sample()))
    z, x = zip(*pairs, strict=True)
    return torch.cat(z), torch.cat(x)
