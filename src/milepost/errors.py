"""
Every exception that milepost raises, grouped by what you can do next.

MilepostError                                  catch this to catch every error of milepost
├── InvalidArgumentError (ValueError)          an argument breaks a rule: correct the call
├── InvalidCheckpointError (ValueError)        a checkpoint breaks a rule of `valid`: correct the checkpoint
├── RejectedCheckpointError                    the checkpoint is valid, but does not fit the chain
│   ├── IdempotencyConflictError               the key is already recorded with other content
│   ├── SequenceError                          the sequence is not above the last one
│   ├── StageMovedError                        the stage is not where `after` says: read its resume point
│   └── WatermarkRegressionError               the watermark would go backwards
├── NoCheckpointError (LookupError)            nothing is recorded there yet: start from the beginning
├── RunFinishedError                           the run has finished: use another run_id, or again=True
├── RunExistsError                             a branch into a run that has the stage: branch into another one
├── SourceChangedError                         a loop would resume with another source: pass the same one
├── CursorNotKeptError                         a branch from where the cursor is gone: branch from a later checkpoint
├── ArchivedStageError                         keys or entries of the stage are in an archive: use another run
├── StoreError                                 the file or its use is at fault, not the entry
│   ├── NotAStoreError                         the file is not milepost's; it was not changed
│   ├── SchemaVersionError                     the file has another format version
│   ├── WrongKeyError                          the chain needs another key, or none
│   ├── DamagedStoreError                      SQLite cannot read the file
│   ├── ReadOnlyStoreError                     the store is read-only, or a permission is missing
│   ├── ClosedStoreError                       the store was used after close()
│   ├── ForkedStoreError                       the store was used after a fork: open another in the child
│   ├── EntriesArchivedError                   an archive overtook a walk along the chain: begin it again
│   ├── FailedStoreError                       the store can no longer promise durability: reopen it
│   ├── StoreFullError                         the disk is full: free some space and retry
│   └── StoreBusyError (TimeoutError)          another writer held the lock: retry
├── TargetError                                where a store is shipped to cannot be used: check it and retry
│   ├── NothingShippedError (LookupError)      nothing is shipped under that name: check it, or begin anew
│   ├── DamagedTargetError                     an object there is missing or changed: restore it from a copy
│   └── FencedError                            another shipper has taken over: stop, and restore what it ships
├── MissingPackageError (ModuleNotFoundError)  an optional package is missing: install it
└── BrokenChainError                           `Verification.raise_if_broken()` found faults

MilepostWarning (UserWarning)                  a warning: it works now, and may fail later

An error's facts are its attributes, and its `args` in the same order, so that errors pickle. Some values cannot be pickled,
such as a generator. Another process gets such a value as the text that stands for it in the message.
"""

from __future__ import annotations

import contextlib
import errno
import reprlib
from pickle import dumps  # only to try whether a value can be pickled: nothing here reads a pickle
from typing import TYPE_CHECKING, Any

from milepost.readable import count, iso

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milepost.checkpoint import Checkpoint, Watermark
    from milepost.receipt import Head, Receipt
    from milepost.verification import Fault

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 40


def shown(value: object) -> str:
    """Describe any value in one short line, without control characters that a terminal would obey."""
    if type(value) is _Description:
        return value.text
    try:
        text = _SHORT.repr(value)
    except Exception as error:
        if _is_plain(value) and not isinstance(error, ValueError):  # which an int with too many digits raises
            raise
        text = f"<{kind(value)}>"  # a hostile value must not hide the error about it
    return text if text.isprintable() else ascii(text)


def _is_plain(value: object) -> bool:
    """Return whether a value runs no code of the caller. What is raised over it comes of a signal handler."""
    return any(type(value) is plain for plain in (str, int, float, bytes, bool, type(None)))  # no foreign type is compared


def kind(value: object) -> str:
    """Name a value's type for a message. A metaclass cannot falsify the name."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name if len(name) <= 80 and name.isprintable() else ascii(name[:80])[:80]


def is_of_system(error: BaseException) -> bool:
    """
    Return whether an exception is an error of the operating system, and not one that a signal handler has raised.

    The handler of an alarm often raises TimeoutError, which is an OSError as well. Such a one has no errno.
    """
    return isinstance(error, OSError) and error.errno is not None


def note(error: BaseException, what: str, failure: Exception) -> None:
    """Note a failure on an exception that goes on. One that takes no note goes on without it: nothing may take its place."""
    said = failure if isinstance(failure, MilepostError) else shown(failure)
    with contextlib.suppress(Exception):
        error.add_note(f"{what}: {said}")


class _Description:
    """The description of a value that could not be pickled."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return type(other) is _Description and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def _picklable(value: object) -> object:
    """Return the value if it can be pickled, or else its description."""
    try:
        dumps(value)
    except Exception:
        if _is_plain(value):
            raise
        return _Description(shown(value))  # a value may raise anything there, and the error about it must arrive
    return value


