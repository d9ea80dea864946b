"""``ladle fit --devices N``: a launcher that runs N processes of the same command and monitors them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ladle.cli.console import signal_handlers
from ladle.machine import cores
from ladle.training.distributed import LOST_PROCESS, RENDEZVOUS
from ladle.training.progress import err

LAUNCHER = "LADLE_LAUNCHER"  # environment variable: the process id of the launcher
GRACE = 5.0  # seconds for the other processes to exit by themselves
COMMAND = "from ladle_command import main; main()"


def launch(arguments: Sequence[str], devices: int) -> int:
    """Run ``ladle ARGUMENTS`` in ``devices`` processes, and return the exit status.

    The processes run in separate sessions, so Ctrl-C reaches only the launcher, which forwards it to the first process.
    The first process saves the run and stops the others. If one process dies, the others are killed; if the launcher
    dies, the processes exit. The first process writes to the terminal. The others write to files, whose last line is
    shown if they fail.
    """
    with tempfile.TemporaryDirectory(prefix="ladle-") as folder:
        shared = {
            **os.environ,
            "WORLD_SIZE": str(devices),
            "LOCAL_WORLD_SIZE": str(devices),
            "OMP_NUM_THREADS": str(max(1, cores() // devices)),
            RENDEZVOUS: f"file://{folder}/rendezvous",
            LAUNCHER: str(os.getpid()),
        }
        if sys.platform == "linux":
            shared.setdefault("GLOO_SOCKET_IFNAME", "lo")  # all processes are on this machine
        processes: list[subprocess.Popen[bytes]] = []
        signals: list[int] = []

        def forward(number: int, frame: object) -> None:
            signals.append(number)
            if len(signals) > 2 or not processes:  # the second signal makes the first process exit immediately
                sys.exit(128 + number)
            processes[0].send_signal(number)

        try:
            with signal_handlers(forward, signal.SIGINT, signal.SIGTERM):
                for rank in range(devices):
                    processes.append(_start(arguments, rank, shared, Path(folder) / str(rank)))
                return _monitor(processes, Path(folder))
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _start(arguments: Sequence[str], rank: int, shared: Mapping[str, str], output: Path) -> subprocess.Popen[bytes]:
    with output.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", COMMAND, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=file if rank else None, stderr=file if rank else None,
        )  # fmt: skip


def _monitor(processes: Sequence[subprocess.Popen[bytes]], outputs: Path) -> int:
    """Wait until the first process ends or another one fails, and return the exit status of the command."""
    first = processes[0]
    while first.poll() is None and not any(process.poll() for process in processes):
        time.sleep(0.05)
    _wait(processes if first.poll() == 0 else [first], GRACE)
    statuses = [process.poll() or 0 for process in processes]
    if statuses[0] == 2:  # bad input fails in every process, and the first one has reported it
        return 2
    killed = {
        rank: f"was killed ({signal.Signals(-status).name})" for rank, status in enumerate(statuses) if status < 0
    }
    messages = {rank: _last_line(outputs / str(rank)) for rank, status in enumerate(statuses) if rank and status > 0}
    failed = {rank: f"failed ({text})" for rank, text in messages.items() if not text.startswith(LOST_PROCESS)}
    for rank, how in (killed or failed).items():
        err.print(f"ladle: process {rank + 1} of {len(processes)} {how}; --resume continues from the last checkpoint")
    return statuses[0] if statuses[0] > 0 else int(any(statuses))


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))


def _last_line(output: Path) -> str:
    """The last line of a process's output."""
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("ladle: ") if lines else "no output"


@contextlib.contextmanager
def worker(rank: int) -> Iterator[None]:
    """Set up one process of a run: silence all but the first one, and exit if the launcher dies."""
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None:
        threading.Thread(target=_exit_with, args=(int(launcher),), daemon=True).start()
    with contextlib.ExitStack() as stack:
        if rank:
            null = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(null))
            stack.enter_context(contextlib.redirect_stderr(null))
        yield


def _exit_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1.0)
    os._exit(1)  # the main thread may be waiting for another process indefinitely
