"""A handler of an alarm that raises an OSError, as most do: nobody takes it for an error of the disk."""

from __future__ import annotations

import contextlib
import gc
import signal
import threading
import time
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointStore
from support.chains import entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no such alarms")


@contextlib.contextmanager
def alarms() -> Iterator[Callable[[float], object]]:
    """A function that sets an alarm, so many seconds from now; 0 for none."""

    def late(*_: object) -> None:
        raise TimeoutError("60 s are over")

    gc.collect()  # what an interrupt has dropped in a test before; an alarm would come in the middle of that
    before = signal.signal(signal.SIGALRM, late)
    try:
        yield partial(signal.setitimer, signal.ITIMER_REAL)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


CALLS: dict[str, Callable[[CheckpointStore, Path, int], Any]] = {
    "append": lambda store, _path, number: store.append(entry(number, stage="calls")),
    "latest": lambda store, _path, _number: store.latest(),
    "a block": lambda store, _path, number: _block(store, number),
    "open": lambda _store, path, _number: CheckpointStore(path).close(),
    "open to read": lambda _store, path, _number: CheckpointStore.open_readonly(path).close(),
    "verify": lambda store, _path, _number: store.verify().raise_if_broken(),
    "backup": lambda store, path, number: store.backup(path.with_name(f"copy-{number}")),
}


def _block(store: CheckpointStore, number: int) -> None:
    with store.transaction():
        store.append(entry(number, stage="block"))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("seconds", [0.2, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_alarm_that_raises_a_timeout_error_comes_out_as_it_is(path: Path, call: str, seconds: float) -> None:
    """And the store goes on: neither the file nor the disk is blamed for it."""
    heard, wrong, recorded = 0, 0, set[int]()
    with CheckpointStore(path) as store, alarms() as alarm:
        store.append(entry(1, stage="first"))
        until = time.monotonic() + seconds
        for number in count(1):
            if time.monotonic() > until:
                break
            try:
                try:
                    alarm(0.00002 + number % 97 * 1e-5)
                    CALLS[call](store, path, number)
                    recorded.add(number)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except TimeoutError as error:
                heard += type(error) is TimeoutError
                wrong += type(error) is not TimeoutError  # StoreBusyError is one as well
        assert heard > 0
        assert wrong == 0
        store.append(entry(1, stage="last"))
        store.verify().raise_if_broken()
        if call == "append":
            assert recorded <= {each.sequence for each in store.history(stage="calls")}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_timeout_error_of_one_thread_is_not_told_to_those_that_share_its_commit(path: Path) -> None:
    """Only the main thread has alarms: what it hears is its own."""
    others: list[BaseException] = []
    stop = threading.Event()

    def append(store: CheckpointStore, name: str) -> None:
        for sequence in count(1):
            if stop.is_set():
                return
            try:
                store.append(entry(sequence, stage=name))
            except BaseException as error:  # noqa: BLE001 - any is wrong
                others.append(error)

    with CheckpointStore(path, durability="normal") as store, alarms() as alarm:
        threads = [threading.Thread(target=append, args=(store, f"thread-{n}")) for n in range(3)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 0.5
        for number in count(1):
            if time.monotonic() > until:
                break
            with contextlib.suppress(TimeoutError):
                try:
                    alarm(0.00002 + number % 97 * 1e-5)
                    store.append(entry(number, stage="main"))
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        stop.set()
        for thread in threads:
            thread.join()
        store.verify().raise_if_broken()
    assert others == []
