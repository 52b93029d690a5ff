"""What becomes of the file, its WAL and its shared memory under an open store: nothing acknowledged is lost in silence."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import threading
import warnings
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore, FailedStoreError, MilepostError, MilepostWarning, StoreError
from support.chains import chain, entry
from support.long_reader import long_reader
from support.methods import WRITING, method
from support.other_process import other_process
from support.patience import begin, in_time, result, until
from support.slow_disk import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from milepost import Receipt


# A loop looks first where it stands, and is told by that.
WRITES: Final[dict[str, Callable[[CheckpointStore], object]]] = {
    **{name: write for name, write in WRITING.items() if method(name) not in {"checkpointed", "once", "tracked"}},
    "a duplicate": lambda store: store.append(entry(1)),
}


def _is_told(store: CheckpointStore, write: str) -> None:
    """Now, and from now on."""
    for again in (write, "append", "transaction"):
        with pytest.raises(FailedStoreError):
            WRITES[again](store)


# The shared memory


@pytest.mark.parametrize("write", WRITES)
def test_a_writer_whose_shared_memory_was_removed_acknowledges_nothing_more(path: Path, write: str) -> None:
    """Another process makes a new one, and both write over each other's frames; what both had acknowledged is there."""
    with CheckpointStore(path) as store:
        store.append_many(chain(5))
        path.with_name(f"{path.name}-shm").unlink()
        with other_process("write", path) as other:
            assert other.hear() == "ready"
            assert [other.tell("append") for _ in range(3)] == ["6", "7", "8"]
            _is_told(store, write)
            assert other.tell("append") == "9"
            store.close()
            assert other.tell("append") == "10"
            assert other.tell("close") == "closed"
    with CheckpointStore(path) as store:
        assert [e.sequence for e in store.history("run-7")] == [1, 2, 3, 4, 5]
        assert [e.sequence for e in store.history("other")] == [1, 2, 3, 4, 5]
        store.verify().raise_if_broken()
        store.append(entry(6))


def test_a_writer_whose_shared_memory_was_removed_before_its_first_write_writes_nothing(path: Path) -> None:
    """A store may be open for hours before it has something to record."""
    with CheckpointStore(path) as store:
        store.append_many(chain(5))
    with CheckpointStore(path) as store:
        path.with_name(f"{path.name}-shm").unlink()
        with other_process("write", path) as other:
            assert other.hear() == "ready"
            assert [other.tell("append") for _ in range(3)] == ["6", "7", "8"]
            content = path.with_name(f"{path.name}-wal").read_bytes()
            _is_told(store, "append")
            assert path.with_name(f"{path.name}-wal").read_bytes() == content
            store.close()
            assert other.tell("append") == "9"
            assert other.tell("close") == "closed"
    with CheckpointStore(path) as store:
        assert [e.sequence for e in store.history("other")] == [1, 2, 3, 4]
        store.verify().raise_if_broken()


def test_a_block_whose_shared_memory_was_removed_meanwhile_is_told_at_its_end(path: Path) -> None:
    """What it had appended is not acknowledged."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        with pytest.raises(FailedStoreError), store.transaction() as connection:
            connection.execute("CREATE TABLE sink (record INTEGER)")
            store.append(entry(2))
            path.with_name(f"{path.name}-shm").unlink()
        _is_told(store, "append")
    with CheckpointStore(path) as store:
        assert store.verify().ok
        assert store.get("run-7", "load", 1) == entry(1)


def test_a_shared_memory_that_was_replaced_by_a_copy_is_told(path: Path) -> None:
    """It looks the same, and is another file."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        shared = path.with_name(f"{path.name}-shm")
        shutil.copyfile(shared, path.with_name("copy"))
        path.with_name("copy").replace(shared)
        _is_told(store, "append")


# The directory


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """Where a test may make a store, in a directory that it may take away."""
    (tmp_path / "directory").mkdir()
    return tmp_path / "directory" / "orders.milepost"


def _take_away(path: Path, instead: str) -> Path:
    """Move the store's directory, and put something else in its place; where the store is now."""
    moved = path.parent.with_name("moved")
    path.parent.rename(moved)
    if instead == "a plain file":
        path.parent.write_text("not a directory")
    elif instead == "an empty directory":
        path.parent.mkdir()
    elif instead == "a link to nothing":
        path.parent.symlink_to("nowhere")
    elif instead == "a link to itself":
        path.parent.symlink_to(path.parent.name)
    return moved / path.name


