"""The records of a training run, and the log file that stores them."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

LARGEST_LOG = 64 << 20  # bytes


class Step(NamedTuple):
    """One record of a training run.

    Attributes:
        kind: ``train``, ``valid``, ``note`` or ``done``.
        step: the number of optimiser steps so far.
        epoch: the number of passes over the data so far, including a fraction.
        fraction: the fraction of the budget that is used.
        nats: the negative bound per item (of the batch, or of the validation split).
        bits_per_dim: the same in bits per observed value.
        kl: the KL divergence in nats per item.
        rate: the learning rate.
        items_per_s: training items per second since the last record.
        seconds: the time spent on training and validation so far.
        left_s: the estimated number of seconds until the budget is used.
        clipped: the number of outlier gradients clipped so far.
        message: a note for the user.
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
    """The file ``log.jsonl``, with one record per line. A line that could not be written completely is removed."""

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
        """Flush the log to the disk, and return its length in bytes."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb+") as file:
            os.fsync(file.fileno())
            return file.seek(0, os.SEEK_END)

    def truncate(self, length: int) -> None:
        """Remove the records that were written after a checkpoint."""
        if self.path.exists():
            os.truncate(self.path, length)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run in order; an empty list if there is no log.

    The log may come from an untrusted source, or be written at this moment. Lines that are not valid records, such as
    an incomplete last line, are skipped, and so is everything beyond 64 MiB.
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
    valid = all(v is None or (type(v) in (int, float) and abs(v) < 1e300) for v in numbers.values())
    return {**record, **numbers} if valid and numbers["seconds"] is not None else None
