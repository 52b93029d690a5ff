"""A loop begins again where it was, or is told that its source cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from milepost import CheckpointStore, InvalidArgumentError, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path


class Crash(Exception):  # noqa: N818 - plays the part of a kill
    """Ends a loop."""


def _generated(length: int) -> Iterator[str]:
    for n in range(length):
        yield f"{n}\n"


def _lines(tmp_path: Path, length: int) -> Any:
    path = tmp_path / "lines"
    path.write_text("".join(_generated(length)))
    return path.open()


ONE_SHOT: Final[dict[str, Callable[[Path, int], Iterable[str]]]] = {
    "a generator": lambda _, length: _generated(length),
    "an iterator": lambda _, length: iter([f"{n}\n" for n in range(length)]),
    "a map": lambda _, length: map("{}\n".format, range(length)),
    "an open file": _lines,
}


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("kind", ONE_SHOT)
@pytest.mark.parametrize("first_end", ["a crash", "the end"])
def test_a_loop_over_what_cannot_begin_again_is_refused_the_second_time(
    store: CheckpointStore, tmp_path: Path, kind: str, first_end: str, transaction: bool
) -> None:
    """A retry would skip records of what is left, and record them as done."""
    records = ONE_SHOT[kind](tmp_path, 30)
    loop = store.checkpointed(records, run_id="run-7", stage="load", every=5, transaction=transaction)
    done: list[str] = []

    def run() -> None:
        for record in loop:
            if first_end == "a crash" and len(done) == 12:
                raise Crash
            done.append(record)

    if first_end == "a crash":
        with pytest.raises(Crash):
            run()
    else:
        run()
    recorded = list(store.history())
    for _ in range(2):
        with pytest.raises(InvalidArgumentError, match="records") as refused:
            run()
        assert "a loop has already read from" in str(refused.value)
    assert list(store.history()) == recorded
    fresh = ONE_SHOT[kind](tmp_path, 30)
    rest = list(store.checkpointed(fresh, run_id="run-7", stage="load", every=5, transaction=transaction))
    assert rest == list(_generated(30))[10 if first_end == "a crash" else 30 :]
    for each in (records, fresh):
        getattr(each, "close", lambda: None)()


@pytest.mark.parametrize("transaction", [False, True])
def test_a_one_shot_iterator_may_be_what_resumes_a_stage(store: CheckpointStore, transaction: bool) -> None:
    """A fresh one each time, as a process that is started again has."""
    for length in (10, 25, 25, 30):
        loop = store.checkpointed(_generated(length), run_id="run-7", stage="load", every=4, transaction=transaction)
        last = store.latest()
        done = last.watermark.offset if last else 0
        assert list(loop) == list(_generated(length))[done:]


@pytest.mark.parametrize("records", [list(range(30)), range(30), dict.fromkeys(range(30)), tuple(range(30))], ids=type)
def test_what_can_begin_again_may_be_iterated_again(store: CheckpointStore, records: Any) -> None:
    """And goes on behind the last checkpoint."""
    loop = store.checkpointed(records, run_id="run-7", stage="load", every=5)
    with pytest.raises(Crash):
        for record in loop:
            if record == 12:
                raise Crash
    assert list(loop) == list(range(10, 30))
    assert list(loop) == []


def test_what_makes_its_iterator_anew_may_be_iterated_again(store: CheckpointStore) -> None:
    """Though each of its iterators is a one-shot one."""

    class Source:
        def __iter__(self) -> Iterator[str]:
            return _generated(30)

    loop = store.checkpointed(Source(), run_id="run-7", stage="load", every=5)
    with pytest.raises(Crash):
        for record in loop:
            if record == "12\n":
                raise Crash
    assert list(loop) == list(_generated(30))[10:]


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("found", [0, 7, 29])
def test_a_function_whose_source_has_become_shorter_is_told(store: CheckpointStore, found: int, transaction: bool) -> None:
    """Silence would look like a finished stage."""

    def loop(length: int) -> list[int]:
        records = range(length)
        return list(
            store.checkpointed(
                lambda start: records[start:],
                run_id="run-7",
                stage="load",
                every=10,
                transaction=transaction,
            )
        )

    assert loop(30) == list(range(30))
    with pytest.raises(InvalidArgumentError, match="30"):
        loop(found)
    assert len(store) == 3
    assert loop(30) == []
    assert loop(35) == list(range(30, 35))


def test_a_function_of_a_start_beyond_the_end_may_raise_what_it_likes(store: CheckpointStore) -> None:
    """The caller's own exception passes through, and nothing is recorded."""

    def loop(length: int) -> list[int]:
        def rest(start: Start) -> Iterator[int]:
            if start > length:
                raise Crash
            return iter(range(start, length))

        return list(store.checkpointed(rest, run_id="run-7", stage="load", every=10))

    assert loop(30) == list(range(30))
    with pytest.raises(Crash):
        loop(7)
    assert len(store) == 3
