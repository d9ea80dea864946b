"""A trained model in whole numbers: the same walk through the latents, with distributions that push and pop symbols.

::

    compress     z_l = q.pop   at every level, then push x under p(x|z), then push every z_l under its p, the last first
    decompress   z_l = p.pop   at every level, then pop x under p(x|z), then push every z_l under its q, the last first

The distributions depend only on stored programs and tables of whole numbers. The sender and the receiver therefore
compute the same counts, whatever machines they run on.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ladle.coding.coders.coder import CodedDistribution, Coder, LatentCoder
from ladle.coding.coders.latent import FARTHEST, Quantiles
from ladle.coding.coders.priors import CodedPrior
from ladle.coding.errors import InexactError
from ladle.coding.integer.program import Program, Range, exact_arithmetic

Draw = Callable[[int, Any, CodedDistribution], np.ndarray]  # (level, q or None, p) -> places of z


class CodedLevel(NamedTuple):
    """One level of a walk: the places of z, ``(N, *event)``, and their distributions."""

    k: np.ndarray
    q: Any  # a CodedDistribution; None if x is unknown
    p: CodedDistribution


class IntegerModel(ABC):
    """A model in whole numbers.

    Args:
        programs: the networks, by name.
        likelihood: the coder of p(x|h).
        shape: the shape of an item.
        grid: the coder of the top level's latents.
        prior: the prior of the top level.

    Attributes:
        bits_per_item: the approximate number of bits for an item.
        growth: the largest relative size of a group of items, in 1/256, see :mod:`ladle.coding.bits_back`.
        probe: see :func:`ladle.coding.model_file.probe_hash`; None if the model has only its decoder.
        batch: the number of items that a program processes at a time; it does not change the results.
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
    def walk(self, draw: Draw, n: int, x: np.ndarray | None = None) -> tuple[list[CodedLevel], Tensor]:
        """Visit the levels from the top, as :meth:`ladle.model.latents.Latents.walk` does.

        Args:
            draw: the function that chooses the places of a level, ``(level, q, p) -> (N, *event)``.
            n: the number of items.
            x: the items, ``(N, *shape)`` of whole numbers; without them q is None.

        Returns:
            The levels, and the input h of the likelihood.
        """

    def explain(self, h: Tensor, step: int = 1, sharpest: int = 0) -> Any:
        """p(x|h) of items as whole numbers ``(N, *shape)``, or the distribution of ``x // step`` if ``step`` > 1, with
        curves widened by ``sharpest``, see :meth:`Bins.widened`."""
        p: Any = self.likelihood.read(self.run_to_numpy("decode", h))
        if p.shape != (len(h), *self.shape):
            raise InexactError(f"items must have the shape {self.shape}, the likelihood has {p.shape[1:]}")
        return p if step == 1 else p.stepped(step, sharpest)

    def check(self) -> None:
        """Check that the inputs of every program are in the ranges that it is proved for.

        Raises:
            InexactError: naming the first program whose inputs are not.
        """
        pixels, latents = Range(0, self.likelihood.levels - 1, self.shape), self.grid.values_range
        for name, given in self.program_inputs(pixels, latents):
            program = self.programs[name]
            if len(given) != len(program.inputs):
                raise InexactError(f"program '{name}' must have {len(given)} inputs, got {len(program.inputs)}")
            for found, proved in zip(given, program.inputs, strict=True):
                if not proved.covers(found):
                    raise InexactError(f"an input of program '{name}' must be in {tuple(proved)}, got {tuple(found)}")

    @abstractmethod
    def program_inputs(self, pixels: Range, latents: Range) -> Iterator[tuple[str, list[Range]]]:
        """The names of the available programs, and the ranges of their inputs."""

    def output_ranges(self, name: str) -> list[Range]:
        """The ranges of a program's outputs."""
        return [self.programs[name].ranges[j] for j in self.programs[name].outputs]

    def coarser(self, bits: int) -> IntegerModel:
        """The same model with ``bits`` bits less for a place of z, for random access, where z is not drawn."""
        changed = copy.copy(self)
        changed.grid = self.grid.coarser(bits)
        return changed

    @property
    @abstractmethod
    def latents(self) -> int:
        """The number of latents of an item."""

    def run(self, name: str, *inputs: np.ndarray | Tensor) -> list[Tensor]:
        """Run a program on whole numbers."""
        program = self.programs[name]
        device = next((t.device.type for t in program.tensors.values()), "cpu")
        with exact_arithmetic(device):
            given = [i if isinstance(i, Tensor) else torch.from_numpy(i.astype(np.float32)) for i in inputs]
            given = [i.to(device) for i in given]
            if self.batch is None or len(given[0]) <= self.batch:
                return program(*given)
            results = [program(*batch) for batch in zip(*(i.split(self.batch) for i in given), strict=True)]
            return [torch.cat(parts) for parts in zip(*results, strict=True)]

    def run_to_numpy(self, name: str, *inputs: np.ndarray | Tensor) -> list[np.ndarray]:
        """Run a program; its outputs are NumPy arrays of float32."""
        return [y.cpu().numpy() for y in self.run(name, *inputs)]


