"""Compare the speed of a training step of a hierarchical model with that of its widest 3x3 convolution.

    python bench/ladder.py [--size m] [--side 32] [--batch 16] [--threads 2]

Both speeds are in floating-point operations (a multiplication and an addition count as two) of the forward and the
backward pass, counted by torch. The two are timed alternately, so that a drift in the speed of the machine affects
both equally. The convolution is the layer of the model with the most operations, run alone on an input of the same
shape and memory format. Its speed is the maximum that this machine reaches for such a layer.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable
from datetime import date

import numpy as np

from ladle_command import prepare

prepare()  # as the ``ladle`` command does, before torch is imported

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import ladle  # noqa: E402
from ladle.data import make_batch  # noqa: E402
from ladle.machine import choose, cores, processor  # noqa: E402

ROUNDS = 7


def widest(model: nn.Module, run: Callable[[], object]) -> tuple[nn.Conv2d, Tensor]:
    """The 3x3 convolution with the most multiplications in a forward pass, and its input."""
    most, found = 0, None

    def record(layer: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal most, found
        work = output.numel() * layer.in_channels
        if layer.kernel_size == (3, 3) and layer.stride == (1, 1) and work > most:
            most, found = work, (layer, inputs[0].detach())

    hooks = [m.register_forward_hook(record) for m in model.modules() if isinstance(m, nn.Conv2d)]
    run()
    for hook in hooks:
        hook.remove()
    assert found is not None, "the model has no 3x3 convolution"
    return found


def counted(work: Callable[[], object]) -> int:
    """The number of floating-point operations."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def peak() -> int:
    """The peak memory of this process, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", default="m")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=cores())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    machine = choose()
    x = np.random.default_rng(0).integers(0, 256, (asked.batch, 3, asked.side, asked.side), dtype=np.uint8)
    schema = ladle.Schema("image", x.shape[1:], "bytes")
    assembly = ladle.assemble(schema, "vdvae", asked.size)
    model = assembly.model.to(machine.device, memory_format=torch.channels_last)
    batch = make_batch(ladle.Split(x), schema, np.arange(len(x))).to(machine.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    reduced = torch.autocast(machine.device, torch.bfloat16, enabled=machine.precision != "32-true")

    def passes() -> None:
        with reduced:
            terms = model(batch)
        (terms.kl - terms.log_px).mean().backward()

    def step() -> None:
        passes()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    layer, x_in = widest(model, passes)
    x_in = x_in.float().requires_grad_()

    def alone() -> None:
        with reduced:
            output = layer(x_in)
        output.backward(torch.ones_like(output))

    def seconds(work: Callable[[], None]) -> float:
        started = time.perf_counter()
        work()
        if machine.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    work = [counted(passes), counted(alone)]
    step(), alone()
    times = [(seconds(step), min(seconds(alone) for _ in range(5))) for _ in range(ROUNDS)]
    rates = [w / statistics.median(column) / 1e9 for w, column in zip(work, zip(*times, strict=True), strict=True)]
    print(f"{date.today()}  {processor()}, {machine.device}, {machine.precision}, {asked.threads} threads")
    print(f"vdvae {asked.size}, {asked.batch} images of 3 x {asked.side} x {asked.side}: {work[0] / 1e9:.1f} GFLOP")
    print(f"the step: {rates[0]:.1f} GFLOP/s; {layer} on {tuple(x_in.shape)}: {rates[1]:.1f} GFLOP/s")
    print(f"ratio {rates[0] / rates[1]:.2f}; peak memory of the process {peak() / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
