"""The Python blocks of the README run, and the commands and make targets that it shows exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from ladle.cli import app

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```(\w*)\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for code in [text for language, text in BLOCKS if language == "python"]:
        exec(compile(code, "README.md", "exec"), scope)
    assert scope["evidence"].kind == "bound"
    assert scope["x"].shape == (16, 1, 8, 8)
    assert scope["z"].shape[0] == len(scope["data"].test)
    assert scope["rows"].shape == (3, 64)


def test_every_command_and_option_exists() -> None:
    lines = [line for language, text in BLOCKS if not language for line in text.splitlines()]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = [line.split("#")[0].split()[1:] for line in lines if line.startswith("ladle ")]
    assert shown
    for verb, *rest in shown:
        assert verb in commands
        options = {option for p in commands[verb].params for option in p.opts}
        assert {word for word in rest if word.startswith("-")} <= options


def test_every_make_target_exists() -> None:
    lines = [line for language, text in BLOCKS if not language for line in text.splitlines()]
    targets = {line.split()[1] for line in lines if line.startswith("make ")}
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)


def test_no_placeholder_is_left() -> None:
    assert "@" not in README.read_text(encoding="utf-8")
