"""What tests of the command line share: how a command left, and what it must have left behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ladle.cli import main


class Left(NamedTuple):
    """How a command left."""

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


def refused(left: Left, told: str, status: int = 2) -> None:
    """One clear line, no traceback, nothing on stdout."""
    assert left.status == status, left
    assert left.out == ""
    last = [line for line in left.err.splitlines() if not line.startswith("note:")][-1]
    assert last.startswith("ladle: ")
    assert told in last
    assert "Traceback" not in left.err


def nothing_left(folder: Path) -> None:
    """No temporary file or folder is left behind."""
    strange = [p for p in folder.rglob("*") if p.name.startswith(".") or "tmp" in p.name.lower()]
    assert not strange


TINY = ("--size", "xs", "--epochs", 0.3)


def command(*arguments: object) -> int:
    """The exit status of a command."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return int(left.value.code or 0)


def small_chunks(monkeypatch: pytest.MonkeyPatch, payload: int = 1 << 11) -> None:
    """Of so many bytes, however much of them is what the first item borrows."""
    monkeypatch.setattr("ladle.tasks.compress.PAYLOAD", payload)
    monkeypatch.setattr("ladle.tasks.compress.INITIAL", 1.0)