INSTEAD: Final = ["nothing", "a plain file", "an empty directory", "a link to nothing", "a link to itself"]


@pytest.mark.parametrize("instead", INSTEAD)
@pytest.mark.parametrize("write", WRITES)
def test_a_writer_whose_directory_was_moved_away_acknowledges_nothing_more(inside: Path, instead: str, write: str) -> None:
    """Whatever is in its place."""
    with CheckpointStore(inside) as store:
        store.append_many(chain(3))
        moved = _take_away(inside, instead)
        _is_told(store, write)
    with CheckpointStore(moved) as store:
        assert list(store.history("run-7")) == chain(3)
        assert store.verify().ok


@pytest.mark.parametrize("instead", INSTEAD)
def test_all_whose_commit_it_was_are_told_that_the_directory_is_gone(inside: Path, instead: str) -> None:
    """Those whose entries another thread committed with its own as well: nobody has a receipt of what may be lost."""
    wait, syncs = threading.Event(), threading.Semaphore(0)
    let_through = threading.Semaphore(0)

    def slowly(name: str) -> None:
        if wait.is_set() and name.endswith("-wal"):
            syncs.release()
            assert let_through.acquire(timeout=30)

    with disk(on_sync=slowly) as vfs, CheckpointStore(inside, vfs=vfs, busy_timeout_ms=20_000) as store:
        store.append_many(chain(3))
        wait.set()
        first = begin(lambda: store.append(entry(1, run_id="first")))
        assert syncs.acquire(timeout=20)
        appends: list[Future[Receipt]] = [
            begin(lambda n=n: store.append(entry(1, run_id=f"{n}")))  # type: ignore[misc]
            for n in range(8)
        ]
        with contextlib.suppress(TimeoutError):
            appends[-1].exception(0.3)  # they queue meanwhile
        let_through.release()
        assert result(first).position == 4
        assert syncs.acquire(timeout=20)  # that of the others' first commit
        moved = _take_away(inside, instead)
        wait.clear()
        let_through.release(100)
        told = [_error(append) for append in appends]
        assert [type(error) for error in told] == [FailedStoreError] * 8
        assert len({id(error) for error in told}) == 8
    with CheckpointStore(moved) as store:
        assert list(store.history("run-7")) == chain(3)
        assert store.latest("first") == entry(1, run_id="first")
        assert store.verify().ok


def _error(future: Future[Receipt]) -> BaseException | None:
    with contextlib.suppress(MilepostError):
        result(future)
    return future.exception()


# A reader


