"""
What test_forks.py runs, in processes of their own: a scene is a function that forks, and returns what has to be there.

`python forking_program.py PATH SCENE,… CHILDREN` plays one scene after the other, each on a file of its own: `PATH-SCENE`.
It prints `scene:run:entries …`, what was acknowledged, and ends with 0 if nothing else went wrong. Nothing may hang: the
watchdog ends the process.
"""

from __future__ import annotations

import ctypes
import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

import milepost
from milepost import (
    Checkpoint,
    CheckpointStore,
    ForkedStoreError,
    Watermark,
    bound,
    create,
    inherited,
    open_files,
    restore,
    transfer,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

APPENDS = 20
OPENER = """
import sys
from milepost import CheckpointStore
while True:
    with CheckpointStore(sys.argv[1], busy_timeout_ms=60_000) as store:
        store.latest()
"""


def entry(sequence: int, run: str) -> Checkpoint:
    """A checkpoint."""
    return Checkpoint(run, "load", sequence, Watermark(sequence, 0), str(sequence), 0)


def append_own(path: str, run: str, appends: int = APPENDS) -> None:
    """What a child does: a store of its own."""
    with CheckpointStore(path, busy_timeout_ms=60_000) as store:
        for sequence in range(1, appends + 1):
            store.append(entry(sequence, run))


def append_late(path: str, run: str) -> None:
    """A little later."""
    time.sleep(0.05)
    append_own(path, run)


def fork(work: Callable[[], object]) -> int:
    """A child that does something, and ends with 0 if it could."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must end here
            traceback.print_exc()
            os._exit(1)
    return child


def reap(*children: int) -> None:
    """All of them have ended well."""
    for child in children:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def refused(call: Callable[[], object]) -> None:
    """A call that says that there was a fork."""
    try:
        call()
    except ForkedStoreError:
        return
    raise AssertionError("not refused")


def methods(store: CheckpointStore) -> list[Callable[[], object]]:
    """Every method that needs the file."""
    mark = Watermark(99, 0)
    return [
        lambda: store.append(entry(99, "bad")),
        lambda: store.append_many([entry(99, "bad")]),
        lambda: store.advance("bad", "load", mark, idempotency_key="99"),
        lambda: store.transaction().__enter__(),
        lambda: list(store.checkpointed([1], run_id="bad", stage="load")),
        lambda: len(store),
        store.latest,
        lambda: list(store.history()),
        store.verify,
        store.runs,
        store.head,
        lambda: store.backup(f"{store.path}.copy"),
    ]


def beside_threads(path: str, children: int) -> dict[str, int]:
    """Four threads that write and one that reads; children write; another process opens and closes the file."""
    store, stop, acknowledged = CheckpointStore(path, durability="normal"), threading.Event(), dict[str, int]()

    def write(run: str) -> None:
        while not stop.is_set():
            sequence = acknowledged.get(run, 0) + 1
            store.append(entry(sequence, run))
            acknowledged[run] = sequence

    def read() -> None:
        while not stop.is_set():
            store.latest()

    threads = [threading.Thread(target=write, args=(f"thread-{number}",)) for number in range(4)]
    threads.append(threading.Thread(target=read))
    other = subprocess.Popen([sys.executable, "-c", OPENER, path])
    for thread in threads:
        thread.start()
    try:
        pids = [fork(lambda run=run: append_own(path, run)) for run in map("child-{}".format, range(children))]  # type: ignore[misc]
        reap(*pids)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        other.kill()
        other.wait()
    store.close()
    return acknowledged | {f"child-{number}": APPENDS for number in range(children)}


def beside_a_thread_that_opens(path: str, _children: int) -> dict[str, int]:
    """The fork waits for the end of the opening: the thread may have a lock of SQLite's, which the child would never get."""
    began, over, stores, make = threading.Event(), threading.Event(), list[CheckpointStore](), create.create

    def make_slowly(*given: Any) -> None:
        began.set()
        time.sleep(0.1)
        make(*given)
        over.set()

    def child() -> None:
        assert over.is_set()
        append_own(path, "child")

    vars(create)["create"] = make_slowly
    try:
        thread = threading.Thread(target=lambda: stores.append(CheckpointStore(path)))
        thread.start()
        began.wait(60)
        reap(fork(child))
        thread.join()
    finally:
        vars(create)["create"] = make
    with stores[0] as store:
        store.append(entry(1, "parent"))
    return {"parent": 1, "child": APPENDS}


def parent_closes(path: str, children: int) -> dict[str, int]:
    """Each child appends while the parent closes its store and others open and close theirs."""
    other = subprocess.Popen([sys.executable, "-c", OPENER, path])
    for number in range(children):
        store = CheckpointStore(path)
        store.append(entry(number + 1, "parent"))
        child = fork(lambda number=number: append_own(path, f"child-{number}"))  # type: ignore[misc]
        store.close()
        reap(child)
    other.kill()
    other.wait()
    return {"parent": children} | {f"child-{number}": APPENDS for number in range(children)}


def parent_dies(path: str, children: int) -> dict[str, int]:
    """Children go on after their parent has been killed, or has ended; others open and close the file."""
    for number in range(children):

        def launch(number: int = number) -> None:
            store = CheckpointStore(path)
            store.append(entry(1, f"launcher-{number}"))
            fork(partial(append_late, path, f"child-{number}"))
            if number % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(0)

        os.waitpid(fork(launch), 0)
        with CheckpointStore(path, busy_timeout_ms=60_000) as other:
            other.latest()
    deadline = time.monotonic() + 30
    with CheckpointStore.open_readonly(path) as store:
        while sum(run.entries for run in store.runs()) < children * (APPENDS + 1) and time.monotonic() < deadline:
            time.sleep(0.01)
    return {f"child-{number}": APPENDS for number in range(children)} | {f"launcher-{n}": 1 for n in range(children)}


def refuses_every_method(path: str, _children: int) -> dict[str, int]:
    """In the child the parent's store says so, whatever is asked of it; closing it is allowed."""
    store, reader = CheckpointStore(path), CheckpointStore.open_readonly(path)
    store.append(entry(1, "parent"))
    reader.latest()

    def child() -> None:
        for method in methods(store):
            refused(method)
        refused(reader.latest)
        refused(store.__enter__)
        store.close()
        reader.close()
        append_own(path, "child")

    reap(fork(child))
    store.append(entry(2, "parent"))
    assert reader.latest("parent") == entry(2, "parent")
    store.close()
    reader.close()
    return {"parent": 2, "child": APPENDS}


def half_made(path: str, _children: int) -> dict[str, int]:
    """The exception of a store that could not be opened is kept, as a notebook keeps the last one."""
    kept: list[BaseException] = []
    for broken in (f"{path}/nowhere", str(Path(path).parent)):
        try:
            CheckpointStore(broken)
        except Exception as error:  # noqa: BLE001 - whatever it is
            kept.append(error)
    assert len(kept) == 2
    return refuses_every_method(path, 0)


def _refused_own(path: str) -> None:
    refused(lambda: CheckpointStore(path, busy_timeout_ms=2000).append(entry(1, "bad")))


def _refused_entirely(path: str) -> None:
    """Reading too: without locks, others would write over what it reads."""
    _refused_own(path)
    refused(lambda: CheckpointStore.open_readonly(path))


def inside_a_block(path: str, _children: int) -> dict[str, int]:
    """The block is the parent's, and is committed whole; the child is refused the file."""
    with CheckpointStore(path) as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (x)")
            store.append(entry(1, "parent"))

            def child() -> None:
                refused(methods(store)[0])
                _refused_entirely(path)

            reap(fork(child))
            store.append(entry(2, "parent"))
        reap(fork(lambda: append_own(path, "child")))  # by another fork, which found nothing open
    return {"parent": 2, "child": APPENDS}


def inside_a_loop(path: str, _children: int) -> dict[str, int]:
    """As a block."""
    with CheckpointStore(path) as store:
        loop = store.checkpointed(range(6), run_id="parent", stage="load", every=3, transaction=True)
        for record in loop:
            if record == 1:
                reap(fork(lambda: _refused_entirely(path)))
    return {"parent": 2}


def beside_a_connection(path: str, _children: int) -> dict[str, int]:
    """The caller's own connection keeps the file in SQLite's table of locks, of which milepost does not know."""
    with CheckpointStore(path) as store:
        store.append(entry(1, "parent"))
        own = apsw.Connection(path)
        own.execute("SELECT count(*) FROM entry").fetchall()
        reap(fork(lambda: _refused_own(path)))
        own.close()
        reap(fork(lambda: append_own(path, "child")))
    return {"parent": 1, "child": APPENDS}


def by_c_code(path: str, _children: int) -> dict[str, int]:
    """Without the hooks of Python: the process id tells."""
    store = CheckpointStore(path)
    store.append(entry(1, "parent"))
    child = ctypes.PyDLL(None).fork()
    if child == 0:
        try:
            for method in methods(store):
                refused(method)
            _refused_entirely(path)
            os._exit(0)
        except BaseException:  # noqa: BLE001 - the child must end here
            traceback.print_exc()
            os._exit(1)
    reap(child)
    store.append(entry(2, "parent"))
    store.close()
    return {"parent": 2}


def by_c_code_while_reading(path: str, _children: int) -> dict[str, int]:
    """The child asks the inherited store first, and what is open is a reader alone: it is refused the file all the same."""
    append_own(path, "parent")
    with CheckpointStore.open_readonly(path) as reader:
        reader.latest()
        child = ctypes.PyDLL(None).fork()
        if child == 0:
            try:
                refused(reader.latest)
                refused(lambda: CheckpointStore.open_readonly(path))
                os._exit(0)
            except BaseException:  # noqa: BLE001 - the child must end here
                traceback.print_exc()
                os._exit(1)
        reap(child)
    return {"parent": APPENDS}


def then_exec(path: str, _children: int) -> dict[str, int]:
    """Another program has nothing of what was open, even in a block."""
    program = "import sys; sys.path[:0] = eval(sys.argv[2]); import forking_program as f; f.append_own(sys.argv[1], 'child')"
    with CheckpointStore(path) as store:
        with store.transaction():
            store.append(entry(1, "parent"))
            command = [sys.executable, "-c", program, path, repr(sys.path)]
            child = fork(lambda: os.execv(sys.executable, command))
            time.sleep(0.2)  # it waits for the block
        reap(child)
    return {"parent": 1, "child": APPENDS}


def child_that_unwinds(path: str, children: int) -> dict[str, int]:
    """A handler forks within a batch, and the child leaves it by an exception: it undoes nothing that is its parent's."""

    def leave() -> None:
        os.close(2)
        raise SystemExit

    return _fork_within_batches(path, children, leave)


def child_that_goes_on(path: str, children: int) -> dict[str, int]:
    """As before, but the child goes on in the batch: it writes nothing, and is refused."""
    return _fork_within_batches(path, children, lambda: None)


def _fork_within_batches(path: str, children: int, as_child: Callable[[], None]) -> dict[str, int]:
    """
    Fork in signal handlers, also in those that run inside of SQLite.

    With a small cache the batch is in the WAL before it is committed. A child that undoes that removes it from the index,
    which both have mapped, and one that goes on writes over it: the parent commits a malformed file.
    """
    begun: list[int] = []
    inside: set[int] = set()
    parent = os.getpid()

    def forked(_number: int, frame: FrameType | None) -> None:
        child = os.fork()
        if child == 0:
            as_child()
            return
        begun.append(child)
        if frame is not None and frame.f_code.co_name in {"_is_endless", "judge"}:  # which SQLite calls
            inside.add(child)

    vars(bound)["STEPS"] = 2_000  # so that SQLite calls Python often
    signal.signal(signal.SIGALRM, forked)
    acknowledged: dict[str, int] = {}
    with CheckpointStore(path, durability="normal", on_connect=lambda own: own.pragma("cache_size", 10)) as store:
        try:
            for number in range(children):
                batch = [entry(sequence, f"batch-{number}") for sequence in range(1, 2001)]
                signal.setitimer(signal.ITIMER_REAL, 0.012 + 0.004 * (number % 5))
                store.append_many(batch)
                acknowledged[f"batch-{number}"] = len(batch)
            store.head()  # where a child is refused that was forked behind the last batch
        except ForkedStoreError:
            os._exit(1 if os.getpid() == parent else 0)
        finally:
            if os.getpid() != parent:
                os._exit(0 if isinstance(sys.exception(), SystemExit) else 1)
            signal.setitimer(signal.ITIMER_REAL, 0)
        time.sleep(0.1)
        for child in begun:
            if child in inside:  # it waits for a mutex of SQLite's that its parent had
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            else:
                reap(child)
        store.verify().raise_if_broken()
    return acknowledged


def _goes_on(call: Callable[[], object], module: object, name: str, *, child_first: bool) -> Any:
    """
    Fork at the first call of a function, as a signal handler may, and have the child go on in it, where it is refused.

    The child goes on before the parent does, or only once the parent's call has returned: what that was told must hold.
    """
    real, over, parent = getattr(module, name), os.pipe(), os.getpid()
    begun: list[int] = []

    def forks(*given: Any) -> Any:
        setattr(module, name, real)
        begun.append(os.fork())
        if begun[-1] == 0 and not child_first:
            os.close(over[1])
            os.read(over[0], 1)
        elif begun[-1] and child_first:
            reap(begun.pop())
        return real(*given)

    setattr(module, name, forks)
    try:
        returned = call()
        assert os.getpid() == parent, "not refused"
    except BaseException as error:
        if os.getpid() == parent:
            raise
        if not isinstance(error, ForkedStoreError):
            traceback.print_exc()
        os._exit(0 if isinstance(error, ForkedStoreError) else 1)
    os.close(over[1])
    reap(*begun)
    os.close(over[0])
    return returned


def child_that_goes_on_as_it_opens(path: str, _children: int) -> dict[str, int]:
    """Nothing is open just then: before the store opens its file again after another fork."""
    with CheckpointStore(path) as store:
        for number, child_first in enumerate((True, False), 1):
            reap(fork(lambda: None))
            call = partial(store.append, entry(number, "parent"))
            assert not _goes_on(call, open_files, "refuse_inherited", child_first=child_first).duplicate
    return {"parent": 2}


def child_that_goes_on_as_a_file_is_made(path: str, _children: int) -> dict[str, int]:
    """A store, a copy and an archive: the child neither gets in the parent's way nor writes to what that has made."""
    append_own(path, "parent")
    vars(open_files)["_FORK_TIMEOUT_S"] = 0.02  # the call that is interrupted does not end before the fork
    with CheckpointStore(path, durability="normal") as store:
        for number, child_first in enumerate((True, False)):
            for at, name in ((os, "open"), (inherited, "identity"), (create, "connect"), (create, "_remove_siblings")):
                opened = partial(CheckpointStore, f"{path}.new-{number}-{name}")
                if name != "_remove_siblings":  # there is nothing to remove
                    with _goes_on(opened, at, name, child_first=child_first) as new:
                        assert new.append(entry(1, "new")).position == 1
                copied, copy = store.head(), f"{path}.copy-{number}-{name}"
                if name != "connect":
                    assert _goes_on(partial(store.backup, copy), at, name, child_first=child_first) == copied
                    with CheckpointStore.open_readonly(copy) as found:
                        assert found.verify(expected=copied).entries == copied.entries
                archive = f"{path}.archive-{number}-{name}"
                _goes_on(partial(store.archive, archive, before=copied), at, name, child_first=child_first)
                assert store.verify(archives=[archive]).ok
                append_own(path, f"parent-{number}-{name}", 1)
    return {}


def child_that_goes_on_as_a_store_is_filled(path: str, _children: int) -> dict[str, int]:
    """By an import, or from what was shipped: the child would fill the same file, in a store of its own."""
    append_own(path, "parent")
    with CheckpointStore(path) as store, milepost.ship(store, f"{path}.shipped", "orders") as shipper:
        shipped = shipper.ship()
    imported, restored = f"{path}.imported", f"{path}.restored"
    entries = list(transfer.entries_of(path, None, None))
    _goes_on(partial(transfer.restore, imported, entries, None), transfer, "Path", child_first=True)  # which makes its name
    _goes_on(partial(restore.restore, restored, f"{path}.shipped", "orders", None), restore, "Path", child_first=True)
    for made in (imported, restored):
        with CheckpointStore.open_readonly(made) as found:
            assert found.verify(expected=shipped).entries == APPENDS
    return {"parent": APPENDS}


def within_sqlite(path: str, children: int) -> dict[str, int]:
    """A function of the caller's forks inside of a statement, and raises in the child, whose SQLite undoes the statement."""
    begun: list[int] = []

    def forks(*_: object) -> int:
        begun.append(os.fork())
        if begun[-1] == 0:
            os.close(2)
            raise SystemExit
        time.sleep(0.05)  # the child undoes
        return 1

    def prepare(own: apsw.Connection) -> None:
        own.pragma("cache_size", 10)
        own.create_scalar_function("forks", forks, 0)

    with CheckpointStore(path, durability="normal", on_connect=prepare) as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (x, y)")
        for number in range(children):
            with store.transaction() as connection:
                store.append_many([entry(sequence, f"block-{number}") for sequence in range(1, 2001)])
                rows = "WITH RECURSIVE n (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n LIMIT 400) SELECT x FROM n"
                connection.execute(f"INSERT INTO sink SELECT iif(x = 300, forks(), x), zeroblob(500) FROM ({rows})")
        for child in begun:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        store.verify().raise_if_broken()
        with store.transaction() as connection:
            assert connection.execute("SELECT count(*) FROM sink").get == 400 * children
            assert connection.pragma("integrity_check") == "ok"
    return {f"block-{number}": 2000 for number in range(children)}


def fill_the_cache(connection: apsw.Connection) -> None:
    """By a cursor of which milepost does not know, so no check in Python comes first."""
    try:
        apsw.Cursor(connection).executemany("INSERT INTO sink VALUES (?)", [(bytes(1000),)] * 1000)
    except apsw.Error:
        return
    raise AssertionError("it was written")


def child_that_writes_in_the_block(path: str, children: int) -> dict[str, int]:
    """The lent connection writes nothing in the child, also where SQLite has to make room in its cache."""
    with CheckpointStore(path, durability="normal", on_connect=lambda own: own.pragma("cache_size", 10)) as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE sink (x)")
        for number in range(children):
            with store.transaction() as connection:
                store.append_many([entry(sequence, f"block-{number}") for sequence in range(1, 2001)])
                statement = partial(connection.execute, "INSERT INTO sink VALUES (0)")
                reap(fork(partial(refused, statement)))
                reap(fork(partial(fill_the_cache, connection)))
                connection.execute("INSERT INTO sink VALUES (1)")
        with store.transaction() as connection:
            assert connection.execute("SELECT count(*) FROM sink").get == children
            assert connection.pragma("integrity_check") == "ok"
        store.verify().raise_if_broken()
    return {f"block-{number}": 2000 for number in range(children)}


def during_a_long_lookup(path: str, _children: int) -> dict[str, int]:
    """It keeps its connection over the fork, and the next write does not wait for its end."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=1000) as store:
        store.append(entry(1, "parent"))
        began, over = threading.Event(), threading.Event()

        def look(connection: apsw.Connection) -> None:
            for _ in connection.execute("SELECT position FROM entry"):
                began.set()
                over.wait(60)

        lookup = threading.Thread(target=lambda: store._database.read(look))
        lookup.start()
        began.wait(60)
        try:
            reap(fork(lambda: _refused_own(path)))
            store.append(entry(2, "parent"))
        finally:
            over.set()
            lookup.join()
        store.append(entry(3, "parent"))
    return {"parent": 3}


def during_a_verification(path: str, children: int) -> dict[str, int]:
    """And a backup: the fork waits a moment; the child's own store works, or is refused before it writes."""
    store = CheckpointStore(path, durability="normal")
    store.append_many([entry(sequence, "parent") for sequence in range(1, 20_001)])
    stop, worked = threading.Event(), 0

    def busy() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            store.verify().raise_if_broken()
            store.backup(f"{path}.copy-{number}").entries  # noqa: B018 - the copy is what counts

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for number in range(children):
            child = os.fork()
            if child == 0:
                try:
                    append_own(path, f"child-{number}")
                    os._exit(0)
                except ForkedStoreError:
                    os._exit(7)
                except BaseException:  # noqa: BLE001 - the child must end here
                    traceback.print_exc()
                    os._exit(1)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert code in {0, 7}, code
            if code == 0:
                worked += 1
    finally:  # else the thread would go on, and fill the disk with copies
        stop.set()
        thread.join()
    store.close()
    assert worked > 0
    return {"parent": 20_000}


def _twice(*given: Any) -> int:
    return 2 * int(given[0])


def on_connect(path: str, _children: int) -> dict[str, int]:
    """What the caller puts on the connection is there again after a fork; `subprocess` does not make a store let go."""
    calls: list[apsw.Connection] = []

    def connected(connection: apsw.Connection) -> None:
        calls.append(connection)
        connection.create_scalar_function("twice", _twice)

    with CheckpointStore(path, on_connect=connected) as store:
        store.append(entry(1, "parent"))
        subprocess.run([sys.executable, "-c", ""], check=True)
        store.append(entry(2, "parent"))
        assert len(calls) == 1
        reap(fork(lambda: append_own(path, "child")))
        with store.transaction() as connection:
            assert connection.execute("SELECT twice(21)").get == 42
        assert len(calls) == 2
    return {"parent": 2, "child": APPENDS}


def _pooled(number: int) -> int:
    append_own(_pooled_path[0], f"child-{number}")
    return number


_pooled_path: list[str] = []


def _know(path: str) -> None:
    _pooled_path[:] = [path]


def pools(path: str, children: int) -> dict[str, int]:
    """Multiprocessing's pools in each way of starting them, with the store open in the parent, which goes on."""
    expected = {"parent": 0}
    with CheckpointStore(path, busy_timeout_ms=60_000) as store:
        for method in ("fork", "forkserver", "spawn"):
            context: Any = multiprocessing.get_context(method)
            first = len(expected)
            with context.Pool(2, _know, (path,)) as pool:
                for number in pool.imap_unordered(_pooled, range(first, first + children)):
                    expected[f"child-{number}"] = APPENDS
                    expected["parent"] += 1
                    store.append(entry(expected["parent"], "parent"))
    return expected


def threads_that_fork(path: str, children: int) -> dict[str, int]:
    """Several threads fork at once."""
    store, acknowledged = CheckpointStore(path, durability="normal"), dict[str, int]()

    def work(thread: int) -> None:
        for number in range(children):
            reap(fork(partial(append_own, path, f"child-{thread}-{number}", 1)))
            store.append(entry(number + 1, f"thread-{thread}"))
            acknowledged.update({f"child-{thread}-{number}": 1, f"thread-{thread}": number + 1})

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store.close()
    return acknowledged


def main() -> None:
    """Play the scenes."""
    faulthandler.dump_traceback_later(300, exit=True)
    # A fork beside threads is what is tried here; everything else that is warned of is an error where -W says so.
    warnings.filterwarnings("ignore", message=".*multi-threaded", category=DeprecationWarning)
    if "no-hooks" in sys.argv:
        open_files.opened = list
        os.getpid = lambda: 1  # nor does the process id tell
        open_files._process = 1
    path, scenes, children = sys.argv[1:4]
    for scene in scenes.split(","):
        for run, entries in globals()[scene](f"{path}-{scene}", int(children)).items():
            print(f"{scene}:{run}:{entries}")


if __name__ == "__main__":
    main()
