"""The latent families that ``select`` compares: a prior each, and a posterior that fits its support.

A candidate is written ``NAME[:NUMBER][/POSTERIOR]``: ``student_t``, ``mixture:8`` (eight components),
``laplace/laplace`` (a Laplace prior with a Laplace posterior).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from ladle.spec import SpecError, lookup, part, registered

NORMAL = {"part": "family/normal"}
STANDARD = {"part": "prior/standard"}
WRITTEN = re.compile(r"([a-z_0-9]+)(?::([0-9]{1,4}))?(?:/([a-z_0-9]+))?")


class Candidate(NamedTuple):
    """A latent family by its name, and the ``latents`` of a recipe's plan that it stands for."""

    name: str
    prior: str
    latents: dict[str, Any]

    @property
    def folder(self) -> str:
        """The name as a folder's."""
        return self.name.replace(":", "-").replace("/", "+")


def candidate(text: str, size: int) -> Candidate:
    """The candidate that is written so.

    Args:
        text: ``NAME[:NUMBER][/POSTERIOR]``.
        size: the number of latent variables.

    Raises:
        SpecError: for an unknown name (the known ones are listed), or a number where none is taken.

    >>> candidate("laplace/laplace", 2).latents["posterior"]
    {'part': 'family/laplace'}
    """
    written = WRITTEN.fullmatch(text)
    if written is None:
        raise SpecError(
            f"a candidate is written NAME, NAME:NUMBER or NAME/POSTERIOR, such as student_t:3 or laplace/logistic; "
            f"got '{text[:60]}'; known: {', '.join(sorted(registered('candidate')))}"
        )
    name, count, posterior = written.groups()
    latents = made(name, size, count)
    if posterior:
        lookup(f"family/{posterior}")
        prior = latents["prior"]
        prior = {"family": latents["posterior"], **prior} if prior["part"] == STANDARD["part"] else prior
        latents = {**latents, "posterior": {"part": f"family/{posterior}"}, "prior": prior}
    return Candidate(text, text.partition("/")[0], latents)


def made(name: str, size: int, count: str | None) -> dict[str, Any]:
    """The latents of a registered candidate, with its number where one is given."""
    maker = lookup(f"candidate/{name}")
    if count is None:
        return maker(size)
    takes = list(inspect.signature(maker).parameters)[1:]
    if not takes:
        raise SpecError(f"candidate '{name}' takes no number, got '{name}:{count}'")
    if int(count) < 1:
        raise SpecError(f"the {takes[0]} of candidate '{name}' must be at least 1, got {count}")
    return maker(size, int(count))


def candidates(names: Iterable[str], size: int) -> list[Candidate]:
    """Several candidates, each once.

    Raises:
        SpecError: for an unknown or repeated one, or for fewer than two.
    """
    written = [name.strip() for name in names]
    if len(set(written)) < len(written):
        raise SpecError(f"every candidate once; got {', '.join(written)}")
    if len(written) < 2:
        raise SpecError(f"a comparison needs at least 2 candidates, got {', '.join(written) or 'none'}")
    return [candidate(name, size) for name in written]


def usual(size: int) -> tuple[str, ...]:
    """The candidates that are compared when none are named: one of every kind that there is of this size."""
    joint = ("autoregressive", "sphere", "dirichlet") if size > 1 else ()  # of one number there is no sphere
    return ("normal", "laplace", "logistic", "student_t", "mixture", "vamp", *joint, "circle", "beta", "categorical",
            "bernoulli")  # fmt: skip


# -------------------------------------------------------------------------------------------- real lines
# Whatever the prior, what is left of a latent once x is known is close to normal where x says much of it. A normal
# posterior reaches a better bound under Laplace and Student-t priors than one of their own family, with no more items
# of a Pareto k above 0.7; the measurement is in docs/select.md.


