"""A trained model in whole numbers: the same walk, with distributions that can be pushed and popped.

::

    compress     z_l = q.pop   at every level, then push x under p(x|z), then push every z_l under its p, the last first
    decompress   z_l = p.pop   at every level, then pop x under p(x|z), then push every z_l under its q, the last first

All that the distributions depend on is in programs and tables of whole numbers, which are stored; so sender and
receiver make the same counts whatever machine they run on.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ladle.coding.coders.coder import Coded, Coder, LatentCoder
from ladle.coding.coders.latent import FARTHEST, Quantiles
from ladle.coding.coders.priors import CodedPrior
from ladle.coding.errors import InexactError
from ladle.coding.integer.program import Program, Range, exactly

Draw = Callable[[int, Any, Coded], np.ndarray]  # (level, q: Coded or None, p) -> places


class Placed(NamedTuple):
    """One level of a walk: the places of z, ``(N, *event)``, and the distributions that they have."""

    k: np.ndarray
    q: Any  # Coded, where there is x
    p: Coded


class Exact(ABC):
    """A model in whole numbers.

    Args:
        programs: by name.
        likelihood: the coder of p(x|h).
        shape: of an item.
        grid: the coder of the top level.
        prior: of the top level.

    Attributes:
        bits_per_item: about what an item takes.
        growth: how fast groups of items may grow, see :mod:`ladle.coding.bits_back`.
        probe: see :func:`ladle.coding.model_file.probe`; none for a decoder alone.
        batch: how many items programs are run on at a time; it changes nothing in the results.
    """

    structure: str
    bits_per_item = 0.0
    growth = 1
    batch: int | None = None
    probe: str | None = None

    def __init__(
        self,
        programs: Mapping[str, Program],
        likelihood: Coder,
        shape: tuple[int, ...],
        grid: LatentCoder,
        prior: CodedPrior,
    ) -> None:
        self.programs, self.likelihood, self.shape = dict(programs), likelihood, shape
        self.grid, self.prior = grid, prior

    @abstractmethod
    def walk(self, draw: Draw, n: int, x: np.ndarray | None = None) -> tuple[list[Placed], Tensor]:
        """Visit the levels from the top, as :meth:`ladle.model.latents.Latents.walk` does.

        Args:
            draw: how to choose places, ``(level, q, p) -> (N, *event)``.
            n: the number of items.
            x: the items, ``(N, *shape)`` of whole numbers; without them there is no q.

        Returns:
            The levels, and what the likelihood reads.
        """

    def explain(self, h: Tensor, step: int = 1, sharpest: int = 0) -> Any:
        """p(x|h) of items as whole numbers ``(N, *shape)``, Coded; or of ``x // step``, see :meth:`Bins.blunted`."""
        p: Any = self.likelihood.read(self.said("decode", h))
        if p.shape != (len(h), *self.shape):
            raise InexactError(f"items must be of the shape {self.shape}, the model explains {p.shape[1:]}")
        return p if step == 1 else p.stepped(step, sharpest)

    def check(self) -> None:
        """Check that every program is given what it is proved for.

        Raises:
            InexactError: when one is not; it is named.
        """
        pixels, latents = Range(0, self.likelihood.levels - 1, self.shape), self.grid.values_range
        for name, given in self.handed(pixels, latents):
            program = self.programs[name]
            if len(given) != len(program.inputs):
                raise InexactError(f"program '{name}' must read {len(given)} values, it reads {len(program.inputs)}")
            for r, own in zip(given, program.inputs, strict=True):
                if not own.covers(r):
                    raise InexactError(f"program '{name}' is given {tuple(r)}, and is proved for {tuple(own)}")

    @abstractmethod
    def handed(self, pixels: Range, latents: Range) -> Iterator[tuple[str, list[Range]]]:
        """The names of the programs that are there, and what each is given."""

    def says(self, name: str) -> list[Range]:
        """What a program says can be."""
        return [self.programs[name].ranges[j] for j in self.programs[name].outputs]

    def coarser(self, bits: int) -> Exact:
        """The same model, for z that are chosen and not drawn, with so many bits less for a place of z."""
        changed = copy.copy(self)
        changed.grid = self.grid.coarser(bits)
        return changed

    @property
    @abstractmethod
    def latents(self) -> int:
        """The number of latents of an item."""

    def run(self, name: str, *inputs: np.ndarray | Tensor) -> list[Tensor]:
        """A program on whole numbers."""
        program = self.programs[name]
        device = next((t.device.type for t in program.tensors.values()), "cpu")
        with exactly(device):
            given = [i if isinstance(i, Tensor) else torch.from_numpy(i.astype(np.float32)) for i in inputs]
            given = [i.to(device) for i in given]
            if self.batch is None or len(given[0]) <= self.batch:
                return program(*given)
            parts = [program(*some) for some in zip(*(i.split(self.batch) for i in given), strict=True)]
            return [torch.cat(pieces) for pieces in zip(*parts, strict=True)]

    def said(self, name: str, *inputs: np.ndarray | Tensor) -> list[np.ndarray]:
        """What a program says, float32."""
        return [y.cpu().numpy() for y in self.run(name, *inputs)]


