"""Make a new store of entries that another one had, with their details and so with the same signatures."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from milepost import rows
from milepost.arguments import hash_for_key
from milepost.create import directory_beside, refuse_long_directory
from milepost.errors import InvalidCheckpointError, MilepostError, RejectedCheckpointError
from milepost.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milepost.checkpoint import Checkpoint

    Entry = tuple[Checkpoint, str | None]

_BATCH: Final = 10_000  # entries that are appended at a time


class RefusedEntryError(MilepostError):
    """An entry cannot stand where it does: its `index` (0, 1, 2 …), and why."""

    def __init__(self, index: int, why: str) -> None:
        super().__init__(index, why)
        self.index, self.why = index, why


def restore(path: str, entries: Iterable[Entry], hmac_key: bytes | None) -> None:
    """
    Make a store of these entries: all of them, under its name and durably, or nothing.

    Args:
        path: The absolute name of a file that does not exist yet.
        entries: Checkpoints in chain order, each with its detail, which was checked, or None.
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
    checkpoints, details = [entry for entry, _ in batch], [detail for _, detail in batch]
    try:
        receipt = writer.append_many(checkpoints, details)
    except (InvalidCheckpointError, RejectedCheckpointError) as error:
        *facts, index = error.args
        raise RefusedEntryError(before + index, str(type(error)(*facts))) from None
    if receipt.duplicates:
        kept = writer.read(rows.checkpoints, writer.read(rows.numbered_rows, rows.Filter(after=before)))
        index = next(i for i, (entry, found) in enumerate(zip(checkpoints, [*kept, None], strict=False)) if entry != found)
        raise RefusedEntryError(before + index, "an earlier line has this checkpoint already: remove one of them")
