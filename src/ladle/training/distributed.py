"""Several processes that train one model, each on a device of its own and on an equal part of every batch.

All of them hold the same weights and take the same steps; the first one alone keeps the log, the checkpoints and the
folder, validates, and looks at the clock. What makes N of them take the steps of one:

* the noise of a batch is drawn for all of it, on every device, and each keeps that of its own items;
* gradients are averaged over devices, in one flat message that carries the loss too, so every device comes to the same
  verdict about a step. Parts are equal, so the mean of their means is the mean of the batch;
* an objective that bends the mean over the batch (free bits, a multiplier) takes it over all devices.

Lightning's and torch's wrappers around a model (DDP) would average gradients as well, but only for a loss that is made
of one call of the wrapped model: here objectives look at the weights themselves and hook into the draws.
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

MEETING = "LADLE_MEETING"  # where processes find each other: a file, when `ladle fit --devices` has started them
PATIENCE = timedelta(days=1)  # a process that has died is noticed at once; one that validates may take its time
LOST = "another process of this run"
LONGEST = 300  # bytes of a word


class Ranks:
    """The processes of a run, as one of them sees them; alone, everything it is given is what comes back.

    Args:
        size: N, how many there are.
        rank: the number of this one, from 0.
        device: where its tensors are.

    >>> alone = Ranks()
    >>> alone.agree(0.5, 2), alone.shard(np.arange(4)).tolist(), float(alone.mean(torch.tensor([1.0, 2.0])))
    ((0.5, 2), [0, 1, 2, 3], 1.5)
    """

    def __init__(self, size: int = 1, rank: int = 0, device: torch.device | str = "cpu") -> None:
        self.size, self.rank, self.device = size, rank, torch.device(device)
        self.first = rank == 0

    def shard(self, index: np.ndarray) -> np.ndarray:
        """This process's part of the items of a batch: ``(B,)`` to ``(B / N,)``."""
        part = len(index) // self.size
        return index[self.rank * part : (self.rank + 1) * part]

    def draw(self, samples: Size = ()) -> Draw:
        """Training's draw from q, with the noise that these items have when one process draws for the whole batch.

        Every process is told the q of all items (latents are small) and draws from it under the same seed: some
        samplers reject, and then the noise of an item depends on the parameters of the items before it.
        """
        if self.size == 1:
            return from_posterior
        axis = len(samples)

        def draw(_: int, q: Distribution | None, p: Distribution | None) -> Tensor:
            assert q is not None
            z = families.draw(families.mapped(q, lambda t: self._batch(t, axis)))
            part = z.shape[axis] // self.size
            return z.narrow(axis, self.rank * part, part)

        return draw

    def _batch(self, part: Tensor, axis: int) -> Tensor:
        """All parts along ``axis``; gradients pass through this process's own."""
        if any(part.stride()) and part.device == self.device:
            parts = self._all(part)
            parts[self.rank] = part
        else:  # one number for all items, such as what stands in for a shape in `mapped`: there is nothing to tell
            parts = [part] * self.size
        return torch.cat(parts, dim=axis)

    def mean(self, per_item: Tensor) -> Tensor:
        """The mean over the items of the whole batch, of which this process has a part.

        Its gradient is that of the part's mean: gradients are averaged afterwards.
        """
        here = per_item.mean()
        if self.size == 1:
            return here
        everywhere = here.detach().clone()
        with _connected():
            dist.all_reduce(everywhere)
        return everywhere / self.size + (here - here.detach())

    def average(self, gradients: Sequence[Tensor], *numbers: Tensor) -> tuple[float, ...]:
        """Put the mean over all processes in the place of the gradients; the mean of the numbers is given back."""
        if self.size > 1:
            every = [t.detach() for t in (*gradients, *numbers)]
            flat = torch.cat([t.flatten().float() for t in every])
            with _connected():
                dist.all_reduce(flat)
            parts = flat.div_(self.size).split([t.numel() for t in every])
            means = [part.view(t.shape) for part, t in zip(parts, every, strict=True)]
            torch._foreach_copy_(list(gradients), means[: len(gradients)])
            numbers = tuple(means[len(gradients) :])
        return tuple(float(number.detach()) for number in numbers)

    def agree(self, *numbers: float) -> tuple[float, ...]:
        """The first process's numbers, at every process: of what depends on the clock, or is known to it alone.

        Whoever asks waits until the first one has answered.
        """
        if self.size == 1:
            return numbers
        told = torch.tensor([*numbers, 0.0], dtype=torch.float64, device=self.device)
        with _connected():
            dist.broadcast(told, src=0)
        return tuple(told.tolist()[:-1])

    def words(self, word: str) -> str:
        """What the processes have to say, each thing once."""
        if self.size == 1:
            return word
        padded = bytearray(word.encode()[:LONGEST].ljust(LONGEST))
        rows = self._all(torch.frombuffer(padded, dtype=torch.uint8).to(self.device))
        return "; ".join(dict.fromkeys(bytes(row.tolist()).decode(errors="ignore").strip() for row in rows))

    def check(self, step: int, weights: Iterable[Tensor]) -> None:
        """All must start from the same step and the same weights.

        Raises:
            TrainingError: in the process whose own are others than the first one's.
        """
        own = (float(step), sum(float(w.detach().double().sum()) for w in weights))
        first = self.agree(*own)
        if not all(math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) or a != a for a, b in zip(own, first, strict=True)):
            raise TrainingError(
                f"process {self.rank} starts at step {step} with other weights than the first one, at step "
                f"{first[0]:.0f}: assemble the model with the same seed in all, and keep the run where all can read it"
            )

    def _all(self, own: Tensor) -> list[Tensor]:
        """This tensor of every process."""
        own = own.detach().contiguous()
        parts = [torch.empty_like(own) for _ in range(self.size)]
        with _connected():
            dist.all_gather(parts, own)
        return parts


