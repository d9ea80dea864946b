"""An autoregressive prior in whole numbers: the mixture of every dimension, given the dimensions before it.

To push z, one pass through the masked network gives all conditional distributions. To pop z, dimension i needs only the
units that depend on earlier dimensions. Every unit is computed once, as soon as all its inputs are known. Units are
sorted in this order, so the known units are always the first columns, and popping costs one pass as well.
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
from ladle.coding.coders.coder import CodedDistribution, push_checked
from ladle.coding.coders.latent import STEP, Grid
from ladle.coding.errors import CodingError
from ladle.coding.integer.program import Program, exact_arithmetic, run_step
from ladle.coding.integer.rewriter import Rewriter
from ladle.model.priors.autoregressive import Autoregressive


def autoregressive_program(prior: Autoregressive, z: Tensor, grid: Grid) -> Program:
    """The prior as a program from the values of places to logits, locations and scales, ``(N, D x 3 x K)``.

    Args:
        prior: the prior.
        z: latents for calibration, ``(N, D)``, float32 multiples of the grid's steps.
        grid: the coder of the latents.
    """
    (size,) = prior.event
    order = torch.argsort(torch.arange(prior.first.out_features) % max(size - 1, 1), stable=True)
    w1, b1 = (prior.first.weight * prior.first.mask)[order], prior.first.bias[order]
    w2, b2 = (prior.second.weight * prior.second.mask)[order][:, order], prior.second.bias[order]
    w3, b3 = (prior.last.weight * prior.last.mask)[:, order], prior.last.bias
    new = Rewriter()
    x = new.add_input(z, grid.exponent, -grid.most, grid.most)

    def net(z: Tensor) -> Sequence[Tensor]:
        hidden = torch.relu(torch.nn.functional.linear(z, w1, b1))
        hidden = torch.relu(hidden + torch.nn.functional.linear(hidden, w2, b2))
        return [torch.nn.functional.linear(hidden, w3, b3)]

    (y,) = new.trace(net, x)
    return new.program([new.finish(y, FINE)])


class Conditionals:
    """The program of an autoregressive prior, with the dependencies of its units.

    Args:
        program: a program of one input, ``(N, D)``, whose steps work on rows of numbers.
        grid: the coder of z.
        components: the number K of components.
        tables: ``exponentials``, ``rates`` and the ``curve`` of a component.
    """

    def __init__(self, program: Program, grid: Grid, components: int, tables: dict[str, np.ndarray]) -> None:
        self.program, self.grid, self.components, self.tables = program, grid, components, tables
        self.curve = Curve(tables["curve"], STEP)
        (self.size,) = program.inputs[0].size
        outputs, last = (self.size * 3 * components,), len(program.ranges) - 1
        if not program.inputs[0].covers(grid.values_range):
            raise CodingError(f"an autoregressive prior must read {grid.values_range}, got {program.inputs[0]}")
        if program.outputs != [last] or program.ranges[last].size != outputs:
            raise CodingError(f"the last step of an autoregressive prior must have {outputs} outputs")
        self.known = self._known_columns()

    def _known_columns(self) -> list[list[int]]:
        """For every value, the number of columns that depend on the first i dimensions only, for i = 0 .. D."""
        program, degrees = self.program, [np.arange(1, self.size + 1)]
        self.last = max(i for i, step in enumerate(program.steps) if step["op"] == "linear")
        for i, step in enumerate(program.steps):
            inputs = [degrees[j] for j in step["of"]]
            if step["op"] == "linear":
                reads = program.tensors[step["weight"]].cpu().numpy() != 0
                degree = np.where(reads, inputs[0], 0).max(1)
                degrees.append(degree if i == self.last else np.maximum.accumulate(degree))
            elif step["op"] in ("sum", "clamp", "table") or program.tensors[step.get("weight", "")].dim() == 0:
                degrees.append(np.max(inputs, axis=0))
            else:
                raise ValueError(f"an autoregressive prior cannot have a step '{step['op']}'")
        each = len(degrees[-1]) // self.size
        for i in range(self.size):
            if degrees[-1][i * each : (i + 1) * each].max() > i:
                raise ValueError(f"dimension {i} depends on itself or a later one")
        return [[int((d <= i).sum()) for i in range(self.size + 1)] for d in degrees[: self.last + 1]]

    def bins(self, raw: np.ndarray, dimensions: slice) -> Bins:
        """The bins of the grid, ``(N, d)``, for raw outputs ``(N, d x 3 x K)``."""
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
        """The conditional distributions of all dimensions, given places ``(N, D)``."""
        with exact_arithmetic(self.device):
            z = torch.from_numpy(self.grid.values(k).astype(np.float32)).to(self.device)
            (raw,) = self.program(z)
        return self.bins(raw.cpu().numpy(), slice(None))

    @property
    def device(self) -> str:
        """The device of the program."""
        return next(iter(self.program.tensors.values())).device.type

    def sequence(self, n: int) -> _Sequence:
        """The state for n items whose dimensions are popped one after the other."""
        return _Sequence(self, n)


class _Sequence:
    """The values of units known so far for n items."""

    def __init__(self, conditionals: Conditionals, n: int) -> None:
        self.conditionals, self.n = conditionals, n
        widths = [r.size[0] for r in conditionals.program.ranges[: conditionals.last + 1]]
        self.values = [torch.zeros(n, width, device=conditionals.device) for width in widths]

    def conditional(self, i: int) -> Bins:
        """The distribution of dimension i, ``(N, 1)``, given the dimensions before it."""
        net, program = self.conditionals, self.conditionals.program
        each = program.ranges[-1].size[0] // net.size
        rows = slice(i * each, (i + 1) * each)
        y = self.values[0]
        with exact_arithmetic(net.device):
            for s, step in enumerate(program.steps):
                if s < net.last:
                    low, high = net.known[s + 1][i - 1] if i else 0, net.known[s + 1][i]
                    if low < high:
                        inputs = [self._columns(step, j, low, high, i) for j in step["of"]]
                        self.values[s + 1][:, low:high] = run_step(step, program.tensors, inputs, slice(low, high))
                else:
                    y = self._columns(step, step["of"][0], 0, 0, i) if s == net.last else y
                    y = run_step(step, program.tensors, [y], rows)
        return net.bins(y.cpu().numpy(), slice(i, i + 1))

    def _columns(self, step: Any, j: int, low: int, high: int, i: int) -> Tensor:
        """The columns of value j that a step reads: all known ones for a linear step."""
        columns = slice(0, self.conditionals.known[j][i]) if step["op"] == "linear" else slice(low, high)
        return self.values[j][:, columns]

    def set_dimension(self, i: int, k: np.ndarray) -> None:
        """Set dimension i to places ``(N, 1)``."""
        values = self.conditionals.grid.values(k, slice(i, i + 1)).astype(np.float32)
        self.values[0][:, i : i + 1] = torch.from_numpy(values).to(self.conditionals.device)


class AutoregressiveDistribution(CodedDistribution):
    """The distribution of z of n items, coded one dimension after the other."""

    def __init__(self, conditionals: Conditionals, n: int) -> None:
        self.conditionals, self.n = conditionals, n

    def push(self, stack: Stack | Streams, symbols: np.ndarray) -> None:
        """See :meth:`CodedDistribution.push`: ``(N, D)``."""
        bins = self.conditionals.all(symbols)
        for i in reversed(range(self.conditionals.size)):
            push_checked(stack, symbols[:, i], bins.dimension(i))

    def pop(self, stack: Stack | Streams) -> np.ndarray:
        """See :meth:`CodedDistribution.pop`."""
        sequence, found = self.conditionals.sequence(self.n), []
        for i in range(self.conditionals.size):
            found.append(stack.pop_bins(sequence.conditional(i)))
            sequence.set_dimension(i, found[i])
        return np.concatenate(found, 1)
