"""Whatever else stands at the path is refused in words, and not touched."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import (
    CheckpointStore,
    InvalidArgumentError,
    MilepostError,
    NotAStoreError,
    SchemaVersionError,
    StoreError,
    schema,
)
from support.chains import chain, entry
from support.command import ENVIRONMENT, process
from support.command import run as run_command
from support.warm import warm_programs

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
    "newer": (_store_then("PRAGMA user_version = 3"), SchemaVersionError, "version 3"),
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


def _deep(tmp_path: Path, length: int, name: str = "s") -> Path:
    """A path of so many bytes, in a directory that exists."""
    folder = str(tmp_path)
    while len(folder) + len(name) + 1 < length - 60:
        folder += "/" + "d" * 50
    folder += "/" + "e" * (length - len(folder) - len(name) - 2)
    Path(folder).mkdir(parents=True)
    return Path(folder, name)


LONG = {"a path of 504 bytes": (504, "n" * 60), "a name of 251 bytes": (400, "n" * 251), "of both": (504, "ü" * 125 + "n")}
TOO_LONG = {
    "a path of 505 bytes": (505, "n" * 60, "it has 505 bytes, directory included, but SQLite allows 504"),
    "a name of 252 bytes": (400, "n" * 252, "its name has 252 bytes, but 251 are allowed"),
    "252 bytes in 126 characters": (400, "ü" * 126, "its name has 252 bytes, but 251 are allowed"),
    "a name of 255 bytes": (400, "n" * 255, "its name has 255 bytes, but 251 are allowed"),
    "a name of 300 bytes": (400, "n" * 300, "its name has 300 bytes, but 251 are allowed"),
}


@pytest.mark.parametrize(
    ("length", "name"),
    [pytest.param(*given, marks=() if case == "of both" else pytest.mark.long, id=case) for case, given in LONG.items()],
)
def test_the_longest_path_is_a_store_like_any_other(tmp_path: Path, length: int, name: str) -> None:
    """Made, written by a process that is killed, gone on with, verified and copied."""
    path = _deep(tmp_path, length - len(name.encode()) + len(name), name)
    assert len(os.fsencode(path)) == length
    program = (
        "import os, sys\nfrom support.chains import chain\nfrom milepost import CheckpointStore\n"
        "store = CheckpointStore(sys.argv[1])\nstore.append_many(chain(50))\nos.kill(os.getpid(), 9)"
    )
    killed = warm_programs().run("-c", program, path, cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    with CheckpointStore.open_readonly(path) as reader:
        assert len(reader) == 50
    with CheckpointStore(path) as store:
        store.append(entry(51))
        assert store.verify().ok
        assert store.backup(tmp_path / "copy") == store.head()
    with CheckpointStore(tmp_path / "copy") as store:
        path.unlink()
        assert store.backup(path) == store.head()
    assert os.listdir(path.parent) == [path.name]  # noqa: PTH208 - names, not paths


@pytest.mark.parametrize(("length", "name", "said"), TOO_LONG.values(), ids=TOO_LONG.keys())
def test_a_path_that_is_too_long_is_told_before_anything_is_made(tmp_path: Path, length: int, name: str, said: str) -> None:
    """By every verb that takes one, and nothing is left behind."""
    path = _deep(tmp_path, length - len(name.encode()) + len(name), name)
    CheckpointStore(tmp_path / "store").close()
    with CheckpointStore.open_readonly(tmp_path / "store") as store:
        for act in (CheckpointStore, CheckpointStore.open_readonly, store.backup):
            with pytest.raises(InvalidArgumentError, match=said):
                act(path)
    imported = run_command("import", os.devnull, path)
    assert (imported.exit_code, said in imported.stderr) == (2, True)
    assert list(path.parent.iterdir()) == []


def test_a_directory_without_room_for_the_name_of_a_new_file_is_told(tmp_path: Path) -> None:
    """A store is made under a longer name than it gets; one that is there already is opened."""
    path = _deep(tmp_path, 484)
    with CheckpointStore(tmp_path / "store") as store:
        head = store.append(entry(1))
        for act in (CheckpointStore, store.backup):
            with pytest.raises(
                InvalidArgumentError, match="its directory has 482 bytes, but a store can be made in one of at most 481"
            ):
                act(path)
    assert list(path.parent.iterdir()) == []
    imported = run_command("import", os.devnull, _deep(tmp_path / "other", 461))
    assert (imported.exit_code, "has 459 bytes, but a store can be made in one of at most 458" in imported.stderr) == (
        2,
        True,
    )
    (tmp_path / "store").rename(path)
    with CheckpointStore(path) as store:
        assert store.append(entry(1)).position == head.position
        assert store.append(entry(2)).position == 2


LOCALE = """
import os, sys
from support.chains import chain, entry
from milepost import CheckpointStore, workers
workers.LEAST = 100  # else a chain has to be long to be parted
assert sys.getfilesystemencoding() == sys.argv[2], sys.getfilesystemencoding()
given = sys.argv[1]
for path in (given, os.fsencode(given), os.fsencode(given).decode()):
    with CheckpointStore(path) as store:
        assert store.path == given, ascii(store.path)
        store.append_many(chain(300))
        assert store.append(entry(300)).duplicate
        assert store.summary().path == given
        store.backup(given + "-copy")
        with CheckpointStore.open_readonly(path) as reader:
            assert reader.latest() == entry(300)
            assert reader.verify(workers=2 if path is given else 1).ok
    with CheckpointStore.open_readonly(given + "-copy") as copy:
        assert copy.verify().ok and len(copy) == 300
    os.unlink(given + "-copy")
    print(sorted(map(os.fsencode, os.listdir(os.path.dirname(given)))))
