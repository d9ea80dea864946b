"""An autoregressive prior in whole numbers: the mixture of every dimension, from the ones before it.

To push z, one pass of the masked net gives all its conditionals. To pop it, dimension i needs only what depends on
the dimensions before: every unit is computed once, at the first dimension where all that it reads is known. Units are
sorted by that, so what is known is always the first columns, and popping costs one pass as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ladle.coding.ans import loops_numpy
from ladle.coding.ans.bins import Bins
from ladle.coding.ans.fixed_point import FINE, RAW, Curve
from ladle.coding.ans.stack import Stack
from ladle.coding.ans.streams import Streams
from ladle.coding.coders.coder import Coded, put
from ladle.coding.coders.latent import STEP, Grid
from ladle.coding.errors import CodingError
from ladle.coding.integer.program import Program, exactly, run_step
from ladle.coding.integer.rewriter import Rewriter
from ladle.model.priors.autoregressive import Autoregressive


def rewritten(prior: Autoregressive, z: Tensor, grid: Grid) -> Program:
    """The prior as a program from places' values to ``(N, D x 3 x K)``: logits, locations and scales.

    Args:
        prior: the prior.
        z: some latents, ``(N, D)``, float32 multiples of the grid's steps.
        grid: where they live.
    """
    (size,) = prior.event
    order = torch.argsort(torch.arange(prior.first.out_features) % max(size - 1, 1), stable=True)
    w1, b1 = (prior.first.weight * prior.first.mask)[order], prior.first.bias[order]
    w2, b2 = (prior.second.weight * prior.second.mask)[order][:, order], prior.second.bias[order]
    w3, b3 = (prior.last.weight * prior.last.mask)[:, order], prior.last.bias
    new = Rewriter()
    x = new.put_in(z, grid.exponent, -grid.most, grid.most)

    def net(z: Tensor) -> Sequence[Tensor]:
        hidden = torch.relu(torch.nn.functional.linear(z, w1, b1))
        hidden = torch.relu(hidden + torch.nn.functional.linear(hidden, w2, b2))
        return [torch.nn.functional.linear(hidden, w3, b3)]

    (y,) = new.trace(net, x)
    return new.program([new.finish(y, FINE)])


class Conditionals:
    """The program of an autoregressive prior, taken apart by what depends on what.

    Args:
        program: of one input, ``(N, D)``, and steps on rows of numbers alone.
        grid: where z lives.
        components: K.
        tables: ``exponentials``, ``rates`` and the ``curve`` of a component.
    """

    def __init__(self, program: Program, grid: Grid, components: int, tables: dict[str, np.ndarray]) -> None:
        self.program, self.grid, self.components, self.tables = program, grid, components, tables
        self.curve = Curve(tables["curve"], STEP)
        (self.size,) = program.inputs[0].size
        said, last = (self.size * 3 * components,), len(program.ranges) - 1
        if not program.inputs[0].covers(grid.values_range):
            raise CodingError(f"an autoregressive prior must read {grid.values_range}, it reads {program.inputs[0]}")
        if program.outputs != [last] or program.ranges[last].size != said:
            raise CodingError(f"an autoregressive prior must say {said} numbers, with its last step")
        self.known = self._known()

    def _known(self) -> list[list[int]]:
        """For every value, how many of its columns depend on the first i dimensions alone, for i = 0 .. D."""
        program, degrees = self.program, [np.arange(1, self.size + 1)]
        self.last = max(i for i, step in enumerate(program.steps) if step["op"] == "linear")
        for i, step in enumerate(program.steps):
            of = [degrees[j] for j in step["of"]]
            if step["op"] == "linear":
                reads = program.tensors[step["weight"]].cpu().numpy() != 0
                degree = np.where(reads, of[0], 0).max(1)
                degrees.append(degree if i == self.last else np.maximum.accumulate(degree))
            elif step["op"] in ("sum", "clamp", "table") or program.tensors[step.get("weight", "")].dim() == 0:
                degrees.append(np.max(of, axis=0))
            else:
                raise ValueError(f"a step '{step['op']}' in an autoregressive prior")
        each = len(degrees[-1]) // self.size
        for i in range(self.size):
            if degrees[-1][i * each : (i + 1) * each].max() > i:
                raise ValueError(f"dimension {i} depends on itself or a later one")
        return [[int((d <= i).sum()) for i in range(self.size + 1)] for d in degrees[: self.last + 1]]

    def bins(self, raw: np.ndarray, dimensions: slice) -> Bins:
        """``(N, d x 3 x K)`` as bins of the grid, ``(N, d)``."""
        raw = raw.astype(np.int64).reshape(len(raw), -1, 3, self.components)
        logits, loc, scale = (raw[:, :, i] for i in range(3))
        coarse = FINE - RAW
        weight = loops_numpy.shares(
            (logits >> coarse).reshape(-1, self.components), self.tables["exponentials"], self.grid.room
        )
        weight = weight.reshape(logits.shape)
        bins = self.grid.bins(loc, scale >> coarse, weight, FINE, dimensions, self.tables["rates"])
        return bins._replace(curve=self.curve)

    def all(self, k: np.ndarray) -> Bins:
        """The conditionals of places, ``(N, D)``."""
        with exactly(self.device):
            z = torch.from_numpy(self.grid.values(k).astype(np.float32)).to(self.device)
            (raw,) = self.program(z)
        return self.bins(raw.cpu().numpy(), slice(None))

    @property
    def device(self) -> str:
        """Where the program is."""
        return next(iter(self.program.tensors.values())).device.type

    def sequence(self, n: int) -> _Sequence:
        """n items, to be popped one dimension after the other."""
        return _Sequence(self, n)


class _Sequence:
    """What is known so far of n items."""

    def __init__(self, of: Conditionals, n: int) -> None:
        self.of, self.n = of, n
        widths = [r.size[0] for r in of.program.ranges[: of.last + 1]]
        self.values = [torch.zeros(n, width, device=of.device) for width in widths]

    def conditional(self, i: int) -> Bins:
        """The distribution of dimension i, ``(N, 1)``, when those before are known."""
        of, program = self.of, self.of.program
        each = program.ranges[-1].size[0] // of.size
        rows = slice(i * each, (i + 1) * each)
        y = self.values[0]
        with exactly(of.device):
            for s, step in enumerate(program.steps):
                if s < of.last:
                    low, high = of.known[s + 1][i - 1] if i else 0, of.known[s + 1][i]
                    if low < high:
                        inputs = [self._columns(step, j, low, high, i) for j in step["of"]]
                        self.values[s + 1][:, low:high] = run_step(step, program.tensors, inputs, slice(low, high))
                else:
                    y = self._columns(step, step["of"][0], 0, 0, i) if s == of.last else y
                    y = run_step(step, program.tensors, [y], rows)
        return of.bins(y.cpu().numpy(), slice(i, i + 1))

    def _columns(self, step: Any, j: int, low: int, high: int, i: int) -> Tensor:
        """What a step reads of value j: all that is known, for a linear one."""
        return self.values[j][:, : self.of.known[j][i]] if step["op"] == "linear" else self.values[j][:, low:high]

    def put(self, i: int, k: np.ndarray) -> None:
        """Dimension i is known: places ``(N, 1)``."""
        values = self.of.grid.values(k, slice(i, i + 1)).astype(np.float32)
        self.values[0][:, i : i + 1] = torch.from_numpy(values).to(self.of.device)


class Chained(Coded):
    """z of n items under the prior, one dimension after the other."""

    def __init__(self, of: Conditionals, n: int) -> None:
        self.of, self.n = of, n

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`Coded.push`: ``(N, D)``."""
        bins = self.of.all(symbols)
        for i in reversed(range(self.of.size)):
            put(stack, symbols[:, i], bins.dimension(i))

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`Coded.pop`."""
        known, found = self.of.sequence(self.n), []
        for i in range(self.of.size):
            found.append(stack.pop_bins(known.conditional(i)))
            known.put(i, found[i])
        return np.concatenate(found, 1)
