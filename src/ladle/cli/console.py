"""What the command line shows of a model's health, and the signals that it handles."""

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
    """The ladder on stdout, coloured on a terminal."""
    out = Console(highlight=False, soft_wrap=True, markup=False)
    out.print(health.head, style="dim")
    for finding in health.findings:
        for text, ok in lines(finding):
            out.print(text, style=COLOURS[ok])
    out.print(health.foot, style="bold " + COLOURS[health.ok])


@contextmanager
def ending() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that what is half-written is taken away; the exit status is 143."""

    def leave(number: int, frame: object) -> None:
        sys.exit(128 + number)

    with handling(leave, signal.SIGTERM):
        yield


@contextmanager
def interruptible() -> Iterator[Callable[[], int]]:
    """Turn Ctrl-C and SIGTERM into a question asked between steps; a second one leaves at once.

    Yields:
        A function that gives the number of the signal received, 0 for none.
    """
    received = [0]

    def remember(number: int, frame: object) -> None:
        if received[0]:
            sys.exit(128 + number)
        received[0] = number
        err.print("\nstopping after this step, to save the run", style="yellow")

    with handling(remember, signal.SIGINT, signal.SIGTERM):
        yield lambda: received[0]


@contextmanager
def handling(handler: Callable[[int, object], None], *numbers: int) -> Iterator[None]:
    """Have these signals handled so for a while."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
