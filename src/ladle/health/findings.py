"""The input and the output of a check.

A check is a function ``(context) -> Finding``, registered by :func:`stage`. Checks run in the order of their stages.
The first three stages (finite numbers, the right support, independence of the other items of a batch) are
prerequisites: if one of their checks finds a problem, the later checks are not run, because their results would be
meaningless.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ladle import families
from ladle.data import Schema, Split
from ladle.families import NotAvailable
from ladle.health.measures import Units, units
from ladle.model.latents import from_prior, keyed, replay
from ladle.model.vae import VAE
from ladle.seeds import seeded
from ladle.spec import part
from ladle.store.folder import Model
from ladle.tasks.common import at_once, each_batch, explained

PREREQUISITES = 3  # the number of stages that all later ones depend on
NO_PRIOR = "no prior: not applicable"


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: the name of the check.
        ok: ``True`` if no problem was found, ``False`` for a problem, ``None`` if the check does not apply or was not
            run.
        measured: the measured numbers by name, in nats unless the name says otherwise.
        reason: one sentence with the result and its meaning.
        remedy: what to do about a problem; empty otherwise.
    """

    name: str
    ok: bool | None
    measured: Mapping[str, float]
    reason: str
    remedy: str = ""

    @property
    def mark(self) -> str:
        """``✓`` (no problem), ``×`` (problem) or ``–`` (not run)."""
        return {True: "✓", False: "×", None: "–"}[self.ok]

    def to_json(self) -> dict[str, Any]:
        """The finding as plain data; numbers that are not finite become ``None``."""
        numbers = {k: v if math.isfinite(v) else None for k, v in self.measured.items()}
        return {"name": self.name, "ok": self.ok, "measured": numbers, "reason": self.reason, "remedy": self.remedy}


