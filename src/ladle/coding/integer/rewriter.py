"""Derives programs of :mod:`ladle.coding.integer.program` from trained networks.

A network of any class is traced to its elementary operations, and each becomes a step on whole numbers. A value ``v``
of the network is represented by ``round(v 2 ** e)``, with one exponent ``e`` for the whole tensor, which is chosen by
the values for calibration items. The input of a layer is first *narrowed* to a few bits. The weights are then as
precise as the proof allows for every row: ``max |x| sum |W| + |b| < 2 ** 24``.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional as F

from ladle.coding.ans.fixed_point import RAW
from ladle.coding.errors import InexactError
from ladle.coding.integer.program import LIMIT, Program, Range, step_range

WIDE = 16  # bits of a value that no layer multiplies
MARGIN = 1.25  # values of other items are clamped at this multiple of the largest value for calibration items
INDEX = 7  # fractional bits of the input of an activation's table
LOOKED_UP: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softplus": F.softplus, "elu": F.elu, "gelu": F.gelu,
    "leaky_relu": F.leaky_relu,
}  # fmt: skip


class Value(NamedTuple):
    """A value of a network: its number in the program, its real value for calibration items, its exponent and range."""

    number: int
    real: Tensor
    exponent: int
    range: Range

    @property
    def reach(self) -> float:
        """The largest expected magnitude."""
        return expected_magnitude(self.real)


def expected_magnitude(real: Tensor) -> float:
    """The largest expected magnitude of a value, from its values for calibration items."""
    return max(float(real.abs().max()) * MARGIN, 1e-6)


def finest(reach: float, bits: int) -> int:
    """The largest exponent at which a magnitude fits into ``bits`` bits."""
    return math.floor(math.log2(((1 << bits) - 1) / reach))


def narrow_bits(inputs: int) -> int:
    """The number of bits for the input of a layer that sums ``inputs`` products.

    It is about the number of bits of the weights, whose sum of magnitudes takes one or two bits less than if all were
    as large as the largest.
    """
    return min(12, max(8, 2 + round((24 - math.log2(inputs)) / 2)))


class Rewriter:
    """Writes one program.

    >>> torch.manual_seed(0); layer = torch.nn.Linear(3, 2); items = torch.randint(0, 9, (50, 3)).float()
    <torch._C.Generator object at ...>
    >>> new = Rewriter()
    >>> x = new.add_input(items, exponent=0, low=0, high=8)
    >>> program = new.program([new.finish(v) for v in new.trace(lambda x: [layer(x).relu()], x)])
    >>> (y,) = program(items)
    >>> bool(((y / 256 - layer(items).relu()).abs() < 0.01).all())
    True
    """

    def __init__(self) -> None:
        self.inputs: list[Range] = []
        self.steps: list[dict[str, Any]] = []
        self.tensors: dict[str, Tensor] = {}

    def add_input(self, real: Tensor, exponent: int, low: int, high: int) -> Value:
        """Add an input; all inputs come before the first step."""
        assert not self.steps, "inputs come first"
        self.inputs.append(Range(low, high, tuple(real.shape[1:])))
        return Value(len(self.inputs) - 1, real, exponent, self.inputs[-1])

    def program(self, outputs: Sequence[Value]) -> Program:
        """The program, with proved bounds."""
        return Program(self.inputs, self.steps, [v.number for v in outputs], self.tensors)

    def finish(self, x: Value, exponent: int = RAW, bits: int = WIDE) -> Value:
        """An output: a value at an exponent, clamped to ``bits`` bits."""
        return self._rescaled(x, exponent, (1 << bits) - 1)

    # ----------------------------------------------------------------------------------------------- steps

    def _step(self, op: str, of: Sequence[Value], real: Tensor, exponent: int, **parameters: Any) -> Value:
        step: dict[str, Any] = {"op": op, "of": [v.number for v in of]}
        for key, parameter in parameters.items():
            if isinstance(parameter, Tensor):
                name = f"{len(self.steps)}.{key}"
                self.tensors[name] = parameter.to(torch.float32).contiguous()
                parameter = name
            step[key] = parameter
        self.steps.append(step)
        spread, _ = step_range(step, self.tensors, [v.range for v in of], [v.real.to("meta") for v in of])
        return Value(len(self.inputs) + len(self.steps) - 1, real, exponent, spread)

    def _rescaled(self, x: Value, exponent: int, most: int) -> Value:
        """``x`` at another exponent, clamped to -most .. most."""
        if exponent > x.exponent:
            gain = torch.tensor(2.0 ** (exponent - x.exponent))
            x = self._rescaled(x, x.exponent, (LIMIT - 1) >> (exponent - x.exponent))
            limits = {"low": -most, "high": most}
            return self._step("affine", [x], x.real, exponent, weight=gain, bias=0 * gain, shift=0, **limits)
        if exponent == x.exponent and x.range.most <= most:
            return x
        return self._step("clamp", [x], x.real, exponent, shift=x.exponent - exponent, low=-most, high=most)

    def narrow(self, x: Value, bits: int) -> Value:
        """``x`` in at most ``bits`` bits, as the input of a layer."""
        return self._rescaled(x, min(x.exponent, finest(x.reach, bits)), (1 << bits) - 1)

    def layer(self, op: str, x: Value, weight: Tensor, bias: Tensor | None, real: Tensor, **parameters: Any) -> Value:
        """A linear map, ``linear``, ``conv`` or ``up``, with a weight in the layout of torch."""
        rows = weight.transpose(0, 1) if op == "up" else weight
        inputs = rows[0].numel() // (4 if op == "up" else 1)
        x = self.narrow(x, narrow_bits(inputs))
        bias = weight.new_zeros(len(rows)) if bias is None else bias
        flat, most = rows.flatten(1).double(), x.range.most
        offset = bias.double() * 2.0**x.exponent
        room = LIMIT * 0.98 - flat.shape[1] * most / 2
        if room < LIMIT / 4:
            raise InexactError(f"a layer must sum few enough products for 24 bits, got {flat.shape[1]}")
        by_sum = torch.log2(room / (flat.abs().sum(1) * most + offset.abs()).clamp(min=1e-9))
        by_weight = torch.log2(32767 / flat.abs().amax(1).clamp(min=1e-9))
        finer = torch.minimum(by_sum, by_weight).floor().clamp(max=30)
        exponent = finest(expected_magnitude(real), WIDE)
        shift = x.exponent + finer - exponent
        offset = offset * 2**finer + torch.where(shift > 0, 2.0 ** (shift - 1), 0.0)
        rounded = (flat * 2 ** finer[:, None]).round().reshape(rows.shape)
        return self._step(
            op, [x], real, exponent, weight=rounded.transpose(0, 1) if op == "up" else rounded, bias=offset.round(),
            scale=2.0**-shift, low=-(1 << WIDE), high=1 << WIDE, **parameters,
        )  # fmt: skip

    def add(self, x: Value, y: Value, real: Tensor) -> Value:
        """The sum of two values."""
        exponent = finest(expected_magnitude(real), WIDE)
        x, y = (self._rescaled(v, min(v.exponent, exponent + 3), LIMIT - 1) for v in (x, y))
        common = max(x.exponent, y.exponent)
        i, j = common - x.exponent, common - y.exponent
        x, y = (self._rescaled(v, v.exponent, (LIMIT // 4) >> by) for v, by in ((x, i), (y, j)))
        shift = max(0, common - exponent)
        limits = {"low": -(1 << WIDE), "high": 1 << WIDE}
        return self._step("sum", [x, y], real, common - shift, i=i, j=j, shift=shift, **limits)

    def affine(self, x: Value, weight: Tensor, bias: Tensor, real: Tensor) -> Value:
        """``x weight + bias`` with constants that broadcast against x."""
        x = self.narrow(x, 10)
        exponent = finest(expected_magnitude(real), WIDE)
        reach = weight.abs().max() * x.range.most + bias.abs().max() * 2.0**x.exponent
        finer = math.floor(math.log2((LIMIT / 2) / float(reach.clamp(min=1e-9))))
        exponent = min(exponent, x.exponent + finer)
        shift = x.exponent + finer - exponent
        offset = (bias * 2.0 ** (x.exponent + finer)).round() + (2 ** (shift - 1) if shift else 0)
        limits = {"low": -(1 << WIDE), "high": 1 << WIDE}
        rounded = (weight * 2.0**finer).round()
        return self._step("affine", [x], real, exponent, weight=rounded, bias=offset, shift=shift, **limits)

    def lookup(self, x: Value, function: Callable[[Tensor], Tensor], real: Tensor) -> Value:
        """An elementwise function, by a table."""
        reach = min(math.ceil(x.reach * (1 << INDEX)), 1 << 14)
        x = self._rescaled(x, INDEX, reach)
        places = torch.arange(x.range.low, x.range.high + 1, dtype=torch.float64) / (1 << INDEX)
        values = function(places)
        exponent = finest(float(values.abs().max()), WIDE)
        return self._step("table", [x], real, exponent, table=(values * 2.0**exponent).round(), low=x.range.low)

    def shaped(self, op: str, x: Value, real: Tensor, **parameters: Any) -> Value:
        """The same numbers in another arrangement."""
        return self._step(op, [x], real, x.exponent, **parameters)

    # ----------------------------------------------------------------------------------------------- traces

    def trace(self, function: Callable[..., Sequence[Tensor]], *inputs: Value) -> list[Value]:
        """Trace a function of tensors, and write its operations as steps.

        Raises:
            InexactError: for an operation without a step.
        """
        with torch.no_grad():
            graph = make_fx(lambda *tensors: list(function(*tensors)))(*(v.real for v in inputs))
        results: dict[Any, Any] = {}
        arguments = iter(inputs)
        for node in graph.graph.nodes:
            if node.op == "placeholder":
                results[node] = next(arguments)
            elif node.op == "get_attr":
                results[node] = getattr(graph, node.target).detach()
            elif node.op == "output":
                return [results[n] for n in node.args[0]]
            else:
                results[node] = self._traced(node, results)
        raise AssertionError("a graph ends with its output")

    def _traced(self, node: Any, results: dict[Any, Any]) -> Any:
        def of(thing: Any) -> Any:
            if isinstance(thing, (list, tuple)):
                return [of(t) for t in thing]
            return results[thing] if isinstance(thing, torch.fx.Node) else thing

        arguments, named = of(node.args), {k: of(v) for k, v in node.kwargs.items()}
        values = [a for a in arguments if isinstance(a, Value)]
        if node.target is operator.getitem:
            return arguments[0][arguments[1]]
        name = node.target.overloadpacket.__name__.rstrip("_")
        if not values:
            return node.target(*arguments, **named)  # constants only
        real = node.target(*(a.real if isinstance(a, Value) else a for a in arguments), **named)
        handle = getattr(self, f"_on_{name}", None)
        if handle is not None:
            return handle(real, *arguments, **named)
        if name in LOOKED_UP and len(values) == 1:
            return self.lookup(values[0], LOOKED_UP[name], real)
        if name in ("alias", "clone", "detach", "to_copy", "_to_copy", "contiguous"):
            return values[0]._replace(real=real)
        raise InexactError(f"the operation '{name}' has no form in whole numbers")

    def _on_view(self, real: Tensor, x: Value, size: Any) -> Value:
        return self.shaped("view", x, real, size=list(real.shape[1:]))

    _on__unsafe_view = _on_reshape = _on_unsqueeze = _on_squeeze = _on_view

    def _on_relu(self, real: Tensor, x: Value) -> Value:
        return self._step("clamp", [x], real, x.exponent, shift=0, low=0, high=max(1, x.range.high))

    def _on_addmm(self, real: Tensor, bias: Tensor, x: Value, weight: Tensor) -> Value:
        return self.layer("linear", x, weight.t(), bias, real)

    def _on_mm(self, real: Tensor, x: Value, weight: Tensor) -> Value:
        return self.layer("linear", x, weight.t(), None, real)

    def _on_convolution(
        self, real: Tensor, x: Value, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any,
        transposed: bool, output_padding: Any, groups: int,
    ) -> Value:  # fmt: skip
        if groups != 1 or set(dilation) != {1} or set(output_padding) != {0}:
            raise InexactError("a grouped or dilated convolution has no form in whole numbers")
        if weight.dim() != 4:
            raise InexactError(
                f"a convolution in whole numbers must be two-dimensional, got one of {weight.dim() - 2} dimensions"
            )
        op = "up" if transposed else "conv"
        return self.layer(op, x, weight, bias, real, stride=list(stride), padding=list(padding))

    def _on_add(self, real: Tensor, x: Any, y: Any) -> Value:
        if isinstance(x, Value) and isinstance(y, Value):
            return self.add(x, y, real)
        x, y = (x, y) if isinstance(x, Value) else (y, x)
        return self._constants(x, 1.0, y, real)

    def _on_sub(self, real: Tensor, x: Any, y: Any) -> Value:
        if not isinstance(x, Value) or isinstance(y, Value):
            raise InexactError("only a constant can be subtracted in whole numbers")
        return self._constants(x, 1.0, -y, real)

    def _on_mul(self, real: Tensor, x: Any, y: Any) -> Value:
        if isinstance(x, Value) and isinstance(y, Value):
            raise InexactError("the product of two values has no form in whole numbers")
        x, y = (x, y) if isinstance(x, Value) else (y, x)
        return self._constants(x, y, 0.0, real)

    def _on_div(self, real: Tensor, x: Any, y: Any) -> Value:
        if not isinstance(x, Value) or isinstance(y, Value):
            raise InexactError("only a constant can divide in whole numbers")
        return self._constants(x, 1 / y, 0.0, real)

    def _constants(self, x: Value, weight: Any, bias: Any, real: Tensor) -> Value:
        dims = real.dim() - 1

        def constant(c: Any) -> Tensor:
            c = c if isinstance(c, Tensor) else torch.tensor(float(c))
            if c.dim() > dims and c.shape[0] != 1:
                raise InexactError("a constant must be the same for all items")
            return c.reshape(c.shape[max(0, c.dim() - dims) :])

        return self.affine(x, constant(weight), constant(bias), real)

    def _on_slice(self, real: Tensor, x: Value, dimension: int = 0, start: int | None = None, *_: Any) -> Value:
        dimension %= x.real.dim()
        length = x.real.shape[dimension]
        if real.shape[dimension] == length:
            return x
        first = slice(start, None).indices(length)[0]
        return self.shaped("slice", x, real, dimension=dimension, start=first, stop=first + real.shape[dimension])

    def _on_split_with_sizes(self, real: Any, x: Value, sizes: Any, dimension: int = 0) -> list[Value]:
        dimension %= x.real.dim()
        parts, start = [], 0
        for part, size in zip(real, sizes, strict=True):
            parts.append(self.shaped("slice", x, part, dimension=dimension, start=start, stop=start + size))
            start += size
        return parts

    def _on_split(self, real: Any, x: Value, size: int, dimension: int = 0) -> list[Value]:
        return self._on_split_with_sizes(real, x, [part.shape[dimension] for part in real], dimension)

    def _on_permute(self, real: Tensor, x: Value, order: Any) -> Value:
        order = [d % x.real.dim() for d in order]
        if order[0] != 0:
            raise InexactError("the items must stay the first dimension")
        return self.shaped("permute", x, real, order=order[1:])

    def _on_upsample_nearest2d(self, real: Tensor, x: Value, *_: Any) -> Value:
        times = real.shape[-1] // x.real.shape[-1]
        if tuple(real.shape[-2:]) != tuple(times * side for side in x.real.shape[-2:]):
            raise InexactError("a map can only be enlarged by a whole number")
        return self.shaped("double", x, real, times=times)
