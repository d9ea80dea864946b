"""Printing the result of `ladle check`, and handling of signals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from ladle.health import Health
from ladle.health.findings import lines
from ladle.training.progress import err

COLOURS = {True: "green", False: "red", None: "dim"}


def show_health(health: Health) -> None:
    """Print the result of all checks on stdout, with colours on a terminal."""
    out = Console(highlight=False, soft_wrap=True, markup=False)
    out.print(health.head, style="dim")
    for finding in health.findings:
        for text, ok in lines(finding):
            out.print(text, style=COLOURS[ok])
    out.print(health.foot, style="bold " + COLOURS[health.ok])


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that incomplete files are removed. The exit status is 143."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    with signal_handlers(leave, signal.SIGTERM):
        yield


@contextmanager
def interruptible() -> Iterator[Callable[[], int]]:
    """Defer Ctrl-C and SIGTERM, so that the caller can stop between two steps. A second signal exits immediately.

    Yields:
        A function that returns the number of the signal received, or 0.
    """
    received = [0]

    def remember(number: int, frame: object) -> None:
        if received[0]:
            sys.exit(128 + number)
        received[0] = number
        err.print("\nstopping after this step to save the run", style="yellow")

    with signal_handlers(remember, signal.SIGINT, signal.SIGTERM):
        yield lambda: received[0]


@contextmanager
def signal_handlers(handler: Callable[[int, object], None], *numbers: int) -> Iterator[None]:
    """Install a handler for the given signals, and restore the previous handlers at the end."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
