"""
Every exception that milepost raises, by what the caller can do next.

MilepostError                                  catch this to catch everything of ours
├── InvalidArgumentError (ValueError)          an argument of a call breaks a rule: correct the call
├── InvalidCheckpointError (ValueError)        a checkpoint breaks a rule of `valid`: correct the checkpoint
├── RejectedCheckpointError                    valid, but the chain cannot take it
│   ├── IdempotencyConflictError               the key is recorded, with other content
│   ├── SequenceError                          the sequence does not rise
│   ├── StageMovedError                        the stage does not stand where `after` says: read where it stands
│   └── WatermarkRegressionError               the watermark falls
├── NoCheckpointError (LookupError)            nothing recorded there yet: start from the beginning
├── RunFinishedError                           the run has finished: use another run_id, or again=True
├── RunExistsError                             a branch into a run that has the stage: branch into another one
├── CursorNotKeptError                         a branch from where the cursor is gone: branch from a later checkpoint
├── StoreError                                 the file or its use is at fault, not the entry
│   ├── NotAStoreError                         not a file of milepost; nothing in it was touched
│   ├── SchemaVersionError                     a file of another version of milepost
│   ├── WrongKeyError                          the chain is keyed, and not with the key that was given, or given none
│   ├── DamagedStoreError                      SQLite cannot make sense of the file
│   ├── ReadOnlyStoreError                     a verb that writes, on a store that only reads
│   ├── ClosedStoreError                       used after close()
│   ├── ForkedStoreError                       carried over a fork: open it anew in the child
│   ├── FailedStoreError                       durability can no longer be promised: close it and open it anew
│   ├── StoreFullError                         no space left: free some and try again
│   └── StoreBusyError (TimeoutError)          another writer held the lock: try again
├── MissingPackageError (ModuleNotFoundError)  a package that milepost does without is needed here: install it
└── BrokenChainError                           `Verification.raise_if_broken()` found faults

MilepostWarning (UserWarning)                  not raised but warned of: it works, and may not for long

The facts of an error are its attributes and, in the same order, its `args`, so that errors pickle. A value that cannot be
pickled, like a generator that was given as an argument, arrives elsewhere as its `repr` in the message.
"""

from __future__ import annotations

import errno
import reprlib
from pickle import dumps  # only to see whether a value can leave the process: nothing here is ever read from a pickle
from typing import TYPE_CHECKING, Any

from milepost.readable import count, iso

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milepost.checkpoint import Checkpoint, Watermark
    from milepost.receipt import Receipt
    from milepost.verification import Fault

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlong = 40


def shown(value: object) -> str:
    """A value as it may stand in a message: one short line that no terminal obeys, whatever the value is."""
    if type(value) is _Shown:
        return value.text
    try:
        text = _SHORT.repr(value)
    except Exception:  # noqa: BLE001 - a hostile value must not hide the error that is about it
        text = f"<{kind(value)}>"
    return text if text.isprintable() else ascii(text)


def kind(value: object) -> str:
    """The name of a value's type as it may stand in a message, whatever its metaclass says."""
    name: str = type.__dict__["__name__"].__get__(type(value))
    return name if name.isprintable() and len(name) <= 80 else ascii(name)[:80]


class _Shown:
    """What a value looked like that could not leave its process."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return type(other) is _Shown and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)


def _portable(value: object) -> object:
    """The value itself if it can be pickled, or what it looks like."""
    try:
        dumps(value)
    except Exception:  # noqa: BLE001 - whatever a value of the caller's does there, the error about it must arrive
        return _Shown(shown(value))
    return value


class MilepostError(Exception):
    """The root of every exception of milepost."""

    def __reduce__(self) -> tuple[Any, ...]:
        """For a pickle: the facts, so that the error can be handed to another process; and notes that were added."""
        state = {name: _portable(value) for name, value in vars(self).items()}
        return type(self), tuple(map(_portable, self.args)), state


class MilepostWarning(UserWarning):
    """Something works, and is likely to go wrong one day."""


class InvalidArgumentError(MilepostError, ValueError):
    """An argument of a call breaks a rule; nothing was done."""

    argument: str
    value: object
    rule: str

    def __init__(self, argument: str, value: object, rule: str) -> None:
        super().__init__(argument, value, rule)
        self.argument, self.value, self.rule = argument, value, rule

    def __str__(self) -> str:
        return f"{self.argument} is {shown(self.value)}: {self.rule}"


class InvalidCheckpointError(MilepostError, ValueError):
    """A checkpoint breaks a rule of `milepost.checkpoint.valid`; `index` is its place in a batch (0, 1, 2 …)."""

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
    Something valid that the chain cannot take.

    Attributes:
        entry: The checkpoint; None where there is none yet, since the store was to make it.
        index: Its place in a batch (0, 1, 2 …), or None.
    """

    entry: Checkpoint | None = None
    index: int | None = None


