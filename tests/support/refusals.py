"""
Calls that must be refused: one argument, and what it must not be.

What is refused changes no byte and no answer, and the message is one short line with the argument and the value.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import apsw
import pytest

from milepost import CheckpointStore, InvalidArgumentError, InvalidCheckpointError, Receipt
from support.chains import entry
from support.hostile import HostileError, HostileType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _bytes(store: CheckpointStore) -> dict[str, bytes]:
    """
    The contents of every file beside the store and its own.

    Read through SQLite's VFS, because to close a plain descriptor of an open database drops the process's locks on it.
    """
    found = {}
    for file in sorted(Path(store.path).parent.iterdir()):
        if file.name.endswith("-shm"):
            continue  # an index of the WAL and of who reads it: no content of its own
        opened = apsw.VFSFile("", str(file), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READONLY, 0])
        found[file.name] = opened.xRead(opened.xFileSize(), 0) if opened.xFileSize() else b""
        opened.xClose()
    return found


@contextlib.contextmanager
def left_as_it_was(store: CheckpointStore) -> Iterator[None]:
    """Whatever the block does changes no byte and no answer, and the next good append works."""
    before = _bytes(store), store.head(), len(store), store.latest()
    yield
    assert before == (_bytes(store), store.head(), len(store), store.latest())
    last = store.latest_for_stage("load", run_id="run-7")
    receipt = store.append(entry(last.sequence + 1 if last else 1))
    assert Receipt(before[2] + 1, store.chain_signature()) == receipt


class Call(NamedTuple):
    """One argument of one method: how the error names it, how the method is called with it, and what it must not be."""

    argument: str
    call: Callable[[CheckpointStore, Any], object]
    bad: dict[str, Any]


class Calls(dict[str, Call]):
    """
    A table of calls, by name: the method, and the argument.

    Nothing hostile leaves it: pytest shows the values of a test that failed, and could not show these. So a test is given
    the name of a call, and a message of its failure names the value.
    """

    def __repr__(self) -> str:
        """As pytest may show it."""
        return f"{len(self)} calls"

    @property
    def each_with_every_bad_value(self) -> pytest.MarkDecorator:
        """Runs a test for each of them."""
        return pytest.mark.parametrize("name", self)

    def check(self, store: CheckpointStore, name: str) -> None:
        """Every bad value is named, by an error of milepost that is a ValueError too; together they change nothing."""
        with left_as_it_was(store):
            for wrong in self[name].bad:
                raised, message = self._refusal(store, name, wrong)
                assert raised in {InvalidArgumentError, InvalidCheckpointError}, (wrong, message)
                assert message.startswith(f"{self[name].argument} is "), (wrong, message)
                assert self._shown(name, wrong) in message, (wrong, message)
                assert message.isprintable(), (wrong, ascii(message))
                assert len(message) < 400, (wrong, message)

    def _shown(self, name: str, wrong: str) -> str:
        """How the message must begin to show the value: its repr, or at least its type."""
        value = self[name].bad[wrong]
        if type(value) is HostileType:
            return ""  # there is nothing in it that could be shown
        try:
            text = repr(value[:20] if isinstance(value, (str, bytes)) else value)[: 1 if isinstance(value, dict) else 10]
        except Exception:  # noqa: BLE001 - what cannot be shown
            return type(value).__name__
        return text if text.isprintable() else ascii(text)[1:-1]

    def _refusal(self, store: CheckpointStore, name: str, wrong: str) -> tuple[type | None, str]:
        """The class and the message of what a call raises."""
        try:
            self[name].call(store, self[name].bad[wrong])
        except Exception as error:  # noqa: BLE001 - whatever it is, the test names it
            try:
                return type(error), str(error)
            except HostileError:
                return type(error), "a message that cannot be shown"
        return None, "it was taken"
