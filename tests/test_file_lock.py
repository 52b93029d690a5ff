"""The wait for another process's lock, with a clock that a test of the user's has stopped or set."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import apsw
import pytest

from milepost import CheckpointStore, StoreBusyError
from milepost.file_lock import FileLock
from support.chains import entry
from support.patience import in_time

if TYPE_CHECKING:
    from pathlib import Path


def test_a_wait_ends_though_the_clock_stands_still(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under freezegun: the tries are counted too."""
    with (
        CheckpointStore(path, durability="normal", busy_timeout_ms=100) as store,
        contextlib.closing(apsw.Connection(str(path))) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with monkeypatch.context() as patch:
            patch.setattr("milepost.file_lock.time.monotonic", lambda: 1.0)
            with pytest.raises(StoreBusyError):
                in_time(lambda: store.append(entry(1)))


def test_a_wait_is_as_long_as_it_was_asked_for(path: Path) -> None:
    """The tries never end it before its time."""
    with (
        CheckpointStore(path, durability="normal", busy_timeout_ms=300) as store,
        contextlib.closing(apsw.Connection(str(path))) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        with pytest.raises(StoreBusyError):
            store.append(entry(1))
        assert time.monotonic() - began >= 0.3


def test_the_lock_is_left_to_others_no_longer_than_they_need_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the clock was when it was given back."""
    slept: list[float] = []
    lock = FileLock()
    lock.ask(100)
    with monkeypatch.context() as patch:
        patch.setattr("milepost.file_lock.time.monotonic", lambda: 1_700_000_000.0)
        lock.let_others_in()
    monkeypatch.setattr("milepost.file_lock.time.sleep", slept.append)
    lock.ask(100)
    assert len(slept) == 1
    assert 0 < slept[0] <= 0.001


def test_a_wait_until_a_moment_is_as_long_whatever_was_asked_for_before() -> None:
    """With a busy timeout of 0 too: so long others are waited for, for the WAL to begin anew."""
    lock = FileLock()
    lock.ask(0)
    lock.wait_until(time.monotonic() + 0.05)
    began, calls = time.monotonic(), 0
    while lock.wait(calls):
        calls += 1
    assert calls > 5
    assert time.monotonic() - began > 0.02