class ExactFlat(Exact):
    """One level. Programs: ``encode`` from x to the posterior's raw numbers, ``decode`` from z to the likelihood's."""

    structure = "flat"

    @property
    def latents(self) -> int:
        """See :attr:`Exact.latents`."""
        return self.grid.latents

    def handed(self, pixels: Range, latents: Range) -> Iterator[tuple[str, list[Range]]]:
        """See :meth:`Exact.handed`."""
        if "encode" in self.programs:
            yield "encode", [pixels]
        yield "decode", [latents]

    def walk(self, draw: Draw, n: int, x: np.ndarray | None = None) -> tuple[list[Placed], Tensor]:
        """See :meth:`Exact.walk`."""
        q = None if x is None else self.grid.read(self.said("encode", x))
        p = self.prior.read(n, self.grid)
        k = draw(0, q, p)
        return [Placed(k, q, p)], torch.from_numpy(self.grid.values(k).astype(np.float32))


class ExactLadder(Exact):
    """Several levels. Programs: ``features`` from x; ``start`` from the first z to the state; for every level below,
    ``p`` from the state to the prior's raw numbers (and the state on this level's map), ``q`` from that state and the
    features to the step's, ``add`` from that state and z to the next; ``decode`` from the last state."""

    structure = "ladder"

    def __init__(
        self,
        programs: Mapping[str, Program],
        likelihood: Coder,
        shape: tuple[int, ...],
        grid: LatentCoder,
        prior: CodedPrior,
        quantiles: Quantiles,
        reads: Sequence[int],
    ) -> None:
        super().__init__(programs, likelihood, shape, grid, prior)
        self.quantiles, self.reads = quantiles, list(reads)

    @property
    def latents(self) -> int:
        """See :attr:`Exact.latents`."""
        below = (self.programs[f"{i}.p"].ranges[self.programs[f"{i}.p"].outputs[0]].size for i in self.levels)
        return self.grid.latents + sum(int(np.prod(size)) for size in below)

    def coarser(self, bits: int) -> ExactLadder:
        """See :meth:`Exact.coarser`."""
        changed = copy.copy(self)
        changed.grid, changed.quantiles = self.grid.coarser(bits), self.quantiles.coarser(bits)
        return changed

    @property
    def levels(self) -> range:
        """The numbers of the levels below the top."""
        return range(1, len(self.reads) + 1)

    def handed(self, pixels: Range, latents: Range) -> Iterator[tuple[str, list[Range]]]:
        """See :meth:`Exact.handed`."""
        features: list[Range] = []
        if "features" in self.programs:
            yield "features", [pixels]
            _, _, *features = self.says("features")
        yield "start", [latents]
        (state,) = self.says("start")
        for i, read in zip(self.levels, self.reads, strict=True):
            yield f"{i}.p", [state]
            loc, _, state = self.says(f"{i}.p")
            if features:
                yield f"{i}.q", [state, features[read]]
            yield f"{i}.add", [state, Range(-FARTHEST, FARTHEST, loc.size)]
            (state,) = self.says(f"{i}.add")
        yield "decode", [state]

    def walk(self, draw: Draw, n: int, x: np.ndarray | None = None) -> tuple[list[Placed], Tensor]:
        """See :meth:`Exact.walk`."""
        q, features = None, None
        if x is not None:
            loc, scale, *features = self.run("features", x)
            q = self.grid.read([loc.cpu().numpy(), scale.cpu().numpy()])
        p = self.prior.read(n, self.grid)
        k = draw(0, q, p)
        levels = [Placed(k, q, p)]
        (state,) = self.run("start", self.grid.values(k))
        for i, read in zip(self.levels, self.reads, strict=True):
            loc, scale, state = self.run(f"{i}.p", state)
            raw = [loc.cpu().numpy(), scale.cpu().numpy()]
            q = None if features is None else self.quantiles.read(self.said(f"{i}.q", state, features[read]))
            p = self.quantiles.prior(raw[0].shape)
            k = draw(i, q, p)
            levels.append(Placed(k, q, p))
            (state,) = self.run(f"{i}.add", state, self.quantiles.values(k, *raw))
        return levels, state