class MilepostError(Exception):
    """The base class of every exception of milepost."""

    def __repr__(self) -> str:
        """Show the error as Python does, or shortened if a value in it has no repr: asyncio shows the error of a task."""
        try:
            return super().__repr__()
        except Exception as error:
            if all(map(_is_plain, self.args)) and not isinstance(error, ValueError):
                raise
            # A value of the caller's may raise anything there.
            return f"{type(self).__name__}({', '.join(map(shown, self.args))})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the facts and the notes, so that another process can receive the error."""
        state = {name: _picklable(value) for name, value in vars(self).items()}
        return type(self), tuple(map(_picklable, self.args)), state


class MilepostWarning(UserWarning):
    """Something works now, but is likely to fail later."""


class InvalidArgumentError(MilepostError, ValueError):
    """An argument breaks a rule. Nothing was done."""

    argument: str
    value: object
    rule: str

    def __init__(self, argument: str, value: object, rule: str) -> None:
        super().__init__(argument, value, rule)
        self.argument, self.value, self.rule = argument, value, rule

    def __str__(self) -> str:
        return f"{self.argument} is {shown(self.value)}: {self.rule}"


class InvalidCheckpointError(MilepostError, ValueError):
    """A checkpoint breaks a rule of `milepost.checkpoint.valid`. `index` is its place in a batch (0, 1, 2 …)."""

    field: str
    value: object
    rule: str
    index: int | None

    def __init__(self, field: str, value: object, rule: str, index: int | None = None) -> None:
        super().__init__(field, value, rule, index)
        self.field, self.value, self.rule, self.index = field, value, rule, index

    def __str__(self) -> str:
        return f"{_place(self.index)}{self.field} is {shown(self.value)}: {self.rule}"


class RejectedCheckpointError(MilepostError):
    """
    The checkpoint is valid, but does not fit the chain.

    Attributes:
        entry: The checkpoint; None if the store had not made it yet.
        index: Its place in a batch (0, 1, 2 …), or None.
    """

    entry: Checkpoint | None = None
    index: int | None = None


class IdempotencyConflictError(RejectedCheckpointError):
    """The stage already has this idempotency key, with another sequence or watermark: `recorded`."""

    entry: Checkpoint
    recorded: Checkpoint
    index: int | None

    def __init__(self, entry: Checkpoint, recorded: Checkpoint, index: int | None = None) -> None:
        super().__init__(entry, recorded, index)
        self.entry, self.recorded, self.index = entry, recorded, index

    def __str__(self) -> str:
        entry, recorded = self.entry, self.recorded
        return (
            f"{_place(self.index)}idempotency_key {shown(entry.idempotency_key)} is already recorded for {_stage(entry)} "
            f"with sequence {recorded.sequence} and {_mark(recorded)}, not sequence {entry.sequence} and "
            f"{_mark(entry)}: give each step its own key"
        )


class SequenceError(RejectedCheckpointError):
    """The sequence is not above that of the last checkpoint of its run and stage: `last`."""

    entry: Checkpoint
    last: Checkpoint
    index: int | None

    def __init__(self, entry: Checkpoint, last: Checkpoint, index: int | None = None) -> None:
        super().__init__(entry, last, index)
        self.entry, self.last, self.index = entry, last, index

    def __str__(self) -> str:
        return (
            f"{_place(self.index)}sequence {self.entry.sequence} of {_stage(self.entry)} is not above the last one, "
            f"{self.last.sequence}: resume from resume_point_for_stage(), or let advance() assign the sequence"
        )


