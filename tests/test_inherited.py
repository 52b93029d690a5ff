"""What a child has of its parent's files, if they could not be closed before the fork: nothing that can write to them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import Checkpoint, CheckpointStore, ForkedStoreError, StoreBusyError, StoreError, Watermark, create, wal
from milepost.connection import connect
from support.chains import chain
from support.doors import opening_to_write
from support.forking_program import fork, reap

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="only there does a child get a copy of the shared memory"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),
]

ENTRY = Checkpoint("parent", "load", 1, Watermark(1, 0), "1", 0)


def in_child(work: Callable[[], object]) -> None:
    """Fork, and expect that a child could do something."""
    reap(fork(work))


def reachable() -> list[str]:
    """Return what this process can write to: its descriptors of databases, and its mappings of shared memory."""
    found = []
    for each in list(Path("/proc/self/fd").iterdir()):
        try:
            name = str(each.readlink())
            writes = fcntl.fcntl(int(each.name), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
        except OSError:  # that of the list itself
            continue
        if writes and ".db" in name:
            found.append(name)
    maps = Path("/proc/self/maps").read_bytes().split(b"\n")
    return found + [os.fsdecode(line) for line in maps if b"-shm" in line]


def nothing_reachable() -> None:
    """The child of a fork has nothing to write with."""
    assert reachable() == []


@pytest.mark.parametrize("name", ["orders", "a b ", "a\nb", "a\rb", "a\r", "a\\012b", "ä (deleted)", "a\x0bb\tc"])
def test_a_child_can_write_to_nothing_whatever_the_name_of_the_file(tmp_path: Path, name: str) -> None:
    """The kernel's list of mappings has one a line, but escapes line feeds only."""
    with CheckpointStore(tmp_path / f"{name}.db") as store, store.transaction():
        store.append(ENTRY)
        assert len(reachable()) >= 4
        in_child(nothing_reachable)


def test_another_mapping_with_an_odd_name_is_in_nobodys_way(tmp_path: Path) -> None:
    """Such as that of another store."""
    other, store = CheckpointStore(tmp_path / "a\r.db"), CheckpointStore(tmp_path / "b.db")
    with other, store, other.transaction(), store.transaction():
        in_child(nothing_reachable)


def test_a_store_that_a_child_of_c_code_opens_first_of_all_is_its_own(tmp_path: Path) -> None:
    """No hook of Python's has told that child of the fork; what its parent has open is given up, and not what it opens."""
    with CheckpointStore(tmp_path / "orders.db") as store:
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            try:
                with CheckpointStore(tmp_path / "another.db") as own:
                    own.append(ENTRY)
                os._exit(0)
            finally:
                os._exit(1)
        reap(child)
        assert store.append(ENTRY).position == 1


def test_a_child_has_the_shared_memory_as_it_was_and_no_descriptor_more(tmp_path: Path) -> None:
    """SQLite in the child looks up there where each page stands, and would find that of another one."""
    with CheckpointStore(tmp_path / "orders.db") as store, store.transaction():
        store.append(ENTRY)
        maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
        (addresses,) = (line.split()[0] for line in maps if line.endswith("-shm"))
        first, last = (int(address, 16) for address in addresses.split("-"))
        content, descriptors = ctypes.string_at(first, last - first), len(list(Path("/proc/self/fd").iterdir()))
        assert any(content)

        def the_same() -> None:
            nothing_reachable()
            assert ctypes.string_at(first, last - first) == content
            assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors  # it gives up what other tests left, too

        in_child(the_same)


def test_a_child_reads_another_file_that_has_the_place_of_one_which_its_parent_was_opening(tmp_path: Path) -> None:
    """Its parent would have it open soon, and in the child nobody will."""
    path, another = tmp_path / "orders.db", tmp_path / "another.db"
    with CheckpointStore(another) as store:
        store.append(ENTRY)
    with CheckpointStore(path) as store, opening_to_write(store):

        def read() -> None:
            another.replace(path)
            with CheckpointStore.open_readonly(path) as reader:
                assert reader.latest() == ENTRY

        in_child(read)


