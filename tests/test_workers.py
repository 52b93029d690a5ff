"""Several processes verify what one would: the same answers, whatever they are given."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from milepost import Checkpoint, CheckpointStore, ForkedStoreError, Head, workers
from milepost.checkpoint import chain_signature
from support.chains import chain, mixed
from support.doors import walked
from support.tampering import empty_index, tamper

if TYPE_CHECKING:
    from pathlib import Path

LENGTH = 240


def _runs(length: int) -> list[Checkpoint]:
    """Runs of 50 entries, one after the other."""
    return [entry._replace(run_id=f"run-{number // 50}") for number, entry in enumerate(chain(length))]


def _overlapping(length: int) -> list[Checkpoint]:
    """Each run begins while the one before goes on."""
    return [
        entry._replace(run_id=f"run-{max(number - 20 + (number % 2) * 20, 0) // 40}")
        for number, entry in enumerate(chain(length))
    ]


CHAINS = {"one run": chain, "runs in turn": _runs, "overlapping runs": _overlapping, "interwoven runs": mixed}


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts as small as these chains need."""
    monkeypatch.setattr(workers, "LEAST", 10)


@pytest.fixture
def confirmed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether the workers confirmed, call by call."""
    said: list[bool] = []
    confirm = workers.confirm

    def noted(*arguments: object) -> object:
        found = confirm(*arguments)  # type: ignore[arg-type]
        said.append(bool(found))
        return found

    monkeypatch.setattr(workers, "confirm", noted)
    return said


@pytest.mark.parametrize(
    "name",
    [  # the other two are only cut into parts at other places
        name if name in {"one run", "interwoven runs"} else pytest.param(name, marks=pytest.mark.long) for name in CHAINS
    ],
)
@pytest.mark.usefixtures("warm_workers")
def test_workers_find_a_sound_chain_sound(path: Path, name: str, confirmed: list[bool]) -> None:
    """Every answer is that of one process, and it is the workers' own."""
    with CheckpointStore(path) as store:
        store.append_many(CHAINS[name](LENGTH)[:100])
        trusted = store.head()
        store.append_many(CHAINS[name](LENGTH)[100:])
        assert store.verify(workers=2) == store.verify()
        assert store.verify(workers=2, trusted=trusted, expected=store.head()) == store.verify(trusted=trusted)
    assert confirmed == [True, True]


def test_a_file_that_is_read_through_a_copy_is_verified_by_one_process(
    path: Path, monkeypatch: pytest.MonkeyPatch, confirmed: list[bool]
) -> None:
    """Each worker would copy it once more, and leave the copy where temporary files are."""
    monkeypatch.setattr(workers, "start_python", _no_worker)
    alone = path.with_name("alone")
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{alone}{suffix}")
        with CheckpointStore.open_readonly(alone) as reader:
            assert reader.verify(workers=2) == store.verify()
    assert confirmed == [False]


@pytest.mark.usefixtures("warm_workers")
def test_a_file_that_has_a_link_is_verified_by_workers(path: Path, confirmed: list[bool]) -> None:
    """Whatever name it was opened by."""
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
    (link := path.with_name("link")).symlink_to(path)
    with CheckpointStore.open_readonly(link) as reader:
        assert reader.verify(workers=2).ok
    assert confirmed == [True]


def _no_worker(_: str) -> NoReturn:
    pytest.fail("a worker was started")


EDITS = [
    "UPDATE entry SET offset = offset + 1 WHERE position = 3",
    "UPDATE entry SET at_ms = at_ms + 1 WHERE position = 120",
    "UPDATE entry SET signature = x'00' WHERE position = 240",
    "DELETE FROM entry WHERE position = 60",
    "UPDATE entry SET run_signature = zeroblob(32) WHERE position = 121",
    "UPDATE entry SET entries_so_far = entries_so_far + 1 WHERE entries_so_far > 3",
    "UPDATE entry SET entries_so_far = NULL WHERE entries_so_far > 1",
    "UPDATE entry SET entries_so_far = 7 WHERE position = 170",
    "DELETE FROM run_stage WHERE run_number = 1",
    "UPDATE run SET run_id = 'another' WHERE run_number = 1",
]
ONE_OF_A_KIND = {0, 3, 4, 7}
"""What is hashed, a row that is gone, the signature of a run, and a count."""


