"""What is asked of files on the disk, and how: absence is told from all other reasons why a file cannot be seen."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import (
    CheckpointStore,
    FailedStoreError,
    InvalidArgumentError,
    MilepostError,
    ReadOnlyStoreError,
    StoreError,
    StoreFullError,
    TargetError,
    files,
    ship,
)
from milepost.connection import refuse_foreign_header
from support.chains import chain, entry
from support.command import run
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parent
PACKAGE = Path(files.__file__).parents[1]
READ = apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY


BEGIN = """
import os, sys, warnings
warnings.simplefilter("ignore", ResourceWarning)  # a store that is not closed is none of the questions here
from support.chains import chain, entry
from milepost import *
from milepost import files, schema, wal
schema._expected(schema.VERSION)  # read while the interpreter's own files can be
path = sys.argv[1]
def drop():
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
def told(act):
    try:
        return act()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
"""


def child(program: str, *arguments: Path | str) -> str:
    """What a program prints that is run by a user without rights, once it has imported what it needs."""
    run = warm_programs().run("-c", BEGIN + program, *arguments, cwd=TESTS)
    assert run.stderr == ""
    return run.stdout


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that a user without rights may reach and write in, which those of pytest are not."""
    folder = Path(tempfile.mkdtemp(prefix="milepost-files-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("statx", [files._statx, None, lambda *arguments: -1], ids=["statx", "no statx", "statx refused"])
def test_a_file_is_known_by_device_and_inode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statx: object) -> None:
    """Whichever way it is asked for, the answer is the same."""
    monkeypatch.setattr(files, "_statx", statx)
    one, other = tmp_path / "one ü\n", tmp_path / "other"
    one.touch()
    other.touch()
    of_one, of_other = files.identity_of(str(one)), files.identity_of(str(other))
    first, second = of_one(), of_other()
    assert None is not first == of_one() == files.identity_of(str(one))()
    assert None is not second != first
    other.replace(one)
    assert (of_one(), of_other()) == (second, None)


@pytest.mark.parametrize("statx", [files._statx, None], ids=["statx", "no statx"])
def test_a_file_whose_directory_was_replaced_by_a_file_is_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, statx: object
) -> None:
    """Not an error: nothing is there."""
    monkeypatch.setattr(files, "_statx", statx)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file").touch()
    identity = files.identity_of(str(folder / "file"))
    assert identity() is not None
    folder.rename(tmp_path / "elsewhere")
    folder.touch()
    assert identity() is None
    assert files.status(str(folder / "file")) is None
    assert files.size_bytes(str(folder / "file")) == 0
    with files.vfs_file(str(folder / "file"), None, READ) as file:
        assert file is None


