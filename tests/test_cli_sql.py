"""The command `sql`: one statement that only reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore
from support.chains import chain
from support.command import answer, on_terminal, run

if TYPE_CHECKING:
    from pathlib import Path


def test_an_answer_is_a_table_csv_or_json(path: Path) -> None:
    """With a parameter for each question mark."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(3))
    query = ("sql", path, "SELECT sequence, stage FROM checkpoint WHERE run_id = ? ORDER BY sequence", "run-7")
    assert answer(*query).splitlines()[0].split() == ["sequence", "stage"]
    assert [line.split()[0] for line in answer(*query).splitlines()[1:]] == ["1", "2", "3"]
    assert answer(*query, "--csv").splitlines()[1].split(",")[0] == "1"
    assert [row["sequence"] for row in json.loads(answer(*query, "--json"))] == [1, 2, 3]


def test_every_value_of_an_answer_is_there(path: Path) -> None:
    """Of columns with one name, as a join has them, the second gets another; and JSON stays JSON."""
    CheckpointStore(path).close()
    for options, names in ((["--json"], None), (["--csv"], "a,a_2,A_3,b"), ([], "a  a_2  A_3  b")):
        text = answer("sql", path, "SELECT 1 AS a, 2 AS a, 3 AS A, 9e999 AS b", *options)
        if names is None:
            found = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
            assert found == [{"a": 1, "a_2": 2, "A_3": 3, "b": "inf"}]
        else:
            assert text.splitlines()[0].split() == names.split()
    screen = on_terminal("sql", path, "SELECT hex(zeroblob(99)) AS a, 2 AS a", columns=40, NO_COLOR="1")[1]
    assert screen.splitlines()[1].split() == ["a_2", "2"]


def test_columns_without_room_stand_below_each_other(path: Path) -> None:
    """All of a row, a value a line; a table where it fits, and in a pipe."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(2))
    screen = on_terminal("sql", path, "SELECT * FROM checkpoint", NO_COLOR="1")[1]
    assert [line.split()[0] for line in screen.splitlines()[:3]] == ["position", "run_id", "stage"]
    with CheckpointStore.open_readonly(path) as reader:
        assert f"signature        {reader.chain_signature()}" in screen
    assert screen.split().count("idempotency_key") == 2
    assert len(answer("sql", path, "SELECT * FROM checkpoint").splitlines()) == 3
    assert len(on_terminal("sql", path, "SELECT stage FROM checkpoint")[1].splitlines()) == 3
    head = on_terminal("sql", path, "SELECT * FROM checkpoint WHERE position > 2", NO_COLOR="1", columns=200)[1]
    assert head.split()[0] == "position"


def test_a_statement_that_writes_is_refused(path: Path) -> None:
    """And changes nothing."""
    CheckpointStore(path).close()
    before = path.read_bytes()
    for statement in ("DELETE FROM entry", "SELECT 1; SELECT 2", "no sql"):
        assert run("sql", path, statement).exit_code == 2
    assert path.read_bytes() == before