class FlatModel(IntegerModel):
    """A model with one level of latents.

    Its programs are ``encode``, from x to the raw parameters of the posterior, and ``decode``, from z to those of the
    likelihood.
    """

    structure = "flat"

    @property
    def latents(self) -> int:
        """See :attr:`IntegerModel.latents`."""
        return self.grid.latents

    def program_inputs(self, pixels: Range, latents: Range) -> Iterator[tuple[str, list[Range]]]:
        """See :meth:`IntegerModel.program_inputs`."""
        if "encode" in self.programs:
            yield "encode", [pixels]
        yield "decode", [latents]

    def walk(self, draw: Draw, n: int, x: np.ndarray | None = None) -> tuple[list[CodedLevel], Tensor]:
        """See :meth:`IntegerModel.walk`."""
        q = None if x is None else self.grid.read(self.run_to_numpy("encode", x))
        p = self.prior.read(n, self.grid)
        k = draw(0, q, p)
        return [CodedLevel(k, q, p)], torch.from_numpy(self.grid.values(k).astype(np.float32))


class LadderModel(IntegerModel):
    """A hierarchical model.

    Its programs are ``features``, from x; ``start``, from the top z to the state; for every level i below the top
    ``i.p``, from the state to the raw parameters of the prior (and the state at this level's resolution), ``i.q``, from
    that state and the features to the raw parameters of the posterior relative to the prior, and ``i.add``, from that
    state and z to the next state; and ``decode``, from the last state.
    """

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
        """See :attr:`IntegerModel.latents`."""
        below = (self.programs[f"{i}.p"].ranges[self.programs[f"{i}.p"].outputs[0]].size for i in self.levels)
        return self.grid.latents + sum(int(np.prod(size)) for size in below)

    def coarser(self, bits: int) -> LadderModel:
        """See :meth:`IntegerModel.coarser`."""
        changed = copy.copy(self)
        changed.grid, changed.quantiles = self.grid.coarser(bits), self.quantiles.coarser(bits)
        return changed

    @property
    def levels(self) -> range:
        """The numbers of the levels below the top."""
        return range(1, len(self.reads) + 1)

    def program_inputs(self, pixels: Range, latents: Range) -> Iterator[tuple[str, list[Range]]]:
        """See :meth:`IntegerModel.program_inputs`."""
        features: list[Range] = []
        if "features" in self.programs:
            yield "features", [pixels]
            _, _, *features = self.output_ranges("features")
        yield "start", [latents]
        (state,) = self.output_ranges("start")
        for i, read in zip(self.levels, self.reads, strict=True):
            yield f"{i}.p", [state]
            loc, _, state = self.output_ranges(f"{i}.p")
            if features:
                yield f"{i}.q", [state, features[read]]
            yield f"{i}.add", [state, Range(-FARTHEST, FARTHEST, loc.size)]
            (state,) = self.output_ranges(f"{i}.add")
        yield "decode", [state]

    def walk(self, draw: Draw, n: int, x: np.ndarray | None = None) -> tuple[list[CodedLevel], Tensor]:
        """See :meth:`IntegerModel.walk`."""
        q, features = None, None
        if x is not None:
            loc, scale, *features = self.run("features", x)
            q = self.grid.read([loc.cpu().numpy(), scale.cpu().numpy()])
        p = self.prior.read(n, self.grid)
        k = draw(0, q, p)
        levels = [CodedLevel(k, q, p)]
        (state,) = self.run("start", self.grid.values(k))
        for i, read in zip(self.levels, self.reads, strict=True):
            loc, scale, state = self.run(f"{i}.p", state)
            raw = [loc.cpu().numpy(), scale.cpu().numpy()]
            q = None if features is None else self.quantiles.read(self.run_to_numpy(f"{i}.q", state, features[read]))
            p = self.quantiles.prior(raw[0].shape)
            k = draw(i, q, p)
            levels.append(CodedLevel(k, q, p))
            (state,) = self.run(f"{i}.add", state, self.quantiles.values(k, *raw))
        return levels, state
