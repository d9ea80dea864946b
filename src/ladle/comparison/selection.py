"""What a comparison of latent families found: a row for each, and a verdict in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ladle.comparison.compare import LEVEL, Comparison

LOOSE = 0.1  # the share of items with a bound not to be trusted from which the verdict warns


class Row(NamedTuple):
    """One candidate.

    Attributes:
        family: as it was named.
        prior: the part of its name that names the prior; candidates of one prior are compared as bounds.
        status: ``finalist``, ``out`` (of the race) or ``failed``.
        nats: of a finalist, the mean -log p(x) on the test items; lower is better.
        difference: nats minus those of the best.
        se: its standard error, over items and seeds; none for the best itself.
        low, high: the 95 % interval of the difference, of these two alone.
        worse: the probability of being worse than the best.
        p: of as large a difference by chance, held up for all pairs of finalists.
        valid: the mean -log p(x) on validation items, when it was last measured.
        loose: the share of test items with a Pareto k above 0.7, whose importance-weighted bound is not to be trusted.
        closer: nats by which annealing, or summing exactly, lowered the mean for that reason; none where it did not.
        active: active units, the mean over seeds.
        gap: the amortisation gap, in nats.
        seconds: of training, the mean of its last runs.
        steps: of each of them.
        seeds: how many they are.
        reason: why it failed.
    """

    family: str
    prior: str
    status: str
    nats: float | None = None
    difference: float | None = None
    se: float | None = None
    low: float | None = None
    high: float | None = None
    worse: float | None = None
    p: float | None = None
    valid: float | None = None
    loose: float | None = None
    closer: float | None = None
    active: float | None = None
    gap: float | None = None
    seconds: float | None = None
    steps: int = 0
    seeds: int = 0
    reason: str = ""

    @property
    def doubtful(self) -> bool:
        """Whether many of its items have a bound that is not to be trusted, which nothing closer corrected."""
        return (self.loose or 0.0) > LOOSE and self.closer is None


HEAD = ("family", "nats", "difference", "se", "P(worse)", "k > 0.7", "active", "gap", "seconds")


@dataclass(frozen=True)
class Selection:
    """Latent families by evidence.

    Attributes:
        rows: the finalists, the best first; then who left the race, and who failed.
        verdict: what can be said, in words.
        supported: the families that the data support.
        best: the family of the model that was kept, chosen by validation.
        about: the data, the steps, the seeds, the items and the method.
    """

    rows: tuple[Row, ...]
    verdict: str
    supported: tuple[str, ...]
    best: str
    about: Mapping[str, Any]

    @property
    def failures(self) -> list[str]:
        """Who failed, and why."""
        return [f"{row.family} failed: {row.reason}" for row in self.rows if row.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "verdict": self.verdict,
            "supported": list(self.supported),
            "best": self.best,
            "rows": [row._asdict() for row in self.rows],
            "about": dict(self.about),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Selection:
        """What :meth:`to_json` gave."""
        rows = tuple(Row(**row) for row in data["rows"])
        return cls(rows, data["verdict"], tuple(data["supported"]), data["best"], data["about"])

    def __str__(self) -> str:
        lines = [HEAD, *(cells(row) for row in self.rows)]
        wide = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
        table = [
            "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(line, wide, strict=True)))
            for line in lines
        ]
        return "\n".join([*table, "", self.verdict, *self.failures])


def cells(row: Row) -> tuple[str, ...]:
    """A row in words, one for each of ``HEAD``."""
    if row.status == "failed":
        return (row.family, "failed", *[""] * (len(HEAD) - 2))
    shown = (
        _told(row.nats, 3), _told(row.difference, 3), _told(row.se, 3), _told(row.worse, 3),
        "" if row.loose is None else f"{row.loose:.0%}", _told(row.active, 1), _told(row.gap, 2), _told(row.seconds, 0),
    )  # fmt: skip
    return (row.family, *shown) if row.status == "finalist" else (row.family, "out", *shown[1:])


def _told(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def listed(names: Sequence[str], word: str = "and") -> str:
    """
    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")
    ('a', 'a and b', 'a, b or c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def verdict(found: Comparison, rows: Sequence[Row], seeds: int) -> str:
    """What the comparison of the finalists says.

    Args:
        found: the comparison.
        rows: of all candidates.
        seeds: per finalist.
    """
    finalists = {row.family: row for row in rows if row.status == "finalist"}
    names, out = found.supported, [name for name in found.differences if name not in found.supported]
    said = []
    if len(finalists) == 1:
        said.append(f"{found.best} alone was left, with nothing to compare it with.")
    elif not out:
        said.append(f"No difference that this data can show between {listed(names)}.")
    elif len(names) == 1:
        said.append(f"The data support {names[0]}: its evidence is better than that of {listed(out)}.")
    else:
        said.append(
            f"The data support {listed(names, 'or')}, with no difference that this data can show between "
            f"{'them' if len(names) > 2 else 'the two'}; worse: {listed(out)}."
        )
    if out:
        near = min(out, key=lambda name: found.differences[name].nats)
        d = found.differences[near]
        said.append(f"The nearest is {near}, {d.nats:.3f} ± {d.se:.3f} nats per item behind {found.best}.")
    if found.pairs:
        over = f"items and {seeds} seeds" if seeds > 1 else "items only: one seed says nothing of what another would"
        said.append(
            f"All {found.pairs} pairs of finalists are tested together at a level of {LEVEL:.0%} (Holm); errors over "
            f"{over}{', which is few: false alarms are more frequent than that' if seeds == 2 else ''}."
        )
    loose = [name for name, row in finalists.items() if row.doubtful]
    if loose:
        said.append(f"The bound of {listed(loose)} is loose (Pareto k > 0.7): the true evidence may be better.")
    for prior in dict.fromkeys(row.prior for row in finalists.values()):
        one = [name for name, row in finalists.items() if row.prior == prior]
        if len(one) > 1:
            said.append(f"{listed(one)} have one prior and different posteriors: they are compared as bounds.")
    gone = [row.family for row in rows if row.status == "out"]
    if gone:
        said.append(f"{listed(gone)} left the race earlier, by validation after fewer steps with one seed.")
    return " ".join(said)
