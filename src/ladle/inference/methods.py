"""The methods of evidence, by name, and how to prepare one for a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from ladle.data import DataError
from ladle.inference import annealed, importance, quadrature
from ladle.inference.annealed import CHAINS, TEMPERATURES
from ladle.inference.evidence import Measure, on_real_line
from ladle.model.vae import VAE

SAMPLES = 500


class Prepare(Protocol):
    """Prepare a method for a model."""

    def __call__(self, vae: VAE, *, samples: int, temperatures: int, seed: int, proposal: str) -> Measure:
        """Arguments as for :func:`prepare`; a method ignores those that it does not need."""


class Method(NamedTuple):
    """A method of evidence.

    Attributes:
        prepare: gives the method's :data:`~ladle.inference.evidence.Measure` for a model.
        samples: the default number of samples.
        batch_size: the largest number of items in a batch, for a model and a number of samples.
        serves: whether the method is available for a model.
        instead: the methods that replace it for other models, in order of preference.
    """

    prepare: Prepare
    samples: int
    batch_size: Callable[[VAE, int], int]
    serves: Callable[[VAE], bool]
    instead: tuple[str, ...] = ()


class Prepared(NamedTuple):
    """A method that is prepared for a model.

    Attributes:
        measure: a function from a batch to the evidence of its items. Several threads may share it.
        batch_size: the largest number of items in a batch.
    """

    measure: Measure
    batch_size: int


# From the loosest to the tightest.
METHODS: dict[str, Method] = {
    "iwae": Method(
        lambda vae, *, samples, temperatures, seed, proposal: importance.importance(
            vae, samples=samples, seed=seed, proposal=proposal
        ),
        SAMPLES,
        importance.batch_size,
        lambda vae: True,
    ),
    "ais": Method(annealed.annealed, CHAINS, annealed.batch_size, on_real_line, ("exact", "iwae")),
    "exact": Method(
        lambda vae, *, samples, temperatures, seed, proposal: quadrature.exact_evidence(vae),
        1,
        quadrature.batch_size,
        quadrature.has_exact_evidence,
    ),
}


def prepare(
    vae: VAE,
    method: str = "iwae",
    *,
    samples: int | None = None,
    temperatures: int = TEMPERATURES,
    seed: int = 0,
    proposal: str = "q",
) -> Prepared:
    """Prepare a method of evidence for a model.

    Args:
        vae: the model, in evaluation mode.
        method: ``iwae``, ``ais`` or ``exact``. Where it is not available for the model, the first available one of
            :attr:`Method.instead` takes its place.
        samples: importance samples per item, or chains; by default those of the method.
        temperatures: of ``ais``.
        seed: of the noise, keyed by item.
        proposal: the distribution that samples are drawn from, see :mod:`ladle.inference.proposals`.

    Raises:
        DataError: for an unknown method, or fewer than 1 sample or temperature.
        NotAvailable: for a model without a density, or one that neither the method nor a replacement serves.
        SpecError: for an unknown proposal.
    """
    if method not in METHODS:
        raise DataError(f"unknown method '{method}'; known: {', '.join(METHODS)}")
    names = (method, *METHODS[method].instead)
    chosen = METHODS[next((name for name in names if METHODS[name].serves(vae)), method)]
    samples = chosen.samples if samples is None else samples
    for name, number in (("samples", samples), ("temperatures", temperatures)):
        if number < 1:
            raise DataError(f"the number of {name} must be at least 1, got {number}")
    measure = chosen.prepare(vae, samples=samples, temperatures=temperatures, seed=seed, proposal=proposal)
    return Prepared(measure, chosen.batch_size(vae, samples))


def tightest(vae: VAE) -> str:
    """The name of the method that comes closest to log p(x) for a model.

    >>> import ladle
    >>> tightest(ladle.assemble(ladle.Schema("image", (1, 8, 8), "binary"), "vae", "xs").model)
    'ais'
    """
    return next(name for name in reversed(METHODS) if METHODS[name].serves(vae))
