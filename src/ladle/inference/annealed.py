"""log p(x) by annealed importance sampling, and between two bounds on items that the model itself made.

::

    q(z|x) = f_0 --HMC--> f_b --HMC--> ... --HMC--> f_1 = p(x, z),      f_b = q(z|x)^(1 - b) p(x, z)^b

The posterior's net runs once for an item. What is computed at every step is the decoder and its gradient, in double
precision and for all chains of all items together, so that an item's number does not depend on its neighbours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from ladle.data import Batch
from ladle.families import NotAvailable
from ladle.inference.bounds import bound
from ladle.inference.evidence import Items, check_density, doubled, lives, on_real_line, outputs
from ladle.inference.proposals import Proposal, proposal_of
from ladle.model.latents import from_prior, keyed
from ladle.model.vae import VAE
from ladle.seeds import key, seeded
from ladle.shapes import Size, numel, sum_event

CHAINS, TEMPERATURES = 16, 500
LEAPS = 4  # leapfrog steps of one transition
TARGET = 0.65  # of proposals are accepted, where an independent draw costs least
COARSE = 5  # the step sizes are tuned at every fifth temperature
GAIN = 0.2  # how fast they follow the acceptance
STEEP = 1.0  # of the sigmoid of the temperatures: from q to the posterior nearly a straight line is best
BLOCK = 20  # transitions whose noise is drawn at a time
SPREAD = 200  # draws that the scale of the start is taken from
NORMAL = 1.349  # the distance between the quartiles of the standard normal
NUMBERS = 128 * 784  # that the decoder's net puts out at a time


class Point(NamedTuple):
    """Where the chains are: ``z``, ``(C, B, *event)``; log q(z|x) and log p(x, z), ``(2, C, B)``; and the gradients of
    the two, ``(2, C, B, *event)``."""

    z: Tensor
    log_f: Tensor
    slope: Tensor


class Path(NamedTuple):
    """From q(z|x) to p(x, z), for B items.

    ``scale`` is q's own in every dimension, ``(B, *event)``: the unit of the steps.
    """

    vae: VAE
    batch: Batch
    q: Distribution
    p: Distribution
    scale: Tensor

    def at(self, z: Tensor) -> Point:
        """Both ends at ``z``, ``(C, B, *event)``."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            log_q, log_p = (sum_event(d.log_prob(z), 2) for d in (self.q, self.p))
            h = self.vae.latents.posterior.family.read(z)  # type: ignore[union-attr, operator]
            both = log_q, log_p + self.vae.log_px(h, self.batch, 2)
            slopes = [torch.autograd.grad(log_f.sum(), z)[0] for log_f in both]
        return Point(z.detach(), torch.stack(both).detach(), torch.stack(slopes))


def schedule(temperatures: int) -> Tensor:
    """From 0 to 1 in so many steps, smaller ones near the ends: a sigmoid, ``(temperatures + 1,)``.

    >>> [round(b, 3) for b in schedule(4).tolist()]
    [0.0, 0.235, 0.5, 0.765, 1.0]
    """
    curve = torch.sigmoid(torch.linspace(-STEEP, STEEP, temperatures + 1, dtype=torch.float64))
    return (curve - curve[0]) / (curve[-1] - curve[0])


def mixed(ends: Tensor, beta: Tensor) -> Tensor:
    """Between what is first and what is second in ``ends``."""
    return torch.lerp(ends[0], ends[1], beta)


