"""
A segment: a piece of a chain as one object, which anybody can check by itself.

An object begins with a line of ASCII, `milepost segment 1 ` and the SHA-256 (64 hex digits) of all bytes behind that line.
Behind it stands gzip, and in it lines of JSON in UTF-8:

1. the header, an object (see `Header`);
2. a line for each entry: its canonical bytes, exactly as the chain signs them;
3. a line for each cursor that was kept when the segment was made: `[position, "json", text]` or
   `[position, "bytes", base64]`.

Where a chain begins behind an archive, the first segment has no entries. It has a line for each row that the archive left in
the file, an array of the values of `KeptRow`, and leads to the base.

The objects of one name form a log. Each stands at a slot: the position that it begins after, and a number. The number counts
the claims at that position: a claim is a segment without entries, with which a shipper takes over. An object in `log` is
named by its slot, and is put only if there is none. One in `merged` repeats several that follow each other, and is named by
both its ends.
"""

from __future__ import annotations

import json
import re
import zlib
from base64 import b64decode, b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from milepost import cursors, details
from milepost.checkpoint import MAX_INTEGER, Checkpoint, Watermark
from milepost.checkpoint import fault as checkpoint_fault
from milepost.signature import EMPTY, fault_of_detail

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from milepost.cursors import Stored

MOST_ENTRIES: Final = 100_000
"""How many entries a segment has at most, and"""
MOST_BYTES: Final = 32 << 20
"""about how many bytes before it is compressed: more are shipped as several."""

MOST_OBJECT_BYTES: Final = 256 << 20
"""A longer object is refused before it is read: no shipper makes one."""

LONGEST_LINE: Final = 500_000
"""Bytes of the longest line: that of a cursor of 65,536 bytes, escaped, has 393,300."""

SEALED_BYTES: Final = 256 << 10
"""An object of this length is long enough, and is never merged again."""

MERGED_TOGETHER: Final = 32
"""How many shorter ones are merged into one."""

_MERGED_BYTES: Final = 8 << 20
_MOST_MERGED: Final = 1024
_LEVEL: Final = 1  # of zlib: twice as fast as the default, and a seventh longer
_TOGETHER: Final = 1000  # lines that are compressed at a time
_PIECE: Final = 1 << 18  # bytes that are decompressed at a time, so that no object can fill the memory
_MAGIC: Final = b"milepost segment 1 "
_FIRST_LINE: Final = len(_MAGIC) + 64 + 1
_HEX: Final = re.compile("[0-9a-f]*")
_MOST_DEPOSED: Final = 64


class SegmentError(Exception):
    """What is wrong with an object, in words; and at which entry of it (0, 1, 2 …), if it is one."""

    problem: str
    index: int | None

    def __init__(self, problem: str, index: int | None = None) -> None:
        super().__init__(problem, index)
        self.problem, self.index = problem, index


class Slot(NamedTuple):
    """A place in the log: behind which position of the chain, and behind how many claims there."""

    position: int
    number: int

    def __str__(self) -> str:
        return f"{self.position:019}-{self.number:09}"


FIRST: Final = Slot(0, 0)
"""Where every log begins."""


class Owner(NamedTuple):
    """
    Who ships.

    Attributes:
        shipper: The shipper, 32 hex digits, chosen at random.
        file: Which file it ships from (its inode and its time of birth), or None where the system cannot tell.
        deposed: The files of the shippers before it that have shipped nothing since another took over.
        host: The name of its machine, for messages.
        process: The number of its process, for messages.
        at_ms: When it took over, in ms since the epoch, for messages.
    """

    shipper: str
    file: str | None
    deposed: tuple[str, ...]
    host: str
    process: int
    at_ms: int


class Header(NamedTuple):
    """
    The first line of a segment.

    Attributes:
        begins: The slot that it begins at.
        ends: The slot behind it.
        before: The chain's signature (32 bytes) at the position that it begins after.
        signature: The chain's signature behind its last entry.
        entries: How many entries it has; none if it is a claim.
        cursors: How many cursors it has.
        kept: How many rows an archive has left, in the first segment of a chain that begins behind one; else 0.
        key_check: What reveals a wrong key (schema.sql, `keyed`), or None for a chain without one.
        owner: Who shipped the last of it.
    """

    begins: Slot
    ends: Slot
    before: bytes
    signature: bytes
    entries: int
    cursors: int
    kept: int
    key_check: bytes | None
    owner: Owner