def join(devices: int, device: str) -> tuple[Ranks, Machine]:
    """Become one of the processes of a run, on a device of its own.

    Args:
        devices: how many there must be; 1 is this process alone, whatever others there are.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        MachineError: where there are not so many processes, or GPUs.
    """
    size, rank, local = (int(os.environ.get(name, 0)) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    if devices == 1:
        size, rank, local = 1, 0, 0
    machine = choose(device, min(devices, int(os.environ.get("LOCAL_WORLD_SIZE", devices))))
    if size != devices:
        raise MachineError(
            f"devices={devices} wants as many processes, but {size or 1} {'were' if size > 1 else 'was'} started; "
            f"`torchrun --nproc-per-node {devices}` starts them for a script, `ladle fit --devices {devices}` by itself"
        )
    where = torch.device("cuda", local) if machine.device == "cuda" else torch.device("cpu")
    if size > 1 and not dist.is_initialized():
        if where.type == "cuda":
            torch.cuda.set_device(where)
        with _connected():
            dist.init_process_group(
                "nccl" if where.type == "cuda" else "gloo",
                init_method=os.environ.get(MEETING, "env://"), timeout=PATIENCE, world_size=size, rank=rank,
            )  # fmt: skip
        atexit.register(dist.destroy_process_group)
    return Ranks(size, rank, where), machine


def check_parts(devices: int, batch: int, items: int) -> None:
    """Refuse a number of devices that cannot share a batch equally.

    Raises:
        MachineError: naming numbers that can.
    """
    if devices >= 1 and batch % devices == 0:
        return
    fitting = [n for n in range(1, batch + 1) if batch % n == 0]
    near = [max((n for n in fitting if n < devices), default=0), min((n for n in fitting if n > devices), default=0)]
    told = f"{batch} training items, all there are," if batch == items else f"a batch of {batch} items"
    raise MachineError(
        f"devices must share a batch equally, and {devices} cannot share {told} so; "
        f"{' or '.join(str(n) for n in near if n)} can"
    )


@contextmanager
def _connected() -> Iterator[None]:
    """Say in words that another process has gone."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(
            f"{LOST} has ended or cannot be reached, so this one stops; --resume goes on from the last checkpoint "
            f"({str(error).strip().splitlines()[0].rpartition('] ')[2].split('. ')[0]})"
        ) from error
