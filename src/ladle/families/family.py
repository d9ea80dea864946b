"""The protocol of a distribution family, and the functions registered beside each one.

A family turns unconstrained real numbers (what a net puts out) into a torch ``Distribution`` over the
event. One object serves as likelihood, as posterior and as prior. Conventions every family keeps:

* **Raw zeros give the standard member** (for the normal: mean 0, standard deviation 1). Standard priors
  are built from zeros, and a zero-initialised head starts at the standard member.
* **Element-wise.** A factorised family returns a distribution whose ``batch_shape`` ends in the event;
  a joint one has it in its ``event_shape``. ``shapes.sum_event`` copes with both.
* **Extra dimensions last.** For an event ``(C, H, W)`` a mixture of K wants logits ``(C, H, W, K)``.
* **Tensors only, leading dimensions first.** Every tensor that a returned distribution holds begins with
  the leading dimensions of the raw input (they are never collapsed or permuted), so that :func:`mapped` can
  detach, move or slice the whole distribution.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import singledispatch

import torch
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.constraints import Constraint
from torch.nn import functional as F

from ladle.shapes import Size, sum_event


class NotAvailable(NotImplementedError):
    """A task asked for something this family does not have; the message says what and why."""


class Family(nn.Module, ABC):
    """Unconstrained reals -> a torch ``Distribution``."""

    support: Constraint

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def raw(self, event: Size) -> tuple[Size, ...]:
        """The sizes of the real inputs that one event of this size wants."""

    @abstractmethod
    def forward(self, *raw: Tensor) -> Distribution:
        """The distribution: each ``raw`` is ``(*lead, *raw_size)``, float32."""

    def read(self, z: Tensor) -> Tensor:
        """What a net reads of a value ``z``: ``(*lead, *event) -> (*lead, *read_size(event))``."""
        return z

    def read_size(self, event: Size) -> Size:
        """The size of :meth:`read`'s result for one event."""
        return event


def standard(family: Family, event: Size) -> Distribution:
    """The standard member of a family, one of it: what its raw zeros give, ``(1, *event)``.

    Raises:
        ValueError: for an event that the family cannot have.
    """
    return family(*(torch.zeros(1, *size) for size in family.raw(event)))


@singledispatch
def centre(d: Distribution) -> Tensor:
    """The deterministic representative of ``d`` (a median, mean or mode; for codes the most probable one)."""
    raise NotAvailable(f"{type(d).__name__} has no centre")


@singledispatch
def mean(d: Distribution) -> Tensor:
    """The expectation, for pictures and reconstructions; the centre where the support has no expectation."""
    return centre(d)


@singledispatch
def tempered(d: Distribution, t: float) -> Distribution:
    """``d`` at temperature ``t``: narrower for t < 1, wider for t > 1, unchanged at 1."""
    raise NotAvailable(f"{type(d).__name__} has no temperature")


@singledispatch
def quantile(d: Distribution, u: Tensor) -> Tensor:
    """The inverse distribution function at ``u`` in (0, 1), element-wise."""
    raise NotAvailable(f"{type(d).__name__} has no quantile function")


@singledispatch
def draw(d: Distribution) -> Tensor:
    """One value from ``d`` through which gradients reach its parameters (by reparameterisation, or by the
    estimator that the family's docstring names)."""
    if d.has_rsample:
        return d.rsample()
    raise NotAvailable(f"{type(d).__name__} has no gradient estimator, so it cannot be a posterior in training")


@singledispatch
def chain(d: Distribution, z: Tensor) -> Tensor:
    """log p of every element given the ones before it, ``(*lead, *event)``: by the chain rule it sums to log p(z).
    For a factorised distribution these are its element-wise log-probabilities."""
    if d.event_shape:
        raise NotAvailable(f"{type(d).__name__} is a joint distribution without a chain of conditionals")
    return d.log_prob(z)


@singledispatch
def total(d: Distribution, value: Tensor, lead: int) -> Tensor:
    """log p of the whole event, ``(*lead,)``: ``log_prob`` summed over everything after the ``lead`` leading
    dimensions. A family for which there is a faster way than to write down every element registers it."""
    return sum_event(d.log_prob(value), lead)


def positive(raw: Tensor, floor: float) -> Tensor:
    """A positive number from a real one: ``floor + (1 - floor) * softplus(ln(2) * raw) / ln(2)``.

    Raw 0 gives exactly 1. It falls like 2^raw towards the floor and grows linearly, so that no raw number
    makes it overflow, as an exponential would.

    Args:
        raw: any shape.
        floor: the limit from above, in [0, 1).

    >>> positive(torch.tensor([-100.0, 0.0, 100.0]), floor=0.01)
    tensor([1.0000e-02, 1.0000e+00, 9.9010e+01])
    """
    return floor + (1 - floor) * F.softplus(raw, beta=math.log(2))


def checked_floor(floor: float) -> float:
    """``floor``, if it can be the limit of :func:`positive`."""
    if not 0 < floor < 1:
        raise ValueError(f"floor must lie between 0 and 1, got {floor}; 0.001 is usual")
    return floor


def checked_several(event: Size, what: str) -> Size:
    """``event``, if its last size is at least 2."""
    if not event or event[-1] < 2:
        raise ValueError(
            f"{what} take at least 2 numbers: the last size of the event must be at least 2, got an event of size "
            f"{event}"
        )
    return event


def checked_temperature(t: float) -> float:
    """``t``, if it can be the temperature of :func:`tempered`."""
    if not t > 0:
        raise ValueError(f"a temperature must be positive, got {t}; 1 changes nothing, centre(d) is the limit at 0")
    return t


def mapped(d: Distribution, change: Callable[[Tensor], Tensor]) -> Distribution:
    """A copy of ``d`` with ``change`` applied to every tensor it holds, those of inner distributions and
    transforms included.

    Example:
        >>> d = torch.distributions.Normal(torch.zeros(4, 2), torch.ones(4, 2))
        >>> mapped(d, lambda t: t[1:3]).sample().shape
        torch.Size([2, 2])
    """
    return _mapped(d, change)


def frozen(d: Distribution) -> Distribution:
    """``d`` with its parameters detached: gradients still pass through the value given to ``log_prob``."""
    return mapped(d, Tensor.detach)


def _mapped(thing, change):  # type: ignore[no-untyped-def]
    if isinstance(thing, Tensor):
        return change(thing)
    if isinstance(thing, (list, tuple)):
        return type(thing)(_mapped(item, change) for item in thing)
    if not isinstance(thing, (Distribution, torch.distributions.Transform)):
        return thing
    new = copy.copy(thing)
    for name, value in vars(thing).items():
        new.__dict__[name] = _mapped(value, change)
    if isinstance(new, Distribution) and isinstance(thing, Distribution):
        new._batch_shape = _batch_shape(new, thing, change)
    return new


def _batch_shape(new: Distribution, old: Distribution, change: Callable[[Tensor], Tensor]) -> torch.Size:
    """The batch shape after ``change``, found by applying it to a stand-in of the old one."""
    return change(torch.empty(1).expand(old.batch_shape)).shape
