"""The rules that keep the project small: layout, import direction, file length, abstract or final, no pickle."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ladle
from ladle.spec import PACKAGES, parts

SOURCE = Path(ladle.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

# From the bottom to the top: a package or loose file imports from itself and from earlier ones only.
ORDER = [
    "version", "shapes", "seeds", "machine", "spec", "data", "families", "nets", "html", "model", "inference", "linear",
    "objectives", "recipes", "store", "coding", "training", "tasks", "health", "measures", "comparison", "reporting",
    "sklearn", "__init__", "cli", "__main__",
]  # fmt: skip
# The same order inside packages that contain packages.
INNER_ORDER = {
    "model": ["conditional", "priors", "latents", "vae"],
    "coding": ["errors", "ans", "integer", "coders"],  # then the loose files of coding
}
MOST_LEVELS, MOST_LOOSE_FILES, DEEPEST = 15, 10, 3
# Packages that may import nothing of Ladle except the modules listed here.
ALONE = {
    "data": {"shapes", "seeds", "spec"},
    "families": {"shapes", "spec"},
    "nets": {"shapes", "spec"},
    "html": {"shapes", "data"},
    "coding.ans": {"coding.errors"},
}


def module_name(path: Path) -> str:
    """The dotted name below ``ladle``, that of the package for its ``__init__.py``; ``__init__`` for ladle itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The modules of Ladle that a file imports, anywhere in it; imports for type checkers only are not counted."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ladle":
            base = node.module.removeprefix("ladle").removeprefix(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.add(inner if inner in MODULES else base or "__init__")
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "ladle"]
            found |= {name.removeprefix("ladle").removeprefix(".") or "__init__" for name in names}
    return found


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    here = room(module)
    assert here in ORDER, f"add '{here}' to the order"
    later = {other for other in map(room, IMPORTS[module]) if ORDER.index(other) > ORDER.index(here)}
    assert not later, f"{module} may not import {sorted(later)}"


@pytest.mark.parametrize("package", INNER_ORDER)
def test_imports_run_one_way_inside_a_package(package: str) -> None:
    order = INNER_ORDER[package]

    def place(module: str) -> int:
        inner = module.split(".")[1]
        return order.index(inner) if inner in order else len(order)

    inside = {name: found for name, found in IMPORTS.items() if name.startswith(package + ".")}
    wrong = {
        (name, other)
        for name, found in inside.items()
        for other in found
        if other.startswith(package + ".") and place(other) > place(name)
    }
    assert not wrong


@pytest.mark.parametrize("package", ALONE)
def test_what_stands_alone_imports_nothing_else(package: str) -> None:
    for name, found in IMPORTS.items():
        if name == package or name.startswith(package + "."):
            others = {f for f in found if f != package and not f.startswith(package + ".")}
            assert {f for f in others if f not in ALONE[package] and room(f) not in ALONE[package]} == set(), name


def test_no_module_is_imported_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"circular imports: {' -> '.join((*above, module))}"
        if module not in done:
            for other in IMPORTS[module]:
                if other in IMPORTS and other != module:
                    visit(other, (*above, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_there_are_few_levels_of_packages() -> None:
    """The longest chain of imports from package to package."""
    found: dict[str, int] = {}
    for here in ORDER:
        below = {room(other) for name, others in IMPORTS.items() if room(name) == here for other in others} - {here}
        found[here] = 1 + max((found[other] for other in below), default=0)
    assert max(found.values()) <= MOST_LEVELS, found


def test_few_files_are_loose() -> None:
    loose = [path.name for path in SOURCE.glob("*.py")]
    assert len(loose) <= MOST_LOOSE_FILES, loose


def fresh(code: str) -> str:
    """The output of a new interpreter."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    "statement",
    [
        "import ladle.data",
        "import ladle; ladle.read('digits')",
        "from ladle.spec import registered; registered('writer')",
    ],
)
def test_data_loads_no_model_code(statement: str) -> None:
    """This includes discovery: the registry only loads the package of the requested kind."""
    loaded = fresh(f"{statement}\nimport sys; print(*(m for m in sys.modules if m.startswith('ladle.')))").split()
    assert "ladle.data.schema" in loaded
    assert {name.split(".")[1] for name in loaded} <= {"data", "shapes", "seeds", "spec"}


def test_a_kind_of_part_loads_no_higher_package() -> None:
    """Imports by discovery follow the order too: a family does not load the report. One interpreter loads the kinds of
    part from the lowest package to the highest."""
    kinds = sorted(PACKAGES, key=lambda kind: ORDER.index(room(PACKAGES[kind])))
    lines = fresh(
        "import sys\nfrom ladle.spec import registered\n"
        f"for kind in {kinds}:\n    registered(kind)\n    print(*(m for m in sys.modules if m.startswith('ladle.')))"
    ).splitlines()
    for kind, line in zip(kinds, lines, strict=True):
        highest = ORDER.index(room(PACKAGES[kind]))
        assert {name.split(".")[1] for name in line.split()} <= set(ORDER[: highest + 1]), kind


def test_the_public_names_are_the_same_for_people_and_for_type_checkers() -> None:
    tree = ast.parse((SOURCE / "__init__.py").read_text())
    (block,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    static = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert static == {*ladle.__all__, "__version__"}
    assert all(getattr(ladle, name) is not None for name in static)
    with pytest.raises(AttributeError, match="no attribute 'evidense'"):
        _ = ladle.evidense


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


def test_packages_are_few_levels_deep() -> None:
    assert max(len(p.relative_to(SOURCE).parts) for p in FILES) <= DEEPEST


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
    """A generator that is not exhausted may be closed much later, and then restores an outdated state."""
    assert not yields_inside(path.read_text(), SCOPES)
    assert yields_inside("def f():\n    with torch.no_grad(), a:\n        yield 1", SCOPES) == [2]
