"""Make a store of what was shipped, and verify what is read on the way, for `CheckpointStore.restore`."""

from __future__ import annotations

import os
import warnings
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw

from milepost import inherited, rows, segment, verify
from milepost.create import directory_beside, refuse_long_directory
from milepost.errors import (
    InvalidCheckpointError,
    MilepostWarning,
    NothingShippedError,
    RejectedCheckpointError,
    StoreError,
    WrongKeyError,
)
from milepost.readable import count
from milepost.segment import FIRST, SegmentError, Slot
from milepost.shipped import ShippedLog
from milepost.signature import EMPTY, ChainBase, key_check, same
from milepost.targets import checked_name, target_of
from milepost.writer import Writer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from milepost.segment import Header, Piece, Reading
    from milepost.signature import Hash

_BATCH: Final = 10_000  # entries appended at a time
_ATTEMPTS: Final = 20  # to read an object that is merged again and again


def restore(path: str, target: object, name: object, hmac: Hash | None) -> None:
    """
    Make a file of what was shipped. It appears durably and as a whole, or not at all.

    Args:
        path: The absolute name of a file that does not exist yet.
        target: Where the store was shipped to.
        name: Its name there.
        hmac: The hash with the caller's key; None without a key.

    Raises:
        InvalidArgumentError: `target` or `name` is none.
        DamagedTargetError: An object is not what was shipped, or is missing.
        TargetError: Nothing is shipped there, or it cannot be read.
        WrongKeyError: The chain has another key, or none.
        StoreError: The file exists already, or cannot be written.
    """
    log = ShippedLog(target_of(target), checked_name(name))
    refuse_long_directory(path, levels=2)  # the store to fill needs a temporary directory within this one
    if os.path.lexists(path):
        raise StoreError(path, "the file exists already, and restore never overwrites: choose another path")
    objects = _objects(log)
    first = next(objects, None)
    if first is None:
        raise NothingShippedError(log.target.label, f"nothing is shipped under the name {name}: check both")
    _check_key(path, first[1].header, hmac)
    process = os.getpid()
    with directory_beside(path) as made:
        writer = Writer(
            str(Path(made, "new")),
            synchronous="normal",  # only the copy of it must be durable
            busy_timeout_ms=Writer.busy_timeout_ms,  # nobody else knows this file, but a fork takes a turn at it too
            vfs=None,
            hmac=hmac,
        )
        with closing(writer.open()):
            inherited.refuse_child(process, path)  # which has opened what its parent fills, as a store of its own
            _Filling(log, writer, first[1].header.key_check).fill(first, objects)
            if first[1].header.kept:
                _verify_kept(log, writer, first[0])
            ends = writer.read(rows.kept_cursors, None)
            lost = [kept.position for kept in ends if kept.found == "none" and segment.has_cursor(kept.detail)]
            writer.copy_to(path)
    if lost:
        warnings.warn(
            f"{path}: {count(len(lost), 'stage')} lost the cursor of the last checkpoint (the first at position "
            f"{lost[0]:,}), since the node died during a ship of many segments: find out where to go on before you resume",
            MilepostWarning,
            stacklevel=3,  # the line that restores
        )


def _objects(log: ShippedLog) -> Iterator[tuple[Piece, Reading, Slot]]:
    """Yield each object that leads from the first slot to the last one, and the slot from which on it is needed."""
    at, attempts, at_end = FIRST, 0, False
    while pieces := log.pieces_from(at):
        for piece in pieces:
            if piece.begins > at:  # the one before ends elsewhere than its neighbour begins: look again
                break
            reading = log.read(piece)
            if reading is None:  # merged meanwhile, or missing
                break
            yield piece, reading, at
            at, attempts = reading.header.ends, 0
        else:
            if at_end:
                return
            at_end = True  # look once more: while one merged object gives way to a longer one, a look may miss both
            continue
        attempts += 1
        if attempts > _ATTEMPTS:
            raise log.damaged(pieces[0], SegmentError("the object is listed, but cannot be read"))


def _check_key(path: str, header: Header, hmac: Hash | None) -> None:
    if header.key_check is None:
        if hmac is not None:
            raise WrongKeyError(path, "the shipped chain is not keyed, and a key was given: restore it without a key")
    elif hmac is None:
        raise WrongKeyError(path, "the shipped chain is keyed, and no key was given: give the one it was made with")
    elif not same(header.key_check, key_check(hmac)):
        raise WrongKeyError(path, "the shipped chain is keyed with another key: give the one it was made with")


