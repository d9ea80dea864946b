"""``ladle fit --devices N``: N processes of the same command, and one that watches over them."""

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

from ladle.cli.console import handling
from ladle.machine import cores
from ladle.training.distributed import LOST, MEETING
from ladle.training.progress import err

WATCHER = "LADLE_WATCHER"  # the process that watches over this one
GRACE = 5.0  # seconds that the others have to end by themselves
COMMAND = "from ladle_command import main; main()"


def launch(arguments: Sequence[str], devices: int) -> int:
    """Run ``ladle ARGUMENTS`` in so many processes, and give back the exit status.

    They are in sessions of their own, so a Ctrl-C comes to this process alone, which hands it to the first of them;
    that one saves the run and tells the others. When one dies, the others are ended. If this process dies, they see
    it. The first one writes to the terminal; the others to files, of which the end is shown when they fail.
    """
    with tempfile.TemporaryDirectory(prefix="ladle-") as folder:
        shared = {
            **os.environ,
            "WORLD_SIZE": str(devices),
            "LOCAL_WORLD_SIZE": str(devices),
            "OMP_NUM_THREADS": str(max(1, cores() // devices)),
            MEETING: f"file://{folder}/meeting",
            WATCHER: str(os.getpid()),
        }
        if sys.platform == "linux":
            shared.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are all here: nothing need listen to the network
        processes: list[subprocess.Popen[bytes]] = []
        signals: list[int] = []

        def tell(number: int, frame: object) -> None:
            signals.append(number)
            if len(signals) > 2 or not processes:  # the first process leaves at once on the second, if it still can
                sys.exit(128 + number)
            processes[0].send_signal(number)

        try:
            with handling(tell, signal.SIGINT, signal.SIGTERM):
                for rank in range(devices):
                    processes.append(_start(arguments, rank, shared, Path(folder) / str(rank)))
                return _watch(processes, Path(folder))
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


def _watch(processes: Sequence[subprocess.Popen[bytes]], outputs: Path) -> int:
    """Wait until the first process has ended, or another has failed: the exit status of all."""
    first = processes[0]
    while first.poll() is None and not any(process.poll() for process in processes):
        time.sleep(0.05)
    _wait(processes if first.poll() == 0 else [first], GRACE)
    statuses = [process.poll() or 0 for process in processes]
    if statuses[0] == 2:  # what is wrong with the input is wrong for all of them, and the first one has said it
        return 2
    killed = {
        rank: f"was killed ({signal.Signals(-status).name})" for rank, status in enumerate(statuses) if status < 0
    }
    words = {rank: _last(outputs / str(rank)) for rank, status in enumerate(statuses) if rank and status > 0}
    failed = {rank: f"failed ({told})" for rank, told in words.items() if not told.startswith(LOST)}
    for rank, how in (killed or failed).items():
        err.print(f"ladle: process {rank + 1} of {len(processes)} {how}; --resume goes on from the last checkpoint")
    return statuses[0] if statuses[0] > 0 else int(any(statuses))


def _wait(processes: Sequence[subprocess.Popen[bytes]], seconds: float) -> None:
    end = time.monotonic() + seconds
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, end - time.monotonic()))


def _last(output: Path) -> str:
    """The last line that a process has written."""
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("ladle: ") if lines else "without a word"


@contextlib.contextmanager
def attended(rank: int) -> Iterator[None]:
    """Be one of the processes of a run: silent, but for the first one, and gone when nobody watches over it."""
    watcher = os.environ.get(WATCHER)
    if watcher is not None:
        threading.Thread(target=_leave_after, args=(int(watcher),), daemon=True).start()
    with contextlib.ExitStack() as stack:
        if rank:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
            stack.enter_context(contextlib.redirect_stderr(nowhere))
        yield


def _leave_after(watcher: int) -> None:
    while os.getppid() == watcher:
        time.sleep(1.0)
    os._exit(1)  # the main thread may be waiting for another process, for ever