class _Noting(apsw.VFS):
    """The ordinary VFS, which notes how each file was opened."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.opened: list[tuple[str, int]] = []

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self.opened.append((path, flags[0]))
        return apsw.VFSFile("", name, flags)


@pytest.mark.parametrize("torn", [False, True])
def test_a_vfs_is_told_what_kind_of_file_it_opens_and_for_what(path: Path, torn: bool) -> None:
    """One that encrypts, say, treats a WAL in another way than a database."""
    with CheckpointStore(path) as store:
        store.append_many(chain(100))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{path}-left{suffix}")
    if torn:
        with open(f"{path}-left", "r+b") as file:  # noqa: PTH123
            file.write(bytes(512))
    vfs = _Noting("noting")
    try:
        with CheckpointStore(f"{path}-left", vfs="noting") as store:
            assert len(store) == 100
        assert {name.endswith("-wal") for name, _ in vfs.opened} == {False, True}
        for name, flags in vfs.opened:
            kind = apsw.SQLITE_OPEN_WAL if name.endswith("-wal") else apsw.SQLITE_OPEN_MAIN_DB
            assert (flags & kind, name) == (kind, name)
            assert flags & apsw.SQLITE_OPEN_READWRITE or flags & apsw.SQLITE_OPEN_READONLY
    finally:
        vfs.unregister()


def test_a_store_whose_directory_was_replaced_by_a_file_has_failed(tmp_path: Path) -> None:
    """What was written since may be lost, and nothing more is taken."""
    folder = tmp_path / "folder"
    folder.mkdir()
    with CheckpointStore(folder / "orders.milepost") as store:
        store.append(entry(1))
        folder.rename(tmp_path / "elsewhere")
        folder.touch()
        for sequence in (2, 3):
            with pytest.raises(FailedStoreError, match="removed or replaced by another program"):
                store.append(entry(sequence))


def test_a_file_that_nobody_may_look_for_is_not_absent(place: Path) -> None:
    """Its identity and its size are not told as those of no file."""
    (place / "closed").mkdir(0o700)
    (place / "closed" / "file").touch()
    program = (
        "drop()\nfor act in (files.identity_of(path), lambda: files.status(path), lambda: files.size_bytes(path),\n"
        "    lambda: files.is_store_file(path), lambda: wal.sync(f'{path}-wal', None),\n"
        "    lambda: CheckpointStore.open_readonly(path), lambda: CheckpointStore(path)):\n    print(told(act))\n"
    )
    path = place / "closed" / "file"
    told = child(program, path).splitlines()
    assert told[0] == f"PermissionError: [Errno 13] Permission denied: '{path}'"
    expected = f"ReadOnlyStoreError: {path}: Permission denied: check the permissions of the file and its directory"
    assert [each.replace("-wal", "") for each in told[1:]] == [expected] * 6


def test_a_file_that_may_not_be_read_is_not_called_another_kind_of_file(place: Path) -> None:
    """Nor is its -wal taken for one that is not there."""
    path = place / "orders.milepost"
    with CheckpointStore(path) as store:
        store.append(entry(1))
    path.chmod(0o600)
    told = child(
        "drop()\nprint(told(lambda: CheckpointStore.open_readonly(path)), told(lambda: CheckpointStore(path)))", path
    )
    assert told.count("Permission denied: check the permissions") == 2
    path.chmod(0o644)
    wal = path.with_name(f"{path.name}-wal")
    wal.write_bytes(bytes(100))
    wal.chmod(0o600)
    told = child("drop()\nprint(told(lambda: CheckpointStore.open_readonly(path)))", path)
    assert told == f"ReadOnlyStoreError: {wal}: Permission denied: check the permissions of the file and its directory\n"


def test_a_reader_that_may_no_longer_look_says_so(place: Path) -> None:
    """In an error of ours; and reads on when it may again."""
    program = (
        "drop()\nwith CheckpointStore(path) as store: store.append(entry(1))\n"
        "folder = os.path.dirname(path)\nreader = CheckpointStore.open_readonly(path)\n"
        "os.chmod(folder, 0o000)\nprint(told(lambda: len(reader)))\n"
        "os.chmod(folder, 0o700)\nprint(told(lambda: len(reader)))"
    )
    folder = place / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    if os.getuid() == 0:
        os.chown(folder, 65534, 65534)
    path = folder / "orders.milepost"
    assert child(program, path).splitlines() == [
        f"ReadOnlyStoreError: {path}: Permission denied: check the permissions of the file and its directory",
        "1",
    ]


EXHAUSTED = """
import resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, limit[1]))
taken = []
def exhaust(spare=0):
    try:
        while True: taken.append(os.open(os.devnull, os.O_RDONLY))
    except OSError: pass
    for _ in range(spare): os.close(taken.pop())
def free():
    while taken: os.close(taken.pop())
"""


def test_a_duplicate_is_not_acknowledged_where_its_wal_cannot_be_opened(path: Path) -> None:
    """Too many open files: the sync that it needs was not made. With one to spare, the same append is a duplicate."""
    program = EXHAUSTED + (
        "store = CheckpointStore(path)\nreceipt = store.append(entry(1))\nexhaust()\n"
        "print(told(lambda: store.append(entry(1))))\nfree()\n"
        "print(store.append(entry(1)).duplicate, store.append(entry(2)).position, store.verify().ok)\n"
    )
    told, after = child(program, path).splitlines()
    assert told == f"StoreError: {path}-wal: Too many open files: close some, or raise the limit with ulimit -n"
    assert after == "True 2 True"


OPENERS = {
    "opened to write": "CheckpointStore(path).close()",
    "opened to read": "CheckpointStore.open_readonly(path).close()",
    "made": "CheckpointStore(path + '-new').close()",
    "copied": "reader.backup(path + '-new')",
}


@pytest.fixture(scope="module")
def told_by_openers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What each opener says, and what it leaves, with few descriptors to spare and with more; asked in one process."""
    path = tmp_path_factory.mktemp("exhausted") / "orders.milepost"
    CheckpointStore(path).close()
    program = EXHAUSTED + "reader = CheckpointStore.open_readonly(path)\nlen(reader)\n"
    for act in OPENERS.values():
        program += (
            f"for spare in range(12):\n    exhaust(spare)\n    print(told(lambda: {act} or 'open'))\n    free()\n"
            "    print([name for name in os.listdir(os.path.dirname(path)) if not name.endswith(('-wal', '-shm'))])\n"
            "    if os.path.exists(path + '-new'): os.unlink(path + '-new')\n"
        )
    lines = child(program, path).splitlines()
    assert len(lines) == 24 * len(OPENERS)
    return {opener: lines[24 * number : 24 * number + 24] for number, opener in enumerate(OPENERS)}


@pytest.mark.parametrize("opener", OPENERS)
def test_too_many_open_files_are_told_as_that_by_a_store_that_is(
    path: Path, told_by_openers: dict[str, list[str]], opener: str
) -> None:
    """However many are missing: not as a file that is no database, or is not there. And nothing half made is left."""
    lines = told_by_openers[opener]
    told, left = lines[::2], lines[1::2]
    refused = [each for each in told if "Too many open files: close some, or raise the limit with ulimit -n" in each]
    assert 1 <= len(refused) < 8
    assert told[: len(refused)] == refused
    assert not [each for each in told[len(refused) :] if "Error" in each]
    assert left[: len(refused)] == [str([path.name])] * len(refused)


