"""Read the entries of a store exactly, and make a new store of them with the same signatures."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milepost import inherited, rows
from milepost.arguments import hash_for_key
from milepost.create import directory_beside, refuse_long_directory
from milepost.database import Database
from milepost.details import is_archive_of
from milepost.errors import InvalidCheckpointError, RejectedCheckpointError
from milepost.history import checked_filter, pages
from milepost.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import apsw

    from milepost.checkpoint import Checkpoint
    from milepost.cursors import Stored

_BATCH: Final = 10_000  # entries appended at a time


class Entry(NamedTuple):
    """Everything that a store has recorded of a checkpoint, except its place in the chain."""

    checkpoint: Checkpoint
    detail: str | None = None
    cursor: Stored | None = None  # None if it is no longer kept


class RefusedEntryError(Exception):
    """An entry cannot stand where it does. It carries the `index` (0, 1, 2 …) and the reason."""

    index: int
    why: str

    def __init__(self, index: int, why: str) -> None:
        super().__init__(index, why)
        self.index, self.why = index, why


def entries_of(path: str, run_id: str | None, stage: str | None) -> Iterator[Entry]:
    """
    Yield the entries of a store in chain order, with their cursors, as they are when you ask for the first one.

    The cursors stay in memory, because a running pipeline would drop them before their entries are read.

    Raises:
        InvalidArgumentError: A name is one that no entry can have.
        StoreError: The file cannot be read.
    """
    chosen = checked_filter(run_id, stage, None, None, 0, None, newest_first=False)
    with closing(Database(path, None, None).open()) as database:
        last, cursors = database.read(rows.kept_as_of_now, run_id)

        def entries(connection: apsw.Connection, signed: list[tuple[Any, ...]]) -> list[Entry]:
            return [
                Entry(checkpoint, detail, cursors.get(receipt.position))
                for receipt, checkpoint, detail in rows.recorded(connection, signed)
            ]

        yield from chain.from_iterable(pages(database.read, replace(chosen, before=last + 1), rows.signed_rows, entries))


def restore(path: str, entries: Iterable[Entry], hmac_key: bytes | None) -> None:
    """
    Make a store of these entries. It appears durably with all of them, or not at all.

    Args:
        path: The absolute name of a file that does not exist yet.
        entries: The entries in chain order, with checked details and cursors.
        hmac_key: The key of a keyed chain, or None.

    Raises:
        InvalidArgumentError: `hmac_key` is no key.
        RefusedEntryError: An entry is not valid, breaks a rule of an append, or is a duplicate. Or it records an archive,
            and the archived entries are not all here.
        StoreError: The file cannot be written, or exists already.
    """
    refuse_long_directory(path, levels=2)  # the store to fill needs a temporary directory within this one
    process = os.getpid()
    with directory_beside(path) as made:
        writer = Writer(
            str(Path(made, "new")),
            synchronous="normal",  # only the copy of it must be durable
            busy_timeout_ms=Writer.busy_timeout_ms,  # nobody else knows this file, but a fork takes a turn at it too
            vfs=None,
            hmac=hash_for_key(hmac_key),
        )
        with closing(writer.open()):
            inherited.refuse_child(process, path)  # which has opened what its parent fills, as a store of its own
            left = iter(entries)
            while batch := list(islice(left, _BATCH)):
                _append(writer, batch)
            _refuse_incomplete(writer)
            writer.copy_to(path)


def _refuse_incomplete(writer: Writer) -> None:
    """Refuse what stayed of a chain beside its archives. The items of a bag in there would count as not done."""
    for position, cut, detail in writer.read(rows.archives):
        if not is_archive_of(detail, writer.read(rows.signature_at, cut)):
            raise RefusedEntryError(
                position - 1,
                f"it records that the entries up to position {cut:,} are in an archive, and they are not all here: import "
                "the export of a file that has them, or copy the store with backup()",
            )


def _append(writer: Writer, batch: list[Entry]) -> None:
    before, _ = writer.read(rows.tip)
    checkpoints, details = [entry.checkpoint for entry in batch], [entry.detail for entry in batch]
    cursors = {before + place: entry.cursor for place, entry in enumerate(batch, 1) if entry.cursor is not None}
    try:
        receipt = writer.restore(checkpoints, details, cursors)
    except (InvalidCheckpointError, RejectedCheckpointError) as error:
        *facts, index = error.args
        raise RefusedEntryError(before + index, str(type(error)(*facts))) from None
    if receipt.duplicates:
        kept = writer.read(rows.checkpoints, writer.read(rows.numbered_rows, rows.Filter(after=before)))
        index = next(i for i, (entry, found) in enumerate(zip(checkpoints, [*kept, None], strict=False)) if entry != found)
        raise RefusedEntryError(before + index, "an earlier line has this checkpoint already: remove one of them")
