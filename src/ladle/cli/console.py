"""What a person sees of a run: progress on stderr, one line on a terminal and few lines elsewhere."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from ladle.health import Health
from ladle.health.findings import lines
from ladle.records import Step

err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """
    >>> duration(59.6), duration(3725), duration(float("nan"))
    ('1:00', '1:02:05', '?')
    """
    if seconds != seconds:
        return "?"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def line(step: Step) -> str:
    """A record in words."""
    bound = f"{step.nats:9.2f} nats {step.bits_per_dim:7.4f} bits/dim"
    text = f"{step.fraction:4.0%} step {step.step:>7} epoch {step.epoch:6.1f} {bound}"
    if step.kl == step.kl:
        text += f"  KL {step.kl:6.2f}"
    if step.items_per_s:
        text += f"  {step.items_per_s:>8,.0f} items/s"
    return text + f"  left {duration(step.left_s)}"


def note(message: str) -> None:
    """Something that people should know."""
    err.print(f"note: {message}", style="yellow")


COLOURS = {True: "green", False: "red", None: "dim"}


def show_health(health: Health) -> None:
    """The ladder on stdout, coloured on a terminal."""
    out = Console(highlight=False, soft_wrap=True, markup=False)
    out.print(health.head, style="dim")
    for finding in health.findings:
        for text, ok in lines(finding):
            out.print(text, style=COLOURS[ok])
    out.print(health.foot, style="bold " + COLOURS[health.ok])


class Show:
    """Shows the records of a run as they come."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.last = 0.0
        self.first = True

    def __call__(self, step: Step) -> None:
        """Show a record: the notable ones always, a training step now and then."""
        now = time.monotonic()
        if step.kind == "train":
            due = now - self.last > (0.2 if self.live else 60.0)
            if not (due or self.first):
                return
            self.last, self.first = now, False
        if self.live and step.kind == "train":
            sys.stderr.write("\r\x1b[K" + line(step))
            sys.stderr.flush()
            return
        if self.live:
            sys.stderr.write("\r\x1b[K")
        if step.kind == "note":
            note(step.message)
        elif step.kind == "valid":
            err.print(f"{line(step)}  validation", style="bold")
        elif step.kind == "train":
            err.print(line(step))


def counter(what: str) -> Callable[[int, int], None]:
    """A progress function for tasks: on a terminal one line that is rewritten, elsewhere a line per minute."""
    live, last = sys.stderr.isatty(), [time.monotonic() if not sys.stderr.isatty() else 0.0]

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        if live and (now - last[0] > 0.2 or done == total):
            end = "\n" if done == total else ""
            sys.stderr.write(f"\r\x1b[K{what} {done}/{total}{end}")
            sys.stderr.flush()
            last[0] = now
        elif not live and now - last[0] > 60:
            err.print(f"{what} {done}/{total}")
            last[0] = now

    return show


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
