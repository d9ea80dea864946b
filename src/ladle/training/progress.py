"""Progress on stderr: one line that is updated in place on a terminal, and a few lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console

from ladle.training.records import Step

err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def duration(seconds: float) -> str:
    """
    >>> duration(59.6), duration(3725), duration(float("nan"))
    ('1:00', '1:02:05', '?')
    """
    if seconds != seconds:
        return "?"
    rounded = round(seconds)
    hours, minutes = divmod(rounded // 60, 60)
    return f"{hours}:{minutes:02d}:{rounded % 60:02d}" if hours else f"{minutes}:{rounded % 60:02d}"


def line(step: Step) -> str:
    """A record as one line of text."""
    bound = f"{step.nats:9.2f} nats {step.bits_per_dim:7.4f} bits/dim"
    text = f"{step.fraction:4.0%} step {step.step:>7} epoch {step.epoch:6.1f} {bound}"
    if step.kl == step.kl:
        text += f"  KL {step.kl:6.2f}"
    if step.items_per_s:
        text += f"  {step.items_per_s:>8,.0f} items/s"
    return text + f"  {duration(step.left_s)} left"


def note(message: str) -> None:
    """Print a note for the user."""
    err.print(f"note: {message}", style="yellow")


class Show:
    """Prints the records of a run as they arrive."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.last = 0.0
        self.first = True

    def __call__(self, step: Step) -> None:
        """Print a record: notes and validations always, training steps only now and then."""
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
    """A progress function for tasks: one line that is updated in place on a terminal, one line per minute elsewhere."""
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
