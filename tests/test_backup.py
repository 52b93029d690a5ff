"""backup(): an exact, verifying copy, while others write."""

from __future__ import annotations

import os
import signal
import stat
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import CheckpointStore, ReadOnlyStoreError, StoreError, create
from support.chains import chain, entry
from support.warm import WarmTalk, warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable


def _names(path: Path) -> list[str]:
    return [file.name for file in path.parent.iterdir()]


def test_a_backup_is_a_store_with_the_same_chain(store: CheckpointStore, path: Path) -> None:
    """It has the head that is returned, goes on like any other, and is readable by its owner only."""
    store.append_many(chain(100))
    copy = path.with_name("copy")
    assert store.backup(copy) == store.head()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with CheckpointStore(copy) as other:
        assert list(other.history()) == chain(100)
        assert other.verify(expected=store.head()).ok
        other.append(entry(101))
    assert len(store) == 100
    assert sorted(_names(path)) == ["copy", path.name, f"{path.name}-shm", f"{path.name}-wal"]


@pytest.mark.parametrize("pages", [1, 7, 10**6])
def test_a_backup_under_load_holds_a_prefix_of_the_original(path: Path, pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its head is in the chain of the original, whatever is appended meanwhile, also between two steps of the copy."""
    monkeypatch.setattr(create, "_COPIED_PAGES", pages)
    writing = threading.Event()
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(2000))

        def write() -> None:
            sequence = 2000
            while not writing.is_set():
                sequence += 1
                store.append(entry(sequence))

        thread = threading.Thread(target=write)
        thread.start()
        try:
            heads = [store.backup(path.with_name(f"copy-{i}")) for i in range(5)]
        finally:
            writing.set()
            thread.join()
        for i, head in enumerate(heads):
            assert store.verify(expected=head).ok
            with CheckpointStore.open_readonly(path.with_name(f"copy-{i}")) as copy:
                assert copy.verify(expected=head).ok
        assert [head.entries for head in heads] == sorted(head.entries for head in heads)


def test_a_backup_never_overwrites_and_leaves_nothing_behind(store: CheckpointStore, path: Path) -> None:
    """An existing file, a missing directory, the store itself."""
    store.append(entry(1))
    there = path.with_name("there")
    there.write_text("precious")
    for target, message in ((there, "a backup never overwrites"), (path, "a backup never overwrites"),
                            (path.parent / "missing" / "copy", "check the path")):  # fmt: skip
        with pytest.raises(StoreError, match=message):
            store.backup(target)
    assert there.read_text() == "precious"
    assert not [name for name in _names(path) if name.startswith(".")]


def test_a_store_that_only_reads_can_be_backed_up_too(path: Path) -> None:
    """After a clean close, and beside a live writer."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
        with CheckpointStore.open_readonly(path) as reader:
            assert reader.backup(path.with_name("live")) == store.head()
    with CheckpointStore.open_readonly(path) as reader:
        assert reader.backup(path.with_name("closed")) == reader.head()
        with pytest.raises(ReadOnlyStoreError):
            reader.append(entry(2))


def test_what_an_open_block_has_written_is_not_in_a_backup(store: CheckpointStore, path: Path) -> None:
    """Only what is committed."""
    store.append(entry(1))
    with store.transaction():
        store.append(entry(2))
        assert store.backup(path.with_name("copy")).entries == 1


def test_a_file_with_a_second_name_is_refused_for_writing(path: Path) -> None:
    """Two names would have two WALs."""
    CheckpointStore(path).close()
    os.link(path, path.with_name("second"))
    with pytest.raises(StoreError, match="a second name"):
        CheckpointStore(path)
    path.with_name("second").unlink()
    CheckpointStore(path).close()


def test_a_kill_while_the_file_is_put_in_place_leaves_a_store_that_opens(path: Path) -> None:
    """The first name, which is left over, is removed by the next opener."""
    program = (
        "import os, sys\n"
        "from milepost import CheckpointStore\n"
        "link = os.link\n"
        "os.link = lambda *names: (link(*names), os._exit(9))\n"
        "CheckpointStore(sys.argv[1])\n"
    )
    assert warm_programs().run("-c", program, path).returncode == 9
    assert path.stat().st_nlink == 2
    with CheckpointStore(path) as store:
        store.append(entry(1))
    assert _names(path) == [path.name]


BEGIN = """
import sys
import time
from support.chains import chain
from milepost import CheckpointStore
store = CheckpointStore(sys.argv[1])
store.append_many(chain(3000)[2000:])
if sys.argv[2] == "closes":
    store.close()
print("written", flush=True)
sys.stdin.readline()
"""


class _Overtaken(apsw.VFS):
    """A VFS under which something happens once, in the middle of reading a file."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self.happens, self.reads, self.name = happens, 0, "overtaken"
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _OvertakenFile(self, name, flags)

    def read(self) -> None:
        """Count a read of a page; the hundredth is the moment."""
        self.reads += 1
        if self.reads == 100:
            self.happens()


class _OvertakenFile(apsw.VFSFile):
    def __init__(self, vfs: _Overtaken, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self.vfs, self.counted = vfs, bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        if self.counted:
            self.vfs.read()
        return super().xRead(amount, offset)


@pytest.mark.parametrize("writer", ["closes", "stays"])
def test_a_backup_of_a_closed_file_that_a_writer_overtakes_is_exact(path: Path, writer: str) -> None:
    """It is read again, from the beginning; nothing of the half-old copy is left."""
    with CheckpointStore(path) as store:
        store.append_many(chain(2000))
    children: list[WarmTalk[bytes]] = []

    def write() -> None:
        child = warm_programs().talk("-c", BEGIN, path, writer, cwd=Path(__file__).parent)
        children.append(child)
        assert child.stdout.readline() == b"written\n"

    vfs = _Overtaken(write)
    try:
        with CheckpointStore.open_readonly(path, vfs=vfs.name) as reader:
            head = reader.backup(path.with_name("copy"))
    finally:
        for child in children:
            child.communicate(b"\n")
        vfs.unregister()
    assert len(children) == 1
    assert head.entries == 3000
    with CheckpointStore.open_readonly(path.with_name("copy")) as copy:
        assert list(copy.history()) == chain(3000)
        assert copy.verify(expected=head).ok
    assert sorted(_names(path)) == ["copy", path.name]


def test_a_backup_onto_a_file_is_refused_before_anything_is_copied(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when gigabytes have been read."""
    monkeypatch.setattr(create, "put_in_place", None)
    path.with_name("there").touch()
    with pytest.raises(StoreError, match="a backup never overwrites"):
        store.backup(path.with_name("there"))


class _Steps:
    """How many pages a copy takes at a time: one, and before each something happens."""

    def __init__(self, happens: Callable[[int], object]) -> None:
        self.happens, self.taken = happens, 0

    def __index__(self) -> int:
        self.taken += 1
        self.happens(self.taken)
        return 1


def test_a_backup_of_a_store_that_never_rests_comes_to_its_end(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the store of one moment, whatever is committed between all of its steps."""
    store.append_many(chain(2000))
    head = store.head()

    def commit(step: int) -> None:
        assert step < 1000, "it begins again and again"
        store.append(entry(2000 + step))

    steps = _Steps(commit)
    monkeypatch.setattr(create, "_COPIED_PAGES", steps)
    assert store.backup(path.with_name("copy")) == head
    assert steps.taken > 100
    assert len(store) == 2000 + steps.taken


def test_a_signal_ends_a_backup_between_two_of_its_steps(
    store: CheckpointStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long copy does not keep Ctrl-C waiting for its end."""
    store.append_many(chain(2000))
    steps = _Steps(lambda step: signal.raise_signal(signal.SIGINT) if step == 5 else None)
    monkeypatch.setattr(create, "_COPIED_PAGES", steps)
    with pytest.raises(KeyboardInterrupt):
        store.backup(path.with_name("copy"))
    assert steps.taken == 5
    assert sorted(_names(path)) == [path.name, f"{path.name}-shm", f"{path.name}-wal"]


# A signal that comes in a callback of a weak reference or a finalizer is dropped by Python, with a word about it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_at_any_moment_of_a_backup_leaves_all_of_it_or_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes out of backup(), and the store can be used on."""
    monkeypatch.setattr(create, "_COPIED_PAGES", 1)
    ended = 0
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(5000))
        began = time.monotonic()
        store.backup(path.with_name("copy"))
        whole = time.monotonic() - began
        path.with_name("copy").unlink()
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            for moment in range(1, 60):
                try:
                    try:
                        signal.setitimer(signal.ITIMER_REAL, whole * moment / 40)
                        store.backup(path.with_name("copy"))
                    finally:
                        signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:  # also one that comes in the `finally`
                    ended += 1
                assert not [name for name in _names(path) if name.startswith(".")]
                if path.with_name("copy").exists():
                    with CheckpointStore.open_readonly(path.with_name("copy")) as copy:
                        assert copy.head() == store.head()
                    path.with_name("copy").unlink()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert ended > 3
        assert store.backup(path.with_name("copy")) == store.head()


LIMITED = """
import os, resource, signal, sys
from support.chains import chain
from milepost import CheckpointStore, StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with CheckpointStore(sys.argv[1]) as store:
    store.append_many(chain(2000))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limit[1]))
    try:
        store.backup(sys.argv[2])
    except StoreError as error:
        print(type(error).__name__, error.path, error.problem)
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    print(sorted(os.listdir(os.path.dirname(sys.argv[1]))))
    store.append_many(chain(2001))
    assert store.backup(sys.argv[2]) == store.head()
"""


def test_a_copy_that_cannot_be_written_is_told_of_by_its_own_name(path: Path) -> None:
    """Not by the store's, which is sound and goes on; nothing is left behind."""
    copy = path.with_name("copy")
    run = warm_programs().run("-c", LIMITED, path, copy, cwd=Path(__file__).parent)
    told, left = run.stdout.splitlines()
    assert run.stderr == ""
    assert told.startswith(f"StoreError {copy} the copy cannot be written (SQLITE_IOERR_WRITE)")
    assert left == str([path.name, f"{path.name}-shm", f"{path.name}-wal"])