store = CheckpointStore(given)
store.append(entry(301))
sys.stdout.flush()
os.kill(os.getpid(), 9)
"""
LOCALES = {
    "C": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
    "UTF-8": ({"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}, "utf-8"),
}


# In UTF-8 it is a name like those above.
@pytest.mark.parametrize(
    ("locale", "encoding"),
    [pytest.param(*given, marks=pytest.mark.long if name == "UTF-8" else (), id=name) for name, given in LOCALES.items()],
)
def test_a_path_works_in_a_locale_that_cannot_spell_it(tmp_path: Path, locale: dict[str, str], encoding: str) -> None:
    """As an argument of the program, as bytes, and as text in the program itself; with all that a store does."""
    path = tmp_path / "ä" / "ö😀.milepost"
    path.parent.mkdir()
    run = subprocess.run(
        [sys.executable, "-c", LOCALE, path, encoding],
        cwd=Path(__file__).parent,
        env={**os.environ, **locale},
        capture_output=True,
        check=False,
    )
    assert run.stderr == b""
    assert run.returncode == -signal.SIGKILL
    assert run.stdout.decode().splitlines() == [str([path.name.encode()])] * 3
    with CheckpointStore(path) as store:  # what the kill has left in the WAL is found
        assert len(store) == 301
    for command in ("head", "verify", "summary"):
        shown = process(command, path, env={**ENVIRONMENT, **locale})
        assert (shown.returncode, shown.stderr) == (0, b"")


def test_a_part_of_milepost_that_was_not_packed_is_named(tmp_path: Path, path: Path) -> None:
    """And not the store: as in an application made by zipapp or PyInstaller without its data."""
    package = Path(schema.__file__).parent
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as packed:
        for file in package.rglob("*.py"):
            packed.write(file, file.relative_to(package.parent))
    program = (
        "import sys\nfrom milepost import CheckpointStore, StoreError\n"
        "try: CheckpointStore(sys.argv[1])\nexcept StoreError as error: print(error)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "app.zip")}
    run = subprocess.run(
        [sys.executable, "-c", program, path], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stderr == ""
    assert run.stdout.startswith(f"{tmp_path}/app.zip/milepost/schema.sql: this part of milepost cannot be read (")
    assert "pack it with the application" in run.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["app.zip"]


def _wal_alone(path: Path) -> None:
    """A file with a -wal and without a -shm, which is read through a copy."""
    with CheckpointStore(path) as store:
        store.append_many(chain(2000))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{path}-alone{suffix}")


def test_a_full_directory_for_temporary_files_is_named(path: Path) -> None:
    """And not the store, which is sound; nothing is left there."""
    _wal_alone(path)
    temporary = path.with_name("temporary")
    temporary.mkdir()
    program = (
        "import resource, signal, sys\nfrom milepost import CheckpointStore, StoreError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))\n"
        "try: CheckpointStore.open_readonly(sys.argv[1])\nexcept StoreError as error: print(error)"
    )
    environment = {**os.environ, "TMPDIR": str(temporary)}
    run = warm_programs().run("-c", program, f"{path}-alone", env=environment)
    assert run.stderr == ""
    assert run.stdout.startswith(f"{temporary}/milepost-")
    assert run.stdout.endswith("File too large: set TMPDIR to another directory\n")
    assert list(temporary.iterdir()) == []


def test_no_directory_for_temporary_files_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to set."""
    _wal_alone(path)

    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(
        StoreError, match=r"only be read through a copy, .* \(No usable temporary directory .*\): set TMPDIR"
    ):
        CheckpointStore.open_readonly(f"{path}-alone")


def test_a_symbolic_link_is_resolved_once(tmp_path: Path) -> None:
    """The WAL stands beside the file, not beside the link."""
    (tmp_path / "link").symlink_to(tmp_path / "file")
    with CheckpointStore(tmp_path / "link") as store:
        store.append(entry(1))
        assert store.path == str(tmp_path / "file")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "link"]


FULL = """
import resource, signal, sys
from support.chains import chain, entry
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
            assert "check the disk, its quota, and `ulimit -f`" in str(error)
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
    run = warm_programs().run("-c", FULL, path, cwd=Path(__file__).parent)
    assert (run.stdout, run.stderr) == ("went on\n", "")


NO_ROOM_TO_OPEN = """
import resource, signal, sys
from milepost import CheckpointStore, StoreFullError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
try:
    CheckpointStore(sys.argv[1])
except StoreFullError as error:
    print(error.__cause__.extendedresult)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
with CheckpointStore(sys.argv[1]) as store:
    print(len(store))
"""


def test_a_start_on_a_full_disk_says_that_it_is_full(path: Path) -> None:
    """As of a pipeline that died of it: its -shm of 32 kB is what finds no room, before anything is written."""
    with CheckpointStore(path) as store:
        store.append_many(chain(2))
    run = warm_programs().run("-c", NO_ROOM_TO_OPEN, path)
    assert (run.stdout, run.stderr) == (f"{apsw.SQLITE_IOERR_SHMSIZE}\n2\n", "")