def test_a_child_has_no_shared_memory_that_was_taken_away_either(tmp_path: Path) -> None:
    """The kernel says so behind the name; and nothing that the parent has written is acknowledged."""
    path = tmp_path / "orders.db"
    with pytest.raises(StoreError, match=r"orders\.db"), CheckpointStore(path) as store, store.transaction():
        store.append(ENTRY)
        path.with_name("orders.db-shm").unlink()

        def not_mapped() -> None:
            assert b"-shm" not in Path("/proc/self/maps").read_bytes()

        in_child(not_mapped)


def test_a_child_is_refused_that_file_and_no_other(tmp_path: Path) -> None:
    """A file that its parent does not use is none of the parent's."""
    with CheckpointStore(tmp_path / "orders.db") as store, store.transaction():

        def open_both() -> None:
            with pytest.raises(ForkedStoreError):
                CheckpointStore(tmp_path / "orders.db")
            with CheckpointStore(tmp_path / "another.db") as own:
                own.append(ENTRY)

        in_child(open_both)


@pytest.mark.parametrize("vfs", [None, "unix"])
@pytest.mark.parametrize("write", [wal.make_durable, wal.sync, partial(wal.lengthen, length=1 << 20)])
def test_a_child_does_not_write_to_the_wal_by_the_system_either(
    tmp_path: Path, write: Callable[[str, str | None], None], vfs: str | None
) -> None:
    """A fork may come between the look at the file and the opening of its WAL. To read it is nobody's harm."""
    name = tmp_path / "orders.db-wal"
    with CheckpointStore(tmp_path / "orders.db") as store, store.transaction():
        content = name.read_bytes()

        def refused() -> None:
            with pytest.raises(ForkedStoreError):
                write(str(name), vfs)
            assert wal.unread_commits(str(name), vfs, 0) == 0

        in_child(refused)
        assert name.read_bytes() == content


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can give up a right")
def test_a_process_that_may_no_longer_open_the_file_keeps_it_from_its_child() -> None:
    """A service gives up its rights after it has opened what it needs."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with CheckpointStore(f"{folder}/orders.db") as store, store.transaction():
            store.append(ENTRY)
            os.seteuid(65534)
            try:
                in_child(nothing_reachable)
            finally:
                os.seteuid(0)


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_a_child_does_not_write_to_an_attached_file_either(tmp_path: Path, journal: str) -> None:
    """A transaction that outgrows the cache is in the file before it is committed, and the child would write over it."""
    sink = str(tmp_path / "sink.db")
    made = apsw.Connection(sink)
    made.pragma("journal_mode", journal)
    made.execute("CREATE TABLE sink (x INTEGER PRIMARY KEY, y)")
    made.close()

    def attach(own: apsw.Connection) -> None:
        own.execute("ATTACH ? AS sink", (sink,))
        own.execute("PRAGMA sink.cache_size = 10")

    def write(own: apsw.Connection, numbers: range, who: bytes) -> None:
        # a cursor of which milepost does not know, so no check in Python comes first
        apsw.Cursor(own).executemany("INSERT INTO sink.sink VALUES (?, ?)", [(number, who * 100) for number in numbers])

    with CheckpointStore(tmp_path / "orders.db", on_connect=attach) as store, store.transaction() as connection:
        write(connection, range(200), b"parent")

        def child() -> None:
            nothing_reachable()
            with pytest.raises(apsw.Error):
                write(connection, range(1000, 1400), b"child")
            with pytest.raises((ForkedStoreError, StoreBusyError)):  # SQLite believes that the journal is this process's
                CheckpointStore(tmp_path / "child.db", on_connect=attach, busy_timeout_ms=1)

        in_child(child)
        write(connection, range(200, 400), b"parent")
        store.append(ENTRY)
    found = apsw.Connection(sink)
    assert found.execute("SELECT count(*), min(y), max(y) FROM sink").get == (400, b"parent" * 100, b"parent" * 100)
    assert found.pragma("integrity_check") == "ok"
    found.close()


def test_a_child_is_refused_its_parents_connection_in_words(tmp_path: Path) -> None:
    """SQLite would let it write to the temporary tables, which are in a file that both have open."""
    with CheckpointStore(tmp_path / "orders.db") as store, store.transaction() as connection:
        connection.execute("CREATE TEMP TABLE mine (x)")

        def refused() -> None:
            with pytest.raises(ForkedStoreError):
                connection.execute("INSERT INTO mine VALUES (1)")

        in_child(refused)


def test_a_child_that_unwinds_does_not_remove_what_its_parent_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that forks while a store is made."""

    class UnwindingError(Exception):
        pass

    def connect_and_fork(*given: object) -> apsw.Connection:
        child = os.fork()
        if child == 0:
            raise UnwindingError
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        return connect(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(create, "connect", connect_and_fork)
    try:
        CheckpointStore(tmp_path / "orders.db").close()
    except UnwindingError:
        os._exit(0)
    assert [each.name for each in tmp_path.iterdir()] == ["orders.db"]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "once the copy is in its place"])