class IdempotencyConflictError(RejectedCheckpointError):
    """The stage of that run has this idempotency key already, with another sequence or watermark: `recorded`."""

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
            f"{_mark(entry)}: give a different step a key of its own"
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
            f"{self.last.sequence}: resume from resume_point_for_stage(), or let advance() stamp the sequence"
        )


class StageMovedError(RejectedCheckpointError):
    """
    The stage does not stand where `after` says it must: somebody else has advanced it. Nothing was written.

    Attributes:
        expected: Where it must stand: the watermark of its last checkpoint, or None for none.
        found: Where it stands, likewise.
        receipt: Of the stage's own entry with this idempotency key and watermark, if there is one: then this very step is
            recorded, as after a commit whose outcome was never known.
        run_id: The run.
        stage: Its stage.
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
        stands = f"{_place(self.index)}stage {shown(self.stage)} of run {shown(self.run_id)} stands {_standing(self.found)}"
        if self.found != self.expected:
            stands += f", not {_standing(self.expected)}"
        if self.receipt is not None:
            why = f"this step is recorded, at position {self.receipt.position}"
        elif self.found == self.expected:
            return f"{stands} already: give the watermark that the step leads to"
        elif self.found is None:
            return f"{stands}: check the path, the run_id and the stage"
        else:
            why = "another process advanced it, or a call whose outcome was lost"
        return f"{stands}: {why}; read resume_point_for_stage() and go on from there"


class WatermarkRegressionError(RejectedCheckpointError):
    """The offset or the event time is behind that of the last checkpoint of its run and stage: `last`."""

    entry: Checkpoint
    last: Checkpoint
    index: int | None

    def __init__(self, entry: Checkpoint, last: Checkpoint, index: int | None = None) -> None:
        super().__init__(entry, last, index)
        self.entry, self.last, self.index = entry, last, index

    def __str__(self) -> str:
        return (
            f"{_place(self.index)}the watermark of {_stage(self.entry)} would fall from {_mark(self.last)} to "
            f"{_mark(self.entry)}: a stage never goes back; to read a source again, start a new run_id"
        )


class NoCheckpointError(MilepostError, LookupError):
    """Nothing is recorded for that stage (of that run, unless `run_id` is None), or for that run (`stage` is None), yet."""

    run_id: str | None
    stage: str | None

    def __init__(self, run_id: str | None, stage: str | None) -> None:
        super().__init__(run_id, stage)
        self.run_id, self.stage = run_id, stage

    def __str__(self) -> str:
        run = "any run" if self.run_id is None else f"run {shown(self.run_id)}"
        if self.stage is None:
            return f"no checkpoint in {run}: look for its run_id in runs()"
        return f"no checkpoint of stage {shown(self.stage)} in {run}: start it from the beginning"


class RunFinishedError(MilepostError):
    """
    The run has finished, and `again=True` was not given.

    Attributes:
        run_id: The run.
        attempt: Which of its attempts has finished it.
        at_ms: When, ms since the epoch.
    """

    def __init__(self, run_id: str, attempt: int, at_ms: int) -> None:
        super().__init__(run_id, attempt, at_ms)
        self.run_id, self.attempt, self.at_ms = run_id, attempt, at_ms

    def __str__(self) -> str:
        return (
            f"run {shown(self.run_id)} finished in attempt {self.attempt}: use a new run_id, or give again=True for "
            "another attempt"
        )


class RunExistsError(MilepostError):
    """
    A branch would write into a run that has the stage already; nothing was written.

    Attributes:
        run_id: The run.
        stage: Its stage.
        last: The last checkpoint of that.
    """

    def __init__(self, run_id: str, stage: str, last: Checkpoint) -> None:
        super().__init__(run_id, stage, last)
        self.run_id, self.stage, self.last = run_id, stage, last

    def __str__(self) -> str:
        return (
            f"run {shown(self.run_id)} has stage {shown(self.stage)} already, up to sequence {self.last.sequence}: branch "
            "into a new run_id"
        )


class CursorNotKeptError(MilepostError):
    """
    A branch would start where the cursor is not kept any more: of each stage of a run the last two are.

    Attributes:
        run_id: The run.
        stage: Its stage.
        position: Of the checkpoint that had the cursor.
    """

    def __init__(self, run_id: str, stage: str, position: int) -> None:
        super().__init__(run_id, stage, position)
        self.run_id, self.stage, self.position = run_id, stage, position

    def __str__(self) -> str:
        return (
            f"the cursor of stage {shown(self.stage)} of run {shown(self.run_id)} at position {self.position} is not kept "
            "any more: branch from one of its last two checkpoints, or start a new run from the source's beginning"
        )


class StoreError(MilepostError):
    """The file at `path`, or the way it is used, is at fault; `problem` says how, and what to do."""

    path: str
    problem: str

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def __str__(self) -> str:
        return f"{self.path if self.path.isprintable() else ascii(self.path)}: {self.problem}"


class NotAStoreError(StoreError):
    """The file is not one of milepost; nothing in it was touched."""


class SchemaVersionError(StoreError):
    """The file has format version `found`; this milepost reads and writes `supported`. Nothing in it was touched."""

    args: tuple[Any, ...]
    found: int
    supported: int

    def __init__(self, path: str, found: int, supported: int) -> None:
        if found > supported:
            remedy = "install a newer milepost"
        elif found > 0:
            remedy = "open it with CheckpointStore(), which upgrades it"
        else:
            remedy = "no milepost ever wrote it: do not trust this file"
        super().__init__(path, f"file format version {found}, this milepost writes version {supported}: {remedy}")
        self.args = (path, found, supported)
        self.found, self.supported = found, supported


class WrongKeyError(StoreError):
    """The chain is keyed with another key than was given, or with one where none was, or not at all where one was."""


class DamagedStoreError(StoreError):
    """SQLite cannot make sense of the file: verify it, and restore it from a copy."""


class ReadOnlyStoreError(StoreError):
    """A verb that writes was called on a store that only reads, or the permissions of a file forbid what was asked for."""


class ClosedStoreError(StoreError):
    """The store was used after `close()`."""


class ForkedStoreError(StoreError):
    """The store was opened before a fork and used in the child: SQLite connections do not survive that."""


class FailedStoreError(StoreError):
    """The store can no longer promise that what it writes is durable, and takes nothing more until it is reopened."""


class StoreFullError(StoreError):
    """No space is left for the file; the chain is as it was."""


class StoreBusyError(StoreError, TimeoutError):
    """Another writer held the lock for `waited_ms` milliseconds; trying again is right."""

    args: tuple[Any, ...]
    waited_ms: int
    errno: int | None
    strerror: str | None
    filename: Any

    def __init__(self, path: str, waited_ms: int) -> None:
        super().__init__(
            path, f"another writer held the lock for {waited_ms} ms: retry, or open with a longer busy_timeout_ms"
        )
        # As the OSError that it is too, which has taken path and problem for an errno and its text.
        self.errno, self.strerror, self.filename = errno.ETIMEDOUT, self.problem, path
        self.args = (path, waited_ms)
        self.waited_ms = waited_ms


class MissingPackageError(MilepostError, ModuleNotFoundError):
    """A verb needs `package`, which milepost does without elsewhere; `install` is what to give to pip."""

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
    """A verification found `faults`."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults

    def __str__(self) -> str:
        first = f", the first: {self.faults[0]}" if self.faults else ""
        return f"{count(len(self.faults), 'fault')} in the chain{first}"


def _place(index: int | None) -> str:
    return "" if index is None else f"entry {index} of the batch: "


def _stage(entry: Checkpoint) -> str:
    return f"run {shown(entry.run_id)}, stage {shown(entry.stage)}"


def _mark(entry: Checkpoint) -> str:
    return _spelled(entry.watermark)


def _standing(mark: Watermark | None) -> str:
    return "before its first checkpoint" if mark is None else f"at {_spelled(mark)}"


def _spelled(mark: Watermark) -> str:
    return f"offset {mark.offset}, event time {iso(mark.event_time_ms)}"