class StageMovedError(RejectedCheckpointError):
    """
    The stage is not where `after` says it is, mostly because somebody else advanced it. Nothing was written.

    Attributes:
        expected: The watermark that the stage's last checkpoint should have, or None for no checkpoint.
        found: The watermark that it has, or None for no checkpoint.
        receipt: The receipt of this very step, if the stage has an entry with this key and watermark. That happens after a
            commit whose outcome you never learned.
        run_id: The run.
        stage: Its stage.
        index: Its place in a batch (0, 1, 2 …), or None.
    """

    expected: Watermark | None
    found: Watermark | None
    receipt: Receipt | None
    run_id: str
    stage: str
    index: int | None

    def __init__(
        self,
        expected: Watermark | None,
        found: Watermark | None,
        receipt: Receipt | None,
        run_id: str,
        stage: str,
        index: int | None = None,
    ) -> None:
        super().__init__(expected, found, receipt, run_id, stage, index)
        self.expected, self.found, self.receipt = expected, found, receipt
        self.run_id, self.stage, self.index = run_id, stage, index

    def __str__(self) -> str:
        if self.stage == "milepost:run" and self.expected is not None:
            found = "it has none" if self.found is None else f"its last is {self.found.offset}"
            return (
                f"attempt {self.expected.offset} of run {shown(self.run_id)} cannot end, since it has ended, was undone "
                f"with the transaction() around it, or another has begun ({found}): let one process at a time execute a run"
            )
        moved = f"{_place(self.index)}stage {shown(self.stage)} of run {shown(self.run_id)}"
        moved += " has no checkpoint" if self.found is None else f" is at {_watermark(self.found)}"
        if self.found != self.expected:
            expected = "to have no checkpoint" if self.expected is None else f"at {_watermark(self.expected)}"
            moved += f", but was expected {expected}"
        if self.receipt is not None:
            why = f"this step is already recorded, at position {self.receipt.position}"
        elif self.found == self.expected:
            return f"{moved} already: give the watermark that the step leads to"
        elif self.found is None:
            return f"{moved}: check the path, the run_id and the stage"
        else:
            why = "another process advanced it, or an earlier call whose answer was lost"
        return f"{moved} ({why}): continue from resume_point_for_stage()"


class WatermarkRegressionError(RejectedCheckpointError):
    """The offset or the event time is below that of the last checkpoint of its run and stage: `last`."""

    entry: Checkpoint
    last: Checkpoint
    index: int | None

    def __init__(self, entry: Checkpoint, last: Checkpoint, index: int | None = None) -> None:
        super().__init__(entry, last, index)
        self.entry, self.last, self.index = entry, last, index

    def __str__(self) -> str:
        return (
            f"{_place(self.index)}the watermark of {_stage(self.entry)} would go back from {_mark(self.last)} to "
            f"{_mark(self.entry)}: use a new run_id to read the source again"
        )


class NoCheckpointError(MilepostError, LookupError):
    """
    Nothing is recorded yet for that stage, or for that run if `stage` is None. A `run_id` of None means any run.

    If the call asked for a time, nothing was recorded up to it: `as_of_ms`, in ms since the epoch. Else that is None.
    """

    run_id: str | None
    stage: str | None
    as_of_ms: int | None

    def __init__(self, run_id: str | None, stage: str | None, as_of_ms: int | None = None) -> None:
        super().__init__(run_id, stage, *(() if as_of_ms is None else (as_of_ms,)))
        self.run_id, self.stage, self.as_of_ms = run_id, stage, as_of_ms

    def __str__(self) -> str:
        there = "in any run" if self.run_id is None else f"in run {shown(self.run_id)}"
        if self.as_of_ms is not None:
            there += f" up to {iso(self.as_of_ms)}"
        if self.stage is None:
            return f"no checkpoint {there}: see runs(), which has what each run recorded, and when"
        later = "" if self.as_of_ms is None else "give a later time, or "
        return f"no checkpoint of stage {shown(self.stage)} {there}: {later}start it from the beginning"


class RunFinishedError(MilepostError):
    """
    The run has finished, and `again=True` was not given.

    Attributes:
        run_id: The run.
        attempt: The attempt that finished it.
        at_ms: When it finished, in ms since the epoch.
    """

    def __init__(self, run_id: str, attempt: int, at_ms: int) -> None:
        super().__init__(run_id, attempt, at_ms)
        self.run_id: str = run_id
        self.attempt: int = attempt
        self.at_ms: int = at_ms

    def __str__(self) -> str:
        return (
            f"run {shown(self.run_id)} finished in attempt {self.attempt}: use a new run_id, or give again=True for "
            "another attempt"
        )


class RunExistsError(MilepostError):
    """
    A branch would write into a run that already has the stage. Nothing was written.

    Attributes:
        run_id: The run.
        stage: Its stage.
        last: The last checkpoint of that stage.
    """

    def __init__(self, run_id: str, stage: str, last: Checkpoint) -> None:
        super().__init__(run_id, stage, last)
        self.run_id: str = run_id
        self.stage: str = stage
        self.last: Checkpoint = last

    def __str__(self) -> str:
        return (
            f"run {shown(self.run_id)} has stage {shown(self.stage)} already, up to sequence {self.last.sequence}: branch "
            "into a new run_id"
        )


