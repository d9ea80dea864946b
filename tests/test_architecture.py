"""The rules that keep the project small: import direction, file length, abstract or final, no pickle."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import ladle
from ladle.spec import parts

SOURCE = Path(ladle.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# Each room may import from itself, from earlier tiers and, where one is named, from tier mates before it.
ORDER = [
    "spec", "shapes", "seeds", "machine", "extras", "data", "families", "nets", "conditional", "priors", "latents",
    "vae", "linear", "objectives", "pareto", "proposals", "evidence", "annealed", "exact", "recipes", "assemble",
    "memory", "choice", "estimators", "schedule", "records", "guard", "ranks", "checkpoint", "hub", "folder", "loggers",
    "train", "coding", "tasks", "measures", "refine", "health", "select", "report", "__init__", "console", "sklearn",
    "cli", "__main__",
]  # fmt: skip
DATA_KNOWS = {"spec", "shapes", "seeds", "data"}


def room(path: Path) -> str:
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ladle":
            names = node.module.split(".")[1:2] or [a.name for a in node.names]
            found |= {name if name in ORDER else "__init__" for name in names}
        elif isinstance(node, ast.Import):
            names = [a.name.split(".") for a in node.names if a.name.split(".")[0] == "ladle"]
            found |= {name[1] if len(name) > 1 else "__init__" for name in names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    here = room(path)
    assert here in ORDER, f"put the new module '{here}' in its place in the order"
    allowed = DATA_KNOWS if here == "data" else set(ORDER[: ORDER.index(here) + 1])
    # The version number is the package's own.
    extra = imported(path) - allowed - ({"__init__"} if here in ("folder", "tasks") else set())
    assert not extra, f"{path.relative_to(SOURCE)} may not import {sorted(extra)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_two_levels_deep() -> None:
    assert max(len(p.relative_to(SOURCE).parts) for p in FILES) <= 2


def test_nothing_is_pickled_or_imported_by_name() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {a.name for a in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cloudpickle", "dill", "joblib"}, path
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
                raise AssertionError(f"{path} uses {ast.unparse(node)}")


def test_classes_are_abstract_or_final() -> None:
    for things in parts().values():
        for name, thing in things.items():
            if inspect.isclass(thing):
                assert not inspect.isabstract(thing), name
                for base in thing.__mro__[1:]:
                    if base.__module__.startswith("ladle."):
                        registered = any(base in kind.values() for kind in parts().values())
                        assert not registered, f"{name} inherits from the registered part {base.__name__}"


def test_every_part_says_what_it_is() -> None:
    for kind, things in parts().items():
        for name, thing in things.items():
            assert (thing.__doc__ or "").strip(), f"{kind}/{name} has no docstring"


def yields_inside(source: str, scopes: set[str]) -> list[int]:
    """Lines of ``with`` blocks of these scopes around a ``yield``."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.With):
            called = {ast.unparse(item.context_expr).split("(")[0].split(".")[-1] for item in node.items}
            if called & scopes and any(isinstance(n, ast.Yield | ast.YieldFrom) for n in ast.walk(node)):
                found.append(node.lineno)
    return found


SCOPES = {"no_grad", "enable_grad", "inference_mode", "seeded", "autocast"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_generator_waits_inside_a_global_scope(path: Path) -> None:
    """One that is left early closes at any later time, and puts back what was long over."""
    assert not yields_inside(path.read_text(), SCOPES)
    assert yields_inside("def f():\n    with torch.no_grad(), a:\n        yield 1", SCOPES) == [2]
