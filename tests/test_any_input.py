"""Anything at all as an argument: no method raises anything but errors of milepost, and no chain is harmed."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import Checkpoint, CheckpointStore, Head, InvalidArgumentError, MilepostError, Receipt, Watermark
from milepost import checkpoint as contract
from support.chains import MAX, entry
from support.hostile import HostileComparison
from support.methods import READING, WRITING, method, public

ANYTHING: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.text(),
    st.text("\0\ud800\x1b\n'\"\\", max_size=5),
    st.binary(),
    st.datetimes(),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=3),
    st.builds(HostileComparison),
    st.sampled_from([object(), Checkpoint, ..., NotImplemented, ValueError("x"), range(3), Path("x")]),
    st.builds(entry, st.integers(0, 3)),
    st.builds(Watermark, st.integers(), st.one_of(st.none(), st.integers())),
    st.builds(Checkpoint, *([st.one_of(st.none(), st.integers(), st.text())] * 6)),
)
NOT_CALLABLE = ANYTHING.filter(lambda value: not callable(value))
ARGUMENTS: dict[str, list[str]] = {
    name: list(parameters)[1:]
    for name in sorted({method(call) for call in READING | WRITING} & public())
    if len(parameters := inspect.signature(getattr(CheckpointStore, name)).parameters) > 1
}
"""What each method takes that only asks and records: it is called with anything, and does nothing else."""


@pytest.mark.parametrize("examples", [60, pytest.param(150, marks=pytest.mark.long)])
def test_no_verb_raises_anything_but_errors_of_milepost_whatever_it_is_given(used: CheckpointStore, examples: int) -> None:
    """What a verb refuses leaves the chain as it was; what it takes leaves a chain that holds."""

    @settings(max_examples=examples)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        verb = data.draw(st.sampled_from(sorted(ARGUMENTS)))
        good: dict[str, Any] = {
            "entry": entry(1),
            "entries": [],
            "watermark": Watermark(MAX, MAX),
            "records": [],
            "items": [],
            "key": str,
            "idempotency_key": "load:1",
            "run_id": "run-7",
            "other_run_id": "run-7",
            "stage": "load",
            "sequence": 1,
        }
        arguments = {name: good[name] for name in ARGUMENTS[verb] if name in good}
        for name in data.draw(st.lists(st.sampled_from(ARGUMENTS[verb]), min_size=1, unique=True)):
            arguments[name] = data.draw(NOT_CALLABLE if name in {"event_time", "cursor", "key", "progress"} else ANYTHING)
        head = used.head()
        refused: MilepostError | None = None
        try:
            answer = getattr(used, verb)(**arguments)
            if isinstance(answer, Iterator):
                list(answer)
        except MilepostError as error:
            refused = error
        assert used.verify(trusted=head).ok
        if refused is not None:
            assert len(str(refused)) < 1000
            assert str(refused).isprintable()
            assert head == used.head()

    check()


@pytest.mark.parametrize("examples", [60, pytest.param(200, marks=pytest.mark.long)])
def test_no_value_of_ours_can_be_built_wrong(examples: int) -> None:
    """Receipts and heads exist only with values that a store could have given them; `valid` never raises."""

    @settings(max_examples=examples)
    @given(ANYTHING, ANYTHING, ANYTHING)
    def check(first: Any, second: Any, third: Any) -> None:
        for kind, arguments in ((Receipt, (first, second, third)), (Head, (first, second))):
            with contextlib.suppress(InvalidArgumentError):
                kind(*arguments)
        with contextlib.suppress(InvalidArgumentError):
            Head.parse(first)
        assert contract.valid(first) in {True, False}
        assert contract.valid_watermark(second) in {True, False}

    check()
