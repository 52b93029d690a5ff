"""
Ship a store's chain to a target, segment by segment, so that another machine can take over.

How one of two shippers is told, without a lease or a clock: every object of the log stands at a slot, and is put only if
there is none. A shipper begins with a claim, an object without entries. From then on it puts each object behind one that it
has put itself. Another shipper can only come in between with a claim of its own, at the very slot where this one puts next.
Claims are never removed, so this put fails. Other objects are removed once they are merged. Only a shipper without a claim
could meet such a gap, so a claim counts only if no merged object covers its slot after it was put.

After an error nobody knows whether an object was put. The same bytes are put again then: if they are there, they count.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import secrets
import socket
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING, Final, NamedTuple, NoReturn, Self, TypeVar, TypeVarTuple

from milepost import files, rows, segment, verify
from milepost.arguments import check_seconds
from milepost.database import Database
from milepost.errors import (
    ClosedStoreError,
    DamagedStoreError,
    DamagedTargetError,
    FencedError,
    ForkedStoreError,
    InvalidArgumentError,
    MilepostError,
    MilepostWarning,
    TargetError,
    note,
)
from milepost.readable import count, iso, size
from milepost.receipt import Head
from milepost.segment import FIRST, Header, Owner, Piece, Segment, SegmentError, Slot, log_object
from milepost.shipped import ShippedLog
from milepost.signature import EMPTY
from milepost.store import CheckpointStore
from milepost.targets import checked_name, target_of
from milepost.threads import start

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import apsw

    from milepost.shipped import Tail

T = TypeVar("T")
Given = TypeVarTuple("Given")

_CLAIMS: Final = 20
"""How often to claim again while others do the same."""

_AT_EXIT_S: Final = 5.0
"""How long the end of the interpreter waits for what a thread still ships."""

ASK_AGAIN_S: Final = 5.0
"""How long a follower with nothing to ship relies on what its target last said, in seconds: a request costs money."""

_LOOK_AGAIN_S: Final = 1.0
"""How often a thread checks whether its shipper was dropped, in seconds."""


def ship(store: CheckpointStore, target: object, name: str, *, every_s: float | None = None) -> Shipper:
    """
    Ship a store's chain to a directory or an object store, so that another machine can go on if this one dies.

    This takes over: a shipper that shipped under this name before gets FencedError at its next `ship()`, also if it has
    nothing to ship. Call it before the pipeline begins its work, and `shipper.ship()` after a commit that must not be lost
    with this machine.

    Entries are shipped with their details and with the cursors that are kept. The tables of your own in the file are not.

    Args:
        store: The store, open to write or to read. The shipper reads committed entries only.
        target: The path of a directory, a URL (`s3://bucket/folder`, `gs://…`, `az://…`, `memory://`) or a store of
            obstore. All but a directory need the extra `ship`.
        name: The store's name there: 1 to 200 of the characters A-Z, a-z, 0-9, `.`, `_` and `-`, the first a letter or a
            digit.
        every_s: Also ship every so many seconds, in a thread; None for at `ship()` alone. With nothing to ship, the thread
            asks at most every 5 seconds whether another has taken over.

    Returns:
        The shipper, which is a context manager.

    Raises:
        InvalidArgumentError: An argument breaks a rule.
        FencedError: What is shipped there is not the beginning of this store's chain, or another took over from this file.
        DamagedTargetError: The last object there is not what was shipped.
        TargetError: The target cannot be used.
        MissingPackageError: obstore is not installed: it is part of the extra `ship`.
        StoreError: The file cannot be read.
    """
    if not issubclass(type(store), CheckpointStore):  # isinstance() asks the value, which may be anything
        raise InvalidArgumentError("store", store, "must be a CheckpointStore")
    if every_s is not None:
        check_seconds("every_s", every_s)
    return Shipper(store._database, ShippedLog(target_of(target), checked_name(name)), every_s)  # noqa: SLF001 - no method, since a store need not know


class _Pending(NamedTuple):
    """An object that was made, and may have been put."""

    slot: Slot
    header: Header
    data: bytes


class Shipper:
    """
    Ships the chain of one store, as `milepost.ship` makes it. Threads may share it.

    With `every_s` a thread ships too. It ends with `close()`, and never keeps the interpreter alive, which waits at most 5
    seconds for its last ship. What it fails at comes as a MilepostWarning, and from the next `ship()` or `close()`.
    """

    def __init__(self, database: Database, log: ShippedLog, every_s: float | None) -> None:
        self._database = database
        self._log = log
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._holder: int | None = None  # the thread that ships
        self._closed = False
        self._fenced: FencedError | None = None
        self._pending: _Pending | None = None
        self._pieces: list[Piece] = []
        self._recent: dict[str, bytes] = {}  # the last objects, which are merged next
        self._follower: _Follower | None = None
        self._late: Exception | None = None  # what the thread failed at since its last success
        state = self._read(rows.chain_state)
        self._key_check = state.key_check
        self._hash = None if state.key_check is not None and database.hmac is None else database.hash
        self._at = self._claim()
        self._told_at = time.monotonic()  # when the target last said that no other has taken over
        if every_s is not None:
            self._follower = _Follower(self, every_s)
            self._follower.start()

    @property
    def shipped(self) -> Head:
        """The head of what was shipped. Keep it elsewhere: `verify(expected=…)` of what is restored must contain it."""
        slot, signature = self._at
        return Head(slot.position, signature.hex())

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def ship(self) -> Head:
        """
        Ship every entry that is committed and not yet shipped.

        Once this returns, they are in the target. If it raises, some of them may be; call it again to ship the rest.

        Without such an entry it asks the target whether another has taken over. That is one request for an object that is
        not there, or a look at one name in a directory.

        Returns:
            The head of what is shipped.

        Raises:
            FencedError: Another shipper has taken over.
            DamagedTargetError: An object that was to be merged is not what was shipped.
            TargetError: The target cannot be used.
            DamagedStoreError: An entry is not what the chain signs. Without the key of a keyed chain, nobody sees that.
            StoreError: The file cannot be read, the shipper is closed, or it was made before a fork.
        """
        if self._closed:
            raise ClosedStoreError(self._database.path, "its shipper is closed: call milepost.ship() again")
        self._raise_late()
        return self._ship()

    def close(self) -> None:
        """
        End the shipper. One with `every_s` ships the rest first. A second call does nothing.

        Raises:
            MilepostError: As `ship`, if the rest could not be shipped. The shipper is closed all the same. After
                an interrupt, such as Ctrl-C, the next call ships the rest.
        """
        follower = self._follower
        if follower is None or os.getpid() != self._process:
            self._closed = True
            return
        self._refuse_call_within_call()  # the thread may be waiting for that one
        self._closed = True
        try:
            follower.stop()
            self._raise_late()
            self._ship(math.inf)  # without a rest nothing is lost, whoever has taken over
        except Exception:
            self._follower = None
            raise
        self._follower = None  # last: after an interrupt before this, there is something left to do

    def _raise_late(self) -> None:
        """Raise what the thread met. What may have passed meanwhile is tried again instead: that gives its own error."""
        if self._late is not None and not isinstance(self._late, MilepostError):
            late, self._late = self._late, None
            raise late

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except MilepostError as late:
            if error is None:
                raise
            note(error, "and the shipper could not ship the rest", late)

    def __del__(self) -> None:
        follower = getattr(self, "_follower", None)
        if follower is not None and os.getpid() == self._process:
            follower.ring()  # whoever keeps the warning keeps its source too
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        name, label = self._log.name, self._log.target.label
        return f"<Shipper of {self._database.path!r} to {name!r} in {label!r}{', closed' if self._closed else ''}>"

    # Shipping

    def _ship_meanwhile(self, relies_s: float) -> bool:
        """Ship in the thread; return whether to go on. An error is told at once as a warning, and raised later."""
        try:
            self._ship(relies_s)
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            first, self._late = self._late is None, error
            if first or isinstance(error, FencedError):
                with contextlib.suppress(MilepostWarning):  # where warnings are errors, the caller gets it later
                    warnings.warn(f"{self!r} cannot ship, and tries again: {error}", MilepostWarning, stacklevel=1)
            return not isinstance(error, FencedError)
        self._late = None
        return True

    def _ship(self, relies_s: float = 0.0) -> Head:
        """Ship. With nothing to ship, rely for so many seconds on what the target last said, and then ask it."""
        if os.getpid() != self._process:
            raise ForkedStoreError(
                self._database.path, "its shipper was made before a fork: ship from the parent, or from a store of the child"
            )
        self._refuse_call_within_call()
        with self._lock:
            try:
                self._holder = threading.get_ident()
                return self._ship_rest(relies_s)
            finally:
                self._holder = None

    def _refuse_call_within_call(self) -> None:
        # Not the first alone: an interrupt may have left it set.
        if self._holder == threading.get_ident() and self._lock.locked():
            raise TargetError(
                self._log.target.label, "a signal handler called ship() or close() during a ship(): call it afterwards"
            )

    def _ship_rest(self, relies_s: float) -> Head:
        if self._fenced is not None:
            raise FencedError(*self._fenced.args)
        began = self._at
        if self._pending is not None:
            self._put(self._pending)
        left: int | None = None
        while left is None or left > 0:  # what is committed after the first look is left to the next call
            (position, _), signature = self._at
            found = self._read(rows.shippable, position, segment.MOST_ENTRIES, segment.MOST_BYTES, self._hash)
            if found.before != signature:
                self._refuse_archived(position)
                self._raise_fenced(self.shipped, self.shipped, "this file no longer has what was shipped from it")
            left = found.left if left is None else left - len(found.lines)
            if not found.lines:
                break
            ends = Slot(position + len(found.lines), 0)
            self._put(self._made(self._at, ends, found, self._owner))
        if self._at == began and time.monotonic() - self._told_at >= relies_s:  # a put would have been told
            self._ask()
        self._merge()
        return self.shipped

    def _read(self, query: Callable[[apsw.Connection, *Given], T], *given: *Given) -> T:
        try:
            return self._database.read_committed(query, *given)
        except ClosedStoreError:  # the store was closed before its shipper
            own = Database(self._database.path, self._database.vfs, None).open()
            try:
                return own.read_committed(query, *given)
            finally:
                own.close()

    def _made(self, at: tuple[Slot, bytes], ends: Slot, found: rows.Shippable, owner: Owner) -> _Pending:
        slot, signature = at
        header = Header(
            slot, ends, signature, found.signature, len(found.lines), len(found.cursors), 0, self._key_check, owner
        )  # fmt: skip
        return _Pending(slot, header, segment.encode(Segment(header, found.lines, found.cursors)))

    def _made_beginning(self) -> _Pending | None:
        """Return the first segment of a chain that begins behind an archive, which is a claim too; None for any other."""
        found = self._read(rows.beginning)
        if found.base.position == 0:
            return None
        if self._hash is not None and (faults := verify.faults_of_base(self._database)):
            advice = "verify() it, and restore it from a copy"
            if self._database.sealed:
                advice = "this archive cannot judge by itself what an earlier one has left: ship the store that it is of"
            raise DamagedStoreError(self._database.path, f"{faults[0]}: {advice}")
        lines = [segment.kept_line(_kept_row(*each)) for each in found.rows]
        ends, key_check = Slot(found.base.position, 0), self._key_check
        header = Header(
            FIRST, ends, EMPTY, found.base.signature, 0, len(found.cursors), len(lines), key_check, self._owner
        )  # fmt: skip
        data = segment.encode(Segment(header, lines, found.cursors))
        if len(data) > segment.MOST_OBJECT_BYTES:
            problem = (
                f"the {count(len(lines), 'entry')} that an archive has left have {size(len(data))} in one object, and "
                f"restore() takes {size(segment.MOST_OBJECT_BYTES)}: let the runs of its bags finish, and archive again"
            )
            raise TargetError(self._log.target.label, problem)
        return _Pending(FIRST, header, data)

    def _put(self, made: _Pending) -> None:
        self._pending = made
        name = log_object(self._log.name, made.slot)
        if not self._log.target.put_new(name, made.data):
            found = self._log.target.get(name)
            if found != made.data:
                self._fence(made.slot, found)
        ends = made.header.ends
        if not self._pieces or self._pieces[-1].object_name != name:  # it may be there after an interrupt
            self._pieces.append(Piece(name, made.slot, ends, 0, len(made.data)))
        if len(made.data) < segment.SEALED_BYTES and len(self._recent) < segment.MERGED_TOGETHER:
            self._recent[name] = made.data
        self._at = ends, made.header.signature
        self._told_at = time.monotonic()
        self._pending = None  # last: after an interrupt before this, the same is put again, and is found there

    def _ask(self) -> None:
        """Refuse to go on if another has taken over: its claim, which stays for ever, is where this one would put next."""
        slot, _ = self._at
        found = self._log.target.get(log_object(self._log.name, slot))
        if found is not None:
            self._fence(slot, found)
        self._told_at = time.monotonic()

    def _fence(self, slot: Slot, data: bytes | None) -> NoReturn:
        found, by = self.shipped, "who has merged its objects since"
        if data is not None:
            piece = Piece(log_object(self._log.name, slot), slot, None, 0, len(data))
            header = self._log.reading(piece, data).header
            found, by = Head(header.ends.position, header.signature.hex()), _who(header.owner)
        self._raise_fenced(self.shipped, found, by)

    def _raise_fenced(self, shipped: Head | None, found: Head, by: str) -> NoReturn:
        last = self._read(rows.chain_state).position
        unshipped = None if shipped is None else max(0, last - shipped.entries)
        self._fenced = FencedError(self._log.target.label, self._log.name, shipped, found, unshipped, by)
        raise self._fenced

    # Taking over

    def _claim(self) -> tuple[Slot, bytes]:
        """Put a claim at the end of the log, and return what is behind it."""
        for _ in range(_CLAIMS):
            tail = self._log.tail()
            file = files.birth_of(self._database.path)
            self._check_ours(tail, file)
            self._owner = Owner(
                secrets.token_hex(16),
                file,
                segment.deposed_by(tail.owner, file),
                socket.gethostname()[:255],
                os.getpid(),
                time.time_ns() // 1_000_000,
            )
            claim = self._made_beginning() if tail.owner is None else None
            if claim is None:
                ends = Slot(tail.slot.position, tail.slot.number + 1)
                nothing = rows.Shippable(tail.signature, [], tail.signature, {}, 0)
                claim = self._made((tail.slot, tail.signature), ends, nothing, self._owner)
            name = log_object(self._log.name, tail.slot)
            if not self._log.target.put_new(name, claim.data) and self._log.target.get(name) != claim.data:
                continue  # somebody else was faster
            self._refuse_unconditional(name, claim.data)
            # Twice: while one merged object gives way to a longer one, a look at the names may miss both.
            if any(piece.ends and piece.ends > tail.slot for _ in range(2) for piece in self._log.merged()):
                continue  # somebody else had an object here, and has merged it
            ends = claim.header.ends
            size = len(claim.data) + claim.header.kept * segment.SEALED_BYTES  # what an archive has left is never merged
            self._pieces = [*tail.pieces, Piece(name, tail.slot, ends, 0, size)]
            # From here on nobody deposed matters once an entry is shipped.
            self._owner = self._owner._replace(deposed=())
            self._log.target.tidy(self._log.name)
            return ends, claim.header.signature
        raise TargetError(self._log.target.label, f"{self._log.name}: others keep taking over: let one pipeline ship it")

    def _refuse_unconditional(self, name: str, data: bytes) -> None:
        """Refuse a target that puts an object although there is one, as some that speak S3: no zombie would be told."""
        if self._log.target.put_new(name, data):
            problem = (
                f"it takes {name} although there is one, so it cannot tell two shippers apart: use an object store that "
                "honours If-None-Match, or a directory"
            )
            raise TargetError(self._log.target.label, problem)

    def _check_ours(self, tail: Tail, file: str | None) -> None:
        """Refuse to ship behind what is not the beginning of this chain, and from a file that another took over from."""
        state, here = self._read(rows.chain_state), tail.slot.position
        found = Head(here, tail.signature.hex())
        by = "nobody" if tail.owner is None else _who(tail.owner)
        if tail.owner is None:
            return
        self._refuse_archived(here)
        # Also where no entry is shipped yet: behind a claim of a keyed chain, restore takes no other one.
        contained = tail.key_check == state.key_check and (
            here == 0 or self._read(rows.signature_at, here) == tail.signature
        )
        if not contained or (file is not None and file in tail.owner.deposed):
            self._raise_fenced(found if contained else None, found, by)

    def _refuse_archived(self, shipped: int) -> None:
        """Refuse a file that begins behind what is shipped: the entries in between were archived first."""
        base = self._read(rows.chain_state).base
        if shipped < base:
            problem = (
                f"{self._log.name} has {count(shipped, 'entry')} there, and this file begins behind entry {base:,}, since "
                "the others were archived before they were shipped: ship it under another name, and from now on before you "
                "archive"
            )
            raise TargetError(self._log.target.label, problem)

    # Merging

    def _merge(self) -> None:
        """Merge short objects. Everything is shipped without it, so it is tried again later if the target fails."""
        try:
            while (chosen := segment.due(self._pieces)) is not None and self._merge_once(chosen):
                pass
        except DamagedTargetError:
            raise
        except TargetError:
            pass

    def _merge_once(self, chosen: range) -> bool:
        pieces = self._pieces[chosen.start : chosen.stop]
        parts: list[Segment] = []
        for piece in pieces:
            if parts and piece.begins < parts[-1].header.ends:
                # As two shippers leave them that merged while one took over: merge from here on, and leave those before.
                self._seal(chosen.start + len(parts) - 1)
                return True
            data = self._recent.get(piece.object_name) or self._log.target.get(piece.object_name)
            if data is None or (parts and parts[-1].header.ends != piece.begins):
                return self._look_again(pieces, piece.begins if data is None else parts[-1].header.ends)
            if self._log.reading(piece, data).header.kept:
                self._seal(chosen.start + len(parts))
                return True
            try:
                parts.append(segment.decode(data))
            except SegmentError as fault:
                raise self._log.damaged(piece, fault) from None
        try:
            merged = segment.merge(parts)
        except SegmentError as fault:
            raise self._log.damaged(pieces[0], fault) from None
        data = segment.encode(merged)
        level = min(max(piece.level for piece in pieces) + 1, 99)
        made = segment.merged_piece(self._log.name, merged.header.begins, merged.header.ends, level, len(data))
        if not self._log.target.put_new(made.object_name, data):  # by this one before an error, or by one before this one
            there = self._log.read(made)
            if there is None or there.header.signature != merged.header.signature:
                raise self._log.damaged(made, SegmentError("it is not what the objects say that it repeats"))
        self._pieces[chosen.start : chosen.stop] = [made]
        # Claims stay for ever: they are what another shipper runs into.
        covered = [piece.object_name for piece, part in zip(pieces, parts, strict=True) if piece.level or part.lines]
        for name in [piece.object_name for piece in pieces]:
            self._recent.pop(name, None)
        with contextlib.suppress(TargetError):  # without permission to remove, they stay beside the merged one
            if covered:
                self._log.target.remove(covered)
        return True

    def _seal(self, index: int) -> None:
        """Never merge an object, as if it were long enough."""
        self._pieces[index] = self._pieces[index]._replace(size=segment.SEALED_BYTES)

    def _look_again(self, pieces: list[Piece], at: Slot) -> bool:
        """Another shipper merged some of these objects, as long as it still owned them; or one is missing."""
        names = {piece.object_name for piece in pieces}
        found = self._log.tail().pieces
        if names <= {piece.object_name for piece in found}:
            raise self._log.missing(at)
        self._pieces = found
        self._recent.clear()
        return False


def _kept_row(row: rows.EntryRow, run_id: str, stage: str) -> segment.KeptRow:
    own = None if row.run_signature is None else row.run_signature.hex()
    return segment.KeptRow(
        row.position, row.run_number, run_id, row.stage_number, stage, row.sequence, row.offset, row.event_time_ms,
        row.idempotency_key, row.at_ms, row.signature.hex(), own, row.entries_so_far, row.detail,
    )  # fmt: skip


def _who(owner: Owner) -> str:
    host = owner.host if owner.host.isprintable() else ascii(owner.host)
    return f"process {owner.process} of {host}, which took over at {iso(owner.at_ms)}"


class _Follower:
    """
    A thread that ships every `every_s` seconds, until `stop`, and once more at the end of the interpreter.

    It ends too when the shipper is dropped.
    """

    def __init__(self, shipper: Shipper, every_s: float) -> None:
        self._bell = threading.Lock()
        self._bell.acquire()
        self.at_exit = False
        self.thread = threading.Thread(
            target=_follow, args=(weakref.ref(shipper), self, every_s, self._bell), name="milepost-shipper", daemon=True
        )

    def start(self) -> None:
        """Begin."""
        start(self.thread)

    def ring(self) -> None:
        """Let the thread end, after what it ships now."""
        with contextlib.suppress(RuntimeError):  # a second time
            self._bell.release()

    def stop(self) -> None:
        """Let the thread end, and wait for it."""
        self.ring()
        if self.thread is not threading.current_thread():
            self.thread.join()


def _follow(shipper: weakref.ref[Shipper], follower: _Follower, every_s: float, bell: threading.Lock) -> None:
    _followers[threading.current_thread()] = follower
    try:
        due = time.monotonic() + every_s
        while not bell.acquire(timeout=max(0.0, min(due - time.monotonic(), _LOOK_AGAIN_S))):
            found = shipper()
            if found is None:
                return
            if time.monotonic() >= due:
                if not found._ship_meanwhile(ASK_AGAIN_S):  # noqa: SLF001 - of this module
                    return
                due = time.monotonic() + every_s
            del found
        found = shipper()
        if follower.at_exit and found is not None:
            found._ship_meanwhile(math.inf)  # noqa: SLF001
    finally:
        _followers.pop(threading.current_thread(), None)


_followers: dict[threading.Thread, _Follower] = {}


@atexit.register
def _at_exit() -> None:
    deadline = time.monotonic() + _AT_EXIT_S
    for thread, follower in list(_followers.items()):
        follower.at_exit = True
        follower.ring()
        thread.join(max(0.0, deadline - time.monotonic()))
