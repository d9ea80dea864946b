"""Latents, and the *walk*: the visit of all levels of latents from the top.

Every task is a walk with a different *draw*, a function ``(level, q, p) -> z`` that chooses z at each level. The draws
that the tasks use are at the end of this module.
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
from ladle.model.conditional import NO_CONTEXT
from ladle.seeds import key, seeded
from ladle.shapes import Size, sum_event

Draw = Callable[[int, Distribution | None, Distribution | None], Tensor]


class Level(NamedTuple):
    """One stochastic level of a walk.

    ``z`` is ``(*S, B, *event)``; ``log_q``, ``log_p`` and ``kl`` are ``(*S, B)`` in nats, and zero if there is
    no posterior or no prior.
    """

    z: Tensor
    q: Distribution | None
    p: Distribution | None
    log_q: Tensor
    log_p: Tensor
    kl: Tensor


class Trace(NamedTuple):
    """The result of a walk: its levels, and ``h``, the input of the likelihood, ``(*S, B, *read)``."""

    levels: tuple[Level, ...]
    h: Tensor


class Latents(nn.Module, ABC):
    """One or more levels of latent variables with their posteriors and priors.

    Attributes:
        events: the shape of z at each level, from the top.
        context: the context that the posteriors and priors read, see :class:`ladle.model.conditional.Conditional`.
    """

    events: tuple[Size, ...]
    context: Mapping[str, int] = NO_CONTEXT

    @property
    def has_prior(self) -> bool:
        """Whether there is a prior p(z). A plain autoencoder has none, and therefore no p(x)."""
        return True

    def describe(self) -> str:
        """A short description of the posterior."""
        return f"latents of {', '.join(' x '.join(map(str, event)) for event in self.events)}"

    @abstractmethod
    def walk(self, draw: Draw, batch: Batch, samples: Size = ()) -> Trace:
        """Visit the levels from the top, drawing z at each one.

        Args:
            draw: how to choose z.
            batch: the data and their context. For a blank batch there is no posterior, only the prior.
            samples: ``S``; q(z|x) of the top level is expanded to it once.
        """


def kl(q: Distribution, p: Distribution, log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) per item: in closed form if one is registered for this pair of types (which may be a joint and an
    element-wise distribution), otherwise the one-sample estimate ``log q(z) - log p(z)``, summed over events."""
    try:
        return sum_event(kl_divergence(q, p), log_q.dim())
    except NotImplementedError:
        return log_q - log_p


def level(z: Tensor, q: Distribution | None, p: Distribution | None, event: Size) -> Level:
    """The terms of one level, computed inside the walk so that autocast, compilation and data parallelism apply."""
    lead = z.dim() - len(event)
    nothing = z.new_zeros(z.shape[:lead], dtype=torch.float32)
    if p is None:  # a plain autoencoder
        return Level(z, q, p, nothing, nothing, nothing)
    log_p = sum_event(p.log_prob(z), lead)
    if q is None:
        return Level(z, q, p, nothing, log_p, nothing)
    log_q = sum_event(q.log_prob(z), lead)
    return Level(z, q, p, log_q, log_p, kl(q, p, log_q, log_p).expand(log_q.shape))


# ---------------------------------------------------------------------------------------------- draws


def from_posterior(_: int, q: Distribution | None, p: Distribution | None) -> Tensor:
    """For training: a reparameterised draw from q."""
    assert q is not None
    return families.draw(q)


def centres(_: int, q: Distribution | None, p: Distribution | None) -> Tensor:
    """For encoding: the centre of q, which is deterministic."""
    assert q is not None
    return families.centre(q)


def from_prior(temperature: float = 1.0) -> Draw:
    """For generation: a draw from the prior at a temperature. Temperature 0 gives its centre."""

    def draw(_: int, q: Distribution | None, p: Distribution | None) -> Tensor:
        if p is None:
            raise families.NotAvailable(
                "a plain autoencoder has no prior p(z), so it cannot generate; "
                "fit one of the VAE recipes, or encode data and decode those latents"
            )
        if temperature == 0.0:
            return families.centre(p)
        return (p if temperature == 1.0 else families.tempered(p, temperature)).sample()

    return draw


def replay(zs: Sequence[Tensor], then: Draw | None = None) -> Draw:
    """For decoding: the given latents, one tensor per level, from the top. If only upper levels are given, the lower
    ones are drawn by ``then``, which varies the details of an item."""
    return lambda i, q, p: zs[i] if then is None or i < len(zs) else then(i, q, p)


def keyed(
    seed: int,
    items: Sequence[int],
    samples: Size = (),
    block: int = 0,
    take: Callable[[Distribution], Tensor] = operator.methodcaller("sample"),
) -> Draw:
    """For evaluation: a draw from q whose noise depends only on (seed, item, block, level), so that the results of an
    item are the same in every batch. The noise is generated on the CPU, so it is the same on every device.

    Args:
        seed: the seed of the evaluation.
        items: the key of each item in the batch.
        samples: ``S`` of the walk.
        block: the index of the block of samples.
        take: the function that draws from the q of one item; ``families.draw`` is reparameterised.
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
