"""The family of errors: complete, told in one line, and fit for another process."""

from __future__ import annotations

import errno
import inspect
import multiprocessing
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from milepost import (
    Checkpoint,
    Fault,
    Head,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    Receipt,
    RejectedCheckpointError,
    StageMovedError,
    Watermark,
    errors,
)
from support.chains import EVENT_MS, entry
from support.hostile import HOSTILE, HostileError, hostile

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULT = Fault("link", 7, "aa", "bb")
EXAMPLES: dict[str, tuple[Any, ...]] = {
    "MilepostError": ("anything",),
    "InvalidArgumentError": ("limit", -1, "must be from 0"),
    "InvalidCheckpointError": ("stage", "", "must not be empty", 3),
    "RejectedCheckpointError": (entry(1), 3),
    "IdempotencyConflictError": (entry(1), entry(2), 3),
    "SequenceError": (entry(1), entry(2), None),
    "StageMovedError": (Watermark(400, 7), Watermark(500, 8), Receipt(12, "ab" * 32), "run-7", "load", 3),
    "WatermarkRegressionError": (entry(1), entry(2), 0),
    "NoCheckpointError": (None, "load", 1767225600000),
    "RunFinishedError": ("run-7", 2, 1767225600000),
    "RunExistsError": ("run-8", "load", entry(7)),
    "SourceChangedError": ("sha256:aa", "sha256:bb", "run-7", "load"),
    "CursorNotKeptError": ("run-7", "load", 12),
    "SchemaVersionError": ("orders.milepost", 2, 1),
    "StoreBusyError": ("orders.milepost", 5000),
    "DamagedTargetError": ("s3://bucket", "orders/log/1", 7, "it was cut"),
    "FencedError": ("s3://bucket", "orders", Head(1, "ab" * 32), Head(2, "cd" * 32), 3, "process 7 of node-b"),
    "BrokenChainError": ((FAULT,),),
}


def _family(kind: type[MilepostError]) -> list[type[MilepostError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in _family(child))]


CLASSES = _family(MilepostError)


def example(kind: Any) -> MilepostError:
    """An error of a class, with its facts."""
    error: MilepostError = kind(*EXAMPLES.get(kind.__name__, ("orders.milepost", "something is wrong: do this")))
    return error


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Another process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


def throw(name: str, *values: str) -> None:
    """Raise an error of a class, in the other process; of the values named, if any are."""
    kind = getattr(errors, name)
    raise kind("limit", VALUES[values[0]](), "must be something else") if values else example(kind)


def everything(error: BaseException) -> dict[str, object]:
    """All that an error says: also what is kept where `vars` does not see it."""
    hidden = ("args", "errno", "strerror", "filename", "name", "__notes__")
    return {"str": str(error), **vars(error), **{name: getattr(error, name, None) for name in hidden}}


def test_a_broken_chain_without_faults_can_be_told() -> None:
    """Made by a program that fills in the faults later."""
    assert str(errors.BrokenChainError([])) == "0 faults in the chain"


def test_every_class_of_errors_is_in_the_module() -> None:
    """So that nothing that these tests walk is missing, and no other module has its own."""
    in_module = {value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, MilepostError)}
    assert set(CLASSES) == in_module


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_one_line_of_text_and_survives_a_pickle_with_its_facts(kind: Any) -> None:
    """In every protocol, with the notes that somebody has added."""
    error = example(kind)
    error.add_note("while loading")
    assert "\n" not in str(error)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(error, protocol))
        assert type(twin) is kind
        assert everything(twin) == everything(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_comes_out_of_a_process_pool_with_its_facts(pool: ProcessPoolExecutor, kind: Any) -> None:
    """As it was raised there."""
    with pytest.raises(kind) as caught:
        pool.submit(throw, kind.__name__).result(60)
    expected = everything(example(kind))
    assert {name: everything(caught.value)[name] for name in expected} == expected


VALUES: dict[str, Any] = {
    "a generator": lambda: (letter for letter in "abc"),
    "a function": lambda: lambda: None,
    "a lock": threading.Lock,
    "in a list": lambda: ["x" * 50, threading.Lock(), "y" * 50],
    "hostile": type("Hostile", (), {"__reduce__": lambda self: 1 / 0, "__repr__": lambda self: 1 / 0}),
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("kind", ["InvalidArgumentError", "InvalidCheckpointError"])
def test_an_error_about_a_value_that_cannot_be_pickled_comes_out_of_a_process_pool(
    pool: ProcessPoolExecutor, kind: str, value: str
) -> None:
    """With all other facts, and in place of the value what it looked like: the message is the same."""
    with pytest.raises(getattr(errors, kind)) as caught:
        pool.submit(throw, kind, value).result(60)
    error = caught.value
    assert error.args[0] == "limit"
    assert error.rule == "must be something else"
    assert str(error) == f"limit is {error.value!r}: must be something else"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_busy_store_is_an_oserror_whose_errno_is_a_number() -> None:
    """For callers that look at what a TimeoutError has; its text and its facts are those of every error here."""
    error = errors.StoreBusyError("orders.milepost", 5000)
    assert (error.errno, error.filename, error.filename2) == (errno.ETIMEDOUT, "orders.milepost", None)
    assert error.strerror == error.problem
    assert str(error).startswith("orders.milepost: another writer held the lock for 5000 ms")
    assert error.args == ("orders.milepost", 5000)


def test_a_missing_package_is_named_as_python_names_it() -> None:
    """As `ModuleNotFoundError.name`."""
    assert errors.MissingPackageError("arro3-core", "milepost[notebook]").name == "arro3-core"


def test_the_family_tree_in_the_docstring_names_every_error() -> None:
    """Each with its parent's indentation."""
    assert errors.__doc__ is not None
    for kind in CLASSES:
        assert kind.__name__ in errors.__doc__


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("InvalidArgumentError", ValueError),
        ("InvalidCheckpointError", ValueError),
        ("NoCheckpointError", LookupError),
        ("StoreBusyError", TimeoutError),
    ],
)
def test_an_error_is_also_the_builtin_one_that_a_caller_would_expect(name: str, builtin: type) -> None:
    """For callers who catch the standard ones."""
    assert issubclass(getattr(errors, name), builtin)