class SourceChangedError(MilepostError):
    """
    A loop would resume with another source than the one that its last checkpoint names. Nothing was done.

    Attributes:
        expected: The source of the last checkpoint.
        found: The source that you gave.
        run_id: The run.
        stage: Its stage.
    """

    def __init__(self, expected: str, found: str, run_id: str, stage: str) -> None:
        super().__init__(expected, found, run_id, stage)
        self.expected: str = expected
        self.found: str = found
        self.run_id: str = run_id
        self.stage: str = stage

    def __str__(self) -> str:
        return (
            f"stage {shown(self.stage)} of run {shown(self.run_id)} has read {shown(self.expected)}, and would go on with "
            f"{shown(self.found)}: pass the same source, use a new run_id, or give accept_source=True if its records are "
            "the same all the same"
        )


class CursorNotKeptError(MilepostError):
    """
    A branch would start at a checkpoint whose cursor is no longer kept. The store keeps the last two of a stage in a run.

    Attributes:
        run_id: The run.
        stage: Its stage.
        position: The position of the checkpoint.
    """

    def __init__(self, run_id: str, stage: str, position: int) -> None:
        super().__init__(run_id, stage, position)
        self.run_id: str = run_id
        self.stage: str = stage
        self.position: int = position

    def __str__(self) -> str:
        return (
            f"the cursor of stage {shown(self.stage)} of run {shown(self.run_id)} at position {self.position} is no longer "
            "kept: branch from one of its last two checkpoints, or start a new run"
        )


class ArchivedStageError(MilepostError):
    """
    Entries of a stage are in an archive, and the call would need all of them.

    Attributes:
        run_id: The run.
        stage: Its stage.
    """

    def __init__(self, run_id: str, stage: str) -> None:
        super().__init__(run_id, stage)
        self.run_id: str = run_id
        self.stage: str = stage

    def __str__(self) -> str:
        return (
            f"entries of stage {shown(self.stage)} of run {shown(self.run_id)} are in an archive, and this call needs all: "
            "use another run for new work, and open the archive to look at the old one"
        )


class StoreError(MilepostError):
    """Something is wrong with the file at `path`, or with its use. `problem` says what, and what to do."""

    path: str
    problem: str

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path if self.path.isprintable() else ascii(self.path)}: {self.problem}"


class NotAStoreError(StoreError):
    """The file is not milepost's. It was not changed."""


class SchemaVersionError(StoreError):
    """The file has format version `found`, but this milepost writes `supported`. The file was not changed."""

    args: tuple[Any, ...]
    found: int
    supported: int

    def __init__(self, path: str, found: int, supported: int) -> None:
        if found > supported:
            advice = "install a newer milepost"
        elif found > 0:
            advice = "open it with CheckpointStore(), which upgrades it"
        else:
            advice = "no milepost ever wrote it: do not trust this file"
        super().__init__(path, f"file format version {found}, this milepost writes version {supported}: {advice}")
        self.args = (path, found, supported)
        self.found, self.supported = found, supported


class WrongKeyError(StoreError):
    """You gave another key than the chain's, or no key for a keyed chain, or a key for a chain that has none."""


class DamagedStoreError(StoreError):
    """SQLite cannot read the file as a database: verify it, and restore it from a copy."""


class ReadOnlyStoreError(StoreError):
    """You called a method that writes on a read-only store, or the permissions of a file forbid the call."""


class ClosedStoreError(StoreError):
    """You used the store after `close()`."""


class ForkedStoreError(StoreError):
    """You opened the store before a fork and used it in the child. SQLite connections do not survive a fork."""


class EntriesArchivedError(StoreError):
    """An archive has moved entries away that a walk along the chain had not reached yet. Nothing was skipped unseen."""


class FailedStoreError(StoreError):
    """The store can no longer promise durability. It accepts nothing more until you reopen it."""


class StoreFullError(StoreError):
    """The disk has no space left for the file. The chain is unchanged."""