class Segment(NamedTuple):
    """A segment in memory: the lines of its entries, or of what an archive has left, and cursors by position."""

    header: Header
    lines: Sequence[bytes]
    cursors: dict[int, Stored]


def deposed_by(owner: Owner | None, file: str | None) -> tuple[str, ...]:
    """Return which files are deposed once `file` takes over from an owner."""
    if owner is None:
        return ()
    before = [*owner.deposed, *([] if owner.file is None else [owner.file])]
    return tuple(dict.fromkeys(each for each in before if each != file))[-_MOST_DEPOSED:]


# The names of objects


def log_folder(name: str) -> str:
    """Return where the objects of a log are put one by one."""
    return f"{name}/log"


def merged_folder(name: str) -> str:
    """Return where the merged objects of a log are."""
    return f"{name}/merged"


def log_object(name: str, slot: Slot) -> str:
    """Return the name of the object at a slot."""
    return f"{name}/log/{slot}"


class Piece(NamedTuple):
    """An object of the log that is known by its name."""

    object_name: str
    begins: Slot
    ends: Slot | None  # None for the last one of `log`, whose name does not tell
    level: int  # how often its entries were merged
    size: int


def merged_piece(name: str, begins: Slot, ends: Slot, level: int, size: int) -> Piece:
    """Return the merged object between two slots."""
    return Piece(f"{name}/merged/{begins}_{ends}_{level}", begins, ends, level, size)


_SLOT: Final = "([0-9]{19})-([0-9]{9})"
_LOG_NAME: Final = re.compile(f".*/log/{_SLOT}")
_MERGED_NAME: Final = re.compile(f".*/merged/{_SLOT}_{_SLOT}_([0-9]{{1,2}})")


def slot_of(object_name: str) -> Slot | None:
    """Return the slot of an object of `log`, or None if its name is none of milepost's."""
    found = _LOG_NAME.fullmatch(object_name)
    return Slot(int(found[1]), int(found[2])) if found else None


def piece_of(object_name: str, size: int) -> Piece | None:
    """Return what the name of a merged object says, or None if it is none of milepost's."""
    found = _MERGED_NAME.fullmatch(object_name)
    if found is None:
        return None
    begins, ends = Slot(int(found[1]), int(found[2])), Slot(int(found[3]), int(found[4]))
    return Piece(object_name, begins, ends, int(found[5]), size) if begins < ends else None


def path_through(merged: Iterable[Piece], start: Slot) -> list[Piece]:
    """Return the fewest merged objects that lead from a slot as far as they go. Each may begin before the last one's end."""
    found, path, at = sorted(merged, key=lambda piece: piece.begins, reverse=True), list[Piece](), start
    furthest: tuple[Slot, Piece] | None = None
    while True:
        while found and found[-1].begins <= at:
            piece = found.pop()
            if piece.ends is not None and (furthest is None or piece.ends > furthest[0]):
                furthest = piece.ends, piece
        if furthest is None or furthest[0] <= at:
            return path
        at, piece = furthest
        path.append(piece)


def due(pieces: Sequence[Piece]) -> range | None:
    """
    Return which objects at the end of a log are to be merged next, or None.

    As soon as 32 short objects of one level stand at the end, they become one of the next level. So there are at most 31
    of each level, and an entry is written again once for each level. When a long object comes behind short ones, these are
    merged, however many there are. So there is at most one short object for each long one.
    """
    end = len(pieces)
    if not end:
        return None
    long = _sealed(pieces[-1])
    begin = stop = end - 1 if long else end
    while begin > 0 and not _sealed(pieces[begin - 1]) and (long or pieces[begin - 1].level == pieces[-1].level):
        begin -= 1
    if stop - begin < (2 if long else MERGED_TOGETHER):
        return None
    size, last = 0, begin
    while last < stop and last - begin < _MOST_MERGED and size <= _MERGED_BYTES:
        size += pieces[last].size
        last += 1
    return range(begin, last)