@pytest.mark.parametrize("value", ["x" * 10_000_000, "a\nb", "\x1b[31m", "\u202e", "\ud800", 10**100, object()])
def test_a_value_in_a_message_is_short_and_harmless(value: object) -> None:
    """No line break, no escape code, no bidirectional trick, no ten megabytes."""
    message = str(errors.InvalidArgumentError("stage", value, "must be something else"))
    assert len(message) < 250
    assert message.isprintable()


HERE, THERE = Watermark(400, EVENT_MS + 7000), Watermark(500, EVENT_MS + 8000)
MOVED: dict[str, tuple[tuple[Watermark | None, Watermark | None, Receipt | None], str]] = {
    "ahead": (
        (HERE, THERE, None),
        (
            "is at offset 500, event time 2026-01-01T00:00:08Z, but was expected at offset 400, event time "
            "2026-01-01T00:00:07Z (another process advanced it, or an earlier call whose answer was lost): continue from "
            "resume_point_for_stage()"
        ),
    ),
    "a retry": (
        (None, THERE, Receipt(12, "ab" * 32)),
        (
            "is at offset 500, event time 2026-01-01T00:00:08Z, but was expected to have no checkpoint (this step is "
            "already recorded, at position 12): continue from resume_point_for_stage()"
        ),
    ),
    "nowhere": (
        (HERE, None, None),
        (
            "has no checkpoint, but was expected at offset 400, event time 2026-01-01T00:00:07Z: check the path, the "
            "run_id and the stage"
        ),
    ),
    "no step": (
        (THERE, THERE, None),
        "is at offset 500, event time 2026-01-01T00:00:08Z already: give the watermark that the step leads to",
    ),
}


@pytest.mark.parametrize(("facts", "said"), MOVED.values(), ids=MOVED.keys())
def test_a_stage_that_moved_is_told_with_where_it_stands_and_where_it_should(
    facts: tuple[Watermark | None, Watermark | None, Receipt | None], said: str
) -> None:
    """And what to do; it is a rejection without an entry, since the store was to make it."""
    error = StageMovedError(*facts, run_id="run-7", stage="load")
    assert str(error) == f"stage 'load' of run 'run-7' {said}"
    assert (error.expected, error.found, error.receipt, error.run_id, error.stage) == (*facts, "run-7", "load")
    assert isinstance(error, RejectedCheckpointError)
    assert (error.entry, error.index) == (None, None)
    assert str(StageMovedError(*facts, "run-7", "load", 3)) == f"entry 3 of the batch: {error}"


@pytest.mark.parametrize("value", HOSTILE)
def test_an_error_can_be_shown_whatever_value_it_carries(value: str) -> None:
    """asyncio.run shows what a task has raised."""
    assert repr(InvalidArgumentError("entry", HOSTILE[value], "must be a Checkpoint")).startswith("InvalidArgumentError(")
    assert repr(InvalidCheckpointError("entry", tuple.__new__(Checkpoint, ("run-7",)), "must have six fields"))


@pytest.mark.parametrize("value", ["run-7", 7, None])
def test_what_a_signal_handler_raises_while_a_value_is_shown_or_pickled_comes_out(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a value that runs no code of the caller; of any other, and of an int with too many digits, a description does."""
    monkeypatch.setattr(errors._SHORT, "repr", hostile)
    monkeypatch.setattr(errors, "dumps", hostile)
    with pytest.raises(HostileError):
        errors.shown(value)
    with pytest.raises(HostileError):
        pickle.dumps(InvalidArgumentError("stage", value, "must be something else"))
    assert errors.shown(HOSTILE["hostile repr"]) == "<HostileRepr>"
    monkeypatch.undo()
    assert errors.shown(10**5000) == "<int>"
    assert repr(InvalidArgumentError("sequence", 10**5000, "rule")) == "InvalidArgumentError('sequence', <int>, 'rule')"
