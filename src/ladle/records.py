"""The records of a run, and the log that keeps them."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """One record of a run.

    Attributes:
        kind: ``train``, ``valid``, ``note`` or ``done``.
        step: optimiser steps taken or skipped so far.
        epoch: passes over the data, with a fraction.
        fraction: of the budget.
        nats: the negative bound per item (of the batch, or of the validation split).
        bits_per_dim: the same per number of the data.
        kl: nats per item.
        rate: the learning rate.
        items_per_s: in training, since the last record.
        seconds: of training and validation so far.
        left_s: until the budget is spent.
        skipped: gradients skipped so far.
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
    skipped: int
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
