"""Distributed training: several processes train one model, each on its own device and on an equal part of every batch.

All processes hold the same weights and take the same steps. Only the first process writes the log, the checkpoints and
the model folder, validates, and reads the clock. Together, N processes take the same steps as one:

* the noise of a batch is drawn for the whole batch on every device, and each process keeps the part of its own items;
* gradients are averaged over the devices, in one flat tensor that also carries the loss, so every process makes the
  same decision about a step. All parts have the same size, so the mean of their means is the mean of the batch;
* an objective that applies a nonlinear function to the mean over the batch (free bits, a multiplier) uses the mean over
  all devices.

The model wrappers of Lightning and torch (DDP) would average gradients as well, but only for a loss that is computed by
one call of the wrapped model. Here, objectives access the weights directly and register hooks on the latent samples.
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributions import Distribution

from ladle import families
from ladle.machine import Machine, MachineError, choose
from ladle.model.latents import Draw, from_posterior
from ladle.shapes import Size
from ladle.training.guard import TrainingError

RENDEZVOUS = "LADLE_RENDEZVOUS"  # environment variable: the address at which the processes of `ladle fit` connect
TIMEOUT = timedelta(days=1)  # long enough for any validation; a process that dies is detected immediately
LOST_PROCESS = "another process of this run"
MAX_MESSAGE = 300  # bytes


class Ranks:
    """The processes of a run, and the communication between them. With one process, all operations are identities.

    Args:
        size: the number of processes N.
        rank: the index of this process, from 0.
        device: the device of this process.

    >>> single = Ranks()
    >>> single.broadcast(0.5, 2), single.shard(np.arange(4)).tolist(), float(single.mean(torch.tensor([1.0, 2.0])))
    ((0.5, 2), [0, 1, 2, 3], 1.5)
    """

    def __init__(self, size: int = 1, rank: int = 0, device: torch.device | str = "cpu") -> None:
        self.size, self.rank, self.device = size, rank, torch.device(device)
        self.first = rank == 0

    def shard(self, index: np.ndarray) -> np.ndarray:
        """The part of a batch that this process trains on: indices ``(B,)`` to ``(B / N,)``."""
        part = len(index) // self.size
        return index[self.rank * part : (self.rank + 1) * part]

    def draw(self, samples: Size = ()) -> Draw:
        """A function that samples q in training, with the same noise per item as one process with the whole batch.

        Every process gathers the parameters of q of all items (latents are small) and samples under the same seed. This
        is needed for rejection samplers, where the noise of an item depends on the parameters of earlier items.
        """
        if self.size == 1:
            return from_posterior
        axis = len(samples)

        def draw(_: int, q: Distribution | None, p: Distribution | None) -> Tensor:
            assert q is not None
            z = families.draw(families.mapped(q, lambda t: self._whole_batch(t, axis)))
            part = z.shape[axis] // self.size
            return z.narrow(axis, self.rank * part, part)

        return draw

    def _whole_batch(self, part: Tensor, axis: int) -> Tensor:
        """The parts of all processes, concatenated along ``axis``; gradients pass through the part of this process."""
        if any(part.stride()) and part.device == self.device:
            parts = self._gather(part)
            parts[self.rank] = part
        else:  # one value for all items, such as a placeholder for a shape in `mapped`: equal in all processes
            parts = [part] * self.size
        return torch.cat(parts, dim=axis)

    def mean(self, per_item: Tensor) -> Tensor:
        """The mean over the items of the whole batch, given the items of this process.

        Its gradient is the gradient of the mean of this process's items, because gradients are averaged afterwards.
        """
        local = per_item.mean()
        if self.size == 1:
            return local
        total = local.detach().clone()
        with _translate_lost_connection():
            dist.all_reduce(total)
        return total / self.size + (local - local.detach())

    def average(self, gradients: Sequence[Tensor], *numbers: Tensor) -> tuple[float, ...]:
        """Replace the gradients in place by their means over all processes, and return the means of the numbers."""
        if self.size > 1:
            tensors = [t.detach() for t in (*gradients, *numbers)]
            flat = torch.cat([t.flatten().float() for t in tensors])
            with _translate_lost_connection():
                dist.all_reduce(flat)
            parts = flat.div_(self.size).split([t.numel() for t in tensors])
            means = [part.view(t.shape) for part, t in zip(parts, tensors, strict=True)]
            torch._foreach_copy_(list(gradients), means[: len(gradients)])
            numbers = tuple(means[len(gradients) :])
        return tuple(float(number.detach()) for number in numbers)

    def broadcast(self, *numbers: float) -> tuple[float, ...]:
        """Return the first process's numbers in every process.

        Used for values that depend on the clock or that only the first process computes. The other processes wait for
        the first one.
        """
        if self.size == 1:
            return numbers
        values = torch.tensor([*numbers, 0.0], dtype=torch.float64, device=self.device)
        with _translate_lost_connection():
            dist.broadcast(values, src=0)
        return tuple(values.tolist()[:-1])

    def join_messages(self, message: str) -> str:
        """The distinct messages of all processes, separated by semicolons."""
        if self.size == 1:
            return message
        padded = bytearray(message.encode()[:MAX_MESSAGE].ljust(MAX_MESSAGE))
        rows = self._gather(torch.frombuffer(padded, dtype=torch.uint8).to(self.device))
        return "; ".join(dict.fromkeys(bytes(row.tolist()).decode(errors="ignore").strip() for row in rows))

    def check(self, step: int, weights: Iterable[Tensor]) -> None:
        """Check that all processes start from the same step and the same weights.

        Raises:
            TrainingError: in a process whose step or weights differ from those of the first process.
        """
        local = (float(step), sum(float(w.detach().double().sum()) for w in weights))
        first = self.broadcast(*local)
        if not all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) or a != a for a, b in zip(local, first, strict=True)):
            raise TrainingError(
                f"all processes must start at the same step with the same weights, but process {self.rank} starts at "
                f"step {step} and the first process at step {first[0]:.0f}, or their weights differ: assemble the "
                "model with the same seed in every process, and use a run folder that all of them can read"
            )

    def _gather(self, local: Tensor) -> list[Tensor]:
        """The tensors of all processes, in the order of their ranks."""
        local = local.detach().contiguous()
        parts = [torch.empty_like(local) for _ in range(self.size)]
        with _translate_lost_connection():
            dist.all_gather(parts, local)
        return parts


def join(devices: int, device: str) -> tuple[Ranks, Machine]:
    """Join the processes of a run, on this process's own device.

    Args:
        devices: the required number of processes; 1 trains in this process alone, even if others were started.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MachineError: if the number of processes differs from ``devices``, or there are too few GPUs.
    """
    size, rank, local = (int(os.environ.get(name, 0)) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if devices == 1:
        size, rank, local = 1, 0, 0
    machine = choose(device, min(devices, int(os.environ.get("LOCAL_WORLD_SIZE", devices))))
    if size != devices:
        raise MachineError(
            f"devices={devices} needs {devices} processes, but {size or 1} {'were' if size > 1 else 'was'} started; "
            f"start a script with `torchrun --nproc-per-node {devices}`, or use `ladle fit --devices {devices}`"
        )
    own_device = torch.device("cuda", local) if machine.device == "cuda" else torch.device("cpu")
    if size > 1 and not dist.is_initialized():
        if own_device.type == "cuda":
            torch.cuda.set_device(own_device)
        with _translate_lost_connection():
            dist.init_process_group(
                "nccl" if own_device.type == "cuda" else "gloo",
                init_method=os.environ.get(RENDEZVOUS, "env://"), timeout=TIMEOUT, world_size=size, rank=rank,
            )  # fmt: skip
        atexit.register(dist.destroy_process_group)
    return Ranks(size, rank, own_device), machine


def check_devices(devices: int, batch: int, items: int) -> None:
    """Check that the number of devices divides the batch size.

    Raises:
        MachineError: if it does not; the message names the nearest numbers that do.
    """
    if devices >= 1 and batch % devices == 0:
        return
    divisors = [n for n in range(1, batch + 1) if batch % n == 0]
    near = [max((n for n in divisors if n < devices), default=0), min((n for n in divisors if n > devices), default=0)]
    what = f"all {batch} training items" if batch == items else f"{batch} items"
    raise MachineError(
        f"devices must divide the batch of {what} into equal parts, got {devices}; "
        f"use {' or '.join(str(n) for n in near if n)}"
    )


@contextmanager
def _translate_lost_connection() -> Iterator[None]:
    """Turn communication errors into a message that says that another process has ended."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"{LOST_PROCESS} has ended or cannot be reached, so this one stops; --resume continues from the last "
            f"checkpoint ({str(error).strip().splitlines()[0].rpartition('] ')[2].split('. ')[0]})"
        ) from error