@pytest.mark.parametrize(
    ("name", "edit"),
    [  # one edit of each kind, and in the long dose each edit of each chain
        pytest.param(name, edit, marks=() if number in ONE_OF_A_KIND and place == number % 4 else pytest.mark.long)
        for number, edit in enumerate(EDITS)
        for place, name in enumerate(CHAINS)
    ],
)
@pytest.mark.usefixtures("warm_workers")
def test_workers_find_a_fault_as_one_process_does(path: Path, name: str, edit: str, confirmed: list[bool]) -> None:
    """The same faults, in the same words, at the same places."""
    _edited(path, name, edit)
    with CheckpointStore.open_readonly(path) as store:
        alone = store.verify()
        assert not alone.ok
        assert store.verify(workers=2) == alone
    assert confirmed == [False]


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("edit", ["DELETE FROM entry WHERE position = 240", "INSERT INTO run_stage VALUES (1, 9)"])
def test_what_is_found_without_a_walk_needs_no_workers(path: Path, name: str, edit: str, confirmed: list[bool]) -> None:
    """A cut tail, by the kept head, and a stage without an entry: the walk that tells what else is wrong is done once."""
    head = _edited(path, name, edit)
    with CheckpointStore.open_readonly(path) as store:
        alone = store.verify(expected=head)
        assert not alone.ok
        assert store.verify(workers=2, expected=head) == alone
    assert confirmed == []


def _edited(path: Path, name: str, edit: str) -> Head:
    """A file after somebody has changed it; its head before that."""
    with CheckpointStore(path) as store:
        store.append_many(CHAINS[name](LENGTH))
        head = store.head()
    tamper(path, edit)
    return head


@pytest.mark.usefixtures("warm_workers")
def test_workers_check_the_file_itself(path: Path) -> None:
    """An index that lacks an entry is found by SQLite's own check alone."""
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
    empty_index(path, "entry_by_run", "position <> 1")
    with CheckpointStore.open_readonly(path) as store:
        alone = store.verify()
        assert list({fault.kind for fault in alone.faults}) == ["file"]
        assert store.verify(workers=2) == alone


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "print('{}')", "print('nonsense')", "input(); input()"])
def test_a_worker_that_dies_changes_no_answer(
    path: Path, monkeypatch: pytest.MonkeyPatch, program: str, confirmed: list[bool]
) -> None:
    """One process does it then."""
    monkeypatch.setattr(workers, "_PROGRAM", program)
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=2) == store.verify()
    assert confirmed == [False]


def test_no_worker_is_told_a_key(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A keyed chain is verified in the process that was given the key."""
    monkeypatch.delattr(workers, "_start")
    with CheckpointStore(path, hmac_key=b"secret") as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=2).ok


def test_a_signature_that_is_none_where_a_part_ends_is_a_fault(path: Path, confirmed: list[bool]) -> None:
    """Whatever a damaged file has there."""
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
    assert tamper(path, "UPDATE entry SET signature = 'text' WHERE position % 30 = 0", loose=True) == [LENGTH // 30]
    with CheckpointStore.open_readonly(path) as store:
        alone = store.verify()
        assert not alone.ok
        assert store.verify(workers=2) == alone
    assert confirmed == [False]


@pytest.mark.usefixtures("warm_workers")
def test_the_signature_belongs_to_the_entries_while_others_append(path: Path, confirmed: list[bool]) -> None:
    """Both are those of the moment at which it began."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(LENGTH))
        more = iter(chain(10 * LENGTH)[LENGTH:])
        found = store.verify(workers=2, progress=lambda done, total: store.append(next(more)))
        assert (found.entries, found.signature) == (LENGTH, chain_signature(chain(LENGTH)))
        assert len(store) > LENGTH
    assert confirmed == [True]


@pytest.mark.parametrize("place", ["working directory", "PYTHONPATH", "first of sys.path"])
def test_a_worker_runs_nothing_that_lies_about(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, confirmed: list[bool]
) -> None:
    """A file named as a module of Python's, wherever a Python looks first by itself, or this one would have looked."""
    # Python's own modules come first; all else comes from where this process has it, a relative place left out.
    others = () if place == "first of sys.path" else ("apsw",)
    for name in ("json", "queue", "dataclasses", "sitecustomize", *others):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    if place == "working directory":
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", ["", *sys.path])
    elif place == "PYTHONPATH":
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    else:
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=2).ok
    assert not (tmp_path / "ran").exists()
    assert confirmed == [True]


@pytest.mark.parametrize("executable", [None, "", "/opt/orders/orders", "/usr/bin/uwsgi", "orders.exe"])
def test_a_program_with_python_inside_is_not_started_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, executable: str | None, confirmed: list[bool]
) -> None:
    """What `sys.executable` names is no Python there: one process does all the work."""
    monkeypatch.setattr(sys, "executable", executable)
    monkeypatch.delattr(subprocess, "Popen")
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=2) == store.verify()
    assert confirmed == [False]


def test_a_frozen_program_is_not_started_again(path: Path, monkeypatch: pytest.MonkeyPatch, confirmed: list[bool]) -> None:
    """As PyInstaller, cx_Freeze and py2exe make it, whatever its name is."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.delattr(subprocess, "Popen")
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=2) == store.verify()
    assert confirmed == [False]


def test_one_process_starts_no_other(path: Path, confirmed: list[bool]) -> None:
    """However long the chain is."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=1).ok
    assert confirmed == []


@pytest.mark.usefixtures("warm_workers")
def test_progress_rises_to_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the thread of the caller, however many work, and however long one takes."""
    monkeypatch.setattr(workers, "_LOOK_AGAIN_S", 0.0001)
    seen: list[tuple[int, int]] = []
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=2, progress=lambda done, total: seen.append((done, total))).ok
    assert seen == sorted(seen)
    assert seen[-1] == (LENGTH, LENGTH)


@pytest.mark.usefixtures("warm_workers")
def test_an_error_of_the_progress_passes_through_and_leaves_no_worker(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C would: none does the rest of its work first, and no thread is left that waits for one."""
    children: list[subprocess.Popen[str]] = []
    joined: list[threading.Thread] = []
    start = workers._start

    def noted() -> subprocess.Popen[str]:
        children.append(start())
        return children[-1]

    class Thread(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            super().join(timeout)
            joined.append(self)

    monkeypatch.setattr(workers, "_start", noted)
    monkeypatch.setattr(workers, "threading", SimpleNamespace(Thread=Thread))

    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        with pytest.raises(KeyboardInterrupt):
            store.verify(workers=2, progress=interrupted)
    assert len(children) == len(joined) == 2
    assert all(thread.daemon for thread in joined)  # another Ctrl-C may come before they are joined
    assert all(child.returncode for child in children)  # killed: one that ends by itself gives 0


@pytest.mark.usefixtures("warm_workers")
def test_a_task_that_another_worker_takes_first_is_no_error(
    path: Path, monkeypatch: pytest.MonkeyPatch, confirmed: list[bool]
) -> None:
    """Between a look at what is waiting and the taking of it."""

    class Contended(deque[Any]):
        def __bool__(self) -> bool:
            return True

    monkeypatch.setattr(workers, "deque", Contended)
    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=2) == store.verify()
    assert confirmed == [True]


def test_a_part_that_cannot_be_read_is_not_sound(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worker says so, and goes on to its next task."""
    _edited(path, "one run", "UPDATE entry SET position = position - 1000")
    part = [0, 10, "0" * 64, "0" * 64]
    messages: list[dict[str, object]] = [{"path": str(path)}, {"task": part}, {"task": None}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{json.dumps(message)}\n" for message in messages)))
    workers.work()
    of_part, of_file = map(json.loads, capsys.readouterr().out.splitlines())
    assert of_part["sound"] is False
    assert "position below 1" in of_part["error"]
    assert of_file == {"sound": True, "unchecked": []}


def test_a_worker_answers_each_of_its_tasks_in_turn(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else who has given it one would wait for ever."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(20))
    signatures = [chain_signature(chain(length)) for length in range(21)]
    parts = [[5, 15, signatures[5], signatures[15]], None, [15, 20, signatures[15], signatures[19]]]
    messages: list[Any] = [{"path": str(path)}, *({"task": part} for part in parts)]
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{json.dumps(message)}\n" for message in messages)))
    workers.work()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"done": 10},
        {"sound": True},
        {"sound": True, "unchecked": []},
        {"done": 5},
        {"sound": False},
    ]


def test_a_worker_tells_how_far_it_is_a_step_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the page that completes a step, and at the end of its part; all that it tells is all that it walked."""
    monkeypatch.setattr("milepost.rows.verify.PAGE", 3)
    monkeypatch.setattr(workers, "_STEP", 6)
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(20))
    ends = chain_signature(chain(5)), chain_signature(chain(20))
    assert walked(path, 5, 20, *ends) == [{"done": 6}, {"done": 6}, {"done": 3}, {"sound": True}]


@pytest.mark.parametrize(
    ("through", "at_end", "sound"),
    [(20, 20, True), (20, 19, False), (19, 20, False), (21, 20, False), (30, 20, False), (10, 20, False)],
)
def test_a_part_is_sound_only_if_it_ends_where_and_as_it_should(path: Path, through: int, at_end: int, sound: bool) -> None:
    """Rows that are gone by the time that a worker comes to them make no part sound; nor does another signature there."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(20))
    signatures = [chain_signature(chain(length)) for length in range(21)]
    assert walked(path, 5, through, signatures[5], signatures[at_end])[-1] == {"sound": sound}


@pytest.mark.usefixtures("warm_workers")
def test_the_file_is_sound_only_if_every_part_is_confirmed(
    path: Path, monkeypatch: pytest.MonkeyPatch, confirmed: list[bool]
) -> None:
    """A worker that dies between two tasks leaves the rest to one process."""
    dies = "import milepost.workers as w; w._walk = lambda *_: sys.exit(); from milepost.workers import work"
    monkeypatch.setattr(workers, "_PROGRAM", workers._PROGRAM.replace("from milepost.workers import work", dies))
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(LENGTH))
        assert store.verify(workers=2) == store.verify()
    assert confirmed == [False]


@pytest.mark.parametrize("leaves", [True, False])
@pytest.mark.usefixtures("warm_workers")
def test_a_child_that_is_forked_meanwhile_takes_no_reply_of_the_workers(path: Path, leaves: bool) -> None:
    """It is told, whether it leaves or waits on; its parent gets every reply, and neither waits for ever."""
    parent, children = os.getpid(), list[int]()

    def fork(_done: int, _of: int) -> None:
        if not children:
            children.append(os.fork())
            if children[0] == 0:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(20)
                if leaves:
                    raise ForkedStoreError(str(path), "the child leaves")

    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        told = False
        try:
            verified = store.verify(workers=2, progress=fork)
        except ForkedStoreError:
            told = True
        finally:
            if os.getpid() != parent:
                os._exit(0 if told else 1)
        assert verified.ok
    assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0


def test_one_process_verifies_where_no_thread_can_be_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when there are too many, or from Python 3.12 on while the interpreter ends."""

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with CheckpointStore(path) as store:
        store.append_many(chain(LENGTH))
        monkeypatch.setattr(threading.Thread, "start", fail)
        assert store.verify(workers=2).ok
