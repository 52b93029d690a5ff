"""A reader changes no byte, whatever lies beside the file and whatever a pipeline does meanwhile."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import arro3.core as arrow
import pytest

from milepost import CheckpointStore, ReadOnlyStoreError, StoreError
from support.chains import chain, entry
from support.doors import connections, fork_in_progress, writer
from support.methods import WRITING
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPENDING = "import sys; from support.appending_child import append; append(*sys.argv[1:])"


def _bytes(directory: Path) -> dict[str, str]:
    """What is in every file of a directory."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()}


def _killed_writer(path: Path) -> None:
    """Leave a file as a writer does that is killed: with its -wal and -shm."""
    program = (
        "import os, sys\nfrom support.chains import chain\nfrom milepost import CheckpointStore\n"
        "store = CheckpointStore(sys.argv[1])\nstore.append_many(chain(50))\nos.kill(os.getpid(), 9)"
    )
    run = warm_programs().run("-c", program, path, cwd=Path(__file__).parent)
    assert run.returncode == -signal.SIGKILL


def _lay(make: Callable[[Path], None], path: Path) -> None:
    """Put there what was made once: a process that is killed takes a while to start."""
    for suffix, content in _made(make).items():
        path.with_name(path.name + suffix).write_bytes(content)


@functools.cache
def _made(make: Callable[[Path], None]) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "made"
        make(path)
        return {file.name.removeprefix("made"): file.read_bytes() for file in path.parent.iterdir()}


def _after_close(path: Path) -> None:
    with CheckpointStore(path) as store:
        store.append_many(chain(50))


def _wal_without_shm(path: Path) -> None:
    _lay(_killed_writer, path)
    path.with_name(f"{path.name}-shm").unlink()


def _shm_is_garbage(path: Path) -> None:
    _lay(_killed_writer, path)
    path.with_name(f"{path.name}-shm").write_bytes(b"\xa5" * 32768)


def _empty_wal(path: Path) -> None:
    _after_close(path)
    path.with_name(f"{path.name}-wal").touch()


def _killed_after_the_header_of_the_wal(path: Path) -> None:
    """As between the first two writes of a WAL."""
    _lay(_killed_writer, path)
    header = path.with_name(f"{path.name}-wal").read_bytes()[:32]
    CheckpointStore(path).close()
    program = (
        "import os, sys\nfrom milepost import CheckpointStore\nstore = CheckpointStore(sys.argv[1])\nos.kill(os.getpid(), 9)"
    )
    warm_programs().run("-c", program, path)
    path.with_name(f"{path.name}-wal").write_bytes(header)


def _killed_while_the_wal_was_written_back(path: Path) -> None:
    """The power failed in the middle of the file's first page, which the WAL has whole."""
    _lay(_killed_writer, path)
    with path.open("r+b") as file:
        file.write(bytes(512))


SURROUNDINGS = [
    _after_close,
    _killed_writer,
    _wal_without_shm,
    _shm_is_garbage,
    _empty_wal,
    _killed_after_the_header_of_the_wal,
    _killed_while_the_wal_was_written_back,
]


@pytest.mark.parametrize("make", SURROUNDINGS)
def test_all_that_was_committed_is_read_and_not_a_byte_changes(path: Path, make: Callable[[Path], None]) -> None:
    """Of the file, of what lies beside it, or of the directory."""
    _lay(make, path)
    before = _bytes(path.parent)
    with CheckpointStore.open_readonly(path) as store:
        assert list(store.history()) == chain(50)
        assert store.verify().ok
        assert store.latest() == entry(50)
        assert _bytes(path.parent) == before
    assert _bytes(path.parent) == before


@pytest.mark.parametrize("page_size", [512, 2048, 65536])
def test_a_torn_first_page_is_read_from_the_last_frame_of_the_wal(path: Path, page_size: int) -> None:
    """However large the pages are that another program has given the file."""
    _after_close(path)
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", "delete")
    connection.pragma("page_size", page_size)
    connection.execute("VACUUM")
    connection.pragma("journal_mode", "wal")
    connection.pragma("user_version", connection.pragma("user_version"))  # changes the first page alone
    torn = path.with_name("torn")
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", f"{torn}{suffix}")
    connection.close()
    with torn.open("r+b") as file:
        file.write(bytes(100))
    assert torn.with_name("torn-wal").stat().st_size == 32 + 24 + page_size
    with CheckpointStore.open_readonly(torn) as store:
        assert list(store.history()) == chain(50)


