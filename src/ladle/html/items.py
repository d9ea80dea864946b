"""How items are drawn: one :class:`View` for each kind of schema, each in a file of its own.

A page asks :func:`view` for the view of a schema and does not depend on the kind of the items. A new kind is one file
in this package with a subclass of :class:`View` that is registered by ``@draws(kind)``.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

import ladle.html
from ladle.data import Schema
from ladle.html.elements import Markup, element, number

VIEWS: dict[str, type[View]] = {}


class Originals(NamedTuple):
    """Items of the data.

    Attributes:
        held: ``(N, *event)``, the values in the data set, for example grey values.
        x: ``(N, *event)``, the values that the likelihood models, for example binarised ones; NaN if missing.
    """

    held: np.ndarray
    x: np.ndarray

    def first(self, n: int) -> Originals:
        """The first ``n`` items."""
        return Originals(self.held[:n], self.x[:n])


class Traversal(NamedTuple):
    """Items that are decoded while one latent moves.

    Attributes:
        name: the name of the latent.
        word: what the caption says about it.
        x: ``(steps, *event)``, from the lowest to the highest value of the latent.
    """

    name: str
    word: str
    x: np.ndarray


class Group(NamedTuple):
    """A set of items that is compared with others.

    Attributes:
        name: the name of the set.
        look: its class in the style sheet.
        shown: ``(N, *event)``, the items to show: those of the data, or expectations of p(x|z).
        drawn: ``(N, *event)``, the items of the data as they are modelled, or draws from p(x|z).
        data: whether the items are those of the data.
    """

    name: str
    look: str
    shown: np.ndarray
    drawn: np.ndarray
    data: bool = False


class Drawing(NamedTuple):
    """What a view contributes to a panel: the body, a paragraph for each of the words, and numbers."""

    body: Markup
    words: tuple[str, ...]
    numbers: dict[str, Any] = {}


class View(ABC):
    """How the items of one kind are drawn. Values are in the units of the data.

    Args:
        schema: the schema of the items.
    """

    suffix: ClassVar[str]  # of a file of samples
    most_pairs: ClassVar[int | None] = None  # items in :meth:`reconstructions`; None: all that the page has
    most_latents: ClassVar[int] = 10  # in :meth:`traversals`
    samples_drawn: ClassVar[int] = 64  # for :meth:`samples`
    beside_data: ClassVar[bool] = False  # whether :meth:`samples` needs the data
    with_noise: ClassVar[bool] = False  # whether samples are draws from p(x|z), and not its expectation
    files_drawn: ClassVar[int] = 0  # items in each picture file of :meth:`sheets`; 0 if there are no such files

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    @abstractmethod
    def reconstructions(self, data: Originals, decoded: np.ndarray, latents: int) -> Drawing:
        """Held-out items and their reconstructions.

        Args:
            data: the items.
            decoded: ``(N, *event)``, their reconstructions.
            latents: the number of latents.
        """

    @abstractmethod
    def samples(self, data: Originals | None, new: np.ndarray) -> Drawing:
        """New items ``(N, *event)``, drawn from the prior; beside the data if ``beside_data``."""

    @abstractmethod
    def interpolations(self, lines: np.ndarray) -> Drawing:
        """Items along lines between the latents of two items, ``(lines, steps, *event)``."""

    @abstractmethod
    def traversals(self, start: np.ndarray, moved: Sequence[Traversal], ends: tuple[str, str]) -> Drawing:
        """Items that are decoded while one latent at a time moves.

        Args:
            start: ``(*event)``, the item before any latent moves.
            moved: the items for each latent.
            ends: names of the lowest and the highest value.
        """

    @abstractmethod
    def groups(self, groups: Sequence[Group]) -> Markup:
        """Several sets of items for comparison, the first one from the data."""

    def sheets(self, held: np.ndarray, decoded: np.ndarray) -> np.ndarray:
        """The pixels of a picture of items and their reconstructions, if there are picture files."""
        raise NotImplementedError

    def sheet_of_samples(self, new: np.ndarray) -> np.ndarray:
        """The pixels of a picture of new items, if there are picture files."""
        raise NotImplementedError


def draws(kind: str) -> Callable[[type[View]], type[View]]:
    """Register the view of a kind of schema."""

    def register(cls: type[View]) -> type[View]:
        VIEWS[kind] = cls
        return cls

    return register


def view(schema: Schema) -> View:
    """The view of the items of a schema."""
    if schema.kind not in VIEWS:
        for module in pkgutil.iter_modules(ladle.html.__path__):
            importlib.import_module(f"ladle.html.{module.name}")
    return VIEWS[schema.kind](schema)


def captioned(name: str, word: str, body: Markup) -> Markup:
    """A figure with its name in bold and a word in the caption."""
    return element("figure", element("figcaption", element("b", name), word and f" {word}"), body)


def percent(share: float) -> str:
    """A share in 0..1, such as a quantile, in per cent.

    >>> percent(0.02), percent(0.5)
    ('2 %', '50 %')
    """
    return f"{number(100 * share, 3)} %"


def fits(x: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """R² of every column, ``(D,)``; NaN entries of ``x`` are left out, and a constant column has NaN."""
    error = np.nansum((x - decoded) ** 2, 0)
    seen = np.isfinite(x).sum(0)
    mean = np.nansum(x, 0) / np.maximum(seen, 1)
    spread = np.nansum((x - mean) ** 2, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, 1 - error / spread, np.nan)


def fit_word(r2: float) -> str:
    """R² in words."""
    return f"R² {round(r2, 2) + 0.0:.2f}" if np.isfinite(r2) else "constant"


def finite(value: float) -> float | None:
    """A number for JSON, which has no NaN."""
    return float(value) if np.isfinite(value) else None
