"""The family of errors: complete, told in one line, and fit for another process."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest

from chains import entry
from milepost import Fault, MilepostError, Receipt, RejectedCheckpointError, StageMovedError, Watermark, errors

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
    "NoCheckpointError": (None, "load"),
    "SchemaVersionError": ("orders.milepost", 2, 1),
    "StoreBusyError": ("orders.milepost", 5000),
    "BrokenChainError": ((FAULT,),),
}
CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, MilepostError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_an_error_is_one_line_of_text_and_survives_a_pickle_with_its_facts(kind: Any) -> None:
    """A worker process can hand it over."""
    error = kind(*EXAMPLES.get(kind.__name__, ("orders.milepost", "something is wrong: do this")))
    assert "\n" not in str(error)
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is kind
    assert str(twin) == str(error)
    assert vars(twin) == vars(error)


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


MOVED: dict[str, tuple[tuple[Watermark | None, Watermark | None, Receipt | None], str]] = {
    "ahead": (
        (Watermark(400, 7), Watermark(500, 8), None),
        (
            "stands at offset 500, event time 8 ms, not at offset 400, event time 7 ms: another process advanced it, or a "
            "call whose outcome was lost; read resume_point_for_stage() and go on from there"
        ),
    ),
    "a retry": (
        (None, Watermark(500, 8), Receipt(12, "ab" * 32)),
        (
            "stands at offset 500, event time 8 ms, not before its first checkpoint: this step is recorded, at position 12; "
            "read resume_point_for_stage() and go on from there"
        ),
    ),
    "nowhere": (
        (Watermark(400, 7), None, None),
        "stands before its first checkpoint, not at offset 400, event time 7 ms: check the path, the run_id and the stage",
    ),
    "no step": (
        (Watermark(500, 8), Watermark(500, 8), None),
        "stands at offset 500, event time 8 ms already: give the watermark that the step leads to",
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
