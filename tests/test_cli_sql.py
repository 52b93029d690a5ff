"""The command `sql`: one statement that only reads."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from milepost import CheckpointStore
from support.chains import chain
from support.command import answer, run

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


def test_a_statement_that_writes_is_refused(path: Path) -> None:
    """And changes nothing."""
    CheckpointStore(path).close()
    before = path.read_bytes()
    for statement in ("DELETE FROM entry", "SELECT 1; SELECT 2", "no sql"):
        assert run("sql", path, statement).exit_code == 2
    assert path.read_bytes() == before
