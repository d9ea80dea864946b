"""The latent families that ``select`` compares. Each is a prior with a posterior of the same support.

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
    """The name of a latent family, the name of its prior, and the corresponding ``latents`` of a recipe's plan."""

    name: str
    prior: str
    latents: dict[str, Any]

    @property
    def folder(self) -> str:
        """The name in a form that is valid as a folder name."""
        return self.name.replace(":", "-").replace("/", "+")


def candidate(text: str, size: int) -> Candidate:
    """Parse a candidate.

    Args:
        text: ``NAME[:NUMBER][/POSTERIOR]``.
        size: the number of latent variables.

    Raises:
        SpecError: for an unknown name (the message lists the known ones), or a number that is not accepted.

    >>> candidate("laplace/laplace", 2).latents["posterior"]
    {'part': 'family/laplace'}
    """
    written = WRITTEN.fullmatch(text)
    if written is None:
        raise SpecError(
            f"a candidate must be written NAME, NAME:NUMBER or NAME/POSTERIOR, such as student_t:3 or laplace/normal; "
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
    """The latents of a registered candidate, with its number if one is given."""
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
    """Parse several different candidates.

    Raises:
        SpecError: if a candidate is unknown or repeated, or there are fewer than two.
    """
    written = [name.strip() for name in names]
    if len(set(written)) < len(written):
        raise SpecError(f"every candidate must be given once, got {', '.join(written)}")
    if len(written) < 2:
        raise SpecError(f"a comparison needs at least 2 candidates, got {', '.join(written) or 'none'}")
    return [candidate(name, size) for name in written]


def usual(size: int) -> tuple[str, ...]:
    """The default candidates: one of every kind that exists for this number of latents."""
    joint = ("autoregressive", "sphere", "dirichlet") if size > 1 else ()  # not defined for a single number
    return ("normal", "laplace", "logistic", "student_t", "mixture", "vamp", *joint, "circle", "beta", "categorical",
            "bernoulli")  # fmt: skip


# -------------------------------------------------------------------------------------------- real lines
# For any prior, the posterior of a latent is close to normal if x carries much information about it. Under Laplace and
# Student-t priors, a normal posterior reaches a better bound than a posterior of the prior's family, with no more items
# whose Pareto k is above 0.7; the measurement is in docs/select.md.


def same(size: int, family: dict[str, Any]) -> dict[str, Any]:
    """The standard member of a family as prior, and the same family as posterior."""
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
    """A normal with a learned mean and full covariance. The decoder can absorb both, so it must tie with normal."""
    return real(size, {"part": "prior/learned", "family": {"part": "family/full_normal"}})


@part("candidate", "mixture")
def mixture(size: int, components: int = 5) -> dict[str, Any]:
    """A learned mixture of 5 normals: latents in clusters."""
    return real(size, {"part": "prior/mixture", "family": NORMAL, "components": components})


@part("candidate", "conditional")
def conditional(size: int, components: int = 1) -> dict[str, Any]:
    """A learned normal for each class of labelled data, evaluated without labels as a mixture over the classes."""
    return real(size, {"part": "prior/conditional", "family": NORMAL, "components": components})


@part("candidate", "vamp")
def vamp(size: int, components: int = 50) -> dict[str, Any]:
    """A learned mixture of the posteriors of 50 pseudo-inputs."""
    return real(size, {"part": "prior/vamp", "components": components})


@part("candidate", "flow")
def flow(size: int) -> dict[str, Any]:
    """A learned prior: normal noise transformed by couplings; not usable for compression."""
    return real(size, {"part": "prior/flow"})


@part("candidate", "autoregressive")
def autoregressive(size: int) -> dict[str, Any]:
    """A learned prior: a mixture for every latent given the previous ones; usable for compression."""
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
