"""Programs of whole numbers: close to their networks, bit-identical for every batch size, with proved bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ladle.coding.errors import InexactError
from ladle.coding.integer.program import LIMIT, Program, Range, exact_arithmetic
from ladle.coding.integer.rewriter import Rewriter
from ladle.nets.conv2d import Block, ConvDown, ConvUp
from ladle.nets.mlp import MLP
from ladle.nets.residual import MapUp, Pyramid
from ladle.spec import build

NETS = {
    "mlp": (lambda: MLP([30], width=64, depth=3), (30,)),
    "silu": (lambda: MLP([30], width=64, depth=3, activation="silu"), (30,)),
    "conv down": (lambda: ConvDown([3, 17, 12], width=8, blocks=1), (3, 17, 12)),
    "conv up": (lambda: ConvUp([9], [17, 12], width=8, blocks=1), (9,)),
    "map up": (lambda: MapUp([5, 5, 3], [17, 12], width=8), (5, 5, 3)),
    "block": (lambda: Block(6), (6, 9, 7)),
    "pyramid": (lambda: _Last(Pyramid(3, [(16, 16), (8, 8), (4, 4)], [1, 1, 2], 8)), (3, 16, 16)),
    "softplus": (lambda: nn.Sequential(nn.Linear(30, 64), nn.Softplus(), nn.Linear(64, 5)), (30,)),
}


class _Last(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.net(x)[-1]


def made(name: str, items: int = 200):  # type: ignore[no-untyped-def]
    """A network with random weights, items, its outputs, and its program."""
    torch.manual_seed(0)
    make, size = NETS[name]
    net = make().eval()
    for parameter in net.parameters():  # branches whose weights start at zero would not be tested
        parameter.data += 0.05 * torch.randn_like(parameter)
    x = torch.randint(0, 256, (items, *size)).float()
    new = Rewriter()
    with torch.no_grad():
        (y,) = new.trace(lambda x: [net(x / 128 - 1)], new.add_input(x, 0, 0, 255))
    return x, y.real, new.program([new.finish(y, 12, bits=18)])


@pytest.mark.parametrize("name", NETS)
def test_a_program_is_close_to_the_net_and_the_same_in_every_batch(name):
    x, real, program = made(name)
    with exact_arithmetic("cpu"):
        (y,) = program(x)
        for size in (1, 7):
            assert torch.equal(torch.cat([program(part)[0] for part in x.split(size)]), y)
    assert torch.equal(y, y.round())
    assert float((y / 4096 - real).square().mean().sqrt() / real.std()) < 0.03


@pytest.mark.parametrize("name", ["mlp", "silu", "conv down", "map up", "pyramid"])
def test_float32_gives_what_whole_numbers_of_64_bits_give(name):
    """The same steps in float64, whose sums are exact, also at the limits of the inputs' range."""
    x, _, program = made(name)
    x[0], x[1], x[2] = 0, 255, torch.randint(0, 2, x.shape[1:]).float() * 255
    with exact_arithmetic("cpu"):
        (y,) = program(x[:20])
    values: list[torch.Tensor] = [x[:20].double()]
    wide = {k: t.double() for k, t in program.tensors.items()}
    from ladle.coding.integer.program import _OPS

    with torch.inference_mode():
        for step in program.steps:
            values.append(_OPS[step["op"]](step, wide, *(values[j].clone() for j in step["of"])))
            spread = program.ranges[len(values) - 1]
            assert spread.low <= values[-1].min()
            assert values[-1].max() <= spread.high
    assert torch.equal(values[program.outputs[0]].float(), y)


def test_weights_that_are_too_large_are_refused():
    x = Range(-255, 255, (100,))
    step = {"op": "linear", "of": [0], "weight": "w", "bias": "b", "scale": "s", "low": -(1 << 16), "high": 1 << 16}
    fine = {"w": torch.full((3, 100), 600.0), "b": torch.zeros(3), "s": torch.full((3,), 2.0**-8)}
    assert 0 < Program([x], [step], [1], fine).ranges[-1].high <= 1 << 16
    for change in ({"w": fine["w"] * 2}, {"b": torch.full((3,), float(LIMIT))}, {"s": torch.full((3,), 0.3)}):
        with pytest.raises(InexactError):
            Program([x], [step], [1], {**fine, **change})
    for wrong in ({"op": "exp"}, {"of": [1]}, {"high": LIMIT}, {"weight": "x"}):
        with pytest.raises(InexactError):
            Program([x], [{**step, **wrong}], [1], fine)


def test_an_operation_without_a_form_is_named():
    new = Rewriter()
    x = new.add_input(torch.randn(20, 8), 0, -8, 8)
    with pytest.raises(InexactError, match="native_layer_norm"):
        new.trace(lambda x: [nn.functional.layer_norm(x, [8])], x)
    with pytest.raises(InexactError, match="product of two values"):
        new.trace(lambda x: [x * x], x)


def test_every_net_that_recipes_use_has_a_form():
    """Networks are traced, so a new one needs no code here, but all its operations must have a step."""
    from ladle.spec import parts

    given = {"inputs": [3, 16, 16], "outputs": [16, 16], "width": 8, "depth": 1, "features": 8, "blocks": 1}
    for name in parts()["net"]:
        if name == "standardise" or name.startswith("conv1d"):  # see the next test
            continue
        import inspect

        wanted = inspect.signature(parts()["net"][name]).parameters
        spec = {"part": f"net/{name}", **{k: v for k, v in given.items() if k in wanted}}
        if name in ("conv_up", "map_up"):
            spec["inputs"] = [6, 8, 8]
        net = build(spec)
        x = torch.randint(0, 256, (50, *spec["inputs"])).float()
        new = Rewriter()
        with torch.no_grad():
            new.trace(lambda x, net=net: [net(x / 255)], new.add_input(x, 0, 0, 255))
        assert len(new.steps) > 0, name


SIGNALS = [
    {"part": "net/conv1d_down", "inputs": [2, 64], "width": 4},
    {"part": "net/conv1d_up", "inputs": [2, 8], "outputs": [64], "width": 4},
]


@pytest.mark.parametrize("spec", SIGNALS)
def test_a_convolution_of_one_dimension_is_refused(spec):
    net, new = build(spec), Rewriter()
    x = torch.randint(0, 256, (5, *spec["inputs"])).float()
    with torch.no_grad(), pytest.raises(InexactError, match="must be two-dimensional, got one of 1 dimensions"):
        new.trace(lambda x: [net(x / 255)], new.add_input(x, 0, 0, 255))


def test_numpy_agrees_on_powers_of_two():
    """Exponents are stored, and scales are computed from them exactly."""
    exponents = np.arange(-60, 61)
    assert (np.ldexp(np.float32(1), exponents) == np.array([2.0**e for e in exponents], np.float32)).all()
