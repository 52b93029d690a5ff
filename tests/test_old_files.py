"""A file of every version of the format still opens, and an upgrade changes all of it or nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import (
    Checkpoint,
    CheckpointStore,
    Head,
    NotAStoreError,
    SchemaVersionError,
    StoreError,
    Watermark,
    schema,
)
from milepost.transfer import entries_of, restore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DIRECTORY: Final = Path(__file__).parent / "old_files"
FILES: Final = [
    DIRECTORY / f"version-{version}{keyed}.milepost" for version in range(1, schema.VERSION + 1) for keyed in ("", "-keyed")
]
PRESENT: Final = schema.VERSION
SCHEMA: Final = schema.text()


def _holds(file: Path) -> dict[str, Any]:
    holds: dict[str, Any] = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    holds["entries"] = [
        Checkpoint(run_id, stage, sequence, Watermark(offset, event_time_ms), key, at_ms)
        for run_id, stage, sequence, offset, event_time_ms, key, at_ms in holds["entries"]
    ]
    holds["key"] = holds["key"] and bytes.fromhex(holds["key"])
    return holds


def _check(store: CheckpointStore, holds: dict[str, Any]) -> None:
    """Everything that the file held is there."""
    assert list(store.history())[: len(holds["entries"])] == holds["entries"]
    details = [detail for *_, detail in store.receipts(limit=len(holds["entries"]))]
    assert details == holds.get("details", [None] * len(details))
    if "cursor" in holds:
        assert store.cursor("pages", run_id="a run") == holds["cursor"]
        assert {run.run_id: (run.state, run.attempts) for run in store.runs() if run.state} == {"a run": ("finished", 2)}
    assert {run.run_id for run in store.runs()} == set(holds["runs"])
    if len(store) == len(holds["entries"]):
        assert str(store.head()) == holds["head"]
        assert {run.run_id: store.chain_signature(run.run_id) for run in store.runs()} == holds["runs"]
    sink = store.sql("SELECT number, name FROM sink ORDER BY number").to_arrow().to_pylist()
    assert [[row["number"], row["name"]] for row in sink] == holds["sink"]
    store.verify(expected=Head.parse(holds["head"])).raise_if_broken()


def _check_that_it_goes_on(path: Path, holds: dict[str, Any]) -> None:
    """A step that is recorded is a duplicate, and a new one follows the last."""
    last = holds["entries"][-1]
    with CheckpointStore(path, durability="normal", hmac_key=holds["key"]) as store:
        _check(store, holds)
        assert store.append(last).duplicate
        before = len(store)
        after = last._replace(sequence=last.sequence + 1, idempotency_key="after")
        assert store.append(after).position == before + 1
        store.append_many(last._replace(sequence=after.sequence + n, idempotency_key=f"after {n}") for n in range(1, 100))
        _check(store, holds)


@pytest.fixture
def forget_schema() -> Iterator[Callable[[], None]]:
    """Let the library read schema.sql anew, and so once more when the test has ended."""

    def forget() -> None:
        for function in vars(schema).values():
            if hasattr(function, "cache_clear"):
                function.cache_clear()

    yield forget
    forget()


# Every version of the format


def test_there_is_a_file_of_every_version_with_a_key_and_without() -> None:
    """So that no version is ever forgotten."""
    assert set(DIRECTORY.glob("*.milepost")) == set(FILES)


def test_every_older_version_has_a_step_to_the_next() -> None:
    """And the schema.sql that it had, which it is compared with."""
    assert set(schema.UPGRADES) == set(range(1, PRESENT))
    for version in schema.UPGRADES:
        assert f"user_version = {version};" in schema.text(version)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_old_file_is_read_as_it_was_written_without_changing_a_byte(tmp_path: Path, file: Path) -> None:
    """Entries, head, the signature of each run, the sink's own rows."""
    content = file.read_bytes()
    path = tmp_path / file.name
    path.write_bytes(content)
    holds = _holds(file)
    with CheckpointStore.open_readonly(path, hmac_key=holds["key"]) as store:
        _check(store, holds)
    assert path.read_bytes() == content
    assert [each.name for each in tmp_path.iterdir()] == [file.name]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_an_old_file_goes_on(tmp_path: Path, file: Path) -> None:
    """Its chain is one."""
    path = tmp_path / file.name
    path.write_bytes(file.read_bytes())
    _check_that_it_goes_on(path, _holds(file))