UNPRIVILEGED = """
import os, sys
from milepost import CheckpointStore, schema
schema._expected(schema.VERSION)  # read while the interpreter's own files can be
if os.getuid() == 0:
    os.setgid(65534); os.setuid(65534)
try:
    open(sys.argv[1], "r+").close()
except PermissionError:
    with CheckpointStore.open_readonly(sys.argv[1]) as store:
        assert len(list(store.history())) == 50 and store.verify().ok
    try:
        CheckpointStore(sys.argv[1])
    except Exception as error:
        print(type(error).__name__)
"""


@pytest.mark.parametrize("make", SURROUNDINGS)
def test_a_directory_without_write_permission_is_enough(make: Callable[[Path], None]) -> None:
    """For somebody else's file: readable, not writable; opening it to write is refused in words."""
    directory = Path("/tmp") / f"milepost-{os.getpid()}-{make.__name__}"
    directory.mkdir()
    try:
        _lay(make, directory / "orders.milepost")
        for file in directory.iterdir():
            file.chmod(0o444)
        directory.chmod(0o555)
        before = _bytes(directory)
        run = warm_programs().run("-c", UNPRIVILEGED, directory / "orders.milepost")
        assert (run.stdout, run.stderr) == ("ReadOnlyStoreError\n", "")
        assert _bytes(directory) == before
    finally:
        directory.chmod(0o755)
        shutil.rmtree(directory)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, for a test to make read-only."""
    directory = tmp_path / "mounted"
    directory.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run([mount, "-t", "tmpfs", "tmpfs", directory], capture_output=True, check=False).returncode
    ):
        pytest.skip("nobody may mount here")
    yield directory
    subprocess.run(["umount", directory], check=True)


@pytest.mark.parametrize("make", SURROUNDINGS)
def test_a_read_only_mount_is_enough(mounted: Path, make: Callable[[Path], None]) -> None:
    """Where not even root can write: everything is read, and opening it to write is refused in words."""
    path = mounted / "orders.milepost"
    _lay(make, path)
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        (mounted / "new").touch()
    with CheckpointStore.open_readonly(path) as store:
        assert list(store.history()) == chain(50)
        assert store.verify().ok
        assert store.latest() == entry(50)
        assert store.sql("SELECT max(position) AS last FROM checkpoint").to_polars()["last"].to_list() == [50]
    with pytest.raises(ReadOnlyStoreError):
        CheckpointStore(path)


def test_nothing_is_made_on_a_read_only_mount_and_the_error_says_why(path: Path, mounted: Path) -> None:
    """What was not made cannot be removed there either, and that must not hide the reason."""
    subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
    with CheckpointStore(path) as store, pytest.raises(ReadOnlyStoreError, match="Read-only file system"):
        store.backup(mounted / "copy.milepost")
    with pytest.raises(ReadOnlyStoreError, match="Read-only file system"):
        CheckpointStore(mounted / "new.milepost")


def test_a_reader_beside_a_writing_pipeline_sees_a_chain_that_only_grows(path: Path) -> None:
    """Consistent at every look, while the writer writes, is killed, and another one starts and closes the file."""
    CheckpointStore(path).close()
    seen = 0
    with CheckpointStore.open_readonly(path) as reader:
        for turn in range(3):
            writing = (APPENDING, path, "run-7", str(turn), str(100_000 if turn < 2 else 1), "normal")
            child = warm_programs().talk("-c", *writing, cwd=Path(__file__).parent)
            assert child.stdout.readline() == b"ready\n"
            child.stdout.readline()  # the first acknowledgement
            for _ in range(12):
                entries = list(reader.history())
                assert [e.sequence for e in entries] == list(range(1, len(entries) + 1))
                assert len(entries) >= seen
                assert reader.verify().ok
                seen = len(entries)
            child.kill()
            child.communicate()
        names = {file.name for file in path.parent.iterdir()}
        assert names <= {path.name, f"{path.name}-wal", f"{path.name}-shm"}
    assert seen > 0


def test_a_reader_of_a_closed_file_sees_what_a_writer_adds_afterwards(path: Path) -> None:
    """It opened the file as one that nobody changes, and notices that somebody does."""
    _after_close(path)
    with CheckpointStore.open_readonly(path) as reader:
        assert len(reader) == 50
        with CheckpointStore(path) as store:
            store.append(entry(51))
            assert len(reader) == 51
        assert len(reader) == 51
        with CheckpointStore(path) as store:
            store.append(entry(52))
        assert reader.latest() == entry(52)
        assert reader.verify().ok


WALKS: dict[str, Callable[[CheckpointStore], Iterator[object]]] = {
    "history": lambda store: store.history(),
    "receipts": lambda store: store.receipts("run-7", "load"),
    "frame": lambda store: iter(arrow.RecordBatchReader.from_stream(store.frame())),
    "sql": lambda store: iter(arrow.RecordBatchReader.from_stream(store.sql("SELECT * FROM checkpoint"))),
}


def _long(path: Path) -> None:
    """A chain that no walk reads at once."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(12_000))


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS.keys())
@pytest.mark.parametrize("opened", [CheckpointStore.open_readonly, CheckpointStore], ids=["reader", "writer"])
def test_a_forgotten_walk_pins_nothing(
    path: Path, walk: Callable[[CheckpointStore], Iterator[object]], opened: Callable[[Path], CheckpointStore]
) -> None:
    """Another writer's WAL can be written back and reset, and the walk goes on afterwards."""
    _lay(_long, path)
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(12_001))  # into the WAL
        with opened(path) as other:
            forgotten = walk(other)
            next(forgotten)
            connection = connections(store)[-1]
            assert connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE) == (0, 0)
            assert sum(1 for _ in forgotten) > 0


