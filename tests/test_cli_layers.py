"""The command line stands on the store: what its modules may import, and what must not be in them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import milepost.cli

ORDER = [
    "wrapping",
    "exit_code",
    "output",
    "argument",
    "values",
    "several",
    "new_file",
    "demo",
    "summary",
    "runs",
    "stages",
    "latest",
    "resume",
    "history",
    "head",
    "verify",
    "compare",
    "plot",
    "export",
    "import_",
    "backup",
    "archive",
    "ship",
    "restore",
    "branch",
    "report",
    "check",
    "watch",
    "record",
    "sql",
    "__init__",
]
SOURCE = Path(milepost.cli.__file__).parent
MODULES = {file.stem: file for file in SOURCE.glob("*.py")}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def _imported(tree: ast.AST) -> set[str]:
    """The full names of all that is imported."""
    found = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
    return found


@pytest.mark.parametrize("module", ORDER)
def test_a_module_of_the_command_line_imports_only_from_above(module: str) -> None:
    """In the order of this list, which is complete."""
    assert sorted(MODULES) == sorted(ORDER)
    above = {f"milepost.cli.{name}" for name in ORDER[: ORDER.index(module)]}
    ours = {name for name in _imported(_tree(module)) if name.startswith("milepost.cli.") and name.count(".") == 2}
    assert ours - above == set()


@pytest.mark.parametrize("module", ORDER)
def test_the_command_line_asks_the_store_and_nothing_beneath_it(module: str) -> None:
    """No SQL, no connection, no row."""
    beneath = {"apsw", "sqlite3", *(f"milepost.{name}" for name in ("append", "compare", "writer", "rows", "schema"))}
    assert _imported(_tree(module)) & beneath == set()


@pytest.mark.parametrize("module", ORDER)
def test_no_rule_of_the_command_line_is_an_assertion_and_nothing_is_built_from_data(module: str) -> None:
    """An optimising Python would drop the one; pickle, eval and exec would do the other."""
    nodes = list(ast.walk(_tree(module)))
    assert [node.lineno for node in nodes if isinstance(node, ast.Assert)] == []
    assert _imported(_tree(module)).isdisjoint({"pickle", "marshal", "shelve"})
    assert {node.id for node in nodes if isinstance(node, ast.Name)}.isdisjoint({"eval", "exec", "compile"})


def test_the_library_does_without_the_command_line() -> None:
    """And without what it is made with."""
    for file in SOURCE.parent.glob("*.py"):
        if file.stem != "__main__":
            imported = _imported(ast.parse(file.read_text(encoding="utf-8")))
            assert {name.split(".")[0] for name in imported}.isdisjoint({"click", "rich"})
            assert "milepost.cli" not in imported
