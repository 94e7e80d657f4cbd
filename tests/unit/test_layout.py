"""The layout that docs/architecture.md promises: imports point one way, and each kind of thing has its one place."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "supervisor"
MODULES = sorted(SOURCE.rglob("*.py"))
LONGEST = 350

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    """Return a module's name within the package, as the test's id."""
    return str(path.relative_to(SOURCE))


def package_of(path: Path) -> str:
    """Return the row of the table that a module belongs to."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def table() -> dict[str, set[str]]:
    """Return who may import whom, from the architecture's table."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    section = text.partition("## Who may import whom\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|([^|]*)\|$", section, re.MULTILINE)
    return {package: set(re.findall(r"`(\w+)`", allowed)) for package, allowed in rows}


@functools.cache
def parsed(path: Path) -> ast.Module:
    """Return a module's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports anywhere, those within functions and for type checking too."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: imports are absolute"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "supervisor" else [module]


def inner_imports_of(path: Path) -> set[str]:
    """Return the packages of ours that a module imports."""
    names = {name.split(".")[1] for name in imports_of(path) if name.startswith("supervisor.")}
    return names - {"__version__"}


def outer_imports_of(path: Path) -> set[str]:
    """Return the packages of others that a module imports."""
    return {name.partition(".")[0] for name in imports_of(path)} - {"supervisor"}


def texts_of(path: Path) -> Iterator[str]:
    """Yield a module's string constants, docstrings left out."""
    tree = parsed(path)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, Definition) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def without_docstring(node: Definition, name: str) -> Iterator[str]:
    """Yield the public names in a module or a class, itself included, that say nothing of themselves."""
    if not ast.get_docstring(node):
        yield name
    if isinstance(node, ast.Module | ast.ClassDef):
        for inner in node.body:
            if isinstance(inner, Definition) and not inner.name.startswith("_"):
                yield from without_docstring(inner, f"{name}.{inner.name}")


def test_table_names_every_package() -> None:
    """The architecture's table has a row for each package and module of the top level, and for nothing else."""
    there = {package_of(path) for path in MODULES} - {"__init__", "__main__"}
    assert set(table()) == there


def test_table_points_one_way() -> None:
    """No package may import another that may import it, over however many steps."""
    allowed = table()
    settled: set[str] = set()
    while leaves := {name for name, others in allowed.items() if name not in settled and others <= settled}:
        settled |= leaves
    assert set(allowed) - settled == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_keep_to_the_table(path: Path) -> None:
    """A module imports what the architecture's table allows its package, also inside functions."""
    package = package_of(path)
    allowed = {"__init__": set(), "__main__": {"cli"}, **table()}[package]
    assert inner_imports_of(path) - {package} <= allowed


def test_nothing_imports_the_command_line() -> None:
    """Only ``python -m supervisor`` and the command line itself import the command line."""
    importers = {package_of(path) for path in MODULES if "cli" in inner_imports_of(path)}
    assert importers == {"cli", "__main__"}


def test_wrap_stays_light() -> None:
    """What a wrapped agent waits for imports neither the daemon nor APScheduler nor click."""
    for path in (SOURCE / "wrap").glob("*.py"):
        assert "daemon" not in inner_imports_of(path)
        assert not outer_imports_of(path) & {"apscheduler", "click", "rich", "psutil"}, name_of(path)


@pytest.mark.parametrize(
    ("dependency", "places"),
    [
        ("apscheduler", {"daemon/jobs.py"}),
        ("psutil", {"process"}),
        ("platformdirs", {"paths"}),
        ("click", {"cli"}),
        ("rich", {"cli"}),
    ],
)
def test_each_dependency_has_its_place(dependency: str, places: set[str]) -> None:
    """A dependency is imported in its one package or module, and is imported there."""
    users = {path for path in MODULES if dependency in outer_imports_of(path)}
    assert users
    assert all(name_of(path) in places or package_of(path) in places for path in users)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_sql_is_the_stores(path: Path) -> None:
    """SQL is written in the store package and nowhere else."""
    sql = [text for text in texts_of(path) if re.search(r"\b(SELECT|INSERT|UPDATE|DELETE) ", text)]
    assert package_of(path) == "store" or not sql


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_says_what_it_is(path: Path) -> None:
    """Every module, and every public class, function and method, has a docstring."""
    assert list(without_docstring(parsed(path), name_of(path))) == []


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_stay_readable(path: Path) -> None:
    """A module is no longer than a reader can take in."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST
