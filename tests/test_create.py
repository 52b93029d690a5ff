"""A file is made whole or not at all: without hard links, beside other processes, after a kill, and at a signal."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from milepost import CheckpointStore, StoreError, create, schema
from support.chains import chain, entry
from support.command import ENVIRONMENT, run, talk
from support.warm import WarmTalk, warm_commands, warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parent
NO_LINKS = [errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK]


def names(folder: Path) -> list[str]:
    """What is in a directory."""
    return sorted(os.listdir(folder))  # noqa: PTH208 - names, not paths


def fail(number: int) -> Callable[..., None]:
    """A function of the system that fails."""

    def failing(*given: object) -> None:
        raise OSError(number, os.strerror(number), *given[:1])

    return failing


def make(path: Path) -> None:
    """A store with entries, and an export and a copy of it."""
    with CheckpointStore(path) as store:
        store.append_many(chain(3))
        assert store.backup(path.with_name("copy")) == store.head()
    assert run("export", path, "--output", path.with_name("lines.jsonl")).exit_code == 0
    assert run("import", path.with_name("lines.jsonl"), path.with_name("imported")).exit_code == 0


# Without hard links


@pytest.mark.parametrize("number", NO_LINKS, ids=errno.errorcode.get)
def test_a_file_system_without_hard_links_is_enough(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A file is renamed into place, and replaces nothing there."""
    monkeypatch.setattr(os, "link", fail(number))
    make(path)
    assert names(path.parent) == ["copy", "imported", "lines.jsonl", path.name]
    for name in ("copy", "imported", path.name):
        with CheckpointStore(path.with_name(name)) as store:
            assert list(store.history()) == chain(3)
            with pytest.raises(StoreError, match="the file exists already"):
                store.backup(path.with_name("copy"))
    assert run("export", path, "--output", path.with_name("copy")).exit_code == 3


def test_a_file_that_comes_into_being_meanwhile_is_not_replaced_by_a_rename(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process's store is as good as the one that was made; a backup says that there is a file."""
    with CheckpointStore(path.with_name("other")) as store:
        store.append(entry(1))
    there, tables, copy = path.with_name("other").read_bytes(), schema.create, create._copy
    monkeypatch.setattr(os, "link", fail(errno.EPERM))
    monkeypatch.setattr(schema, "create", lambda *given: (tables(*given), path.write_bytes(there)))
    monkeypatch.setattr(create, "_copy", lambda *given: (copy(*given), path.write_bytes(there)))
    with CheckpointStore(path) as store:
        assert list(store.history()) == [entry(1)]
    path.unlink()
    with CheckpointStore(path.with_name("other")) as store, pytest.raises(StoreError, match="the file exists already"):
        store.backup(path)
    assert path.read_bytes() == there
    assert names(path.parent) == [path.name, "other"]


@pytest.mark.parametrize(
    ("rename", "why"),
    [(None, "missing from the C library"), (errno.EINVAL, "Invalid argument")],
    ids=["no", "refused"],
)
def test_a_file_system_with_neither_links_nor_such_a_rename_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch, rename: int | None, why: str
) -> None:
    """Both are named, and nothing is left behind; an import and an export say the same."""
    CheckpointStore(path.with_name("other")).close()
    monkeypatch.setattr(os, "link", fail(errno.EPERM))

    def refused(*given: object) -> int:
        assert rename is not None
        ctypes.set_errno(rename)
        return -1

    monkeypatch.setattr(create, "_renameat2", rename and refused)
    said = (
        "neither hard links (Operation not permitted) nor a rename that never overwrites "
        f"(renameat2 with RENAME_NOREPLACE: {why})"
    )
    with CheckpointStore.open_readonly(path.with_name("other")) as store:
        for act in (CheckpointStore, store.backup):
            with pytest.raises(StoreError) as caught:
                act(path)
            assert said in str(caught.value)
            assert caught.value.path == str(path)
    for command in (["export", str(path.with_name("other")), "--output", str(path)], ["import", os.devnull, str(path)]):
        assert said in run(*command).stderr
    assert names(path.parent) == ["other"]


def test_any_other_error_of_a_link_is_told_with_the_name_that_was_given(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not with the hidden one."""
    monkeypatch.setattr(os, "link", fail(errno.EIO))
    with pytest.raises(StoreError, match="Input/output error") as caught:
        CheckpointStore(path)
    assert caught.value.path == str(path)
    monkeypatch.setattr(os, "mkdir", fail(errno.ENOSPC))
    with pytest.raises(StoreError, match="no space left") as caught:
        CheckpointStore(path)
    assert caught.value.path == str(path)
    assert names(path.parent) == []


# At a signal, and after a kill

HALF_WAY = f"""
import os, sys, time
sys.path.append({str(TESTS)!r})
from support.chains import chain
from milepost import CheckpointStore
from milepost.__main__ import main
def half_way(*names):
    print("half way", flush=True)
    time.sleep(600)
if sys.argv[1] == "make":
    os.link = half_way
    CheckpointStore(sys.argv[2])
elif sys.argv[1] == "copy":
    with CheckpointStore(sys.argv[2]) as store:
        store.append_many(chain(1000))
        os.link = half_way
        store.backup(sys.argv[3])
else:
    os.link = half_way
    main()
"""


def half_way(folder: Path, *arguments: str, before: str = "") -> WarmTalk[bytes]:
    """A process that is making a file, and has made it all but for its name; `before` is what it does first."""
    child = warm_commands(warnings=None).talk("-c", before + HALF_WAY, *arguments, cwd=folder, env=ENVIRONMENT)
    assert child.stdout.readline() == b"half way\n"
    return child


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a store and an export of it."""
    folder = tmp_path_factory.mktemp("made")
    with CheckpointStore(folder / "store", durability="normal") as store:
        store.append_many(chain(1000))
    assert run("export", folder / "store", "--output", folder / "lines").exit_code == 0
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of that directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="module")
def left_by_kills(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of it in which processes were killed while they made something: all of them once, for they start slowly."""
    folder = tmp_path_factory.mktemp("left")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    for killed in [half_way(folder, *command) for command in LEFT]:
        killed.kill()
        killed.communicate()
    assert len(hidden(folder)) == len(LEFT)
    return folder


def hidden(folder: Path) -> list[str]:
    """What files are made in, until they are whole."""
    return [name for name in names(folder) if name.startswith(".milepost")]


MADE = [("backup", "store", "new"), ("export", "store", "--output", "new")]
LEFT = [("make", "new"), ("copy", "store", "new"), *MADE]
ENDS = {signal.SIGTERM: (143, b"Error: terminated\n"), signal.SIGHUP: (129, b"Error: the terminal was closed\n")}


@pytest.mark.parametrize(
    ("command", "number"),
    [  # each command and each signal once, and in the long dose all
        pytest.param(command, number, id=f"{command[0]}-{number}", marks=() if one == other else pytest.mark.long)
        for one, command in enumerate(MADE)
        for other, number in enumerate(ENDS)
    ],
)
def test_a_signal_that_ends_leaves_nothing_of_what_a_command_was_making(
    folder: Path, command: tuple[str, ...], number: signal.Signals
) -> None:
    """And says so, in the exit code that a shell gives it; a second one does not disturb that."""
    child = half_way(folder, *command)
    child.send_signal(number)
    child.send_signal(number)
    out, said = child.communicate()
    assert (child.returncode, out, said) == (ENDS[number][0], b"", ENDS[number][1])
    assert names(folder) == ["lines", "store"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.long)])
def test_a_signal_that_ends_leaves_nothing_of_an_import(tmp_path: Path, number: signal.Signals) -> None:
    """While it waits for more lines."""
    child = talk("import", "-", tmp_path / "new")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".milepost*/new*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(number)
    _, said = child.communicate()
    assert (child.returncode, said) == ENDS[number]
    assert names(tmp_path) == []


def test_a_signal_that_somebody_has_decided_on_is_left_to_them(folder: Path) -> None:
    """As under nohup, and in a program that runs commands from another thread."""
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    seen: list[int] = []
    term = signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    try:
        child = half_way(folder, "backup", "store", "new", before=nohup)
        child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        assert child.communicate()[1] == b"Error: terminated\n"
        assert run("verify", folder / "store").exit_code == 0
        signal.raise_signal(signal.SIGTERM)
        assert seen == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, term)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run("verify", folder / "store").exit_code))
    thread.start()
    thread.join()
    assert codes == [0]


SWEEPERS: dict[str, Callable[[Path], object]] = {
    "a store is opened to write": lambda folder: CheckpointStore(folder / "store").close(),
    "a store is made": lambda folder: CheckpointStore(folder / "another").close(),
    "a store is copied": lambda folder: answer_to("backup", folder / "store", folder / "another"),
    "a store is exported": lambda folder: answer_to("export", folder / "store", "--output", folder / "another"),
    "lines are imported": lambda folder: answer_to("import", folder / "lines", folder / "another"),
}


def answer_to(*command: str | Path) -> None:
    """Run a command that succeeds."""
    assert run(*command).exit_code == 0


@pytest.mark.parametrize(
    "sweeper",
    [each if "made" in each or "lines" in each else pytest.param(each, marks=pytest.mark.long) for each in SWEEPERS],
)
def test_what_a_kill_leaves_is_removed_when(left_by_kills: Path, tmp_path: Path, sweeper: str) -> None:
    """Whatever was being made; what a living process is making stays, and is put in place."""
    folder = tmp_path / "copy"
    shutil.copytree(left_by_kills, folder)
    left = hidden(folder)
    assert len(left) == len(LEFT)
    living = half_way(folder, "export", "store", "--output", "new")
    try:
        SWEEPERS[sweeper](folder)
        (kept,) = hidden(folder)
        assert kept not in left
        assert (folder / kept / "new").stat().st_size > 1000
    finally:
        living.send_signal(signal.SIGTERM)
        living.communicate()
    assert [name for name in names(folder) if name.startswith(".")] == []


def test_a_kill_in_the_middle_of_an_import_is_swept(tmp_path: Path) -> None:
    """With the store that it was filling, and its -wal."""
    CheckpointStore(tmp_path / "store").close()
    child = talk("import", "-", tmp_path / "new")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".milepost*/new-wal")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.kill()
    child.communicate()
    assert len(names(tmp_path)) == 2
    CheckpointStore(tmp_path / "store").close()
    assert names(tmp_path) == ["store"]


def test_a_store_that_only_reads_removes_nothing(folder: Path) -> None:
    """It changes no byte of the directory."""
    killed = half_way(folder, "make", "new")
    killed.kill()
    killed.communicate()
    before = names(folder)
    with CheckpointStore.open_readonly(folder / "store") as store:
        assert len(store) == 1000
    assert names(folder) == before


@pytest.fixture
def alike(folder: Path) -> Iterator[list[str]]:
    """Names that look like what is left behind, and are something else."""
    (folder / "precious").mkdir()
    (folder / "precious" / "new").write_text("precious")
    (folder / ".milepost_0123abc1").symlink_to(folder / "precious")
    (folder / ".milepost_0123abc2").write_text("a file")
    (folder / ".milepost_0123abcd3").mkdir()
    (folder / ".milepost-demo-0123abcd").mkdir()
    (folder / ".milepost_0123ABCD").mkdir()
    before = names(folder)
    yield before
    assert (folder / "precious" / "new").read_text() == "precious"


def test_what_only_looks_like_something_left_behind_stays(folder: Path, alike: list[str]) -> None:
    """A link, a file, and names that nobody here gives."""
    CheckpointStore(folder / "store").close()
    assert names(folder) == alike


def test_nothing_is_removed_where_another_machine_may_be_making_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lock is not seen here."""
    (folder / ".milepost_0123abcd").mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(create, "remote_kind", lambda path: "nfs4")
        CheckpointStore(folder / "store").close()
        assert ".milepost_0123abcd" in names(folder)
    CheckpointStore(folder / "store").close()
    assert names(folder) == ["lines", "store"]


def test_a_file_system_without_locks_of_directories_is_enough(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is made, and nothing is swept, for nobody knows who is at work."""
    (folder / ".milepost_0123abcd").mkdir()
    monkeypatch.setattr(fcntl, "flock", fail(errno.EBADF))
    make(folder / "another")
    assert names(folder) == [".milepost_0123abcd", "another", "copy", "imported", "lines", "lines.jsonl", "store"]


def test_a_directory_that_is_swept_before_it_is_locked_is_made_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a process that took it for left behind: before it is opened, before it is locked, and while it holds the lock."""
    flock, open_, tries = fcntl.flock, os.open, list[str]()

    def open_late(name: str, *given: int) -> int:
        if ".milepost_" in str(name) and not str(name).endswith("new") and not tries:
            tries.append("before it is opened")
            Path(name).rmdir()
        return open_(name, *given)

    def lock_late(held: int, how: int) -> None:
        if len(tries) == 1:
            tries.append("before it is locked")
            (made,) = path.parent.glob(".milepost_*")
            made.rmdir()
        elif len(tries) == 2:
            tries.append("while it is locked")
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        flock(held, how)

    monkeypatch.setattr(os, "open", open_late)
    monkeypatch.setattr(fcntl, "flock", lock_late)
    CheckpointStore(path).close()
    assert len(tries) == 3
    monkeypatch.undo()
    CheckpointStore(path).close()  # removes what the sweeper, who was no real one, has left
    assert names(path.parent) == [path.name]


def test_processes_that_make_the_same_store_and_sweep_each_other_all_open_it(path: Path) -> None:
    """Each of them has the one that is there in the end, and nothing is left of the others."""
    program = (
        "import os, sys\nfrom milepost import CheckpointStore, Checkpoint, Watermark\n"
        "reader, writer = os.pipe()\n"
        "number = next((number for number in range(4) if os.fork() == 0), None)\n"
        "os.close(writer)\n"
        "if number is None: sys.exit(any([os.wait()[1] for _ in range(4)]))\n"
        "os.read(reader, 1)\n"  # until all have begun
        "for n in range(8):\n"
        "    with CheckpointStore(f'{sys.argv[1]}-{n}', durability='normal', busy_timeout_ms=60000) as store:\n"
        "        store.append(Checkpoint(f'run-{number}', 'load', 1, Watermark(1, 1), 'k', 1))\n"
    )
    assert warm_programs().run("-c", program, path).returncode == 0
    stores = [f"{path.name}-{number}" for number in range(8)]
    # Of two that close at the same moment, neither is SQLite's last one, which removes these. The next one does.
    logs = {f"{store}-{log}" for store in stores for log in ("wal", "shm")}
    assert [name for name in names(path.parent) if name not in logs] == stores
    for name in stores:
        with CheckpointStore.open_readonly(path.with_name(name)) as store:
            assert len(store) == 4
            assert store.verify().ok
        CheckpointStore(path.with_name(name)).close()
    assert names(path.parent) == stores


@pytest.mark.parametrize("suffix", ["-journal", "-wal", "-shm"])
def test_nothing_is_made_under_a_name_that_sqlite_uses_beside_a_database(path: Path, suffix: str) -> None:
    """It would take a copy for a log of the store: nobody could open the store any more, or the copy would be removed."""
    target = path.with_name(path.name + suffix)
    with CheckpointStore(path) as store:
        store.append_many(chain(10))
        makers: list[Callable[[], object]] = [
            lambda: store.backup(target),
            lambda: store.archive(target, before=store.head()),
        ]
        if suffix == "-journal":  # the others are there as long as it is open
            for make_it in makers:
                with pytest.raises(StoreError, match="SQLite uses this name"):
                    make_it()
            assert len(store) == 10
    with pytest.raises(StoreError, match="SQLite uses this name"):
        CheckpointStore(target)
    assert names(path.parent) == [path.name]
    path.unlink()
    CheckpointStore(target).close()
    assert names(path.parent) == [target.name]
