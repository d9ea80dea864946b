"""Interruptions of the command line and full disks: the run is saved, and no incomplete file is left behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ladle
from commands import TINY, Ladle, nothing_left, refused
from ladle.store.checkpoints import Checkpoints

FIT = ("fit", "digits", "--out", "run", "--size", "xs", "--recipe", "vae", "--resume")


def test_sigterm_in_the_middle_saves_the_run(call: Ladle, tmp_path: Path) -> None:
    """In a separate process, as a batch system sends it: status 143, a run that can be resumed, no traceback."""
    ladle_ = [sys.executable, "-m", "ladle", *FIT, "--epochs", "10000"]
    process = subprocess.Popen(ladle_, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    started = time.monotonic()
    while not list(tmp_path.glob("run/log.jsonl")) and time.monotonic() - started < 60:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert out == ""
    assert "continue with --resume" in err
    assert "Traceback" not in err
    assert "arning" not in err
    assert "Mixed Precision" not in err
    assert len(err.splitlines()) < 30
    tensors, state = Checkpoints(tmp_path / "run").latest()
    assert tensors
    assert f"saved at step {state['step']}" in err
    assert not (tmp_path / "run/model.safetensors").exists()
    nothing_left(tmp_path)
    refused(call("sample", "run", "o.npy"), "training has not ended")
    refused(call(*FIT, "--epochs", 9999), "other settings")


def test_a_signal_between_steps_and_resuming(call: Ladle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ladle.cli import fit

    class Interrupting(fit.Show):
        def __call__(self, step: ladle.Step) -> None:
            if step.step == 3 and step.kind == "train":
                os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(fit, "Show", Interrupting)
    left = call(*FIT, "--epochs", 0.6)
    assert left.status == 130
    assert "saved at step 3" in left.err
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    steps = call(*FIT, "--epochs", 0.6, "--json").json()["steps"]
    assert steps > 3
    assert call(*FIT, "--epochs", 0.6, "--json").json()["steps"] == steps
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "the handlers are restored"


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_writing_leaves_nothing(
    call: Ladle, digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    kept = ladle.write

    def interrupted(*arguments: Any, **options: Any) -> Path:
        monkeypatch.setattr("numpy.lib.format.write_array_header_1_0", lambda *_, **__: os.kill(os.getpid(), number))
        return kept(*arguments, **options)

    monkeypatch.setattr("ladle.write", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
    try:
        assert call("sample", digits_run, "o.npy").status == status
    finally:
        signal.signal(signal.SIGINT, before)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_torch_is_imported(tmp_path: Path) -> None:
    """In its first seconds the command is still importing torch, before its own error handling."""
    line = (
        "import builtins, ladle_command as c; real = builtins.__import__\n"
        "def late(name, *more):\n"
        "    if name == 'ladle.cli': raise KeyboardInterrupt\n"
        "    return real(name, *more)\n"
        "builtins.__import__ = late; c.main()"
    )
    left = subprocess.run([sys.executable, "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert (left.returncode, left.stdout, left.stderr) == (130, "", "ladle: interrupted\n")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk]).returncode:
        pytest.skip("no permission to mount a small file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_is_full(call: Ladle, digits_run: Path, small_disk: Path) -> None:
    refused(call("sample", digits_run, small_disk / "o.npy", "-n", 10_000), "no space left", 1)
    assert list(small_disk.iterdir()) == []
    refused(call("fit", "digits", "--out", small_disk / "run", *TINY), "no space left", 1)
    nothing_left(small_disk)


def test_a_disk_too_small_for_the_decompressed_data(
    call: Ladle, digits_run: Path, small_disk: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    digits = ladle.read("digits").all.x.astype(np.int64)
    ladle.compress(run, np.concatenate([digits, digits]), tmp_path / "array.ladle")
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(digits[:300, 0].astype(np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    ladle.compress(run, tmp_path / "images", tmp_path / "images.ladle")
    for file, out in (("array.ladle", "x.npy"), ("images.ladle", "images")):
        refused(call("decompress", file, small_disk / out, "--model", run), "no space left", 1)
        assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up(call: Ladle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint that cannot be written leaves the previous one unchanged, and the run can be resumed."""
    full = [False]
    real = Path.write_bytes

    def write_bytes(path: Path, content: bytes) -> int:
        if not full[0]:
            return real(path, content)
        real(path, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    monkeypatch.setattr("ladle.training.fit.CHECKPOINT_SECONDS", 0.0)
    from ladle.cli import fit

    class Filling(fit.Show):
        def __call__(self, step: ladle.Step) -> None:
            full[0] = step.step >= 3

    monkeypatch.setattr(fit, "Show", Filling)
    refused(call(*FIT, "--epochs", 0.6), "no space left", 1)
    tensors, state = Checkpoints(tmp_path / "run").latest()
    assert state["step"] == 3
    assert tensors
    nothing_left(tmp_path)
    full[0] = False
    monkeypatch.setattr(fit, "Show", lambda: lambda step: None)
    assert call(*FIT, "--epochs", 0.6, "--json").json()["steps"] > 3


def test_an_incomplete_log_line_is_removed(tmp_path: Path) -> None:
    """A file of limited size holds some lines; the one that does not fit is removed."""
    import resource

    from ladle.training.records import Log, Step

    record = Step("note", *[1] * 11, message="x" * 1000)  # type: ignore[arg-type]
    log, before = Log(tmp_path / "log.jsonl"), resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        log.write(record)
        log.write(record)
        with pytest.raises(OSError, match="No space left"):
            log.write(record)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [len(json.loads(line)["message"]) for line in log.path.read_text().splitlines()] == [1000, 1000]
