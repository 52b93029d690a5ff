"""
Transactions that outgrow SQLite's page cache: frames of them are in the WAL before their commit, and stay there without one.

A cache of ten pages stands for a transaction of more than 16 MiB.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any, Final

import apsw
import pytest

from milepost import CheckpointStore, FailedStoreError, StoreError
from support.chains import chain, entry
from support.hooked_vfs import Call, hooked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FRAME: Final = 24 + 2048


def _small_cache(connection: apsw.Connection) -> None:
    connection.pragma("cache_size", 10)


def _store(path: Path, **options: Any) -> CheckpointStore:
    return CheckpointStore(path, on_connect=_small_cache, **options)


class _GivesUpError(Exception):
    pass


def _raw(connection: apsw.Connection) -> None:
    for _ in range(100):
        connection.execute("INSERT INTO sink VALUES (zeroblob(1000))")


def _many(connection: apsw.Connection) -> None:
    connection.executemany("INSERT INTO sink VALUES (zeroblob(?))", [(1000,)] * 100)


def _wrapped(connection: apsw.Connection) -> None:
    try:
        _raw(connection)
    except apsw.Error as error:
        raise _GivesUpError from error


def _swallowed(connection: apsw.Connection) -> None:
    with contextlib.suppress(apsw.Error, StoreError):
        _raw(connection)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    ("body", "raised"),
    [(_raw, FailedStoreError), (_many, FailedStoreError), (_wrapped, _GivesUpError), (_swallowed, FailedStoreError)],
)
def test_a_sync_that_fails_within_a_block_ends_the_store(
    path: Path, body: Callable[[apsw.Connection], None], raised: type[Exception], nested: bool
) -> None:
    """The first frame of a WAL is written after a sync of its header, here in a statement of the block's."""

    def fail(call: Call) -> None:
        if armed and call.method == "xSync" and call.path.endswith("-wal"):
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)

    armed: list[bool] = []
    with _store(path) as store, store.transaction() as connection:
        connection.execute("CREATE TABLE sink (filling)")
    with hooked(fail) as vfs, _store(path, vfs=vfs) as store:
        armed.append(True)
        inner = store.transaction() if nested else contextlib.nullcontext()
        with pytest.raises(raised), store.transaction() as connection, inner:
            body(connection)
        armed.clear()
        with pytest.raises(FailedStoreError):
            store.append(entry(1))
    with _store(path) as store:
        assert store.append(entry(1)).position == 1
        store.verify().raise_if_broken()


@pytest.mark.parametrize("torn", ["data", "checksum"])
def test_a_first_page_that_was_never_committed_is_not_taken_for_the_files_header(path: Path, torn: str) -> None:
    """
    Two losses of power: the first leaves a part of a frame behind the commits, the second tears the file's first page.

    The second comes while the WAL is written back, so the WAL has that page whole.
    """
    original = path.with_name("original")
    with CheckpointStore(original) as store:
        store.append_many(chain(200))
        frames = store._database._wal.frames()[0]  # type: ignore[attr-defined]
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{original}{suffix}", f"{path}{suffix}")
    with path.open("r+b") as file:
        file.write(bytes(512))
    with open(f"{path}-wal", "r+b") as file:  # noqa: PTH123
        content = file.read()
        copies = [at for at in range(32, 32 + frames * FRAME, FRAME) if content[at : at + 4] == b"\0\0\0\1"]
        frame = bytearray(content[copies[-1] : copies[-1] + FRAME])
        frame[24:536] = bytes(512)
        if torn == "checksum":  # written before the commit only, and then all of the frames get theirs
            frame[8:24] = bytes(16)
        file.seek(32 + (frames + 3) * FRAME)
        file.write(frame)
    with CheckpointStore.open_readonly(path) as store:
        assert len(store) == 200
    with CheckpointStore(path) as store:
        assert store.append(entry(201)).position == 201
        store.verify().raise_if_broken()
