"""Whatever else stands at the path is refused in words, and not touched."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from chains import chain, entry
from milepost import (
    CheckpointStore,
    InvalidArgumentError,
    MilepostError,
    NotAStoreError,
    SchemaVersionError,
    StoreError,
    schema,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def _sql(path: Path, *statements: str) -> None:
    connection = apsw.Connection(str(path))
    try:
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


def _store_then(*statements: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        with CheckpointStore(path, durability="normal") as store:
            store.append_many(chain(50))
        _sql(path, *statements)

    return make


def _truncated(length: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        _store_then()(path)
        os.truncate(path, length)

    return make


def _fake_table(path: Path) -> None:
    """A view in place of a table."""
    text = schema.text().replace("CREATE TABLE run (", "CREATE TABLE other (")
    connection = apsw.Connection(str(path))
    connection.execute(text)
    connection.execute("DROP VIEW checkpoint")
    connection.execute("CREATE VIEW run AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n")
    connection.close()


BAD_FILES: dict[str, tuple[Callable[[Path], object], type[MilepostError], str]] = {
    "directory": (Path.mkdir, NotAStoreError, "a directory"),
    "fifo": (os.mkfifo, NotAStoreError, "not a regular file"),
    "empty": (Path.touch, NotAStoreError, "empty"),
    "random": (lambda path: path.write_bytes(bytes(range(256)) * 64), NotAStoreError, "not an SQLite database"),
    "short": (lambda path: path.write_bytes(b"SQLite format 3\0"), NotAStoreError, "not an SQLite database"),
    "PNG": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(5000)), NotAStoreError, "not an SQLite database"),
    "another application": (lambda path: _sql(path, "CREATE TABLE t (x)"), NotAStoreError, "another application"),
    "newer": (_store_then("PRAGMA user_version = 2"), SchemaVersionError, "version 2"),
    "version 0": (_store_then("PRAGMA user_version = 0"), SchemaVersionError, "version 0"),
    "view for a table": (_fake_table, NotAStoreError, "do not trust"),
    "trigger": (
        _store_then("CREATE TRIGGER x AFTER INSERT ON entry BEGIN SELECT 1; END"),
        NotAStoreError,
        "hangs on a table of milepost",
    ),
    "index": (_store_then("CREATE INDEX x ON entry (at_ms)"), NotAStoreError, "hangs on a table"),
    "generated column": (
        _store_then("ALTER TABLE run ADD COLUMN x TEXT GENERATED ALWAYS AS (run_id || 'x')"),
        NotAStoreError,
        "not the one of schema.sql",
    ),
    "missing index": (_store_then("DROP INDEX entry_by_key"), NotAStoreError, "entry_by_key is missing"),
    "half a header": (_truncated(50), NotAStoreError, "not an SQLite database"),
}


@pytest.mark.parametrize("opener", [CheckpointStore, CheckpointStore.open_readonly])
@pytest.mark.parametrize(("make", "error", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_what_is_no_store_is_refused_and_not_touched(
    path: Path, make: Callable[[Path], object], error: type[MilepostError], message: str, opener: Callable[[Path], object]
) -> None:
    """A sentence with the path, and every byte as it was."""
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(error, match=message) as caught:
        opener(path)
    assert str(path) in str(caught.value)
    assert before == (path.read_bytes() if path.is_file() else None)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("length", [100, 512, 2048, 4096, 8192, 20000])
def test_a_truncated_store_is_told_sooner_or_later(path: Path, length: int) -> None:
    """At opening, or by what is asked of it; never a raw exception, never a wrong answer."""
    _truncated(length)(path)
    before = path.read_bytes()
    try:
        with CheckpointStore.open_readonly(path) as store:
            assert not store.verify().ok
    except MilepostError as error:
        assert str(path) in str(error)  # noqa: PT017 - either is right
    assert path.read_bytes() == before


def test_another_applications_database_with_a_live_wal_is_not_woken(path: Path) -> None:
    """Not even its WAL is written back."""
    program = (
        "import apsw, os, sys\nc = apsw.Connection(sys.argv[1])\nc.pragma('journal_mode', 'wal')\n"
        "c.execute('CREATE TABLE t (x)')\nos.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert run.returncode == -signal.SIGKILL
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    assert len(before) == 3
    for opener in (CheckpointStore, CheckpointStore.open_readonly):
        with pytest.raises(NotAStoreError):
            opener(path)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_missing_directory_is_told(path: Path) -> None:
    """It is not made."""
    with pytest.raises(StoreError, match="its directory does not exist: make it first"):
        CheckpointStore(path.parent / "missing" / "store")
    assert not (path.parent / "missing").exists()


NAMES = ["a?mode=ro", "a?vfs=none", "a?immutable=1&cache=shared", "a#b", "a%41", "a%00b", "%", "%2e%2e%2f", "file:x",
         "file:x?mode=memory", "file::memory:", ":memory:", "memdb", "with space", " leading space", "trailing space ",
         "line\nbreak", "carriage\rreturn", "tab\there", "\x1b[2J", "\u202eoediv", "ü-日本", "e\u0301", "\U0001f600",
         "'; DROP TABLE run; --", 'say "yes"', "it's", "back\\slash", "-wal", "-rf", "~", "$HOME", "*", "a;b|c&d", "<b>",
         "=1+1", "x-wal", "x-journal"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_a_name_and_never_an_option(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One file of exactly that name comes into being; relative, and after a change of directory."""
    monkeypatch.chdir(tmp_path)
    with CheckpointStore(name) as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.append(entry(1))
    assert sorted(os.listdir(tmp_path)) == sorted(["elsewhere", name])  # noqa: PTH208 - names, not paths
    with CheckpointStore.open_readonly(tmp_path / name) as reader:
        assert reader.latest() == entry(1)
    with CheckpointStore(os.fsencode(tmp_path / name)) as store:  # type: ignore[arg-type]
        assert len(store) == 1
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_name_that_is_not_utf8_is_refused_in_words(tmp_path: Path) -> None:
    """SQLite's VFS takes names as UTF-8."""
    with pytest.raises(InvalidArgumentError, match="must be UTF-8"):
        CheckpointStore(tmp_path / os.fsdecode(b"\xff\xfe"))
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_is_resolved_once(tmp_path: Path) -> None:
    """The WAL stands beside the file, not beside the link."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with CheckpointStore(tmp_path / "link") as store:
        store.append(entry(1))
        assert store.path == str(tmp_path / "file")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "link"]


FULL = """
import resource, signal, sys
from chains import chain, entry
from milepost import CheckpointStore, MilepostError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with CheckpointStore(sys.argv[1]) as store:
    store.append_many(chain(100))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
    refused = 0
    for sequence in range(101, 160):
        try:
            store.append(entry(sequence))
        except MilepostError as error:
            refused += 1
            head = store.head()
    assert refused and head == store.head()
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    store.append(entry(1000))
    store.verify().raise_if_broken()
    print("went on")
"""


def test_a_store_without_space_raises_and_goes_on_once_there_is_some(path: Path) -> None:
    """The chain holds what was acknowledged."""
    assert resource.RLIMIT_FSIZE
    run = subprocess.run(
        [sys.executable, "-c", FULL, path], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert (run.stdout, run.stderr) == ("went on\n", "")