def _sealed(piece: Piece) -> bool:
    return piece.size >= SEALED_BYTES


# Objects


def encode(segment: Segment) -> bytes:
    """Return a segment as an object."""
    made = zlib.compressobj(_LEVEL, wbits=31)  # gzip, without a name or a time: the same segment gives the same bytes
    parts = [made.compress(_to_json(_header(segment.header)) + b"\n")]
    batches = (segment.lines[begin : begin + _TOGETHER] for begin in range(0, len(segment.lines), _TOGETHER))
    parts += [made.compress(b"\n".join([*lines, b""])) for lines in batches]
    for position, cursor in sorted(segment.cursors.items()):
        shown = ["json", cursor] if isinstance(cursor, str) else ["bytes", b64encode(cursor).decode()]
        parts.append(made.compress(_to_json([position, *shown]) + b"\n"))
    packed = b"".join([*parts, made.flush()])
    return _MAGIC + sha256(packed).hexdigest().encode() + b"\n" + packed


def _to_json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _header(header: Header) -> dict[str, Any]:
    owner = header.owner
    return {
        "begins": header.begins,
        "ends": header.ends,
        "signature_before": header.before.hex(),
        "signature": header.signature.hex(),
        "entries": header.entries,
        "cursors": header.cursors,
        "kept": header.kept,
        "key_check": None if header.key_check is None else header.key_check.hex(),
        "shipper": owner.shipper,
        "file": owner.file,
        "deposed": owner.deposed,
        "host": owner.host,
        "process": owner.process,
        "at_ms": owner.at_ms,
    }


class Reading:
    """
    An object while it is read: its header, and then its lines, once, without all of them in memory.

    Args:
        data: The object.

    Raises:
        SegmentError: It is not what a shipper put there.
    """

    def __init__(self, data: bytes) -> None:
        if data[: len(_MAGIC)] != _MAGIC or data[_FIRST_LINE - 1 : _FIRST_LINE] != b"\n":
            raise SegmentError("it does not begin as a segment of milepost does")
        packed = memoryview(data)[_FIRST_LINE:]
        if sha256(packed).hexdigest().encode() != data[len(_MAGIC) : _FIRST_LINE - 1]:
            raise SegmentError("its SHA-256 is not the one in its first line: it was changed or cut")
        self._lines = _unpacked(packed)
        self.header: Header = _checked_header(next(self._lines, b""))

    def entries(self) -> Iterator[bytes]:
        """
        Yield the line of each entry, or of each row that an archive has left. Read them to the end before the cursors.

        Raises:
            SegmentError: There are fewer than the header says.
        """
        lines = self.header.entries or self.header.kept
        for index in range(lines):
            line = next(self._lines, None)
            if line is None:
                raise SegmentError(f"it ends before entry {index + 1} of {lines}")
            yield line

    def cursors(self) -> Iterator[tuple[int, Stored]]:
        """
        Yield each cursor and the position of its entry, after the entries.

        Raises:
            SegmentError: One of them is none, or there are not as many as the header says.
        """
        for _ in range(self.header.cursors):
            yield _cursor(next(self._lines, b""), self.header)
        if next(self._lines, None) is not None:
            raise SegmentError("it has more lines than its header says")


def decode(data: bytes) -> Segment:
    """
    Return an object as a segment.

    Raises:
        SegmentError: It is not what a shipper put there.
    """
    reading = Reading(data)
    return Segment(reading.header, list(reading.entries()), dict(reading.cursors()))


