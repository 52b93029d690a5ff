"""The three values of the contract, their rules and labels, and the pure functions over a chain."""

from __future__ import annotations

import copy
import pickle
from enum import IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import milepost.checkpoint as contract
from milepost import Checkpoint, NoCheckpointError, ResumePoint, Watermark
from support.chains import MAX, chain, entry, mixed
from support.strategies import checkpoints, names

MARK = Watermark(500, 1767225600000)
ENTRY = Checkpoint("run-7", "load", 1, MARK, "load:0-499", 1767225601000)
POINT = ResumePoint("run-7", "load", 1, MARK)


class Hostile:
    """Answers every question with an exception."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """Raise."""
        raise ZeroDivisionError

    def __getattr__(self, name: str) -> Any:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError

    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


class Name(StrEnum):
    """A string that is more than a string."""

    LOAD = "load"


class Number(IntEnum):
    """An integer that is more than an integer."""

    ONE = 1


@pytest.mark.parametrize("value", [MARK, ENTRY, POINT], ids=["Watermark", "Checkpoint", "ResumePoint"])
def test_values_are_immutable_hashable_equal_by_value_and_survive_copy_and_pickle(value: Any) -> None:
    """The three classes behave as values."""
    twin = type(value)(*value)
    assert twin == value
    assert hash(twin) == hash(value)
    assert copy.copy(value) == copy.deepcopy(value) == pickle.loads(pickle.dumps(value)) == value
    assert type(pickle.loads(pickle.dumps(value))) is type(value)
    for field in value._fields:
        with pytest.raises(AttributeError):
            setattr(value, field, 2)
    with pytest.raises(AttributeError):
        value.another = 1


def test_values_have_a_short_repr() -> None:
    """A repr names the class and its fields."""
    assert repr(MARK) == "Watermark(offset=500, event_time_ms=1767225600000)"
    assert repr(POINT).startswith("ResumePoint(run_id='run-7', stage='load', sequence=1, watermark=Watermark(")


def test_the_builders_build_what_the_classes_build_and_check_nothing() -> None:
    """A wrong value may exist; `valid` tells."""
    assert contract.watermark(500, 1767225600000) == MARK
    assert contract.checkpoint("run-7", "load", 1, MARK, "load:0-499", 1767225601000) == ENTRY
    assert contract.watermark("x", None) == Watermark("x", None)  # type: ignore[arg-type]
    assert contract.checkpoint(1, 2, "3", 4, 5, 6).stage == 2  # type: ignore[arg-type,comparison-overlap]


@given(checkpoints)
@example(Checkpoint("r" * 1024, "\U0001f680" * 256, MAX, Watermark(MAX, MAX), "é" * 512, MAX))
@example(Checkpoint("r", "s", 0, Watermark(0, 0), "k", 0))
def test_everything_within_the_rules_is_valid(given_entry: Checkpoint) -> None:
    """Any text without NUL and lone surrogates, any integer from 0 to 2^63-1."""
    assert contract.valid(given_entry)
    assert contract.valid_watermark(given_entry.watermark)


WRONG_NAMES = ["", "\0", "a\0b", "\ud800", "a\udfff", "r" * 1025, "é" * 513, "x" * 10_000_000, b"load", None, 7, Name.LOAD,
               ["load"]]  # fmt: skip
WRONG_INTEGERS = [-1, 2**63, 10**30, True, False, 1.0, float("nan"), float("inf"), "1", None, Number.ONE]


@pytest.mark.parametrize("field", ["run_id", "stage", "idempotency_key"])
@pytest.mark.parametrize("wrong", WRONG_NAMES, ids=lambda value: type(value).__name__)
def test_a_wrong_name_is_invalid(field: str, wrong: Any) -> None:
    """Exact type, not empty, at most 1,024 bytes of UTF-8, no NUL, no lone surrogate."""
    assert not contract.valid(ENTRY._replace(**{field: wrong}))


@pytest.mark.parametrize("field", ["sequence", "at_ms"])
@pytest.mark.parametrize("wrong", WRONG_INTEGERS, ids=lambda value: type(value).__name__)
def test_a_wrong_integer_is_invalid(field: str, wrong: Any) -> None:
    """Exact type, 0 … 2^63-1."""
    assert not contract.valid(ENTRY._replace(**{field: wrong}))


@pytest.mark.parametrize("field", ["offset", "event_time_ms"])
@pytest.mark.parametrize("wrong", WRONG_INTEGERS, ids=lambda value: type(value).__name__)
def test_a_wrong_watermark_is_invalid(field: str, wrong: Any) -> None:
    """Exact type, 0 … 2^63-1."""
    mark = MARK._replace(**{field: wrong})
    assert not contract.valid_watermark(mark)
    assert not contract.valid(ENTRY._replace(watermark=mark))


@given(st.one_of(st.none(), st.integers(), st.text(), st.binary(), st.lists(st.integers()), st.tuples(), st.floats()))
@example((500, 1767225600000))
@example(Checkpoint)
def test_valid_never_raises_whatever_it_is_given(anything: object) -> None:
    """Nothing but a Checkpoint is a valid checkpoint."""
    assert contract.valid(anything) is False
    assert contract.valid_watermark(anything) is False
    assert contract.valid(ENTRY._replace(watermark=anything)) is False  # type: ignore[arg-type]


def test_valid_asks_a_hostile_object_nothing() -> None:
    """An object that raises whatever it is asked is not valid, nor is a checkpoint with one in a field."""
    hostile: Any = Hostile()
    assert contract.valid(Hostile()) is False
    assert contract.valid_watermark(Hostile()) is False
    for broken in (tuple.__new__(Checkpoint, (1, 2, 3)), ENTRY._replace(watermark=tuple.__new__(Watermark, ()))):
        assert contract.valid(broken) is False
    for field in ENTRY._fields:
        assert contract.valid(ENTRY._replace(**{field: hostile})) is False
    for field in MARK._fields:
        assert contract.valid_watermark(MARK._replace(**{field: hostile})) is False


def test_labels_are_pinned() -> None:
    """They never change between versions."""
    assert contract.watermark_label(MARK) == "offset=500 event_time_ms=1767225600000"
    assert contract.checkpoint_label(ENTRY) == (
        "checkpoint run_id='run-7' stage='load' sequence=1 offset=500 event_time_ms=1767225600000 "
        "idempotency_key='load:0-499' at_ms=1767225601000"
    )
    assert contract.resume_point_label(POINT) == (
        "resume run_id='run-7' stage='load' sequence=1 offset=500 event_time_ms=1767225600000"
    )
    strange = ENTRY._replace(run_id="it's", stage='\u65e5\n"', idempotency_key="\U0001f680\x1b[31m")
    assert contract.checkpoint_label(strange) == (
        "checkpoint run_id=\"it's\" stage='\\u65e5\\n\"' sequence=1 offset=500 event_time_ms=1767225600000 "
        "idempotency_key='\\U0001f680\\x1b[31m' at_ms=1767225601000"
    )


@pytest.mark.parametrize("examples", [30, pytest.param(100, marks=pytest.mark.long)])
def test_two_different_checkpoints_never_share_a_label(examples: int) -> None:
    """Labels are injective, one printable ASCII line each."""

    @settings(max_examples=examples)
    @given(checkpoints, checkpoints)
    @example(entry(1, run_id="a' stage='b", stage="c"), entry(1, run_id="a", stage="b' stage='c"))
    def check(one: Checkpoint, other: Checkpoint) -> None:
        assert (contract.checkpoint_label(one) == contract.checkpoint_label(other)) == (one == other)
        assert contract.checkpoint_label(one).isascii()
        assert contract.checkpoint_label(one).isprintable()

    check()


def test_the_latest_is_the_last_recorded_whatever_the_clock_says() -> None:
    """`at_ms` is evidence, never an order."""
    entries = [entry(1, at_ms=3000), entry(2, at_ms=2000), entry(3, at_ms=1000)]
    assert contract.latest(entries) == entries[2]
    assert contract.latest(iter(entries)) == entries[2]
    assert contract.latest([]) is None


def test_the_latest_of_a_stage_is_the_last_one_with_its_name() -> None:
    """Other stages do not count."""
    entries = [entry(1, stage="load"), entry(1, stage="extract"), entry(2, stage="load"), entry(2, stage="extract")]
    assert contract.latest_for_stage(entries, "load") == entries[2]
    assert contract.latest_for_stage(entries, "transform") is None


@given(names)
def test_a_stage_without_a_checkpoint_has_no_resume_point(stage: str) -> None:
    """NoCheckpointError names the stage, and is a LookupError."""
    with pytest.raises(NoCheckpointError) as caught:
        contract.resume_point_for_stage([], stage)
    assert (caught.value.run_id, caught.value.stage) == (None, stage)
    assert isinstance(caught.value, LookupError)


def test_a_resume_point_repeats_the_last_checkpoint_of_its_stage() -> None:
    """Run, stage, sequence and watermark."""
    entries = mixed(50)
    last = contract.latest_for_stage(entries, "load")
    assert last is not None
    assert contract.resume_point_for_stage(entries, "load") == ResumePoint(*last[:4])
    assert contract.resume_point_for_stage(chain(3), "load").sequence == 3