# A comment is not part of the format

TOLD: Final = "-- told 'otherwise', CHECK (0) /* \"and\" [at] `length`"
CHANGES: Final[dict[str, Callable[[str], str]]] = {
    "every comment": lambda text: re.sub("--.*", TOLD, text),
    "every comment, gone": lambda text: re.sub("--.*", "", text),
    "every comment and the indentation": lambda text: re.sub("\n *", "\n\t\t", re.sub("--.*", f"{TOLD}\n/*also*/", text)),
    "the indentation": lambda text: re.sub("  +", " ", text).replace("\n", "\r\n"),
    "the view": lambda text: text.replace("SELECT entry.position,", "SELECT entry.position, entry.entries_so_far,"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("file", FILES[-2:], ids=lambda file: file.stem)
def test_a_comment_of_schema_sql_may_change(
    tmp_path: Path, file: Path, change: str, monkeypatch: pytest.MonkeyPatch, forget_schema: Callable[[], None]
) -> None:
    """Files that were made before are read and written, and those made with it by a milepost that has the old one."""
    changed = CHANGES[change](SCHEMA)
    assert changed != SCHEMA
    path, made, holds = tmp_path / file.name, tmp_path / "made", _holds(file)
    path.write_bytes(file.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(schema, "text", lambda version=None: changed)
        forget_schema()
        with CheckpointStore.open_readonly(path, hmac_key=holds["key"]) as store:
            _check(store, holds)
        assert path.read_bytes() == file.read_bytes()
        _check_that_it_goes_on(path, holds)
        restore(str(made), entries_of(str(file), None, None), holds["key"])
    forget_schema()
    for each in (path, made):
        with CheckpointStore(each, hmac_key=holds["key"]) as store:
            assert list(store.history())[: len(holds["entries"])] == holds["entries"]
            store.verify(expected=Head.parse(holds["head"])).raise_if_broken()


# An upgrade, by two steps that there are not yet

STEPS: Final = {
    PRESENT: (
        "DROP VIEW checkpoint; SELECT moment(1);"
        "CREATE TABLE milepost_new_run (run_number INTEGER PRIMARY KEY, note TEXT, run_id TEXT NOT NULL UNIQUE) STRICT;"
        "INSERT INTO milepost_new_run SELECT run_number, upper(run_id), run_id FROM run; SELECT moment(2);"
        "DROP TABLE run; ALTER TABLE milepost_new_run RENAME TO run; SELECT moment(3);"
        "CREATE VIEW checkpoint AS SELECT position FROM entry;"
        f"PRAGMA user_version = {PRESENT + 1}"
    ),
    PRESENT + 1: (
        "SELECT moment(4); CREATE TABLE more (number INTEGER) STRICT; ALTER TABLE entry ADD COLUMN remark TEXT;"
        f"PRAGMA user_version = {PRESENT + 2}; SELECT moment(5)"
    ),
}
MOMENTS: Final = range(1, 6)


def _text(version: int | None = None) -> str:
    """The schemas that there are not yet."""
    version = version or PRESENT + 2
    text = SCHEMA
    if version > PRESENT:
        text = re.sub(r"\n( +)run_id +TEXT", "\n\\1note TEXT, -- new\n\\1run_id TEXT", text).replace("milepost_new_", "")
    if version > PRESENT + 1:
        text += "\nCREATE TABLE more (number INTEGER) STRICT; -- newer"
        text = re.sub("(detail +TEXT)( +--.*)", "\\1, \\2\n  remark TEXT -- last", text)
    return text.replace(f"user_version = {PRESENT};", f"user_version = {version};")


def make_versions(set_attribute: Callable[[object, str, object], None]) -> None:
    """Let the library be two versions on."""
    set_attribute(schema, "VERSION", PRESENT + 2)
    set_attribute(schema, "UPGRADES", schema.UPGRADES | STEPS)
    set_attribute(schema, "text", _text)


@pytest.fixture
def two_versions_on(monkeypatch: pytest.MonkeyPatch, forget_schema: Callable[[], None]) -> Iterator[None]:
    """The library of the day after tomorrow."""
    with monkeypatch.context() as patch:
        make_versions(patch.setattr)
        forget_schema()
        yield


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file of the present version."""
    path = tmp_path / "old.milepost"
    path.write_bytes((DIRECTORY / f"version-{PRESENT}.milepost").read_bytes())
    return path


def connect(path: Path, moment: Any = lambda _number: None) -> apsw.Connection:
    """A connection as a writer has it, on which a step can ask for the moment that it has come to."""
    connection = apsw.Connection(str(path))
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.set_busy_timeout(5000)
    connection.create_scalar_function("moment", moment)
    return connection


def _dump(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    connection = apsw.Connection(str(path))
    try:
        found: dict[str, list[tuple[Any, ...]]] = {"": connection.execute("SELECT * FROM sqlite_schema").fetchall()}
        found["version"] = [(connection.pragma("user_version"),)]
        for (table,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall():
            found[str(table)] = connection.execute(f"SELECT * FROM {table}").fetchall()
        return found
    finally:
        connection.close()


def test_an_upgrade_takes_every_step_and_keeps_every_row(old: Path, two_versions_on: None) -> None:
    """Afterwards the shape is the new one, and a second upgrade finds nothing to do."""
    before = _dump(old)
    connection = connect(old)
    schema.upgrade(connection, str(old))
    schema.refuse_another_shape(connection, str(old))
    changes = connection.total_changes()
    schema.upgrade(connection, str(old))
    assert connection.total_changes() == changes
    assert not connection.in_transaction
    assert connection.config(apsw.SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, -1) == 0
    connection.close()
    after = _dump(old)
    assert after["version"] == [(PRESENT + 2,)]
    assert [(number, run_id) for number, _, run_id in after["run"]] == before["run"]
    assert after["more"] == []
    assert after["entry"] == [(*row, None) for row in before["entry"]]
    for table in ("stage", "run_stage", "keyed", "sink", "counted"):
        assert after[table] == before[table]


FORKED: Final = """
import os, signal, sys
def upgrade_in_forks(upgrade):
    for path, number in zip(sys.argv[1::2], sys.argv[2::2]):
        child = os.fork()
        if child == 0:
            upgrade(path, int(number))
            os.kill(os.getpid(), signal.SIGKILL)  # without writing the WAL back
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if exit_code != -signal.SIGKILL:
            sys.exit(f"{number} ended with {exit_code}")
"""
CHILD: Final = f"""
{FORKED}
from pathlib import Path
import test_old_files
from milepost import schema
test_old_files.make_versions(setattr)
def upgrade(path, last):
    def moment(number):
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)
    schema.upgrade(test_old_files.connect(Path(path), moment), "orders.milepost")
upgrade_in_forks(upgrade)
"""


def _upgraded_by_other_processes(program: str, paths: dict[int, Path]) -> None:
    """Each file by a process of its own, which is killed at its moment: a fork of one that has imported milepost."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    arguments = [str(argument) for moment, path in paths.items() for argument in (path, moment)]
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


def _copies(file: Path, directory: Path, moments: Iterable[int]) -> dict[int, Path]:
    paths = {moment: directory / f"killed-at-{moment}.milepost" for moment in moments}
    for path in paths.values():
        path.write_bytes(file.read_bytes())
    return paths


@pytest.fixture(scope="module")
def killed_upgrades(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What an upgrade leaves that is killed, by the moment."""
    present = DIRECTORY / f"version-{PRESENT}.milepost"
    paths = _copies(present, tmp_path_factory.mktemp("killed"), [*MOMENTS, 0])
    _upgraded_by_other_processes(CHILD, paths)
    return paths


@pytest.mark.parametrize("moment", [*MOMENTS, 0])
def test_an_upgrade_that_is_killed_has_done_all_or_nothing(old: Path, killed_upgrades: dict[int, Path], moment: int) -> None:
    """Between two statements of a step, between two steps, before the commit; moment 0 is after it."""
    before = _dump(old)
    old = killed_upgrades[moment]
    if moment:
        assert _dump(old) == before
        holds = _holds(DIRECTORY / f"version-{PRESENT}.milepost")
        with CheckpointStore.open_readonly(old) as store:
            _check(store, holds)
        _check_that_it_goes_on(old, holds)
    else:
        assert _dump(old)["version"] == [(PRESENT + 2,)]
        with pytest.raises(SchemaVersionError, match="install a newer milepost"):
            CheckpointStore(old)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("begun", [False, True])
def test_a_step_that_fails_undoes_all_of_them(old: Path, two_versions_on: None, moment: int, begun: bool) -> None:
    """In a transaction of its own, and in one of the caller's, even if he commits it."""

    def fail(number: int) -> None:
        if number == moment:
            raise RuntimeError("the step fails")

    before = _dump(old)
    connection = connect(old, fail)
    if begun:
        connection.execute("BEGIN IMMEDIATE")
    with pytest.raises(RuntimeError, match="the step fails"):
        schema.upgrade(connection, str(old))
    assert connection.in_transaction == begun
    if begun:
        connection.execute("COMMIT")
    assert connection.config(apsw.SQLITE_DBCONFIG_LEGACY_ALTER_TABLE, -1) == 0
    connection.close()
    assert _dump(old) == before


def test_steps_inside_a_transaction_of_the_callers_are_committed_with_it(old: Path, two_versions_on: None) -> None:
    """Until then nobody else sees them."""
    connection = connect(old)
    connection.execute("BEGIN IMMEDIATE")
    schema.upgrade(connection, str(old))
    assert _dump(old)["version"] == [(PRESENT,)]
    connection.execute("COMMIT")
    connection.close()
    assert _dump(old)["version"] == [(PRESENT + 2,)]


RISES: Final = f"PRAGMA user_version = {PRESENT + 2}"
WRONG_STEPS: Final = {
    "another shape": f"CREATE TABLE more (number TEXT) STRICT; ALTER TABLE entry ADD COLUMN remark TEXT; {RISES}",
    "something missing": f"CREATE TABLE more (number INTEGER) STRICT; {RISES}",
    "the version it had": "CREATE TABLE more (number INTEGER) STRICT; ALTER TABLE entry ADD COLUMN remark TEXT",
}


@pytest.mark.parametrize("step", WRONG_STEPS)
def test_a_step_that_ends_in_another_shape_is_undone(
    old: Path, two_versions_on: None, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """What the last step leaves is compared with schema.sql before it is committed."""
    before = _dump(old)
    monkeypatch.setitem(schema.UPGRADES, PRESENT + 1, WRONG_STEPS[step])
    connection = connect(old)
    with pytest.raises(SchemaVersionError if step == "the version it had" else NotAStoreError):
        schema.upgrade(connection, str(old))
    connection.close()
    assert _dump(old) == before


def test_a_step_never_runs_in_a_file_that_is_not_ours(old: Path, two_versions_on: None) -> None:
    """A stranger's trigger would run in it."""
    raw = apsw.Connection(str(old))
    raw.execute("CREATE TRIGGER x AFTER INSERT ON ENTRY BEGIN DELETE FROM sink; END")
    raw.close()
    moments: list[int] = []
    connection = connect(old, moments.append)
    with pytest.raises(NotAStoreError, match="hangs on a table of milepost"):
        schema.upgrade(connection, str(old))
    connection.close()
    assert moments == []


IN_THE_WAY: Final = ["CREATE TABLE More (x)", "CREATE VIEW more AS SELECT 1", "CREATE INDEX more ON sink (name)"]


@pytest.mark.parametrize("made", IN_THE_WAY)
def test_a_strangers_table_in_the_way_of_a_new_one_is_named(old: Path, two_versions_on: None, made: str) -> None:
    """It is his, and stays; he is told what to do."""
    raw = apsw.Connection(str(old))
    raw.execute(made)
    raw.close()
    before = _dump(old)
    connection = connect(old)
    with pytest.raises(StoreError, match=rf"'[Mm]ore' has a name that file format version {PRESENT + 2} needs: rename it"):
        schema.upgrade(connection, str(old))
    connection.close()
    assert _dump(old) == before


def test_a_strangers_broken_view_or_trigger_is_in_nobodys_way(old: Path, two_versions_on: None) -> None:
    """ALTER TABLE RENAME would fail over it."""
    raw = apsw.Connection(str(old))
    raw.execute("CREATE VIEW broken AS SELECT * FROM gone; CREATE TABLE t (x)")
    raw.execute("CREATE TRIGGER broken_too AFTER INSERT ON t BEGIN INSERT INTO gone VALUES (1); END")
    raw.close()
    connection = connect(old)
    schema.upgrade(connection, str(old))
    connection.close()
    assert _dump(old)["version"] == [(PRESENT + 2,)]


def test_of_two_processes_that_upgrade_a_file_one_does(old: Path, two_versions_on: None) -> None:
    """The other one has seen the old version, waits for the lock, and finds the new one."""
    waiting = threading.Event()
    moments: list[int] = []
    failed: list[BaseException] = []

    def wait(_tries: int) -> bool:
        waiting.set()
        return True

    def upgrade_other() -> None:
        other = connect(old, moments.append)
        other.set_busy_handler(wait)
        try:
            schema.upgrade(other, str(old))
        except BaseException as error:  # noqa: BLE001 - shown by the test's own thread
            failed.append(error)
        finally:
            other.close()

    one = connect(old)
    one.execute("BEGIN IMMEDIATE")
    thread = threading.Thread(target=upgrade_other)
    thread.start()
    assert waiting.wait(30)
    schema.upgrade(one, str(old))
    one.execute("COMMIT")
    thread.join(30)
    assert not thread.is_alive()
    assert (failed, moments) == ([], [])
    one.close()
    assert _dump(old)["version"] == [(PRESENT + 2,)]


def test_an_upgrade_of_a_file_that_needs_none_waits_for_nobody(old: Path) -> None:
    """An opening beside a writer that is in the middle of a transaction."""
    writer, connection = connect(old), connect(old)
    connection.set_busy_timeout(0)
    writer.execute("BEGIN IMMEDIATE")
    schema.upgrade(connection, str(old))
    writer.execute("ROLLBACK")
    writer.close()
    connection.close()


@pytest.mark.parametrize("version", [0, -1, PRESENT + 3])
def test_a_version_that_no_step_leads_from_is_refused(old: Path, two_versions_on: None, version: int) -> None:
    """Newer than ours, or one that there never was."""
    raw = apsw.Connection(str(old))
    raw.pragma("user_version", version)
    raw.close()
    connection = connect(old)
    with pytest.raises(SchemaVersionError) as caught:
        schema.upgrade(connection, "orders.milepost")
    connection.close()
    assert caught.value.args == ("orders.milepost", version, PRESENT + 2)


def test_the_header_of_a_file_that_can_be_upgraded_passes_and_its_shape_does_not(old: Path, two_versions_on: None) -> None:
    """Who opens it upgrades it, and only then compares it with schema.sql."""
    schema.refuse_another_version(old.read_bytes()[: schema.HEADER_BYTES], str(old))
    connection = connect(old)
    told = "open it with CheckpointStore\\(\\), which upgrades it"
    for refuse in (schema.refuse_another_shape, schema.refuse_another_version_now):
        with pytest.raises(SchemaVersionError, match=told):
            refuse(connection, str(old))
    connection.close()


def test_a_writer_that_has_the_file_open_is_refused_after_the_upgrade(old: Path) -> None:
    """With the lock held, as soon as `data_version` says that somebody else has written."""
    writer = connect(old)
    writer.transaction_mode = "IMMEDIATE"
    with writer:
        schema.refuse_another_version_now(writer, str(old))
        version = writer.data_version()
    _upgraded_by_other_processes(CHILD, {0: old})
    with pytest.raises(SchemaVersionError, match="install a newer milepost") as caught, writer:
        assert writer.data_version() != version
        schema.refuse_another_version_now(writer, str(old))
    assert caught.value.args == (str(old), PRESENT + 2, PRESENT)
    writer.close()


# From version 1 to version 2

ONE: Final = DIRECTORY / "version-1.milepost"
KILLED: Final = f"""
{FORKED}
import apsw
from milepost import CheckpointStore
def upgrade(path, left):
    def trace(cursor, statement, _bindings):
        nonlocal left
        steps = any(word in statement for word in ("ALTER", "CREATE", "DROP", "user_version = 2"))
        if steps and getattr(cursor, "connection", cursor).filename:
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
        return True
    apsw.connection_hooks.append(lambda connection: connection.set_exec_trace(trace))
    CheckpointStore(path)
    os.kill(os.getpid(), signal.SIGKILL)  # without closing it
upgrade_in_forks(upgrade)
"""
STATEMENTS: Final = schema.UPGRADES[1].count(";") - 1  # one of them is inside a trigger


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """A file of version 1."""
    path = tmp_path / "one.milepost"
    path.write_bytes(ONE.read_bytes())
    return path


def test_the_first_writer_makes_version_2_of_version_1(one: Path) -> None:
    """Every row is as it was, and none has a detail."""
    before = _dump(one)
    CheckpointStore(one).close()
    after = _dump(one)
    assert (before["version"], after["version"]) == ([(1,)], [(2,)])
    assert after["entry"] == [(*row, None) for row in before["entry"]]
    assert after["run_stage"] == before["lane"]
    assert after["stage_cursor"] == after["chain_base"] == []
    for table in ("run", "stage", "keyed", "sink", "counted"):
        assert after[table] == before[table]


@pytest.fixture(scope="module")
def killed_upgrades_of_one(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What an upgrade to version 2 leaves that is killed, by the statement."""
    paths = _copies(ONE, tmp_path_factory.mktemp("killed"), range(STATEMENTS + 1))
    _upgraded_by_other_processes(KILLED, paths)
    return paths


@pytest.mark.parametrize("statement", range(STATEMENTS + 1))
def test_an_upgrade_to_version_2_that_is_killed_has_done_all_or_nothing(
    one: Path, killed_upgrades_of_one: dict[int, Path], statement: int
) -> None:
    """Before each of its statements; and after the last, when the commit is in the WAL alone."""
    before = _dump(one)
    one = killed_upgrades_of_one[statement]
    if statement < STATEMENTS:
        assert _dump(one) == before
    else:
        assert _dump(one)["version"] == [(2,)]
    holds = _holds(ONE)
    with CheckpointStore.open_readonly(one) as store:
        _check(store, holds)
    _check_that_it_goes_on(one, holds)


def test_what_strangers_have_broken_is_in_nobodys_way(one: Path) -> None:
    """A view or a trigger that names what is not there."""
    raw = apsw.Connection(str(one))
    raw.execute("CREATE VIEW broken AS SELECT * FROM gone; CREATE TABLE t (x)")
    raw.execute("CREATE TRIGGER broken_too AFTER INSERT ON t BEGIN INSERT INTO gone VALUES (1); END")
    raw.close()
    holds = _holds(ONE)
    with CheckpointStore.open_readonly(one) as store:
        _check(store, holds)
    _check_that_it_goes_on(one, holds)


@pytest.mark.parametrize("name", ["run_stage", "Stage_Cursor", "chain_base"])
def test_a_strangers_table_under_a_name_of_version_2_is_told(one: Path, name: str) -> None:
    """To who writes and to who reads; the file stays as it is."""
    raw = apsw.Connection(str(one))
    raw.execute(f"CREATE TABLE {name} (x)")
    raw.close()
    before = _dump(one)
    for opener in (CheckpointStore, CheckpointStore.open_readonly):
        with pytest.raises(StoreError, match=f"its table '{name}' has a name that file format version 2 needs: rename"):
            opener(one)
    assert _dump(one) == before


@pytest.mark.parametrize("state", ["live", "killed"])
def test_a_version_1_with_a_wal_is_read_whole_without_changing_a_byte(one: Path, tmp_path: Path, state: str) -> None:
    """Beside a process of the old version that writes, and after it was killed: what only the WAL has is read too."""
    raw = apsw.Connection(str(one))
    raw.pragma("wal_autocheckpoint", 0)
    raw.execute("INSERT INTO sink VALUES (1000, 'in the WAL')")
    path = one
    if state == "killed":
        path = tmp_path / "killed.milepost"
        for suffix in ("", "-wal", "-shm"):
            Path(f"{path}{suffix}").write_bytes(Path(f"{one}{suffix}").read_bytes())
    before = _bytes(path) if state == "killed" else {}  # whoever closes a file drops the locks that its process has on it
    holds = _holds(ONE)
    holds["sink"].append([1000, "in the WAL"])
    with CheckpointStore.open_readonly(path) as store:
        _check(store, holds)
        if state == "live":
            raw.execute("INSERT INTO sink VALUES (1001, 'more')")
            assert store.sql("SELECT count(*) AS n FROM sink WHERE number > 999").to_arrow().to_pylist() == [{"n": 2}]
    if state == "killed":
        assert _bytes(path) == before
    raw.close()


def _bytes(path: Path) -> dict[str, bytes]:
    return {suffix: Path(f"{path}{suffix}").read_bytes() for suffix in ("", "-wal")}


def test_a_reader_of_version_1_goes_on_when_somebody_upgrades_the_file(one: Path) -> None:
    """With what is written from then on."""
    holds = _holds(ONE)
    with CheckpointStore.open_readonly(one) as reader:
        _check(reader, holds)
        with CheckpointStore(one, durability="normal") as store:
            last = holds["entries"][-1]
            store.append(last._replace(sequence=last.sequence + 1, idempotency_key="after"))
            assert len(reader) == len(holds["entries"]) + 1
            _check(reader, holds)


@pytest.mark.parametrize("made", [True, False])
def test_only_what_was_archived_can_be_deleted(one: Path, path: Path, made: bool) -> None:
    """In a new file, and in one that was upgraded: at the base or below, by the trigger."""
    if made:
        with CheckpointStore(path, durability="normal") as store:
            store.append_many(_holds(ONE)["entries"])
    else:
        CheckpointStore(one).close()
        path = one
    raw = apsw.Connection(str(path))
    with pytest.raises(apsw.ConstraintError, match="never deleted"):
        raw.execute("DELETE FROM entry WHERE position = 1")
    raw.execute("INSERT INTO chain_base SELECT position, signature FROM entry WHERE position = 3")
    raw.execute("DELETE FROM entry WHERE position <= 3")
    with pytest.raises(apsw.ConstraintError, match="never deleted"):
        raw.execute("DELETE FROM entry WHERE position = 4")
    raw.close()
    with CheckpointStore.open_readonly(path) as store:
        assert ("missing", 1) in [(fault.kind, fault.position) for fault in store.verify().faults]


def test_a_new_file_can_give_back_pages_step_by_step(path: Path) -> None:
    """auto_vacuum = INCREMENTAL, which only a file without tables can be given."""
    CheckpointStore(path).close()
    raw = apsw.Connection(str(path))
    assert raw.pragma("auto_vacuum") == 2
    raw.close()


@pytest.mark.parametrize("opener", [CheckpointStore, CheckpointStore.open_readonly])
def test_a_reader_whose_file_a_newer_version_has_changed_says_so(
    path: Path, opener: Callable[[Path], CheckpointStore]
) -> None:
    """Not that a column is missing."""
    with CheckpointStore(path) as writer, opener(path) as reader:
        writer.advance("run-7", "load", Watermark(1, 1), idempotency_key="1")
        assert reader.latest("run-7") is not None
        raw = apsw.Connection(str(path))
        raw.execute("ALTER TABLE entry RENAME COLUMN entries_so_far TO other")
        raw.pragma("user_version", PRESENT + 1)
        with pytest.raises(SchemaVersionError, match="install a newer milepost"):
            reader.latest("run-7")
        raw.close()
