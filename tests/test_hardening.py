"""Every connection to a store has off what a hostile file could use, in each way of opening one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import CheckpointStore
from support.doors import connections, unlocked
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLED = (
    "import os, sys\nfrom support.chains import entry\nfrom milepost import CheckpointStore\n"
    "store = CheckpointStore(sys.argv[1])\nstore.append(entry(1))\nos._exit(0)"
)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a process that was killed, with its WAL and its shared memory."""
    path = tmp_path_factory.mktemp("killed") / "orders.milepost"
    assert warm_programs().run("-c", KILLED, path, cwd=Path(__file__).parent).returncode == 0
    return path


@pytest.fixture(params=["to write", "to read, closed", "to read, live", "to read, a WAL alone"])
def opened(path: Path, killed: Path, request: pytest.FixtureRequest) -> Iterator[tuple[str, apsw.Connection]]:
    """A store opened in one way, and its connection."""
    how: str = request.param
    if how in {"to write", "to read, closed"}:
        CheckpointStore(path).close()
    else:
        for suffix in ("", "-wal") if how == "to read, a WAL alone" else ("", "-wal", "-shm"):
            shutil.copyfile(f"{killed}{suffix}", f"{path}{suffix}")
    with CheckpointStore(path) if how == "to write" else CheckpointStore.open_readonly(path) as store:
        yield how, unlocked(store) if how == "to write" else connections(store)[0]


def test_every_hardened_setting_is_on(opened: tuple[str, apsw.Connection]) -> None:
    """Promise F5: each read back from SQLite."""
    how, connection = opened
    configured = {
        name: connection.config(getattr(apsw, f"SQLITE_DBCONFIG_{name}"), -1)
        for name in (
            "DEFENSIVE",
            "TRUSTED_SCHEMA",
            "DQS_DML",
            "DQS_DDL",
            "ENABLE_QPSG",
            "ENABLE_LOAD_EXTENSION",
            "WRITABLE_SCHEMA",
        )
    }
    assert configured == {
        "DEFENSIVE": 1, "TRUSTED_SCHEMA": 0, "DQS_DML": 0, "DQS_DDL": 0, "ENABLE_QPSG": 1, "ENABLE_LOAD_EXTENSION": 0,
        "WRITABLE_SCHEMA": 0
    }  # fmt: skip
    assert connection.pragma("cell_size_check") == 1
    assert connection.pragma("mmap_size") == 0
    assert connection.pragma("trusted_schema") == 0
    if how == "to write":
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("synchronous") == 2
    else:
        assert connection.pragma("query_only") == 1
        assert connection.limit(apsw.SQLITE_LIMIT_ATTACHED) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT load_extension('x')",
        "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = ''",
        'SELECT "no such column"',
        "INSERT INTO sqlite_schema VALUES (1, 2, 3, 4, 5)",
    ],
)
def test_what_is_off_is_refused(opened: tuple[str, apsw.Connection], statement: str) -> None:
    """Tried, too."""
    with pytest.raises(apsw.Error):
        opened[1].execute(statement)


def test_a_reader_attaches_nothing_and_writes_nothing(path: Path) -> None:
    """Not even a new file."""
    CheckpointStore(path).close()
    other = path.with_name("other")
    with CheckpointStore.open_readonly(path) as store:
        for statement in (f"ATTACH '{other}' AS other", "CREATE TABLE x (y)", f"VACUUM INTO '{other}'"):
            with pytest.raises(apsw.Error):
                connections(store)[0].execute(statement)
    assert not other.exists()
