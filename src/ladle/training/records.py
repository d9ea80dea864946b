"""The records of a run, and the log that keeps them."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

LARGEST_LOG = 64 << 20  # bytes


class Step(NamedTuple):
    """One record of a run.

    Attributes:
        kind: ``train``, ``valid``, ``note`` or ``done``.
        step: optimiser steps so far.
        epoch: passes over the data, with a fraction.
        fraction: of the budget.
        nats: the negative bound per item (of the batch, or of the validation split).
        bits_per_dim: the same per number of the data.
        kl: nats per item.
        rate: the learning rate.
        items_per_s: in training, since the last record.
        seconds: of training and validation so far.
        left_s: until the budget is spent.
        clipped: gradients shortened so far, because they were outliers.
        message: for people.
    """

    kind: str
    step: int
    epoch: float
    fraction: float
    nats: float
    bits_per_dim: float
    kl: float
    rate: float
    items_per_s: float
    seconds: float
    left_s: float
    clipped: int
    message: str = ""


class Log:
    """``log.jsonl``: one record a line. A line that could not be written whole is taken back."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, record: Step) -> None:
        """Append a record; NaN is written as null."""
        data = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record._asdict().items()}
        line = (json.dumps(data) + "\n").encode()
        with open(self.path, "ab", buffering=0) as file:  # a buffer would be written again on closing
            before = file.tell()
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
            except OSError:
                os.truncate(self.path, before)
                raise

    def sync(self) -> int:
        """Make sure that what was written is on the disk; its length in bytes."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def cut(self, length: int) -> None:
        """Forget what was written after the checkpoint."""
        if self.path.exists():
            os.truncate(self.path, length)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run, in their order; none where there is no log.

    A log may come from a stranger, or be written at this moment: a line that is no record, such as one without its
    end, is left out, and so is everything beyond 64 MiB.
    """
    if not path.is_file():
        return []
    with path.open("rb") as file:
        lines = file.read(LARGEST_LOG).splitlines()
    return [record for record in map(_record, lines) if record is not None]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in ("kind", "message")):
        return None
    numbers = {name: record.get(name) for name in Step._fields if name not in ("kind", "message")}
    sound = all(v is None or (type(v) in (int, float) and abs(v) < 1e300) for v in numbers.values())
    return {**record, **numbers} if sound and numbers["seconds"] is not None else None