def same(size: int, family: dict[str, Any]) -> dict[str, Any]:
    """The standard member as prior and the same family as posterior."""
    return {"size": size, "posterior": family, "prior": STANDARD}


def real(size: int, prior: dict[str, Any]) -> dict[str, Any]:
    """A prior on the real line with a normal posterior."""
    return {"size": size, "posterior": NORMAL, "prior": prior}


@part("candidate", "normal")
def normal(size: int) -> dict[str, Any]:
    """N(0, I), with a normal posterior for every latent."""
    return real(size, STANDARD)


@part("candidate", "laplace")
def laplace(size: int) -> dict[str, Any]:
    """A sharp peak and exponential tails: sparse latents."""
    return real(size, {**STANDARD, "family": {"part": "family/laplace"}})


@part("candidate", "logistic")
def logistic(size: int) -> dict[str, Any]:
    """A smooth top and exponential tails."""
    return real(size, {**STANDARD, "family": {"part": "family/logistic"}})


@part("candidate", "student_t")
def student_t(size: int, df: int = 3) -> dict[str, Any]:
    """Heavy tails: Student's t with 3 degrees of freedom."""
    return real(size, {**STANDARD, "family": {"part": "family/student_t", "df": float(df)}})


@part("candidate", "full_normal")
def full_normal(size: int) -> dict[str, Any]:
    """A normal with a learned mean and full covariance. A decoder undoes what it adds: it must tie with normal."""
    return real(size, {"part": "prior/learned", "family": {"part": "family/full_normal"}})


@part("candidate", "mixture")
def mixture(size: int, components: int = 5) -> dict[str, Any]:
    """A learned mixture of 5 normals: latents in clusters."""
    return real(size, {"part": "prior/mixture", "family": NORMAL, "components": components})


@part("candidate", "vamp")
def vamp(size: int, components: int = 50) -> dict[str, Any]:
    """A learned mixture of the posteriors of 50 pseudo-inputs."""
    return real(size, {"part": "prior/vamp", "components": components})


@part("candidate", "flow")
def flow(size: int) -> dict[str, Any]:
    """A learned prior: normal noise through couplings; not codable."""
    return real(size, {"part": "prior/flow"})


@part("candidate", "autoregressive")
def autoregressive(size: int) -> dict[str, Any]:
    """A learned prior: a mixture for every latent given the ones before it; codable."""
    return real(size, {"part": "prior/autoregressive"})


# ------------------------------------------------------------------------------- bounded, compact, discrete


@part("candidate", "sphere")
def sphere(size: int) -> dict[str, Any]:
    """One unit vector of all latents, uniform on the sphere, with power spherical posteriors."""
    return same(size, {"part": "family/power_spherical"})


@part("candidate", "circle")
def circle(size: int) -> dict[str, Any]:
    """Each latent an angle, uniform on the circle, with von Mises posteriors."""
    return same(size, {"part": "family/von_mises"})


@part("candidate", "dirichlet")
def dirichlet(size: int) -> dict[str, Any]:
    """Shares that sum to 1, uniform on the simplex, with Dirichlet posteriors."""
    return same(size, {"part": "family/dirichlet"})


@part("candidate", "logistic_normal")
def logistic_normal(size: int) -> dict[str, Any]:
    """Shares that sum to 1: the softmax of normals."""
    return same(size, {"part": "family/logistic_normal"})


@part("candidate", "beta")
def beta(size: int) -> dict[str, Any]:
    """Uniform on the interval (0, 1), with beta posteriors."""
    return same(size, {"part": "family/beta"})


@part("candidate", "categorical")
def categorical(size: int, classes: int = 8) -> dict[str, Any]:
    """Each latent one of 8 classes, read as an indicator vector."""
    return same(size * classes, {"part": "family/one_hot", "classes": classes})


@part("candidate", "bernoulli")
def bernoulli(size: int) -> dict[str, Any]:
    """Each latent 0 or 1."""
    return same(size, {"part": "family/bernoulli"})
