"""Take the entries of a store out of it, exactly, and make a new store of them with the same signatures."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milepost import rows
from milepost.arguments import hash_for_key
from milepost.create import directory_beside, refuse_long_directory
from milepost.database import Database
from milepost.errors import InvalidCheckpointError, RejectedCheckpointError
from milepost.history import checked_filter, pages
from milepost.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import apsw

    from milepost.checkpoint import Checkpoint
    from milepost.cursors import Stored

_BATCH: Final = 10_000  # entries that are appended at a time


class Entry(NamedTuple):
    """All that a store has recorded of a checkpoint, but for its place in the chain."""

    checkpoint: Checkpoint
    detail: str | None = None
    cursor: Stored | None = None  # where it is still kept


class RefusedEntryError(Exception):
    """An entry cannot stand where it does. It carries the `index` (0, 1, 2 …) and the reason."""

    index: int
    why: str

    def __init__(self, index: int, why: str) -> None:
        super().__init__(index, why)
        self.index, self.why = index, why


def entries_of(path: str, run_id: str | None, stage: str | None) -> Iterator[Entry]:
    """
    The entries of a store in chain order, as it is when the first is asked for, and so are their cursors.

    These are in memory meanwhile: a pipeline that goes on would drop them before their entries are read.

    Raises:
        InvalidArgumentError: A name that nothing recorded can have.
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
    Make a store of these entries: all of them, under its name and durably, or nothing.

    Args:
        path: The absolute name of a file that does not exist yet.
        entries: In chain order; details and cursors were checked.
        hmac_key: Makes the chain a keyed one.

    Raises:
        InvalidArgumentError: The key is none.
        RefusedEntryError: One of them is not valid, breaks a rule of an append, or is there already.
        StoreError: The file cannot be written, or there is one.
    """
    refuse_long_directory(path, levels=2)  # the store that is filled is made within the directory that is made for it
    with directory_beside(path) as made:
        writer = Writer(
            str(Path(made, "new")),
            synchronous="normal",  # the copy of this is what has to last
            busy_timeout_ms=0,
            vfs=None,
            hmac=hash_for_key(hmac_key),
        )
        with closing(writer.open()):
            left = iter(entries)
            while batch := list(islice(left, _BATCH)):
                _append(writer, batch)
            writer.copy_to(path)


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