def _verify_kept(log: ShippedLog, writer: Writer, first: Piece) -> None:
    """Check what an archive has left against the entry that records the archive, which comes later in the chain."""
    if writer.read(rows.tip) == writer.read(rows.chain_base):
        problem = f"only the beginning of {log.name} is shipped: ship it from where it is"
        raise NothingShippedError(log.target.label, problem)
    found = verify.verify_chain(writer, None, None, 1, None)
    if not found.ok:
        raise log.damaged(first, SegmentError(f"what an archive has left is not what it recorded ({found.faults[0]})"))


class _Filling:
    """A new store while it is filled."""

    def __init__(self, log: ShippedLog, writer: Writer, key_check: bytes | None) -> None:
        self._log = log
        self._writer = writer
        self._key_check = key_check
        self._signature = EMPTY

    def fill(self, first: tuple[Piece, Reading, Slot], others: Iterator[tuple[Piece, Reading, Slot]]) -> None:
        """Append the entries of all objects."""
        self._add(*first)
        for each in others:
            self._add(*each)

    def _add(self, piece: Piece, reading: Reading, at: Slot) -> None:
        header = reading.header
        try:
            if header.key_check != self._key_check:
                raise SegmentError("its chain has another key than that of the objects before it")  # noqa: TRY301
            if header.begins.position == at.position and header.before != self._signature:
                raise SegmentError("it does not follow from the object before it: one of the two was changed")  # noqa: TRY301
            if header.kept:
                self._add_beginning(reading)
                return
            self._add_entries(piece, reading, at.position - header.begins.position)
            if header.signature != self._signature:
                raise SegmentError(  # noqa: TRY301
                    f"its entries lead to the signature {self._signature.hex()[:12]}…, and its header says "
                    f"{header.signature.hex()[:12]}…: it was changed"
                )
        except SegmentError as fault:
            raise self._log.damaged(piece, fault) from None

    def _add_beginning(self, reading: Reading) -> None:
        """Put in what an archive has left. It is verified at the end, when the archive's own entry is there."""
        header = reading.header
        kept = [segment.parse_kept(line, index) for index, line in enumerate(reading.entries())]
        begins = rows.Beginning(
            ChainBase(header.ends.position, header.signature), [_entry_row(row) for row in kept], dict(reading.cursors())
        )
        if any(row.position > header.ends.position for row in kept):
            raise SegmentError("it has a row behind the position that it leads to")
        try:
            self._writer.do(lambda end: rows.put_beginning(end.statements, begins))
        except StoreError as error:
            if not isinstance(error.__cause__, apsw.ConstraintError | apsw.CorruptError):
                raise
            raise SegmentError(f"its rows contradict each other ({error.__cause__})") from None
        self._signature = header.signature

    def _add_entries(self, piece: Piece, reading: Reading, known: int) -> None:
        """Append the entries but for the first few, which another object had already."""
        lines = reading.entries()
        for _ in islice(lines, known):
            pass
        begin, index = piece.begins.position, known
        with_cursor: dict[int, str | None] = {}
        while batch := list(islice(lines, _BATCH)):
            try:
                entries = segment.parse(batch)
            except SegmentError as fault:
                raise SegmentError(fault.problem, index + (fault.index or 0)) from None
            for place, entry in enumerate(entries, begin + index + 1):
                if segment.has_cursor(entry.detail):
                    with_cursor[place] = entry.detail
            self._append(entries, index)
            index += len(batch)
        kept = {position: cursor for position, cursor in reading.cursors() if position > begin + known}
        for position, cursor in kept.items():
            try:
                segment.check_cursor(cursor, with_cursor.get(position))
            except SegmentError as fault:
                raise SegmentError(fault.problem, position - begin - 1) from None
        if kept:
            self._writer.restore([], [], dict(sorted(kept.items())))

    def _append(self, entries: list[segment.ShippedEntry], index: int) -> None:
        try:
            receipt = self._writer.restore([entry.checkpoint for entry in entries], [entry.detail for entry in entries], {})
        except (InvalidCheckpointError, RejectedCheckpointError) as error:
            *facts, place = error.args
            raise SegmentError(f"no store takes its entry ({type(error)(*facts)})", index + (place or 0)) from None
        if receipt.duplicates:
            raise SegmentError("an entry of it was in the chain before", index)
        self._signature = bytes.fromhex(receipt.signature)


def _entry_row(row: segment.KeptRow) -> tuple[rows.EntryRow, str, str]:
    own = None if row.run_signature is None else bytes.fromhex(row.run_signature)
    entry = rows.EntryRow(
        row.position, row.run_number, row.stage_number, row.sequence, row.offset, row.event_time_ms, row.idempotency_key,
        row.at_ms, bytes.fromhex(row.signature), own, row.entries_so_far, row.detail,
    )  # fmt: skip
    return entry, row.run_id, row.stage
