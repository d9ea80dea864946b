"""Devices, precision, threads and optional packages of this machine."""

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
    """The requested device does not exist, or its memory is too small."""


class Machine(NamedTuple):
    """The device and settings with which a model is run.

    Attributes:
        device: ``cpu`` or ``cuda``.
        precision: Lightning Fabric's name of the precision, such as ``32-true``.
        channels_last: whether the model uses the channels-last memory format.
        threads: the number of torch threads.
        processor: the name of the processor or GPU.
    """

    device: str
    precision: str
    channels_last: bool
    threads: int
    processor: str


def choose(device: str = "auto", devices: int = 1) -> Machine:
    """Choose the device and the precision.

    bf16 is used if the processor multiplies it natively (AMX or AVX512-BF16) or the GPU supports it; otherwise it is
    slower than float32.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; ``auto`` uses a GPU if there is one.
        devices: the number of GPUs needed on this machine.

    Raises:
        MachineError: if the device is unknown, or there are too few GPUs.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise MachineError(f"device must be auto, cpu or cuda, got '{device}'")
    if device == "cuda" and not torch.cuda.is_available():
        raise MachineError("device 'cuda' needs a GPU, but torch finds none; use --device cpu")
    if device != "cpu" and torch.cuda.is_available():
        if devices > torch.cuda.device_count():
            count = torch.cuda.device_count()
            raise MachineError(
                f"{devices} GPUs were requested, but torch finds {count}; use --devices {count} or --device cpu"
            )
        precision = "bf16-mixed" if torch.cuda.is_bf16_supported() else "32-true"
        return Machine("cuda", precision, True, torch.get_num_threads(), torch.cuda.get_device_name())
    native = any(getattr(torch.cpu, name, bool)() for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))
    return Machine("cpu", "bf16-mixed" if native else "32-true", True, torch.get_num_threads(), processor())


def processor() -> str:
    """The name of the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def release_memory() -> None:
    """Return unused memory to the operating system, for example between training and the report.

    The C library may keep freed memory: the ``ladle`` command configures glibc to do so, because every training step
    allocates the same memory again.
    """
    gc.collect()
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def cores() -> int:
    """The number of cores this process may use, or ``OMP_NUM_THREADS`` if that is set."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        return int(threads)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


class OtherProcesses:
    """Measures the processor time that other processes use from now on. Available on Linux only."""

    def __init__(self) -> None:
        self.start = processor_times()

    def warning(self) -> str:
        """A warning if other processes leave too few processors for training; otherwise an empty string."""
        now = processor_times()
        if self.start is None or now is None or now[0] == self.start[0]:
            return ""
        elapsed, total, own = (b - a for a, b in zip(self.start, now, strict=True))
        busy, count, threads = max(0.0, total - own) / elapsed, os.cpu_count() or 1, torch.get_num_threads()
        if busy < 0.3 or busy + threads < count + 0.3:
            return ""
        free = max(1, round(count - busy))
        message = f"other processes keep {busy:.1f} of the {count} processors busy, which slows down training"
        if free < threads:
            message += f"; its {threads} threads wait for each other: OMP_NUM_THREADS={free} may be faster"
        return message


def processor_times() -> tuple[float, float, float] | None:
    """The wall-clock time, and the processor time used by the whole machine and by this process, in seconds.

    ``None`` if the operating system does not provide them.
    """
    try:
        with open("/proc/stat") as lines:
            user, nice, system, _, _, irq, softirq, steal = map(int, lines.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    work = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), work, time.process_time()


class MissingPackage(ImportError):
    """An optional package is not installed. The message says how to install it."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Args:
        module: the name of the module.
        extra: the extra of ladle that installs it.

    Raises:
        MissingPackage: if the module cannot be imported.

    >>> require("no_such_module", "hub")
    Traceback (most recent call last):
    ladle.machine.MissingPackage: the package 'no_such_module' is needed for this: pip install 'ladle[hub]'
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = getattr(error, "name", None) or package
        why = "" if missing.partition(".")[0] == package else f" ({error})"
        raise MissingPackage(f"the package '{package}' is needed for this{why}: pip install 'ladle[{extra}]'") from None
