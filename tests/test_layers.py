"""Data flows one way: what may import what, and what the product's source must not contain."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import milepost

SOURCE = Path(milepost.__file__).parent
ORDER = [
    "readable",
    "html",
    "errors",
    "signature",
    "cursors",
    "details",
    "checkpoint",
    "mileposts",
    "arguments",
    "times",
    "sql_tokens",
    "receipt",
    "segment",
    "verification",
    "summary",
    "tables",
    "audit",
    "comparison",
    "answers",
    "owner",
    "threads",
    "turn",
    "pace",
    "inherited",
    "open_files",
    "remote",
    "files",
    "schema",
    "sqlite_errors",
    "wal",
    "connection",
    "create",
    "bound",
    "reader",
    "database",
    "rows.columns",
    "rows.lookup",
    "rows.history",
    "rows.outline",
    "rows.summary",
    "rows.compare",
    "rows.append",
    "rows.archive",
    "rows.verify",
    "rows.integrity",
    "rows.runs",
    "rows.ship",
    "rows.__init__",
    "replace",
    "kept",
    "integrity",
    "append",
    "steps",
    "job",
    "helper",
    "query",
    "lent",
    "block",
    "file_lock",
    "named_files",
    "writable_database",
    "block_writer",
    "group_writer",
    "task_writer",
    "writer",
    "workers",
    "explanation",
    "verify",
    "across",
    "archive",
    "fleet_workers",
    "history",
    "compare",
    "source",
    "progress",
    "ticker",
    "loop",
    "pool",
    "mapped",
    "checkpointed",
    "once",
    "tracked",
    "run",
    "plot",
    "transfer",
    "targets",
    "shipped",
    "restore",
    "store",
    "fleet",
    "shipper",
    "__init__",
    "forensics.__init__",
    "forensics.extra",
    "forensics.frames",
    "forensics.sql",
    "forensics.outline",
    "forensics.active",
    "forensics.scales",
    "forensics.hover",
    "forensics.picture",
    "forensics.stage_lines",
    "forensics.durations",
    "forensics.plots",
    "forensics.report",
]
PURE = [module for module in ORDER[: ORDER.index("turn")] if module != "remote"]
FORENSICS = [module for module in ORDER if module.startswith("forensics.")]
EXTRAS = {"arro3", "matplotlib", "pandas", "polars", "pyarrow", "duckdb", "numpy"}
MODULES = {
    ".".join(file.relative_to(SOURCE).with_suffix("").parts): file
    for file in sorted([*SOURCE.glob("*.py"), *SOURCE.glob("rows/*.py"), *SOURCE.glob("forensics/*.py")])
}


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def _nodes(tree: ast.Module) -> list[ast.AST]:
    return list(ast.walk(tree))


@cache
def _imports(tree: ast.Module) -> set[str]:
    """Modules of ours that are imported when the module runs, not only for its types."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "milepost":
                found |= {name.name for name in node.names}
            elif node.module == "milepost.forensics":
                found |= {f"forensics.{name.name}" for name in node.names}
            elif node.module.startswith("milepost."):
                found.add(node.module.removeprefix("milepost."))
    return {f"{name}.__init__" if f"{name}.__init__" in ORDER else name for name in found}


@cache
def _packages(tree: ast.Module) -> set[str]:
    """Top names of what a module imports anywhere; but for PurePath, which touches no file."""
    names = {name.name.partition(".")[0] for node in _nodes(tree) if isinstance(node, ast.Import) for name in node.names}
    return names | {
        node.module.partition(".")[0]
        for node in _nodes(tree)
        if isinstance(node, ast.ImportFrom) and node.module and [name.name for name in node.names] != ["PurePath"]
    }


@pytest.mark.parametrize("module", ORDER)
def test_a_module_imports_only_from_above(module: str) -> None:
    """In the order of this list."""
    assert {other for other in _imports(_tree(module)) if ORDER.index(other) >= ORDER.index(module)} == set()


@pytest.mark.parametrize("module", PURE)
def test_what_computes_touches_no_file_and_no_database(module: str) -> None:
    """Standard library only."""
    assert _packages(_tree(module)).isdisjoint({"apsw", "os", "pathlib", "time", "click", "rich"})