def _unpacked(packed: memoryview) -> Iterator[bytes]:
    """Yield the lines of the compressed part, without their ends."""
    unpacking = zlib.decompressobj(wbits=31)
    begun, rest = b"", bytes(packed)
    try:
        while not unpacking.eof:
            more = unpacking.decompress(rest, _PIECE)
            rest = unpacking.unconsumed_tail
            if not more and not rest and not unpacking.eof:
                break
            *lines, begun = (begun + more).split(b"\n")
            yield from lines
            if len(begun) > LONGEST_LINE:
                raise SegmentError(f"a line has more than {LONGEST_LINE:,} bytes")
    except zlib.error as error:
        raise SegmentError(f"its compressed part cannot be read ({error})") from None
    if not unpacking.eof or unpacking.unused_data or begun:
        raise SegmentError("its compressed part does not end as a segment of milepost does")


def _checked_header(line: bytes) -> Header:
    given = _from_json(line, "its header")
    try:
        begins, ends = _slot(given["begins"]), _slot(given["ends"])
        key_check = given["key_check"]
        header = Header(
            begins,
            ends,
            _digest(given["signature_before"]),
            _digest(given["signature"]),
            _integer(given["entries"]),
            _integer(given["cursors"]),
            _integer(given["kept"]),
            None if key_check is None else _digest(key_check),
            Owner(
                _text(given["shipper"]),
                None if given["file"] is None else _text(given["file"]),
                tuple(map(_text, given["deposed"][:_MOST_DEPOSED])),
                _text(given["host"]),
                _integer(given["process"]),
                _integer(given["at_ms"]),
            ),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise SegmentError(f"its header is not that of a segment ({type(error).__name__}: {error})") from None
    if header.kept:
        if header.begins != FIRST or header.ends.position == 0 or header.entries:
            raise SegmentError("its header says that it has what an archive has left, which does not fit")
        return header
    if header.ends.position - header.begins.position != header.entries or header.begins >= header.ends:
        raise SegmentError(f"its header says {header.entries} entries from slot {begins} to {ends}, which does not fit")
    if header.begins.position == 0 and header.before != EMPTY:
        raise SegmentError("its header says that the empty chain has a signature")
    if header.entries == 0 and header.before != header.signature:
        raise SegmentError("its header says that the signature changes without an entry")
    return header


def _from_json(line: bytes, what: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SegmentError(f"{what} is no JSON ({error})") from None


def _slot(value: Any) -> Slot:
    position, number = value
    return Slot(_integer(position), _integer(number))


def _integer(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INTEGER:
        raise ValueError("no integer of 0 to 2^63-1")
    return value


def _digest(value: Any) -> bytes:
    if type(value) is not str or len(value) != 64 or not _HEX.fullmatch(value):
        raise ValueError("no 64 hex digits")
    return bytes.fromhex(value)


def _text(value: Any) -> str:
    if type(value) is not str or len(value) > 255:
        raise ValueError("no text of at most 255 characters")
    return value


def _cursor(line: bytes, header: Header) -> tuple[int, Stored]:
    given = _from_json(line, "the line of a cursor")
    try:
        position, kind, shown = given
        stored: Stored = b64decode(shown, validate=True) if kind == "bytes" else shown
        if type(position) is not int or kind not in {"json", "bytes"} or type(stored) not in (str, bytes):
            raise TypeError("no position, kind and text")  # noqa: TRY301 - all faults of a line end in one sentence
        cursors.check_stored(stored)
    except (TypeError, ValueError) as error:
        raise SegmentError(f"the line of a cursor is none ({error})") from None
    if not header.begins.position < position <= header.ends.position:
        raise SegmentError(f"it has a cursor of position {position}, which is not in it")
    return position, stored


# Entries


class ShippedEntry(NamedTuple):
    """An entry as its line has it. The store then checks whether its checkpoint is valid."""

    checkpoint: Checkpoint
    detail: str | None


def parse(lines: Sequence[bytes]) -> list[ShippedEntry]:
    """
    Return the entries of lines of canonical bytes.

    Raises:
        SegmentError: A line is no entry; the fault has its index.
    """
    try:
        given = json.loads(b"[%b]" % b",".join(lines))  # at once: a third faster than line by line
        if len(given) == len(lines):
            return [_entry(each, index) for index, each in enumerate(given)]
    except (ValueError, RecursionError):
        pass
    for index, line in enumerate(lines):
        try:
            _entry(json.loads(line), index)
        except (ValueError, RecursionError) as error:
            raise SegmentError(f"its line is no JSON ({error})", index) from None
    raise SegmentError("its lines are no entries")


def _entry(given: Any, index: int) -> ShippedEntry:
    try:
        run_id, stage, sequence, (offset, event_time_ms), key, at_ms, *more = given
        (detail,) = more or (None,)
    except (TypeError, ValueError):
        raise SegmentError("its line is no array of the values of an entry", index) from None
    if detail is not None:
        fault = fault_of_detail(detail)
        if fault is not None:
            raise SegmentError(f"its detail {fault}", index)
    elif more:
        raise SegmentError("its detail must be a text", index)
    return ShippedEntry(Checkpoint(run_id, stage, sequence, Watermark(offset, event_time_ms), key, at_ms), detail)


class KeptRow(NamedTuple):
    """A row that an archive has left: the columns of `entry`, each name beside its number, signatures in hex digits."""

    position: int
    run_number: int
    run_id: str
    stage_number: int
    stage: str
    sequence: int
    offset: int
    event_time_ms: int
    idempotency_key: str
    at_ms: int
    signature: str
    run_signature: str | None
    entries_so_far: int | None
    detail: str | None


def kept_line(row: KeptRow) -> bytes:
    """Return the line of a row that an archive has left."""
    return _to_json(row)


def parse_kept(line: bytes, index: int) -> KeptRow:
    """
    Return the row of a line. What it says is verified once all rows are in a file.

    Raises:
        SegmentError: It is none, or has values that no row has.
    """
    try:
        row = KeptRow._make(json.loads(line))
        for number in (row.position, row.run_number, row.stage_number):
            _integer(number)
        _digest(row.signature)
        if row.run_signature is not None:
            _digest(row.run_signature)
        if row.entries_so_far is not None:
            _integer(row.entries_so_far)
    except (TypeError, ValueError, RecursionError) as error:
        raise SegmentError(f"its line is no row that an archive leaves ({error})", index) from None
    mark = Watermark(row.offset, row.event_time_ms)
    wrong = checkpoint_fault(Checkpoint(row.run_id, row.stage, row.sequence, mark, row.idempotency_key, row.at_ms))
    said = wrong or (fault_of_detail(row.detail) if row.detail is not None else None)
    if said is not None:
        raise SegmentError(f"its line is no row that an archive leaves ({said})", index)
    return row


def has_cursor(detail: str | None) -> bool:
    """Return whether an entry with this detail had a cursor."""
    return detail is not None and "cursor" in details.parse(detail)


def check_cursor(cursor: Stored, detail: str | None) -> None:
    """
    Check that a cursor is the one of an entry's detail.

    Raises:
        SegmentError: It is another one.
    """
    if not details.signs(detail, cursor):
        raise SegmentError("its cursor is not the one in its detail")


def merge(segments: Sequence[Segment]) -> Segment:
    """
    Return one segment in place of several that follow each other, with the last two cursors of each stage of each run.

    Raises:
        SegmentError: They do not follow each other.
    """
    first, last = segments[0].header, segments[-1].header
    lines: list[bytes] = []
    kept: dict[tuple[str, str], list[tuple[int, Stored]]] = {}
    at, signature = first.begins, first.before
    for header, these, found in segments:
        if header.begins != at or header.before != signature or header.key_check != first.key_check:
            raise SegmentError(f"it begins at slot {header.begins}, and what is before it ends at {at} or otherwise")
        at, signature = header.ends, header.signature
        for position, cursor in sorted(found.items()):
            (entry,) = parse([these[position - header.begins.position - 1]])
            run_id, stage, *_ = entry.checkpoint
            kept.setdefault((str(run_id), str(stage)), []).append((position, cursor))
        lines += these
    left = dict(each for of_stage in kept.values() for each in of_stage[-2:])
    header = Header(
        first.begins, at, first.before, signature, len(lines), len(left), 0, first.key_check, last.owner
    )  # fmt: skip
    return Segment(header, lines, left)
