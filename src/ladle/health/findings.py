"""What a check is given and what it gives back.

A check is one function ``(context) -> Finding``, put on its rung of the ladder by :func:`rung`. The ladder is climbed
from the ground: the first three rungs (finite numbers, the right support, no word with the neighbours) carry those
above them, so when one of them is ill the rest is not run, since its numbers would mean nothing.
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

GROUND = 3  # the rungs that carry all others
NO_PRIOR = "no prior: not applicable"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: of the check.
        ok: whether all is well; ``None`` where the check does not apply or was not run.
        measured: the numbers, by name; nats unless the name says otherwise.
        reason: what was found and what it means, in one sentence.
        remedy: what would help, where it is ill.
    """

    name: str
    ok: bool | None
    measured: Mapping[str, float]
    reason: str
    remedy: str = ""

    @property
    def mark(self) -> str:
        """✓, × or –."""
        return {True: "✓", False: "×", None: "–"}[self.ok]

    def to_json(self) -> dict[str, Any]:
        """As plain data; a number that is not finite is None."""
        numbers = {k: v if math.isfinite(v) else None for k, v in self.measured.items()}
        return {"name": self.name, "ok": self.ok, "measured": numbers, "reason": self.reason, "remedy": self.remedy}


@dataclass(frozen=True)
class Health:
    """The findings of all checks, from the ground up.

    Attributes:
        findings: one for each check.
        items: how many test and training items they looked at.
    """

    findings: tuple[Finding, ...]
    items: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether nothing is ill."""
        return not self.ill

    @property
    def ill(self) -> tuple[Finding, ...]:
        """The findings that are ×."""
        return tuple(f for f in self.findings if f.ok is False)

    def __getitem__(self, name: str) -> Finding:
        """The finding of the check of this name."""
        return next(f for f in self.findings if f.name == name)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"ok": self.ok, "items": dict(self.items), "findings": [f.to_json() for f in self.findings]}

    def __str__(self) -> str:
        """The ladder, as text."""
        return "\n".join([self.head, *(text for f in self.findings for text, _ in lines(f)), self.foot])

    @property
    def head(self) -> str:
        """What was looked at."""
        return "looked at " + " and ".join(f"{n:,} {name} items" for name, n in self.items.items())

    @property
    def foot(self) -> str:
        """The verdict."""
        ill = ", ".join(f.name for f in self.ill)
        return f"ill: {ill}" if ill else "all is well"


WIDTH = 17  # of the column of names
DREAMT = 1000  # draws from the prior at a time


def lines(finding: Finding) -> list[tuple[str, bool | None]]:
    """A finding as lines of text, each with its colour (as :attr:`Finding.ok`): what was found, and a remedy."""
    told = [(f"  {finding.mark} {finding.name:{WIDTH}}{finding.reason}", finding.ok)]
    return told + ([(f"{'':{WIDTH + 4}}→ {finding.remedy}", finding.ok)] if finding.remedy else [])


Check = Callable[["Context"], Finding]


def rung(number: int, name: str) -> Callable[[Check], Check]:
    """Put a check on the ladder: checks of a lower rung come first."""

    def register(check: Check) -> Check:
        check.rung = number  # type: ignore[attr-defined]
        return part("check", name)(check)

    return register


class Walked(NamedTuple):
    """One walk of some items, with one draw of z for each.

    Attributes:
        zs: one ``(N, *event)`` for each level.
        log_px: ``(N,)``.
        bound: ``(N,)``, ``log p(x|z) - KL``.
    """

    zs: tuple[Tensor, ...]
    log_px: np.ndarray
    bound: np.ndarray


@dataclass
class Context:
    """What the checks share. What several of them need is computed once.

    Attributes:
        model: the model.
        test: the items that are held out.
        train: items that it was trained on, where they are known.
        seed: of all noise.
    """

    model: Model
    test: Split
    train: Split | None = None
    seed: int = 0

    @property
    def vae(self) -> VAE:
        """The model's nets and families."""
        return self.model.vae

    @property
    def schema(self) -> Schema:
        """What an item is."""
        return self.model.schema

    def need_prior(self) -> None:
        """Leave a check that makes no sense without p(z).

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
        """The walk of the training items, where they are known."""
        return None if self.train is None else self.walk(self.train)

    def walk(self, split: Split, zs: tuple[Tensor, ...] | None = None) -> Walked:
        """Walk all items of a split, with keyed noise or with the latents given."""
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
        """What each latent carries, over the test items.

        Raises:
            NotAvailable: for a plain autoencoder.
        """
        self.need_prior()
        return units(self.model, self.test, seed=self.seed)

    @cached_property
    def dreamt(self) -> tuple[Tensor, ...]:
        """As many draws of z from the prior as there are test items, one ``(N, *event)`` for each level."""
        parts, n = [], len(self.test)
        with torch.no_grad(), seeded(self.seed, "dream"):
            for start in range(0, n, DREAMT):
                trace = self.vae.latents.walk(from_prior(), n=min(DREAMT, n - start))
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
        """p(x|z) at some rows of latents."""
        given = [z[rows] for z in zs]
        with torch.no_grad():
            return self.vae.explain(self.vae.latents.walk(replay(given), n=len(given[0])).h)

    @cached_property
    def x(self) -> np.ndarray:
        """The test items as the likelihood explains them, ``(N, *event)``."""
        return explained(self.model, self.test)
