"""The protocol of a distribution family, and the functions registered beside each one.

A family maps unconstrained real numbers, the raw parameters (outputs of a network), to a torch ``Distribution`` over
the event. One object serves as likelihood, as posterior and as prior. All families follow these conventions:

* **Raw zeros give the standard member** (for the normal: mean 0, standard deviation 1). Standard priors
  are built from zeros, and a zero-initialised head starts at the standard member.
* **Element-wise.** A factorised family returns a distribution whose ``batch_shape`` ends in the event;
  a joint one has the event in its ``event_shape``. ``shapes.sum_event`` handles both.
* **Extra dimensions last.** For an event ``(C, H, W)`` the logits of a mixture of K are ``(C, H, W, K)``.
* **Tensors only, leading dimensions first.** Every tensor of a returned distribution begins with the leading
  dimensions of the raw parameters (which are never collapsed or permuted), so that :func:`mapped` can detach, move or
  slice the whole distribution.
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
    """Raised when a model or family does not support a task; the message says what is missing and why."""


class Family(nn.Module, ABC):
    """A map from unconstrained real tensors, the raw parameters, to a torch ``Distribution``."""

    support: Constraint

    def __init__(self) -> None:
        super().__init__()

    @abstractmethod
    def raw(self, event: Size) -> tuple[Size, ...]:
        """The sizes of the raw parameters of one event of this size."""

    @abstractmethod
    def forward(self, *raw: Tensor) -> Distribution:
        """The distribution with these raw parameters, each ``(*lead, *raw_size)``, float32."""

    def read(self, z: Tensor) -> Tensor:
        """The value ``z`` in the form that networks read: ``(*lead, *event) -> (*lead, *read_size(event))``."""
        return z

    def read_size(self, event: Size) -> Size:
        """The size of :meth:`read`'s result for one event."""
        return event


def standard(family: Family, event: Size) -> Distribution:
    """The standard member of a family, given by raw zeros, with batch and event shapes ``(1, *event)``.

    Raises:
        ValueError: if the family does not support the event.
    """
    return family(*(torch.zeros(1, *size) for size in family.raw(event)))


@singledispatch
def centre(d: Distribution) -> Tensor:
    """A deterministic representative of ``d`` (a median, mean or mode; for codes the most probable code)."""
    raise NotAvailable(f"{type(d).__name__} has no centre")


@singledispatch
def mean(d: Distribution) -> Tensor:
    """The expectation, for images and reconstructions; the centre if the values have no expectation."""
    return centre(d)


@singledispatch
def tempered(d: Distribution, t: float) -> Distribution:
    """``d`` at temperature ``t``: narrower for t < 1, wider for t > 1, unchanged at 1."""
    raise NotAvailable(f"{type(d).__name__} has no temperature")


@singledispatch
def quantile(d: Distribution, u: Tensor) -> Tensor:
    """The quantile function (inverse distribution function) at ``u`` in (0, 1), element-wise."""
    raise NotAvailable(f"{type(d).__name__} has no quantile function")


@singledispatch
def draw(d: Distribution) -> Tensor:
    """One sample of ``d`` with gradients to its parameters, by reparameterisation or by the gradient estimator that the
    docstring of the family names."""
    if d.has_rsample:
        return d.rsample()
    raise NotAvailable(f"{type(d).__name__} has no gradient estimator, so it cannot be a posterior in training")


@singledispatch
def chain(d: Distribution, z: Tensor) -> Tensor:
    """The conditional log-probability of each element given the preceding ones, ``(*lead, *event)``.

    By the chain rule these sum to log p(z). For a factorised distribution they are the element-wise log-probabilities.
    """
    if d.event_shape:
        raise NotAvailable(f"{type(d).__name__} is a joint distribution without a chain of conditionals")
    return d.log_prob(z)


@singledispatch
def separate(d: Distribution) -> list[tuple[Distribution, Constraint | None]]:
    """Split ``d`` into independent pieces whose densities can be summed over all values of one element.

    Each piece comes with its support (``None``: that of the family). A piece is element-wise, or has few elements and a
    :func:`chain`. An element-wise distribution is a single piece; families of dependent pixels register their own
    method.
    """
    if d.event_shape:
        raise NotAvailable(f"{type(d).__name__} is a joint distribution")
    return [(d, None)]


@singledispatch
def total(d: Distribution, value: Tensor, lead: int) -> Tensor:
    """The log-probability of the whole event, ``(*lead,)``: ``log_prob`` summed over all but the ``lead`` leading
    dimensions. Families register a faster method where one avoids the element-wise array."""
    return sum_event(d.log_prob(value), lead)


def positive(raw: Tensor, floor: float) -> Tensor:
    """A positive number from a real one: ``floor + (1 - floor) * softplus(ln(2) * raw) / ln(2)``.

    Raw 0 gives exactly 1. The result falls like 2^raw towards the floor and grows linearly, so that, unlike an
    exponential, it does not overflow.

    Args:
        raw: any shape.
        floor: the limit for large negative ``raw``, in [0, 1).

    >>> positive(torch.tensor([-100.0, 0.0, 100.0]), floor=0.01)
    tensor([1.0000e-02, 1.0000e+00, 9.9010e+01])
    """
    return floor + (1 - floor) * F.softplus(raw, beta=math.log(2))


def checked_floor(floor: float) -> float:
    """Return ``floor`` if it is valid for :func:`positive`, else raise ``ValueError``."""
    if not 0 < floor < 1:
        raise ValueError(f"floor must lie between 0 and 1, got {floor}; 0.001 is usual")
    return floor


def checked_several(event: Size, what: str) -> Size:
    """Return ``event`` if its last size is at least 2, else raise ``ValueError``."""
    if not event or event[-1] < 2:
        raise ValueError(
            f"{what} need at least 2 numbers: the last size of the event must be at least 2, got an event of size "
            f"{event}"
        )
    return event


def checked_temperature(t: float) -> float:
    """Return ``t`` if it is valid for :func:`tempered`, else raise ``ValueError``."""
    if not t > 0:
        raise ValueError(f"a temperature must be positive, got {t}; 1 changes nothing, and centre(d) is the limit at 0")
    return t


def mapped(d: Distribution, change: Callable[[Tensor], Tensor]) -> Distribution:
    """A copy of ``d`` with ``change`` applied to all of its tensors, including those of inner distributions and
    transforms.

    Example:
        >>> d = torch.distributions.Normal(torch.zeros(4, 2), torch.ones(4, 2))
        >>> mapped(d, lambda t: t[1:3]).sample().shape
        torch.Size([2, 2])
    """
    return _mapped(d, change)


def frozen(d: Distribution) -> Distribution:
    """``d`` with detached parameters; gradients still pass through the value given to ``log_prob``."""
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
    """The batch shape after ``change``, found by applying it to an empty tensor of the old batch shape."""
    return change(torch.empty(1).expand(old.batch_shape)).shape