class StoreBusyError(StoreError, TimeoutError):
    """
    Another writer held the lock for `waited_ms` milliseconds. You can safely retry.

    If it was a transaction block of this process, `block` says which. A retry helps only once that has ended.
    """

    args: tuple[Any, ...]
    waited_ms: int
    block: str | None
    errno: int | None
    strerror: str | None
    filename: Any

    def __init__(self, path: str, waited_ms: int, block: str | None = None) -> None:
        problem = f"another writer held the lock for {waited_ms} ms: retry, or open with a longer busy_timeout_ms"
        if block is not None:
            problem = (
                f"{block} is open in this process, and {waited_ms} ms were not enough for its end: let it end before others "
                "write (where it waits for another task or thread to write, it waits for itself)"
            )
        super().__init__(path, problem)
        # OSError takes the first two arguments for errno and strerror, so they are set again.
        self.errno, self.strerror, self.filename = errno.ETIMEDOUT, self.problem, path
        self.args = (path, waited_ms) if block is None else (path, waited_ms, block)
        self.waited_ms, self.block = waited_ms, block


class TargetError(MilepostError):
    """Something is wrong with the place that a store is shipped to. `problem` says what, and what to do."""

    target: str
    problem: str

    def __init__(self, target: str, problem: str) -> None:
        super().__init__(target, problem)
        self.target, self.problem = target, problem

    def __str__(self) -> str:
        return f"{self.target if self.target.isprintable() else ascii(self.target)}: {self.problem}"


class NothingShippedError(TargetError, LookupError):
    """Nothing is shipped under that name, so there is nothing to restore. The target itself answered."""


class DamagedTargetError(TargetError):
    """
    An object of a shipped chain is missing, or is not what was shipped. Nothing was made of it.

    Attributes:
        target: Where it is.
        object_name: The object.
        position: The entry of the chain that is wrong or, if the whole object is, the first one that it should have.
        problem: What is wrong with it.
    """

    args: tuple[Any, ...]

    def __init__(self, target: str, object_name: str, position: int, problem: str) -> None:
        super().__init__(target, problem)
        self.args = (target, object_name, position, problem)
        self.object_name: str = object_name
        self.position: int = position

    def __str__(self) -> str:
        target = self.target if self.target.isprintable() else ascii(self.target)
        return (
            f"{target}: object {self.object_name}, position {self.position:,}: {self.problem}: restore it from a copy, or "
            "ship to another name"
        )


class FencedError(TargetError):
    """
    Another shipper has taken over, so this one may ship nothing more. What it had shipped is part of the chain there.

    Attributes:
        target: Where both ship to.
        name: The store's name there.
        shipped: The last head that this shipper had shipped; None if it was refused at its beginning.
        found: The head of the chain there, as far as it was read.
        unshipped: How many entries this file has behind `shipped`; None where that is None.
        by: Who took over, and when.
    """

    args: tuple[Any, ...]

    def __init__(self, target: str, name: str, shipped: Head | None, found: Head, unshipped: int | None, by: str) -> None:
        other = ", or the name is another store's" if shipped is None else ""
        problem = (
            f"another shipper has taken over {name} at {count(found.entries, 'entry')} ({by}){other}: stop this pipeline, "
            f"and go on from restore() into a new file; {_unshipped(unshipped)}"
        )
        super().__init__(target, problem)
        self.args = (target, name, shipped, found, unshipped, by)
        self.name: str = name
        self.shipped: Head | None = shipped
        self.found: Head = found
        self.unshipped: int | None = unshipped
        self.by: str = by


class MissingPackageError(MilepostError, ModuleNotFoundError):
    """The call needs `package`, an optional dependency. Give `install` to pip."""

    package: str
    install: str
    name: str | None

    def __init__(self, package: str, install: str) -> None:
        super().__init__(package, install)
        self.package, self.install = package, install
        self.name = package

    def __str__(self) -> str:
        return f"this needs {self.package}, which is not installed: pip install {self.install}"


class BrokenChainError(MilepostError):
    """Verification found `faults`."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        first = f", the first: {self.faults[0]}" if self.faults else ""
        return f"{count(len(self.faults), 'fault')} in the chain{first}"


def _unshipped(entries: int | None) -> str:
    if entries is None:
        return "some entries of this file may be in it alone, so keep it"
    if entries == 0:
        return "every entry of this file was shipped"
    if entries == 1:
        return "the last entry of this file is in it alone, so keep it"
    return f"the last {entries:,} entries of this file are in it alone, so keep it"


def _place(index: int | None) -> str:
    return "" if index is None else f"entry {index} of the batch: "


def _stage(entry: Checkpoint) -> str:
    return f"run {shown(entry.run_id)}, stage {shown(entry.stage)}"


def _mark(entry: Checkpoint) -> str:
    return _watermark(entry.watermark)


def _watermark(mark: Watermark) -> str:
    told = f"offset {mark.offset}"
    return f"{told}, event time {iso(mark.event_time_ms)}" if mark.event_time_ms else told  # 0: it was never given