def test_every_verb_that_writes_is_refused(path: Path) -> None:
    """With the way out."""
    _after_close(path)
    with CheckpointStore.open_readonly(path) as store:
        for write in WRITING.values():
            with pytest.raises(ReadOnlyStoreError, match=r"open it with CheckpointStore\(\) to write"):
                write(store)
        assert len(store) == 50


def test_a_file_that_is_not_there_is_not_made(path: Path) -> None:
    """A reader creates nothing."""
    with pytest.raises(StoreError, match="no such file"):
        CheckpointStore.open_readonly(path)
    assert list(path.parent.iterdir()) == []


def test_a_wal_index_that_a_killed_writer_left_half_changed_is_read_around(path: Path) -> None:
    """A reader that has it open finds its two headers different; SQLite leaves it to a writer to make it anew."""
    _lay(_killed_writer, path)
    with CheckpointStore.open_readonly(path) as reader:
        assert len(reader) == 50
        with path.with_name(f"{path.name}-shm").open("r+b") as index:
            index.seek(8)
            index.write(b"\xa5")
        before = _bytes(path.parent)
        assert list(reader.history()) == chain(50)
        assert reader.verify().ok
        assert _bytes(path.parent) == before


@pytest.mark.parametrize("beside", ["a writer of another file", "a writer that has let go of the file"])
def test_a_reader_steps_aside_though_there_is_another_writer(path: Path, tmp_path: Path, beside: str) -> None:
    """One that has not mapped this file's shared memory, to be written to."""
    with CheckpointStore(path if "let go" in beside else tmp_path / "other") as other:
        if "let go" in beside:
            with fork_in_progress():
                assert not writer(other).has_open_file
        _lay(_killed_writer, path)
        with CheckpointStore.open_readonly(path) as reader:
            assert len(reader) == 50
            with CheckpointStore(path) as store:
                store.append(entry(51))
            assert len(reader) == 51


def test_a_reader_steps_aside_for_a_writer_in_its_own_process(path: Path) -> None:
    """What a reader has mapped read-only, SQLite would share with the writer."""
    _lay(_killed_writer, path)
    with CheckpointStore.open_readonly(path) as reader:
        walk = reader.history()
        assert next(walk) == entry(1)
        with CheckpointStore(path) as store:
            store.append(entry(51))
            assert reader.latest() == entry(51)
            assert [*walk] == chain(50)[1:]
        assert len(reader) == 51
