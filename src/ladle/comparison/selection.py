"""The result of a comparison of latent families: one row for each, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ladle.comparison.compare import LEVEL, Comparison

LOOSE = 0.1  # the verdict warns if a larger share of items has an unreliable bound


class Row(NamedTuple):
    """The results of one candidate.

    Attributes:
        family: the name of the candidate.
        prior: the part of the name that denotes the prior; candidates with the same prior are compared as bounds.
        status: ``finalist``, ``out`` (eliminated) or ``failed``.
        nats: the mean -log p(x) of a finalist on the test items; lower is better.
        difference: ``nats`` minus that of the best.
        se: the standard error of the difference, over items and seeds; ``None`` for the best.
        low, high: the 95 % interval of the difference, for this pair alone.
        worse: the probability of being worse than the best.
        p: the p-value of the difference, adjusted for all pairs of finalists.
        valid: the mean -log p(x) on validation items in the last measurement.
        loose: the share of test items with a Pareto k above 0.7, whose importance-weighted bound is unreliable.
        closer: nats by which annealing or exact summation lowered the mean for that reason; ``None`` if it did not.
        active: active units, averaged over seeds.
        gap: the amortisation gap, in nats.
        seconds: the seconds of training, averaged over the last runs.
        steps: the steps of each of the last runs.
        seeds: the number of the last runs.
        reason: why the candidate failed.
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
        """Whether many items have an unreliable bound that was not corrected by a closer method."""
        return (self.loose or 0.0) > LOOSE and self.closer is None


HEAD = ("family", "nats", "difference", "se", "P(worse)", "k > 0.7", "active", "gap", "seconds")


@dataclass(frozen=True)
class Selection:
    """The result of a comparison of latent families.

    Attributes:
        rows: the finalists, the best first; then the eliminated and the failed candidates.
        verdict: the conclusion in words.
        supported: the families that the data support.
        best: the family of the saved model, chosen by validation.
        about: the data, the steps, the seeds, the items and the method.
    """

    rows: tuple[Row, ...]
    verdict: str
    supported: tuple[str, ...]
    best: str
    about: Mapping[str, Any]

    @property
    def failures(self) -> list[str]:
        """The failed candidates with their reasons."""
        return [f"{row.family} failed: {row.reason}" for row in self.rows if row.status == "failed"]

    def to_json(self) -> dict[str, Any]:
        """The selection as plain data."""
        return {
            "verdict": self.verdict,
            "supported": list(self.supported),
            "best": self.best,
            "rows": [row._asdict() for row in self.rows],
            "about": dict(self.about),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Selection:
        """The selection from the result of :meth:`to_json`."""
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
    """The texts of a row, one for each column of ``HEAD``."""
    if row.status == "failed":
        return (row.family, "failed", *[""] * (len(HEAD) - 2))
    shown = (
        _number(row.nats, 3), _number(row.difference, 3), _number(row.se, 3), _number(row.worse, 3),
        "" if row.loose is None else f"{row.loose:.0%}",
        _number(row.active, 1), _number(row.gap, 2), _number(row.seconds, 0),
    )  # fmt: skip
    return (row.family, *shown) if row.status == "finalist" else (row.family, "out", *shown[1:])


def _number(value: float | None, digits: int) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def listed(names: Sequence[str], word: str = "and") -> str:
    """Names joined as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"], "or")
    ('a', 'a and b', 'a, b or c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


def verdict(found: Comparison, rows: Sequence[Row], seeds: int) -> str:
    """The conclusion of a comparison in words.

    Args:
        found: the comparison of the finalists.
        rows: the rows of all candidates.
        seeds: the number of seeds per finalist.
    """
    finalists = {row.family: row for row in rows if row.status == "finalist"}
    names, out = found.supported, [name for name in found.differences if name not in found.supported]
    sentences = []
    if len(finalists) == 1:
        sentences.append(f"{found.best} is the only finalist, so there is no comparison.")
    elif not out:
        sentences.append(f"There is no significant difference between {listed(names)}.")
    elif len(names) == 1:
        sentences.append(f"The data support {names[0]}: its evidence is better than that of {listed(out)}.")
    else:
        sentences.append(
            f"The data support {listed(names, 'or')}, with no significant difference between "
            f"{'them' if len(names) > 2 else 'the two'}; worse: {listed(out)}."
        )
    if out:
        near = min(out, key=lambda name: found.differences[name].nats)
        d = found.differences[near]
        sentences.append(
            f"The best of the others is {near}, {d.nats:.3f} ± {d.se:.3f} nats per item behind {found.best}."
        )
    if found.pairs:
        over = (
            f"items and {seeds} seeds"
            if seeds > 1
            else "items only, because one seed gives no estimate of the variation between seeds"
        )
        sentences.append(
            f"All {found.pairs} pairs of finalists are tested together at a level of {LEVEL:.0%} (Holm); errors are "
            f"over {over}{'; with only 2 seeds, false alarms are more frequent than that' if seeds == 2 else ''}."
        )
    loose = [name for name, row in finalists.items() if row.doubtful]
    if loose:
        sentences.append(f"The bound of {listed(loose)} is loose (Pareto k > 0.7): the true evidence may be better.")
    for prior in dict.fromkeys(row.prior for row in finalists.values()):
        one = [name for name, row in finalists.items() if row.prior == prior]
        if len(one) > 1:
            sentences.append(
                f"{listed(one)} have the same prior and different posteriors, so their bounds are compared."
            )
    gone = [row.family for row in rows if row.status == "out"]
    if gone:
        sentences.append(f"Eliminated earlier, by validation after fewer steps with one seed: {listed(gone)}.")
    return " ".join(sentences)
