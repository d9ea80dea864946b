"""What training reports about the machine: too little memory, and other processes that use the processors."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import ladle
from ladle import machine
from ladle.machine import MachineError, OtherProcesses, processor_times
from ladle.training.memory import memory_need

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@LINUX
def test_too_little_memory_says_what_would_fit(tmp_path: Path) -> None:
    """A process whose memory is limited to slightly more than it uses, and a network that is too large for the rest."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "noise.npy", rng.integers(0, 256, (64, 3, 96, 96)).astype(np.uint8))
    script = """
import resource, sys, torch
from ladle.cli import main
have = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (have + (700 << 20), -1))
sys.argv = ["ladle", "fit", "noise.npy", "--out", "run", "--recipe", "learned_prior", "--size", "l", "--epochs", "1"]
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert "out of memory: a step of training on 32 items takes about" in ended.stderr
    assert "size xs takes about" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_other_errors_are_left_alone(toys: dict[str, ladle.Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    data = toys["digits"]
    assembly = ladle.assemble(data.schema, "vae", "xs")

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(assembly.model.latents, "walk", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(ladle.fit(assembly, data, epochs=1))


def test_memory_of_a_step(toys: dict[str, ladle.Dataset]) -> None:
    """Encoder and decoder of two layers: six times the weights, and per item at least the output of every layer."""
    schema = toys["digits"].schema
    with torch.device("meta"):
        small, large = (memory_need(ladle.assemble(schema, "vae", size)) for size in ("s", "l"))
        weights = 4 * sum(p.numel() for p in ladle.assemble(schema, "vae", "l").model.parameters())
    assert 6 * weights <= large.fixed < 6.5 * weights
    assert 4 * 4 * 2048 < large.item < 40 * 4 * 2048
    assert 2 < large.item / small.item < 8
    assert large.total(10) == large.fixed + 10 * large.item


def test_warning_about_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(machine.torch, "get_num_threads", lambda: 2)

    def warning(others: float) -> str:
        times = iter([(0.0, 100.0, 5.0), (10.0, 100.0 + 15.0 + 10 * others, 5.0 + 15.0)])
        monkeypatch.setattr(machine, "processor_times", lambda: next(times))
        return OtherProcesses().warning()

    assert warning(0.0) == warning(2.0) == ""
    assert "other processes keep 2.4 of the 4 processors busy" in warning(2.4)
    assert "OMP_NUM_THREADS=1 may" in warning(3.2)
    monkeypatch.setattr(machine, "processor_times", lambda: None)
    assert OtherProcesses().warning() == ""


@LINUX
def test_processor_time_of_this_process_is_included_in_the_total(monkeypatch: pytest.MonkeyPatch) -> None:
    before = processor_times()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    after = processor_times()
    assert before is not None
    assert after is not None
    _, total, own = (b - a for a, b in zip(before, after, strict=True))
    assert 0.3 <= own <= total + 0.05, "two ticks of the system clock"
    with pytest.raises(MachineError, match="must be auto, cpu or cuda"):
        machine.choose("tpu")
