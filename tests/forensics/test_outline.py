"""An outline has few marks, and its line passes close by all the others."""

from __future__ import annotations

from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost.forensics.outline import Mark, Outline, outline


def _between(marks: list[Mark], low: int, high: int) -> Mark | None:
    """As the store finds one: from the middle on, or else below it."""
    sequences = [mark.sequence for mark in marks]
    middle = bisect_left(sequences, (low + high) // 2)
    for mark in (marks[middle : middle + 1] or []) + marks[max(0, middle - 1) : middle]:
        if low < mark.sequence < high:
            return mark
    return None


def _distance(one: Mark, two: Mark) -> float:
    return max(abs(two.at_ms - one.at_ms), abs(two.offset - one.offset)) / 1_000_000


def _outline(marks: list[Mark], points: int = 1000) -> Outline:
    return outline(marks[0], marks[-1], len(marks), lambda low, high: _between(marks, low, high), _distance, points=points)


steps = st.tuples(st.integers(1, 1000), st.integers(0, 5000), st.integers(0, 5000))


@st.composite
def run_stages(draw: st.DrawFn) -> list[Mark]:
    """The marks of a stage: sequences rise, with gaps; offsets and times do not fall."""
    marks = [Mark(draw(st.integers(0, 5)), 0, 0, 0)]
    for sequence, offset, at_ms in draw(st.lists(steps, max_size=200)):
        last = marks[-1]
        marks.append(Mark(last.sequence + sequence, last.offset + offset, 0, last.at_ms + at_ms))
    return marks


@given(run_stages(), st.integers(2, 300))
def test_an_outline_is_some_of_the_marks_in_order_with_both_ends(marks: list[Mark], points: int) -> None:
    """And no more than asked for."""
    found = _outline(marks, points)
    assert found.marks == sorted(set(found.marks))
    assert set(found.marks) <= set(marks)
    assert (found.marks[0], found.marks[-1]) == (marks[0], marks[-1])
    assert len(found.marks) <= points
    assert len(found.neighbours) == len(found.marks) - 1


@given(run_stages())
def test_no_mark_is_far_from_the_outline(marks: list[Mark]) -> None:
    """Each lies between two chosen ones that are close together or have nothing between them."""
    found = _outline(marks, 10_000)
    for one, two, neighbours in zip(found.marks, found.marks[1:], found.neighbours, strict=False):
        assert neighbours or _distance(one, two) <= 0.001
        if neighbours:
            assert [mark for mark in marks if one.sequence < mark.sequence < two.sequence] == []


def test_marks_that_are_close_enough_are_left_alone() -> None:
    """What a picture cannot show is not read."""

    def mark(i: int) -> Mark:
        return Mark(i, i, 0, i)

    found = outline(mark(0), mark(100_000), 100_001, lambda low, high: mark((low + high) // 2), _distance, points=1000)
    assert len(found.marks) == 2**7 + 1  # 100,000 / 1,000,000 halved until it is at most 0.001


def test_a_silence_among_a_million_is_found_to_the_mark() -> None:
    """With 200 marks: the widest gap is looked into first."""
    sought = 0

    def mark(i: int) -> Mark:
        return Mark(i, i, 0, i * 10 + (5_000_000 if i > 777_777 else 0))

    def between(low: int, high: int) -> Mark | None:
        nonlocal sought
        sought += 1
        middle = (low + high) // 2
        return mark(middle) if low < middle < high else None

    found = outline(mark(0), mark(999_999), 1_000_000, between, _distance, points=200)
    assert [found.marks[index].sequence for index in found.silences] == [777_777]
    assert [(each[0].sequence, each[-1].sequence) for each in found.stretches()] == [(0, 777_777), (777_778, 999_999)]
    assert sought <= 201


@pytest.mark.parametrize("step", [1, 1000])
def test_a_gap_in_the_sequence_is_no_silence(step: int) -> None:
    """Only the clock says that nothing was recorded."""
    marks = [Mark(i * step if i < 50 else i * step * 100, i, 0, i * 1000) for i in range(100)]
    assert _outline(marks).silences == []


def test_an_uneven_pace_is_no_silence() -> None:
    """It takes ten times the usual pause."""
    marks = [Mark(i, i, 0, i * 1000 + (4000 if i > 5 else 0)) for i in range(10)]
    assert _outline(marks).silences == []
    assert _outline([Mark(1, 0, 0, 0)]).stretches() == [[Mark(1, 0, 0, 0)]]
    assert _outline([Mark(1, 0, 0, 0), Mark(2, 0, 0, 10**9)]).silences == []