@dataclass(frozen=True)
class Health:
    """The findings of all checks, in the order of their stages.

    Attributes:
        findings: one finding for each check.
        items: the number of test and training items that were used.
    """

    findings: tuple[Finding, ...]
    items: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings whose ``ok`` is ``False``."""
        return tuple(f for f in self.findings if f.ok is False)

    def __getitem__(self, name: str) -> Finding:
        """The finding of the named check."""
        return next(f for f in self.findings if f.name == name)

    def to_json(self) -> dict[str, Any]:
        """The findings as plain data."""
        return {"ok": self.ok, "items": dict(self.items), "findings": [f.to_json() for f in self.findings]}

    def __str__(self) -> str:
        """All findings as text."""
        return "\n".join([self.head, *(text for f in self.findings for text, _ in lines(f)), self.foot])

    @property
    def head(self) -> str:
        """The first line: the number of items that were used."""
        return "checked on " + " and ".join(f"{n:,} {name} items" for name, n in self.items.items())

    @property
    def foot(self) -> str:
        """The last line: the names of the checks that found problems."""
        names = [f.name for f in self.problems]
        if not names:
            return "no problems found"
        return f"{len(names)} problem{'s' if len(names) > 1 else ''} found: {', '.join(names)}"


WIDTH = 17  # characters of the column of names
PRIOR_BATCH = 1000  # draws from the prior at a time


def lines(finding: Finding) -> list[tuple[str, bool | None]]:
    """A finding as lines of text (the reason, then the remedy if there is one), each with :attr:`Finding.ok`."""
    reason = [(f"  {finding.mark} {finding.name:{WIDTH}}{finding.reason}", finding.ok)]
    return reason + ([(f"{'':{WIDTH + 4}}→ {finding.remedy}", finding.ok)] if finding.remedy else [])


Check = Callable[["Context"], Finding]


def stage(number: int, name: str) -> Callable[[Check], Check]:
    """Register a check. Checks with a lower stage number run first."""

    def register(check: Check) -> Check:
        check.stage = number  # type: ignore[attr-defined]
        return part("check", name)(check)

    return register


class Walked(NamedTuple):
    """The result of one walk of some items, with one draw of z for each item.

    Attributes:
        zs: the latents, one ``(N, *event)`` for each level.
        log_px: ``(N,)``.
        bound: ``(N,)``, ``log p(x|z) - KL``.
    """

    zs: tuple[Tensor, ...]
    log_px: np.ndarray
    bound: np.ndarray


@dataclass
class Context:
    """The inputs of all checks. Results that several checks need are computed once.

    Attributes:
        model: the model.
        test: held-out items.
        train: items that the model was trained on, if they are known.
        seed: the seed of all noise.
    """

    model: Model
    test: Split
    train: Split | None = None
    seed: int = 0

    @property
    def vae(self) -> VAE:
        """The networks and families of the model."""
        return self.model.vae

    @property
    def schema(self) -> Schema:
        """The schema of the data."""
        return self.model.schema

    def need_prior(self) -> None:
        """Skip a check that needs p(z) if the model has no prior.

        Raises:
            NotAvailable: for a plain autoencoder.
        """
        if not self.vae.latents.has_prior:
            raise NotAvailable(NO_PRIOR)

    @cached_property
    def tested(self) -> Walked:
        """The walk of the test items."""
        return self.walk(self.test)

    @cached_property
    def trained(self) -> Walked | None:
        """The walk of the training items, if they are known."""
        return None if self.train is None else self.walk(self.train)

    def walk(self, split: Split, zs: tuple[Tensor, ...] | None = None) -> Walked:
        """Walk all items of a split, with the given latents, or with keyed noise if none are given."""
        rows, log_px, bound, start = [], [], [], 0
        for batch in each_batch(self.model, split):
            given = [z[start : start + len(batch.x)] for z in zs] if zs else []
            with torch.no_grad():
                draw = replay(given) if zs else keyed(self.seed, batch.index.tolist())
                terms = self.vae(batch, draw=draw)
            rows.append([level.z for level in terms.levels])
            log_px.append(terms.log_px)
            bound.append(terms.log_px - terms.kl)
            start += len(batch.x)
        numbers = [torch.cat(v).double().cpu().numpy() for v in (log_px, bound)]
        return Walked(tuple(torch.cat(level) for level in zip(*rows, strict=True)), *numbers)

    @cached_property
    def units(self) -> Units:
        """Statistics of each latent over the test items, such as its KL.

        Raises:
            NotAvailable: for a plain autoencoder.
        """
        self.need_prior()
        return units(self.model, self.test, seed=self.seed)

    @cached_property
    def prior_draws(self) -> tuple[Tensor, ...]:
        """One draw of z from the prior for each of the N test items: one ``(N, *event)`` for each level."""
        parts, n = [], len(self.test)
        with torch.no_grad(), seeded(self.seed, "dream"):
            for start in range(0, n, PRIOR_BATCH):
                trace = self.vae.walk(from_prior(), self.vae.blank(min(PRIOR_BATCH, n - start)))
                parts.append([level.z for level in trace.levels])
        return tuple(torch.cat(level) for level in zip(*parts, strict=True))

    def decoded(self, zs: tuple[Tensor, ...]) -> np.ndarray:
        """The expectation of p(x|z), ``(N, *event)``."""
        found, batch = [], at_once(self.model)
        for start in range(0, len(zs[0]), batch):
            with torch.no_grad():
                found.append(families.mean(self.likelihood(zs, slice(start, start + batch))).float().cpu().numpy())
        return np.concatenate(found)

    def likelihood(self, zs: tuple[Tensor, ...], rows: slice) -> torch.distributions.Distribution:
        """p(x|z) for the given rows of the latents."""
        given = [z[rows] for z in zs]
        with torch.no_grad():
            blank = self.vae.blank(len(given[0]))
            return self.vae.explain(self.vae.walk(replay(given), blank).h, blank)

    @cached_property
    def x(self) -> np.ndarray:
        """The test items in the representation that the likelihood models, ``(N, *event)``."""
        return explained(self.model, self.test)
