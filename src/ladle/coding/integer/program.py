"""Networks in whole numbers: programs whose results are bit-identical on every machine.

A program is a list of steps. Every value is a whole number in a float32 tensor, and every partial sum of every step is
below ``2 ** 24`` in magnitude for all inputs. float32 represents all whole numbers up to that limit, so the order of a
sum, the number of threads, the batch size and the device do not affect the result: nothing is rounded except by
:func:`settle`, whose result is exact too. :mod:`ladle.coding.integer.rewriter` proves the bound for every program that
it writes, and :meth:`Program.check` proves it again for a program that is read from a file.

============  ==========================================================================  ==========================
step          result, ``(N, ...)``                                                        parameters
============  ==========================================================================  ==========================
``linear``    ``settle(x W^T + b)``                                                       weight (O, I), bias (O,)
``conv``      ``settle(conv(x, W) + b)``                                                  weight (O, I, h, w), bias
``up``        the same with a transposed convolution of stride 2                          weight (I, O, h, w), bias
``affine``    ``settle(x a + b)``                                                         a, b broadcast against x
``sum``       ``settle(x 2^i + y 2^j)``                                                   i, j not negative
``clamp``     ``settle(x)``, for example a ReLU
``table``     ``T[x - low]``                                                              T (n,)
``view``      another shape; N may change, if outputs again have one row per item         size, after N
``slice``     ``x[:, start:stop]`` along a dimension                                      dimension, start, stop
``permute``   another order of dimensions                                                 order
``double``    every pixel repeated in both directions                                     times
============  ==========================================================================  ==========================

``settle(y) = clamp(floor(y scale), low, high)``, where ``scale`` is a power of two: for ``linear``, ``conv`` and ``up``
a tensor with a scale for each output, and ``2 ** -shift`` for other steps.

Reference:
    Ballé, Johnston, Minnen: "Integer Networks for Data Compression with Latent-Variable Models", 2019.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ladle.coding.errors import InexactError

LIMIT = 1 << 24  # float32 represents all whole numbers up to this magnitude
LARGEST = 1 << 26  # the most numbers of a value for an item
LAYERS = ("linear", "conv", "up")
SETTLED = (*LAYERS, "affine", "sum", "clamp")
NUMBERS = {"low": 1 << 24, "high": 1 << 24, "shift": 62, "i": 24, "j": 24}  # the largest magnitudes in a step
SCALES = 2.0**-100, 2.0**100  # well within the range in which float32 is exact


class Range(NamedTuple):
    """The range of the whole numbers of a value, and its shape after N."""

    low: int
    high: int
    size: tuple[int, ...]

    @property
    def most(self) -> int:
        """The largest magnitude."""
        return max(-self.low, self.high)

    def covers(self, given: Range) -> bool:
        """Whether another range lies in this one and has the same shape."""
        return self.size == given.size and self.low <= given.low <= given.high <= self.high


@contextlib.contextmanager
def exact_arithmetic(device: str) -> Iterator[None]:
    """The context in which programs run: without autocast, reduced precision or transform algorithms."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(torch.autocast(device, enabled=False))
        if device == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            before = torch.backends.cuda.matmul.allow_tf32
            torch.backends.cuda.matmul.allow_tf32 = False
            stack.callback(setattr, torch.backends.cuda.matmul, "allow_tf32", before)
        yield