@pytest.mark.parametrize("unwinds", [False, True], ids=["goes on", "unwinds"])
def test_a_child_does_not_undo_a_copy_that_its_parent_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, waits: bool, unwinds: bool
) -> None:
    """
    A handler that forks within a backup: SQLite's connection to the copy is in the middle of a write.

    What it has copied no longer fits into its cache, so a part is in the file, and a rollback would take that back.
    """
    parent, children, calls = os.getpid(), list[int](), 0
    reading, writing = os.pipe()

    class UnwindingError(Exception):
        pass

    class Pages:
        def __index__(self) -> int:  # asked for before each step
            nonlocal calls
            calls += 1
            if calls == 14:
                children.append(os.fork())
                if children[0] == 0:
                    os.close(writing)
                    if waits:
                        os.read(reading, 1)
                    if unwinds:
                        raise UnwindingError
                elif not waits:
                    reap(*children)
            return 100

    monkeypatch.setattr(create, "_COPIED_PAGES", Pages())
    copy = tmp_path / "copy.db"
    with CheckpointStore(tmp_path / "orders.db", durability="normal") as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (value BLOB); INSERT INTO sink VALUES (zeroblob(3500000))")
        store.append_many(chain(1000))
        try:
            store.backup(copy)
        except BaseException as error:
            if os.getpid() == parent:
                raise
            os._exit(0 if isinstance(error, UnwindingError | ForkedStoreError) else 1)
        if os.getpid() != parent:
            os._exit(1)
        os.close(writing)
        if waits:
            reap(*children)
        os.close(reading)
        assert calls > 15
        with CheckpointStore.open_readonly(copy) as copied:
            assert copied.verify().ok
            assert copied.head() == store.head()
    assert not list(tmp_path.glob(".milepost_*"))


def test_a_child_that_ends_leaves_its_parent_the_copy_to_read(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A WAL without shared memory, as a killed machine leaves it, is read through a temporary copy."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def be_killed() -> None:
        CheckpointStore(path).append(ENTRY)
        os._exit(0)

    in_child(be_killed)
    Path(f"{path}-shm").unlink()
    parent = os.getpid()

    def look(_connection: apsw.Connection) -> int:
        child = os.fork()
        if child == 0:
            sys.exit()
        reap(child)
        return len(list(folder.iterdir()))

    with CheckpointStore.open_readonly(path) as store:
        try:
            assert store._database.read(look) == 1
        except BaseException as error:
            if os.getpid() == parent:
                raise
            os._exit(0 if isinstance(error, SystemExit) else 1)
    assert list(folder.iterdir()) == []
