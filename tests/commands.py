"""Helpers for tests of the command line: running a command, and checking its result and its traces."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ladle.cli import main


class Left(NamedTuple):
    """The result of a command: exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        assert self.status == 0, self.err
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1
        return json.loads(self.out)


Ladle = Callable[..., Left]


def refused(left: Left, message: str, status: int = 2) -> None:
    """Check that a command was refused with one line on stderr, without a traceback or any output on stdout."""
    assert left.status == status, left
    assert left.out == ""
    last = [line for line in left.err.splitlines() if not line.startswith("note:")][-1]
    assert last.startswith("ladle: ")
    assert message in last
    assert "Traceback" not in left.err


def nothing_left(folder: Path) -> None:
    """Check that no temporary file or folder is left behind."""
    strange = [p for p in folder.rglob("*") if p.name.startswith(".") or "tmp" in p.name.lower()]
    assert not strange


TINY = ("--size", "xs", "--epochs", 0.3)


def command(*arguments: object) -> int:
    """Run a command, and return its exit status."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return int(left.value.code or 0)


def small_chunks(monkeypatch: pytest.MonkeyPatch, payload: int = 1 << 11) -> None:
    """Make chunks of ``payload`` bytes, whatever share of them the initial bits of the first item take."""
    monkeypatch.setattr("ladle.coding.chunks.PAYLOAD", payload)
    monkeypatch.setattr("ladle.coding.chunks.INITIAL", 1.0)