class Program:
    """A function from tensors of whole numbers to tensors of whole numbers.

    Args:
        inputs: the ranges of the inputs, which are the values 0, 1, ...
        steps: the steps in order; step i computes the value ``len(inputs) + i``. A step is a mapping with ``op``,
            ``of`` (the numbers of the values that it reads) and the parameters of the table above; parameters that are
            tensors are given by their names.
        outputs: the numbers of the values that are outputs.
        tensors: the tensors by name, whole numbers in float32.
    """

    def __init__(
        self,
        inputs: Sequence[Range],
        steps: Sequence[Mapping[str, Any]],
        outputs: Sequence[int],
        tensors: Mapping[str, Tensor],
    ) -> None:
        self.inputs, self.steps, self.outputs, self.tensors = list(inputs), list(steps), list(outputs), tensors
        self.ranges = self.check()
        self.last = _last_uses(len(self.inputs), self.steps, self.outputs)

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Run the program on inputs ``(N, *size)``, whole numbers within their ranges."""
        values: list[Tensor | None] = list(inputs)
        for i, step in enumerate(self.steps, start=len(inputs)):
            arguments = [values[j] for j in step["of"]]
            values.append(_OPS[step["op"]](step, self.tensors, *arguments))
            for j in step["of"]:
                if self.last[j] == i:
                    values[j] = None  # no later step reads it
        found: list[Tensor] = [values[j] for j in self.outputs]  # type: ignore[misc]
        if any(len(y) != len(inputs[0]) for y in found):
            raise InexactError("the outputs of a program must have one row for every item")
        return found

    def to(self, device: str) -> Program:
        """The same program on another device."""
        return Program(self.inputs, self.steps, self.outputs, {k: t.to(device) for k, t in self.tensors.items()})

    # -------------------------------------------------------------------------------------------- the proof

    def check(self) -> list[Range]:
        """Prove that every partial sum of every step is below ``LIMIT``, and return the ranges of all values.

        Raises:
            InexactError: for a step that is not exact or not valid.
        """
        ranges = list(self.inputs)
        for r in ranges:
            if not -LIMIT < r.low <= r.high < LIMIT:
                raise InexactError(f"inputs must be below 2 ** 24 in magnitude, got {r.low} .. {r.high}")
        results = [torch.empty(2, *r.size, device="meta") for r in ranges]  # two items, without memory
        for i, step in enumerate(self.steps):
            try:
                _check_numbers(step, i + len(self.inputs))
                spread, result = step_range(
                    step, self.tensors, [ranges[j] for j in step["of"]], [results[j] for j in step["of"]]
                )
                if result.numel() > 2 * LARGEST:
                    raise InexactError(f"a value must have at most {LARGEST} numbers for an item")
            except InexactError as error:
                raise InexactError(f"step {i} ({step.get('op')}): {error}") from None
            except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
                raise InexactError(f"step {i} is not valid: {type(error).__name__}: {str(error)[:200]}") from None
            ranges.append(spread)
            results.append(result)
        if not self.outputs or any(type(j) is not int or not 0 <= j < len(ranges) for j in self.outputs):
            raise InexactError(f"outputs must be numbers of the {len(ranges)} values, got {str(self.outputs)[:80]}")
        if any(len(results[j]) != 2 for j in self.outputs):
            raise InexactError("the outputs of a program must have one row for every item")
        return ranges


def _check_numbers(step: Mapping[str, Any], values: int) -> None:
    """Check the numbers of a step that follows ``values`` values."""
    if any(type(j) is not int or not 0 <= j < values for j in step["of"]):
        raise InexactError(f"'of' must be numbers of the {values} values before it, got {str(step['of'])[:80]}")
    for key in NUMBERS.keys() & step.keys():
        least = -NUMBERS[key] if key in ("low", "high") else 0
        if type(step[key]) is not int or not least <= step[key] <= NUMBERS[key]:
            found = str(step[key])[:40]
            raise InexactError(f"'{key}' must be a whole number in {least} .. {NUMBERS[key]}, got {found}")
    if ("scale" in step) != (step["op"] in LAYERS):
        raise InexactError(f"the steps {', '.join(LAYERS)} must have a 'scale', and no other step")


def step_range(
    step: Mapping[str, Any], tensors: Mapping[str, Tensor], of: Sequence[Range], values: Sequence[Tensor]
) -> tuple[Range, Tensor]:
    """The range of a step's result, and the result on the meta device.

    Args:
        step: the step.
        tensors: the tensors of the program.
        of: the ranges of the values that the step reads.
        values: the same values on the meta device.
    """
    op = step["op"]
    parameters = {k: t.to("meta") for k, t in tensors.items() if k in step.values()}
    with torch.inference_mode():
        result = _OPS[op](step, parameters, *values)
    size, x = tuple(result.shape[1:]), of[0]
    numbers = [tensors[step[key]] for key in ("weight", "bias", "table") if key in step]
    if any((tensor != tensor.round()).any() or not tensor.isfinite().all() for tensor in numbers):
        raise InexactError("the tensors must hold whole numbers")
    if op in SETTLED:
        sums, most = _sums(step, tensors, of)
        if most >= LIMIT:
            raise InexactError(f"partial sums must be below 2 ** 24, and may reach {most}")
        low, high = step["low"], step["high"]
        if not -LIMIT < low <= high < LIMIT:
            raise InexactError(f"results must be below 2 ** 24 in magnitude, got {low} .. {high}")
        return Range(max(low, sums.low), min(high, sums.high), size), result
    if op == "table":
        table = tensors[step["table"]]
        if not step["low"] <= x.low <= x.high < step["low"] + len(table):
            raise InexactError(f"the table must cover {x.low} .. {x.high}, got {len(table)} entries from {step['low']}")
        if float(table.abs().max()) >= LIMIT:
            raise InexactError(f"results must be below 2 ** 24 in magnitude, got {float(table.abs().max()):g}")
        return Range(int(table.min()), int(table.max()), size), result
    return Range(x.low, x.high, size), result


def _sums(step: Mapping[str, Any], tensors: Mapping[str, Tensor], of: Sequence[Range]) -> tuple[Range, int]:
    """The range of the result before clamping, and the largest magnitude of a partial sum."""
    op, x = step["op"], of[0]
    if op == "clamp":
        half = 1 << step["shift"] >> 1
        return Range(x.low >> step["shift"], (x.high + half) >> step["shift"], ()), x.most + half
    if op == "sum":
        y, i, j = of[1], step["i"], step["j"]
        half = 1 << step["shift"] >> 1
        low, high = (x.low << i) + (y.low << j), (x.high << i) + (y.high << j)
        reach = (x.most << i) + (y.most << j) + half
        return Range(low >> step["shift"], (high + half) >> step["shift"], ()), reach
    if op == "affine":
        a, b = (tensors[step[k]].double().abs().max().item() for k in ("weight", "bias"))
        most = int(a) * x.most + int(b)
        return Range(-most >> step["shift"], most >> step["shift"], ()), most
    weight, bias = tensors[step["weight"]].double(), tensors[step["bias"]].double()
    axis = 1 if op == "up" else 0
    plus, minus = ((side.clamp(min=0)).transpose(0, axis).flatten(1).sum(1) for side in (weight, -weight))
    reach = (plus + minus) * x.most + bias.abs()
    scale = tensors[step["scale"]].double()
    if (torch.frexp(scale).mantissa != 0.5).any() or scale.min() < SCALES[0] or scale.max() > SCALES[1]:
        raise InexactError("the scales must be powers of two in 2 ** -100 .. 2 ** 100")
    high = ((plus * x.high - minus * x.low + bias.abs()) * scale).max()
    low = ((plus * x.low - minus * x.high - bias.abs()) * scale).min()
    return Range(math.floor(float(low)), math.ceil(float(high)), ()), int(reach.max())


def _last_uses(inputs: int, steps: Sequence[Mapping[str, Any]], outputs: Sequence[int]) -> list[int]:
    last = [0] * (inputs + len(steps))
    for i, step in enumerate(steps, start=inputs):
        for j in step["of"]:
            last[j] = i
    for j in outputs:
        last[j] = len(last)
    return last


# ---------------------------------------------------------------------------------------------- the steps


def settle(y: Tensor, step: Mapping[str, Any], tensors: Mapping[str, Tensor], dims: int = 0) -> Tensor:
    """``clamp(floor(y scale), low, high)``, computed in place."""
    if "scale" in step:
        y = y.mul_(tensors[step["scale"]].view(-1, *[1] * dims)).floor_()
    elif step["shift"]:
        y = y.mul_(2.0 ** -step["shift"]).floor_()
    return y.clamp_(step["low"], step["high"])


def _linear(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return settle(F.linear(x, tensors[step["weight"]], tensors[step["bias"]]), step, tensors)


def _conv(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    weight, bias = tensors[step["weight"]], tensors[step["bias"]]
    return settle(F.conv2d(x, weight, bias, step["stride"], step["padding"]), step, tensors, 2)


def _up(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    weight, bias = tensors[step["weight"]], tensors[step["bias"]]
    return settle(F.conv_transpose2d(x, weight, bias, step["stride"], step["padding"]), step, tensors, 2)


def _affine(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return settle(x * tensors[step["weight"]] + tensors[step["bias"]], step, tensors)


def _sum(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    total = x * 2.0 ** step["i"] + y * 2.0 ** step["j"]
    if step["shift"]:
        total += 2.0 ** (step["shift"] - 1)
    return settle(total, step, tensors)


def _clamp(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    if not step["shift"]:
        return x.clamp(step["low"], step["high"])
    return settle(x + 2.0 ** (step["shift"] - 1), step, tensors)


def _table(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    if x.is_meta:
        return x
    return tensors[step["table"]][(x - step["low"]).int()]


def _view(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x.reshape(-1, *step["size"])


def _slice(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    if not 1 <= step["dimension"] < x.dim():
        raise InexactError(f"'dimension' must be in 1 .. {x.dim() - 1}, got {str(step['dimension'])[:40]}")
    return x.narrow(step["dimension"], step["start"], step["stop"] - step["start"])


def _permute(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x.permute(0, *step["order"])


def _double(step: Mapping[str, Any], tensors: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return x.repeat_interleave(step["times"], 2).repeat_interleave(step["times"], 3)


def run_step(step: Mapping[str, Any], tensors: Mapping[str, Tensor], of: Sequence[Tensor], rows: slice) -> Tensor:
    """Run one step of a program on rows of numbers and compute a part of its outputs. A ``linear`` step is given its
    first inputs; the missing ones are zero."""
    if step["op"] != "linear":
        return _OPS[step["op"]](step, tensors, *of)
    (x,) = of
    weight, bias = tensors[step["weight"]][rows, : x.shape[1]], tensors[step["bias"]][rows]
    y = F.linear(x, weight, bias).mul_(tensors[step["scale"]][rows]).floor_()
    return y.clamp_(step["low"], step["high"])


_OPS: dict[str, Callable[..., Tensor]] = {
    "linear": _linear, "conv": _conv, "up": _up, "affine": _affine, "sum": _sum, "clamp": _clamp, "table": _table,
    "view": _view, "slice": _slice, "permute": _permute, "double": _double,
}  # fmt: skip