def _replace(path: Path, by: Path) -> None:
    """As a restore from a copy does."""
    for suffix in ("-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
    by.replace(path)


@pytest.mark.parametrize("writer_is", ["still there", "gone", "killed"])
def test_a_reader_whose_file_was_replaced_shows_the_new_one_or_is_told(path: Path, writer_is: str) -> None:
    """Never what was removed, for ever."""
    restored = path.with_name("restored")
    with CheckpointStore(restored, durability="normal") as store:
        store.append_many(chain(2, run_id="restored"))
    with other_process("write", path) as writer:
        assert [writer.hear(), *(writer.tell("append") for _ in range(3))] == ["ready", "1", "2", "3"]
        with CheckpointStore.open_readonly(path) as reader:
            assert len(reader) == 3
            if writer_is == "gone":
                assert writer.tell("close") == "closed"
            elif writer_is == "killed":
                writer.kill()
            _replace(path, restored)
            with contextlib.suppress(StoreError):
                assert list(reader.history()) == chain(2, run_id="restored")
            for look in (reader.latest, reader.head, reader.runs, reader.verify):
                with contextlib.suppress(StoreError):
                    assert "other" not in repr(look())
            with CheckpointStore.open_readonly(path) as anew:
                assert list(anew.history()) == chain(2, run_id="restored")


@pytest.mark.parametrize(
    "error", [apsw.CantOpenError, apsw.IOError, MemoryError, KeyboardInterrupt], ids=lambda e: e.__name__
)
def test_a_reader_that_cannot_open_the_file_once_opens_it_the_next_time(path: Path, error: type[BaseException]) -> None:
    """For whatever passing reason: no descriptor, no memory, Ctrl-C."""
    failing = False

    def fail_once(name: str) -> None:
        nonlocal failing
        if failing and name == str(path):
            failing = False
            raise error

    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
    for opens in range(1, 4):  # which of the openings fails
        with disk(on_open=fail_once) as vfs, CheckpointStore.open_readonly(path, vfs=vfs) as reader:
            before = len(reader)
            with CheckpointStore(path, durability="normal") as store:
                store.append(entry(before + 1))
            failing = True
            for _ in range(opens):
                with contextlib.suppress(MilepostError, KeyboardInterrupt, MemoryError):
                    reader.latest()
            failing = False
            assert reader.latest() == entry(before + 1)
            assert reader.verify().ok
        assert opens == before


@contextlib.contextmanager
def _no_descriptors() -> Iterator[None]:
    """This process may open nothing more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_reader_that_had_no_descriptor_opens_the_file_the_next_time(path: Path) -> None:
    """Too many open files, for a while."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
    with CheckpointStore.open_readonly(path) as reader:
        assert len(reader) == 1
        with CheckpointStore(path, durability="normal") as store:
            store.append(entry(2))
        with _no_descriptors(), contextlib.suppress(MilepostError):
            reader.latest()
        assert reader.latest() == entry(2)
        assert [e.sequence for e in reader.history()] == [1, 2]


def test_a_writer_that_had_no_descriptor_for_reading_reads_the_next_time(path: Path) -> None:
    """Its appends go on meanwhile, or are told."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        acknowledged = [1]
        with _no_descriptors():
            for sequence in (2, 3):
                with contextlib.suppress(MilepostError):
                    store.append(entry(sequence))
                    acknowledged.append(sequence)
                with contextlib.suppress(MilepostError):
                    store.latest()
        assert in_time(lambda: [e.sequence for e in store.history()])[: len(acknowledged)] == acknowledged
        store.append(entry(10))
        assert store.verify().ok


def test_a_writer_that_has_no_descriptor_to_lengthen_its_wal_commits(path: Path) -> None:
    """The zeros ahead of what is written only save time."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        length = _wal_bytes(path)
        with _no_descriptors():
            assert store.append(entry(2)).position == 2
        assert _wal_bytes(path) < 2 * length  # by what was written


# A WAL that one batch has made long


def _wal_bytes(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


def _fill(store: CheckpointStore, megabytes: int) -> None:
    with store.transaction() as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS sink (value BLOB)")
        connection.executemany("INSERT INTO sink VALUES (zeroblob(10000))", [()] * (100 * megabytes))
        last = store.latest()
        store.append(entry(last.sequence + 1 if last else 1))


@pytest.mark.parametrize("megabytes", [40, pytest.param(300, marks=pytest.mark.long)])
def test_a_large_batch_is_blamed_on_nobody_and_the_wal_gets_short_again(path: Path, megabytes: int) -> None:
    """No reader is there to be warned of; a few more commits, and the disk has its space back."""
    with CheckpointStore(path, durability="normal") as store, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _fill(store, megabytes)
        assert _wal_bytes(path) > megabytes * 10**6
        for sequence in range(2, 12):
            store.append(entry(sequence))
        assert _wal_bytes(path) < 20 << 20
        _fill(store, 1)
        assert [warning for warning in caught if isinstance(warning.message, MilepostWarning)] == []
        assert store.verify().ok


@pytest.mark.long
def test_a_reader_that_does_keep_the_wal_long_is_still_named(path: Path) -> None:
    """The warning is for it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
        reader = long_reader(path, 1)
        with pytest.warns(MilepostWarning, match="a reader keeps one transaction open"):
            _fill(store, 300)
        reader.close()


def test_nothing_of_a_store_stays_open_once_it_is_closed(path: Path) -> None:
    """Neither after errors, nor after threads have read: on Linux, where one can look."""
    open_before = _open_files(path)
    with CheckpointStore(path, durability="normal", busy_timeout_ms=0) as store:
        store.append(entry(1))
        for _ in range(3):
            in_time(store.head)
        with contextlib.suppress(KeyError), store.transaction():
            store.append(entry(2))
            raise KeyError
        with other_process("hold", path) as other:
            assert other.hear() == "ready"
            assert other.tell("until told") == "held"
            with pytest.raises(StoreError):
                store.append(entry(2))
            assert other.tell("go") == "free"
        store.append(entry(2))
    until(lambda: _open_files(path) == open_before)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def _open_files(path: Path) -> list[Any]:
    descriptors = path.parent.joinpath("/proc/self/fd")
    if not descriptors.exists():
        return []
    found = []
    for each in descriptors.iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(each)  # noqa: PTH115 - it may be no path
            if target.startswith(str(path)):
                found.append(target)
    return found