def test_a_reason_that_is_gone_at_the_second_look_is_no_reason(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that came into being between the two, or descriptors that were freed."""
    path.write_bytes(bytes(1000))
    tries = []

    def refused_once(*given: object) -> apsw.VFSFile:
        tries.append(given)
        if len(tries) == 1:
            raise apsw.CantOpenError("unable to open database file")
        return vfs_file(*given)  # type: ignore[arg-type]

    vfs_file = apsw.VFSFile
    monkeypatch.setattr(apsw, "VFSFile", refused_once)
    with files.vfs_file(str(path), None, READ) as file:
        assert file is not None
        assert file.xFileSize() == 1000
    assert len(tries) == 2


def test_a_file_that_sqlite_cannot_open_for_a_reason_of_its_own_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing else is found to be in the way."""
    path.write_bytes(b"x")

    def refused(*given: object) -> None:
        raise apsw.CantOpenError("unable to open database file")

    monkeypatch.setattr(apsw, "VFSFile", refused)
    with pytest.raises(StoreError, match="unable to open database file"), files.vfs_file(str(path), None, READ):
        pass


def test_a_file_that_vanished_is_not_called_another_kind_of_file(path: Path) -> None:
    """Between the first look and the second."""
    with pytest.raises(StoreError, match="the file has just been removed"):
        refuse_foreign_header(str(path), None)


@pytest.mark.parametrize(
    ("number", "kind", "said"),
    [
        (errno.EACCES, ReadOnlyStoreError, "Permission denied: check the permissions"),
        (errno.EPERM, ReadOnlyStoreError, "Operation not permitted: check the permissions"),
        (errno.EROFS, ReadOnlyStoreError, "Read-only file system: check the permissions"),
        (errno.ENOSPC, StoreFullError, "no space left on the disk: free some"),
        (errno.EDQUOT, StoreFullError, "no space left on the disk: free some"),
        (errno.EMFILE, StoreError, "Too many open files: close some"),
        (errno.ENFILE, StoreError, "Too many open files in system: close some"),
        (errno.EIO, StoreError, "Input/output error: check the path and the disk"),
    ],
)
def test_an_error_of_the_system_is_told_with_the_file_that_it_names(number: int, kind: type[StoreError], said: str) -> None:
    """The store's own path is for those that name none."""
    for named, expected in ((None, "/store"), ("/other", "/other"), (b"/other", "/other"), (7, "/store")):
        error = files.from_os("/store", OSError(number, os.strerror(number), named))
        assert type(error) is kind
        assert str(error).startswith(f"{expected}: {said}")
    alarm = TimeoutError("raised by the handler of an alarm, which gives no number")
    with pytest.raises(TimeoutError) as told:
        files.from_os("/store", alarm)
    assert told.value is alarm


def test_a_directory_that_its_file_system_cannot_sync_is_borne_with(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite does; any other failure of a sync is told."""
    for number, passes in ((errno.EINVAL, True), (errno.ENOTSUP, True), (errno.EIO, False)):

        def sync(opened: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", sync)
            if passes:
                CheckpointStore(path).close()
            else:
                with pytest.raises(StoreError, match="Input/output error"):
                    CheckpointStore(path)


def test_a_path_through_a_file_is_told_as_that(path: Path) -> None:
    """Not as a directory that has to be made first."""
    path.write_text("x")
    for opener in (CheckpointStore, CheckpointStore.open_readonly):
        with pytest.raises(StoreError, match="its directory is a file"):
            opener(path / "store")


def test_a_link_whose_own_name_is_not_utf8_leads_to_the_file(tmp_path: Path) -> None:
    """What SQLite is given is the name of the file."""
    link = tmp_path / os.fsdecode(b"\xff")
    link.symlink_to(tmp_path / "file")
    with CheckpointStore(link) as store:
        assert store.path == str(tmp_path / "file")
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize("name", [b"a\x80", b"a\xed\xa0\x80"])
def test_bytes_that_are_not_utf8_are_no_name(tmp_path: Path, name: bytes) -> None:
    """In words, as bytes or as Python decodes them, and nothing is made; a lone surrogate is no name at all."""
    for given in (os.fsencode(tmp_path) + b"/" + name, tmp_path / os.fsdecode(name), tmp_path / "a\ud800"):
        with pytest.raises(InvalidArgumentError, match="must be UTF-8"):
            CheckpointStore(given)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="removes no working directory")
def test_a_relative_path_in_a_working_directory_that_is_gone_is_told(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every method that takes a path, and by the command line; an absolute one is taken."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    store.append(entry(1))
    other = tmp_path / "other.milepost"
    said = (
        "^x: the working directory of this process cannot be found \\(No such file or directory\\): give an absolute path$"
    )
    asked: list[tuple[type[MilepostError], Callable[[], object]]] = [
        (StoreError, lambda: CheckpointStore("x")),
        (StoreError, lambda: CheckpointStore.open_readonly("x")),
        (StoreError, lambda: CheckpointStore.restore("x", tmp_path / "target", "orders")),
        (StoreError, lambda: store.backup("x")),
        (StoreError, lambda: store.archive("x", before=store.head())),
        (StoreError, lambda: store.verify(archives=["x"])),
        (TargetError, lambda: ship(store, "x", "orders")),
        (TargetError, lambda: CheckpointStore.restore(other, "x", "orders")),
    ]
    for kind, call in asked:
        with pytest.raises(kind, match=said):
            call()
    for command in (("head", "x"), ("export", store.path, "--output", "x"), ("demo", "--output", "x")):
        told = run(*command)
        assert (told.exit_code, told.stdout, "x: the working directory of" in told.stderr) == (3, "", True), told.stderr
    store.backup(other)
