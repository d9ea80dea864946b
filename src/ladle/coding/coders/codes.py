"""Coders of latents that are codes: levels, or choices among classes. Their places are the codes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.fixed_point import RAW
from ladle.coding.ans.stack import Stack
from ladle.coding.ans.streams import Streams
from ladle.coding.coders.coder import Coded, LatentCoder, exponentials, kind, whole
from ladle.coding.coders.likelihoods import Grey
from ladle.coding.integer.program import Range


@kind("levels")
class LevelCodes(LatentCoder):
    """Levels of a discretised logistic, or of a mixture of them, coded as those of pixels are."""

    exponent = 0

    def __init__(self, about: Mapping[str, Any], tables: Mapping[str, np.ndarray]) -> None:
        super().__init__(about, tables)
        self.grey = Grey(about, tables)
        self.exponents, self.most = self.grey.exponents, about["levels"] - 1

    @classmethod
    def of(cls, family: Any, latents: int) -> LevelCodes:
        """The coder of a family: ``fsq``, whose location has passed a tanh, or those of pixels."""
        grey = Grey.of(family)
        return cls({**grey.about, "latents": latents}, grey.tables)

    @property
    def latents(self) -> int:
        """See :attr:`LatentCoder.latents`."""
        return int(self.about["latents"])

    def read(self, raw: Sequence[np.ndarray]) -> Coded:
        """See :meth:`Grey.read`."""
        return self.grey.read(raw)

    def values(self, k: np.ndarray) -> np.ndarray:
        """The levels."""
        return k


class Choices(Coded):
    """Choices among classes, ``(N, G)``, by their starts ``(N, G, K + 1)``."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`Coded.push`."""
        for g in reversed(range(symbols.shape[1])):
            stack.push_rows(symbols[:, g], self.rows[:, g])

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`Coded.pop`."""
        return np.stack([stack.pop_rows(self.rows[:, g]) for g in range(self.rows.shape[1])], 1)

    def nearest(self) -> np.ndarray:
        """The most probable choices."""
        return np.diff(self.rows, axis=-1).argmax(-1)


@kind("classes")
class ClassCodes(LatentCoder):
    """Choices among K classes, by logits; their values are indicators side by side."""

    exponents, exponent, most = (RAW,), 0, 1

    @classmethod
    def of(cls, family: Any, latents: int) -> ClassCodes:
        """The coder of a family: ``one_hot``, or ``vq``, whose logits are the likenesses to its codes."""
        return cls({"classes": family.classes, "latents": latents // family.classes}, {"exponentials": exponentials()})

    @property
    def latents(self) -> int:
        """See :attr:`LatentCoder.latents`."""
        return int(self.about["latents"])

    def read(self, raw: Sequence[np.ndarray]) -> Choices:
        """From logits, ``(N, G K)``."""
        classes = self.about["classes"]
        logits = whole(raw[0]).reshape(-1, classes)
        return Choices(loops_numpy.starts(logits, self.tables["exponentials"]).reshape(len(raw[0]), -1, classes + 1))

    @property
    def values_range(self) -> Range:
        """See :attr:`LatentCoder.values_range`."""
        return Range(0, 1, (self.latents * self.about["classes"],))

    def values(self, k: np.ndarray) -> np.ndarray:
        """Indicators, ``(N, G K)``."""
        return (k[..., None] == np.arange(self.about["classes"])).astype(np.int64).reshape(len(k), -1)
