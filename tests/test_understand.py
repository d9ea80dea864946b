"""The code blocks of ``docs/understand.md`` print the output that the page shows."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "understand.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n(?:```text\n(.*?)```)?", PAGE, flags=re.DOTALL)
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?:e-?\d+)?")
RELATIVE, UNITS = 0.02, 1.01  # processors round differently, and training amplifies the difference


def unit(number: str) -> float:
    """One unit in the last digit of a printed number.

    >>> [unit(n) for n in ("12", "0.30", "1e-12")]
    [1.0, 0.01, 1e-12]
    """
    mantissa, _, power = number.partition("e")
    return 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))


def agree(printed: str, shown: str) -> bool:
    """Whether the words are equal and the numbers agree within 2 % or one unit in the last digit shown."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", shown).split():
        return False
    pairs = zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True)
    both = [(float(a.replace(",", "")), float(b.replace(",", "")), b) for a, b in pairs]
    return all(abs(a - b) <= max(UNITS * unit(text), RELATIVE * abs(b)) for a, b, text in both)


def test_every_block_prints_the_output_that_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.set_printoptions(legacy=False)
    scope: dict = {}
    for code, shown in BLOCKS:
        out = StringIO()
        with redirect_stdout(out):
            exec(compile(code, "understand.md", "exec"), scope)
        assert agree(out.getvalue(), shown), f"\n{code}\nprinted:\n{out.getvalue()}\nthe page shows:\n{shown}"
    assert len(BLOCKS) > 15


@pytest.mark.parametrize(("printed", "fits"), [("a 1.00", True), ("a 1.01", True), ("a 1.04", False), ("b 1", False)])
def test_a_wrong_number_is_detected(printed: str, fits: bool) -> None:
    assert agree(printed, "a 1.00") == fits


def test_the_figures_exist_and_are_small() -> None:
    figures = re.findall(r"understand/[\w.]+", PAGE)
    assert len(figures) == 9
    assert {DOCS / name for name in figures} == set((DOCS / "understand").iterdir())
    assert all((DOCS / name).stat().st_size <= 140_000 for name in figures)