@pytest.mark.parametrize("module", [module for module in MODULES if module not in FORENSICS])
def test_only_forensics_knows_the_packages_of_notebooks(module: str) -> None:
    """Everything else works without them."""
    assert _packages(_tree(module)).isdisjoint(EXTRAS)


def test_every_module_has_its_place_in_the_order() -> None:
    """No one is left out of these tests."""
    assert set(MODULES) - {"__main__"} == set(ORDER)


@pytest.mark.parametrize("module", ORDER)
def test_no_rule_is_an_assertion_that_an_optimising_python_would_drop(module: str) -> None:
    """No assert in the library."""
    assert [node.lineno for node in _nodes(_tree(module)) if isinstance(node, ast.Assert)] == []


@pytest.mark.parametrize("module", ORDER)
def test_nothing_builds_objects_from_data(module: str) -> None:
    """No pickle, no eval, no exec; an error may try whether a value could be written into a pickle, and read none."""
    tree = _tree(module)
    if module == "errors":
        taken = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "pickle"]
        assert [name.name for node in taken for name in node.names] == ["dumps"]
        tree = ast.Module([node for node in tree.body if node not in taken], [])
    assert _packages(tree).isdisjoint({"pickle", "marshal", "shelve"})
    names = {node.id for node in _nodes(_tree(module)) if isinstance(node, ast.Name)}
    assert names.isdisjoint({"eval", "exec", "compile"})


def _made_at_the_call(tree: ast.Module) -> list[str]:
    """Statements given to SQLite that are no literal, no constant of the module and no entry of a table of constants."""
    constants = {
        node.target.id for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    constants |= {
        name.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and node.module == "milepost.rows.columns"
        for name in node.names
        if name.name.isupper()
    }
    made = []
    for node in _nodes(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("execute"):
            statement = node.args[0]
            if isinstance(statement, ast.Subscript):
                statement = statement.value
            known = (
                (isinstance(statement, ast.Name) and statement.id in constants | {"statement"})
                or (isinstance(statement, ast.Constant) and isinstance(statement.value, str))
                or ast.unparse(statement) in {"text()", "self._statement"}
                or (tree is _tree("lent") and ast.unparse(statement) == "statements")  # the caller's own
            )
            if not known:
                made.append(f"line {node.lineno}: {ast.unparse(statement)}")
    return made


@pytest.mark.parametrize("module", ORDER)
def test_every_statement_given_to_sqlite_is_a_constant(module: str) -> None:
    """Never a text made at the call."""
    assert _made_at_the_call(_tree(module)) == []


@pytest.mark.parametrize(
    "made", ["f'SELECT {x}'", "'SELECT ' + x", "'SELECT {}'.format(x)", "'SELECT %s' % x", "x", "b'SELECT'"]
)
def test_a_statement_made_from_data_is_caught(made: str) -> None:
    """So the test above can tell."""
    assert len(_made_at_the_call(ast.parse(f"connection.execute({made}, bindings)"))) == 1


def test_only_one_module_begins_and_commits() -> None:
    """
    BEGIN and COMMIT stand in writable_database.py. Others roll back, or set savepoints: the next two modules of the writer.

    But for create.py, for a file that nobody has yet, and rows/columns.py, for a snapshot.
    """
    for module in MODULES:
        nodes = _nodes(_tree(module))
        texts = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
        if module not in {"writable_database", "create", "rows.columns"}:
            assert [text for text in texts if text.startswith(("BEGIN", "COMMIT"))] == []
            if module not in {"block_writer", "group_writer"}:
                assert [text for text in texts if text.startswith(("ROLLBACK", "SAVEPOINT"))] == []


def test_a_view_for_notebooks_is_imported_by_nobody_before_a_notebook_asks() -> None:
    """The modules of the library do without `forensics`."""
    for module in ORDER:
        assert "forensics" not in _imports(_tree(module))


def test_values_make_their_pages_from_pieces_that_know_nothing_of_them() -> None:
    """`html` knows how texts are shown, and the standard library; a value imports it at its top."""
    assert _packages(_tree("html")) <= {
        "__future__",
        "functools",
        "html",
        "importlib",
        "typing",
        "collections",
        "milepost",
    }
    assert _imports(_tree("html")) == {"readable"}
    for module in ("verification", "summary", "comparison"):
        assert "html" in _imports(_tree(module))