def transition(
    path: Path, here: Point, beta: Tensor, step: Tensor, momentum: Tensor, log_u: Tensor
) -> tuple[Point, Tensor]:
    """One step of Hamiltonian Monte Carlo, which leaves ``q(z|x)^(1 - beta) p(x, z)^beta`` as it is.

    Args:
        path: the ends between which ``beta`` mixes.
        here: where the chains are.
        beta: from 0 to 1.
        step: the leapfrog step in units of q's scale, ``(B,)``.
        momentum: standard normal, ``(C, B, *event)``.
        log_u: logarithms of uniform numbers, ``(C, B)``.

    Returns:
        Where the chains are then, and the probability with which each proposal was accepted, ``(C, B)``.

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
    taken = log_u < log_accept  # never where it is NaN
    each = taken.reshape(*taken.shape, *[1] * (momentum.dim() - 2))
    new = Point(*(torch.where(t, b, a) for t, a, b in zip((each, taken, each), here, there, strict=True)))
    return new, log_accept.exp().clamp(max=1).nan_to_num(0.0)


def noise(seed: int, phase: str, items: Sequence[int], shape: Size) -> Iterator[tuple[Tensor, Tensor]]:
    """The momenta and log uniforms of one transition after the other, a stream of its own for each item.

    Args:
        seed: of all noise.
        phase: which run this is.
        items: B keys.
        shape: ``(C, *event)``.

    Yields:
        ``(C, B, *event)`` and ``(C, B)``, drawn on the CPU, so the same on every device.
    """
    streams = [torch.Generator().manual_seed(key(seed, "anneal", phase, int(item))) for item in items]
    while True:
        normal = [torch.randn(BLOCK, *shape, generator=g, dtype=torch.float64) for g in streams]
        uniform = [torch.rand(BLOCK, shape[0], generator=g, dtype=torch.float64) for g in streams]
        yield from zip(torch.stack(normal, dim=2), torch.stack(uniform, dim=2).log(), strict=True)


def tune(path: Path, start: Tensor, betas: Tensor, seed: int) -> Tensor:
    """The first phase: the step at which 65 % of an item's proposals are accepted, at every temperature, ``(T, B)``.

    It follows the acceptance of the item's own chains along a path with fewer temperatures; the chains are forgotten.
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

    Forwards from draws of q(z|x), the mean of w is p(x). Backwards from a draw of p(z|x), it is 1 / p(x): the same
    transitions in reverse order, each of which is its own reverse.

    Args:
        path: from q(z|x) to p(x, z).
        start: ``(C, B, *event)``.
        betas: ``(T,)``, from 0 to 1 or from 1 to 0.
        steps: the leapfrog step at every temperature, ``(T, B)``, frozen.
        seed: of all noise.
        phase: which run this is.
    """
    here, log_w = path.at(start), torch.zeros(start.shape[:2], dtype=torch.float64, device=start.device)
    random = noise(seed, phase, path.batch.index.tolist(), (start.shape[0], *start.shape[2:]))
    for t, (now, then) in enumerate(itertools.pairwise(betas), start=1):
        log_w = log_w + (then - now) * (here.log_f[1] - here.log_f[0])
        if t < len(betas) - 1:  # no weight is taken after the last
            here, _ = transition(path, here, then, steps[t], *(r.to(start.device) for r in next(random)))
    return log_w


def unconstrained(vae: VAE) -> bool:
    """Whether there is one level of latents, on the real line: what Hamiltonian Monte Carlo can move."""
    return on_real_line(vae)


def prepared(vae: VAE) -> VAE:
    """A frozen copy in double precision.

    Raises:
        NotAvailable: for a model without a density, or latents that cannot be moved.
    """
    check_density(vae)
    if not unconstrained(vae):
        raise NotAvailable(
            f"annealed importance sampling moves one level of latents on the real line, and here are {lives(vae)}; "
            "methods that fit: exact, where there are few latents, and iwae"
        )
    return doubled(vae)


def path_of(vae: VAE, batch: Batch, chains: int, seed: int, propose: Proposal) -> tuple[Path, Tensor]:
    """The path for a batch, and a draw of its start for every chain, ``(C, B, *event)``."""
    batch, (event,) = batch._replace(x=batch.x.double()), vae.latents.events

    def drawn(size: int, block: int) -> tuple[Tensor, Distribution, Distribution]:
        own, starts = keyed(seed, batch.index.tolist(), (size,), block), []

        def draw(i: int, q: Distribution | None, p: Distribution | None) -> Tensor:
            assert q is not None
            assert p is not None
            starts.extend([propose(q, p, event), p])
            return own(i, starts[0], p)

        walk = vae.latents.walk(draw, batch, context=batch.context, samples=(size,))
        return walk.levels[0].z, starts[0], starts[1]

    with torch.no_grad():
        z, q, p = drawn(chains, 0)
        low, high = drawn(SPREAD, 1)[0].quantile(torch.tensor([0.25, 0.75]).to(z), dim=0)
    return Path(vae, batch, q, p, (high - low) / NORMAL), z


def annealed(
    vae: VAE,
    batches: Iterable[Batch],
    *,
    samples: int = CHAINS,
    temperatures: int = TEMPERATURES,
    seed: int = 0,
    proposal: str = "q",
) -> Iterator[Items]:
    """Annealed importance sampling of every item, a batch at a time.

    Chains walk from q(z|x) to p(z|x) through ``q(z|x)^(1 - b) p(x, z)^b``, with a step of Hamiltonian Monte Carlo at
    every temperature b. The mean of their weights is p(x), so its logarithm is in expectation a lower bound on
    log p(x), tighter with more temperatures. A first, shorter run finds step sizes; the weights are those of a second
    one with fresh noise, which keeps them.

    Args:
        vae: a model with one level of latents on the real line.
        batches: the items; make them no larger than :func:`rows` says.
        samples: chains per item, C.
        temperatures: how many steps from q to the posterior.
        seed: of all noise, keyed by item.
        proposal: where the chains start: ``q``, ``inflated`` or ``defensive``, see :mod:`ladle.inference.proposals`.

    Yields:
        What was found of a batch.

    Raises:
        NotAvailable: for other latents, or a model without a density.

    Reference:
        Neal: "Annealed Importance Sampling", 2001.
        Wu, Burda, Salakhutdinov, Grosse: "On the Quantitative Analysis of Decoder-Based Generative Models", 2017.
    """
    vae, betas, propose = prepared(vae), schedule(temperatures), proposal_of(proposal)
    for batch in batches:
        path, start = path_of(vae, batch, samples, seed, propose)
        log_w = anneal(path, start, betas, tune(path, start, betas, seed), seed, "measure").cpu()
        ess = 1 / log_w.softmax(0).square().sum(0) / samples
        unknown = np.full(len(ess), np.nan)  # chains are too few to see the tail of their weights
        index = batch.index.cpu().numpy()
        yield Items(
            "ais", "bound", samples, index, -bound(log_w).numpy(), ess.numpy(), unknown, np.empty((len(ess), 0))
        )


def rows(vae: VAE, chains: int) -> int:
    """How many items to take at a time, so that memory and the wait for progress stay bounded."""
    return max(1, min(128, NUMBERS // outputs(vae)) // chains)


class Sandwich(NamedTuple):
    """log p(x) of items that the model itself made, from below and from above, in nats.

    Attributes:
        items: how many items, N.
        samples: chains per item and bound.
        temperatures: how many.
        seed: of the items and of all noise.
        lower: the lower bound, the mean over items.
        upper: the upper bound, the mean over items.
        width: upper - lower. Each is a bound in expectation, so a width near 0 may fall below it by chance.
        se: the standard error of the width over items.
        widths: of each item.
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
        """In words."""
        return (
            f"{self.lower:.3f} <= log p(x) <= {self.upper:.3f} nats, {self.width:.3f} ± {self.se:.3f} wide, on "
            f"{self.items} items simulated from the model, by {self.samples} chains through {self.temperatures} "
            "temperatures both ways"
        )

    def to_json(self) -> dict[str, Any]:
        """As plain data; what is not a number is None."""
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
    """How far annealed importance sampling may be from the truth, measured where an upper bound can be had.

    An item that is simulated, ``z ~ p(z), x ~ p(x|z)``, comes with an exact draw from its posterior. Chains that
    walk back from it have weights whose mean is 1 / p(x): minus the logarithm of that mean is in expectation an upper
    bound on log p(x). The truth lies between it and what chains that walk forwards give. For data it is a promise as
    far as data look like what the model makes.

    Args:
        vae: a model with one level of latents on the real line.
        items: how many to simulate.
        samples: chains per item, for each bound.
        temperatures: how many steps from q to the posterior.
        seed: of the items and of all noise.
        proposal: where the path starts: ``q``, ``inflated`` or ``defensive``, see :mod:`ladle.inference.proposals`.
        progress: called with (items done, items in all).

    Raises:
        NotAvailable: for other latents, or a model without a density.

    Reference:
        Grosse, Ghahramani, Adams: "Sandwiching the Marginal Likelihood Using Bidirectional Monte Carlo", 2015.
    """
    vae, betas, propose = prepared(vae), schedule(temperatures), proposal_of(proposal)
    size, found = rows(vae, samples), []
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
    lowest, highest, width = bounds.mean(1).tolist()
    se, widths = float(bounds[2].std()) / math.sqrt(items), tuple(bounds[2].tolist())
    return Sandwich(items, samples, temperatures, seed, lowest, highest, width, se, widths)


def simulated(vae: VAE, items: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """Items of the model's own making, each from its own noise: z ``(B, *event)`` and x ``(B, *event)``."""
    made = []
    for item in items:
        with torch.no_grad(), seeded(seed, "simulated", item):
            trace = vae.latents.walk(from_prior(), n=1)
            made.append((trace.levels[0].z, vae.explain(trace.h).sample()))
    z, x = zip(*made, strict=True)
    return torch.cat(z), torch.cat(x)
