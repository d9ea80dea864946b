"""Everything between the data and what the likelihood reads: the walk through the latents.

Every task is a walk with a different way of drawing z. A *draw* is a function
``(level, q, p) -> z``; the ones that tasks use are below.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from ladle import families
from ladle.data import Batch
from ladle.seeds import key, seeded
from ladle.shapes import Size, sum_event

Draw = Callable[[int, Distribution | None, Distribution | None], Tensor]


class Level(NamedTuple):
    """One stochastic level of a walk.

    ``z`` is ``(*S, B, *event)``; ``log_q``, ``log_p`` and ``kl`` are ``(*S, B)`` in nats, zero where there is
    no posterior or no prior.
    """

    z: Tensor
    q: Distribution | None
    p: Distribution | None
    log_q: Tensor
    log_p: Tensor
    kl: Tensor


class Trace(NamedTuple):
    """A finished walk: its levels, and ``h``, what the likelihood reads, ``(*S, B, *read)``."""

    levels: tuple[Level, ...]
    h: Tensor


class Latents(nn.Module, ABC):
    """One or more levels of latent variables with their posteriors and priors."""

    events: tuple[Size, ...]

    @property
    def has_prior(self) -> bool:
        """Whether there is a p(z): a plain autoencoder has none, and so no p(x)."""
        return True

    @abstractmethod
    def walk(
        self,
        draw: Draw,
        batch: Batch | None = None,
        n: int | None = None,
        context: Mapping[str, Tensor] | None = None,
        samples: Size = (),
    ) -> Trace:
        """Visit the levels from the top, drawing z at each one.

        Args:
            draw: how to choose z.
            batch: the data; without it only the prior is there, and ``n`` says how many to draw.
            n: the number of items when there is no batch.
            context: what the model is conditioned on.
            samples: ``S``; expanded once, at entry.
        """


def kl(q: Distribution, p: Distribution, log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) per item: in closed form where one is registered for this pair of types (a joint and an element-wise
    one may be a pair), else the one-sample estimate ``log q(z) - log p(z)``, each side summed by its own event."""
    try:
        return sum_event(kl_divergence(q, p), log_q.dim())
    except NotImplementedError:
        return log_q - log_p


def level(z: Tensor, q: Distribution | None, p: Distribution | None, event: Size) -> Level:
    """The numbers of one level, computed where autocast, compilation and data parallelism see them."""
    lead = z.dim() - len(event)
    nothing = z.new_zeros(z.shape[:lead], dtype=torch.float32)
    if p is None:  # a plain autoencoder: its pools are unknown
        return Level(z, q, p, nothing, nothing, nothing)
    log_p = sum_event(p.log_prob(z), lead)
    if q is None:
        return Level(z, q, p, nothing, log_p, nothing)
    log_q = sum_event(q.log_prob(z), lead)
    return Level(z, q, p, log_q, log_p, kl(q, p, log_q, log_p).expand(log_q.shape))


# ---------------------------------------------------------------------------------------------- draws


def from_posterior(_: int, q: Distribution | None, p: Distribution | None) -> Tensor:
    """Training: a draw from q that gradients pass through."""
    assert q is not None
    return families.draw(q)


def centres(_: int, q: Distribution | None, p: Distribution | None) -> Tensor:
    """Encoding: the deterministic representative of q."""
    assert q is not None
    return families.centre(q)


def from_prior(temperature: float = 1.0) -> Draw:
    """Generation: a draw from the prior, at a temperature; at 0 its centre."""

    def draw(_: int, q: Distribution | None, p: Distribution | None) -> Tensor:
        if p is None:
            raise families.NotAvailable(
                "a plain autoencoder has no prior p(z), so there is no pool to draw from; "
                "fit one of the VAE recipes, or encode data and decode those latents"
            )
        if temperature == 0.0:
            return families.centre(p)
        return (p if temperature == 1.0 else families.tempered(p, temperature)).sample()

    return draw


def replay(zs: Sequence[Tensor], then: Draw | None = None) -> Draw:
    """Decoding: the given latents, one tensor per level, from the top. With some levels only, the ones below them are
    drawn as ``then`` says: keep the gist, vary the detail."""
    return lambda i, q, p: zs[i] if then is None or i < len(zs) else then(i, q, p)


def keyed(
    seed: int,
    items: Sequence[int],
    samples: Size = (),
    block: int = 0,
    take: Callable[[Distribution], Tensor] = operator.methodcaller("sample"),
) -> Draw:
    """Evaluation: a draw from q whose noise depends on (seed, item, block, level) and on nothing else, so
    that an item's numbers are the same in every batch. Drawn on the CPU, so the same on every device.

    Args:
        seed: the seed of the evaluation.
        items: the key of each item in the batch.
        samples: the walk's ``S``.
        block: which block of samples this is.
        take: how to draw from one item's q; ``families.draw`` lets gradients pass.
    """

    def draw(i: int, q: Distribution | None, p: Distribution | None) -> Tensor:
        assert q is not None
        axis = len(samples)
        here = families.mapped(q, Tensor.cpu)
        zs = []
        with seeded(seed):
            for row, item in enumerate(items):
                torch.default_generator.manual_seed(key(seed, "item", int(item), block, i))
                zs.append(take(families.mapped(here, lambda t, row=row: t.select(axis, row))))  # type: ignore[misc]
        return torch.stack(zs, dim=axis).to(device_of(q))

    return draw


def device_of(d: Distribution) -> torch.device:
    """The device that a distribution's tensors are on."""
    found: list[torch.device] = []
    families.mapped(d, lambda t: found.append(t.device) or t)  # type: ignore[func-returns-value]
    return found[0]
