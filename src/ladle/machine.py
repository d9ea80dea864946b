"""What this machine has: devices, precision, threads and optional packages. What is chosen is recorded."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import platform
import sys
import time
from contextlib import suppress
from types import ModuleType
from typing import NamedTuple

import torch


class MachineError(ValueError):
    """A device that is not there."""


class Machine(NamedTuple):
    """How a model is run. ``precision`` is Lightning Fabric's word for it."""

    device: str
    precision: str
    channels_last: bool
    threads: int
    processor: str


def choose(device: str = "auto", devices: int = 1) -> Machine:
    """The machine for ``device``: ``auto`` takes a GPU when there is one; ``devices`` says how many are wanted here.

    bf16 is chosen where the processor multiplies it natively (AMX or AVX512-BF16, or a GPU that has it);
    elsewhere it is slower than float32.

    Raises:
        MachineError: for an unknown device, or a GPU that is not there.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise MachineError(f"device must be auto, cpu or cuda, got '{device}'")
    if device == "cuda" and not torch.cuda.is_available():
        raise MachineError("device 'cuda' was asked for, but torch sees no GPU here; --device cpu will do")
    if device != "cpu" and torch.cuda.is_available():
        if devices > torch.cuda.device_count():
            there = torch.cuda.device_count()
            raise MachineError(
                f"{devices} GPUs were asked for, but torch sees {there} here; --devices {there} or --device cpu will do"
            )
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
        return Machine("cuda", precision, True, torch.get_num_threads(), torch.cuda.get_device_name())
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return Machine("cpu", "bf16-mixed" if native else "32-true", True, torch.get_num_threads(), processor())


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def release() -> None:
    """Give the memory that is no longer used back to the system, between two pieces of work of different kinds: the
    C library may keep it (glibc: the ``ladle`` command asks for that, as training takes the same again at every step).
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def cores() -> int:
    """The number of cores this process may use; ``OMP_NUM_THREADS`` is respected."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


class Neighbours:
    """What else keeps this machine's processors busy, from now on. Known on Linux only."""

    def __init__(self) -> None:
        self.began = spent()

    def crowding(self) -> str:
        """What to tell who trains here when there are fewer processors than work for them; else nothing."""
        now = spent()
        if self.began is None or now is None or now[0] == self.began[0]:
            return ""
        clock, all_work, own = (b - a for a, b in zip(self.began, now, strict=True))
        others, there, threads = max(0.0, all_work - own) / clock, os.cpu_count() or 1, torch.get_num_threads()
        if others < 0.3 or others + threads < there + 0.3:
            return ""
        free = max(1, round(there - others))
        message = (
            f"other work keeps {others:.1f} of the {there} processors busy, so training is slower than it could be"
        )
        if free < threads:
            message += f"; its {threads} threads wait for each other: OMP_NUM_THREADS={free} may be faster"
        return message


def spent() -> tuple[float, float, float] | None:
    """Seconds of the clock, and of processor time that everything on this machine and this process have used."""
    try:
        with open("/proc/stat") as lines:
            user, nice, system, _, _, irq, softirq, steal = map(int, lines.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    work = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), work, time.process_time()


class MissingPackage(ImportError):
    """An optional package that is not installed; the message says how to install it."""


def need(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: its name.
        extra: the extra of ladle that installs it.

    Raises:
        MissingPackage: when it cannot be imported.

    >>> need("no_such_module", "hub")
    Traceback (most recent call last):
    ladle.machine.MissingPackage: the package 'no_such_module' is needed for this: pip install 'ladle[hub]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        lacking = getattr(error, "name", None) or package
        why = "" if lacking.partition(".")[0] == package else f" ({error})"
        raise MissingPackage(f"the package '{package}' is needed for this{why}: pip install 'ladle[{extra}]'") from None
