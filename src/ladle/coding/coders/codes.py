"""Coders of discrete latents: levels, or classes. Their places are the codes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.fixed_point import RAW
from ladle.coding.ans.stack import Stack
from ladle.coding.ans.streams import Streams
from ladle.coding.coders.coder import CodedDistribution, LatentCoder, exponential_table, kind, to_int64
from ladle.coding.coders.likelihoods import Grey
from ladle.coding.integer.program import Range


@kind("levels")
class LevelCodes(LatentCoder):
    """Levels of a discretised logistic distribution or a mixture of them, coded like pixels."""

    exponent = 0

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        self.grey = Grey(about, tables)
        self.exponents, self.most = self.grey.exponents, about["levels"] - 1

    @classmethod
    def of(cls, family: Any, latents: int) -> LevelCodes:
        """The coder of a family: ``fsq``, after the tanh of its location, or a family of pixels."""
        grey = Grey.of(family)
        return cls({**grey.about, "latents": latents}, grey.tables)

    @property
    def latents(self) -> int:
        """See :attr:`LatentCoder.latents`."""
        return int(self.about["latents"])

    def read(self, raw: Sequence[np.ndarray]) -> CodedDistribution:
        """See :meth:`Grey.read`."""
        return self.grey.read(raw)

    def values(self, k: np.ndarray) -> np.ndarray:
        """The levels."""
        return k


class Categorical(CodedDistribution):
    """Categorical distributions of G classes of an item, ``(N, G)``, given their starts ``(N, G, K + 1)``."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`CodedDistribution.push`."""
        for g in reversed(range(symbols.shape[1])):
            stack.push_rows(symbols[:, g], self.rows[:, g])

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`CodedDistribution.pop`."""
        return np.stack([stack.pop_rows(self.rows[:, g]) for g in range(self.rows.shape[1])], 1)

    def nearest(self) -> np.ndarray:
        """The most probable classes."""
        return np.diff(self.rows, axis=-1).argmax(-1)


@kind("classes")
class ClassCodes(LatentCoder):
    """Latents of K classes, given logits. Their values are indicators, concatenated over the latents."""

    exponents, exponent, most = (RAW,), 0, 1

    @classmethod
    def of(cls, family: Any, latents: int) -> ClassCodes:
        """The coder of a family: ``one_hot``, or ``vq``, whose logits are the similarities to its codes."""
        about = {"classes": family.classes, "latents": latents // family.classes}
        return cls(about, {"exponentials": exponential_table()})

    @property
    def latents(self) -> int:
        """See :attr:`LatentCoder.latents`."""
        return int(self.about["latents"])

    def read(self, raw: Sequence[np.ndarray]) -> Categorical:
        """The distribution for logits, ``(N, G K)``."""
        classes = self.about["classes"]
        logits = to_int64(raw[0]).reshape(-1, classes)
        rows = loops_numpy.starts(logits, self.tables["exponentials"])
        return Categorical(rows.reshape(len(raw[0]), -1, classes + 1))

    @property
    def values_range(self) -> Range:
        """See :attr:`LatentCoder.values_range`."""
        return Range(0, 1, (self.latents * self.about["classes"],))

    def values(self, k: np.ndarray) -> np.ndarray:
        """Indicators, ``(N, G K)``."""
        return (k[..., None] == np.arange(self.about["classes"])).astype(np.int64).reshape(len(k), -1)
