"""A loop begins again where it was, or is told that its source cannot."""

from __future__ import annotations

import asyncio
import csv
import io
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import pytest

from milepost import CheckpointStore, InvalidArgumentError, Start, source

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
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


RETRIED: Final[dict[str, Callable[[Path], Any]]] = {
    "a generator": lambda _: _generated(30),
    "an async generator": lambda _: _generated_async(30),
    "a DictReader": lambda _: csv.DictReader(["line", *(f"{n}" for n in range(30))]),
    "an open file": lambda path: _lines(path, 30),
    "a file that cannot tell where it is": lambda _: _Pipe(b"".join(b"%d\n" % n for n in range(30))),
}


async def _generated_async(length: int) -> AsyncIterator[str]:
    for line in _generated(length):
        yield line


class _Pipe(io.BytesIO):
    def tell(self) -> int:
        raise OSError


async def _take(loop: Any, most: int) -> list[Any]:
    found = []
    async with loop:
        async for record in loop:
            found.append(record)
            if len(found) == most:
                break
    return found


@pytest.mark.parametrize("most", [2, 12, 30])
@pytest.mark.parametrize("kind", RETRIED)
def test_a_retry_by_another_loop_over_what_a_loop_of_the_stage_has_read_from_is_refused(
    path: Path, tmp_path: Path, kind: str, most: int
) -> None:
    """It would record records of what is left as done. Before the first checkpoint it would leave some out."""
    records = RETRIED[kind](tmp_path)
    with CheckpointStore(path) as store:
        loop = store.checkpointed(records, run_id="run-7", stage="load", every=5)
        assert len(asyncio.run(_take(loop, most))) == most
        del loop
        recorded = list(store.history())
    with CheckpointStore(path) as store:  # a retry may open it again
        loop = store.checkpointed(records, run_id="run-7", stage="load", every=5)
        with pytest.raises(InvalidArgumentError, match="a loop has already read from"):
            asyncio.run(_take(loop, 30))
        assert list(store.history()) == recorded
        if isinstance(records, io.IOBase):
            records.close()


def test_a_retry_over_a_file_that_was_rewound_goes_on(store: CheckpointStore, tmp_path: Path) -> None:
    """With a line that is read before each of them, too."""
    with _lines(tmp_path, 31) as file:
        for expected in (range(1, 31), range(11, 31)):
            file.seek(0)
            assert file.readline() == "0\n"
            found = []
            for line in store.checkpointed(file, run_id="run-7", stage="load", every=5):
                if expected.start == 1 and line == "13\n":
                    break
                found.append(line)
        assert found == [f"{n}\n" for n in expected]


def test_one_iterator_may_be_shared_by_stages_and_by_bags(store: CheckpointStore) -> None:
    """Stages may take turns in it, and several loops may take items from it."""
    records = (str(n) for n in range(30))
    for stage in ("one", "other"):
        assert len(list(islice(store.checkpointed(records, run_id="run-7", stage=stage), 5))) == 5
    for _ in range(2):
        assert len(list(islice(store.once(records, run_id="run-7", stage="bag", key=str), 5))) == 5


def test_the_iterators_of_many_stages_are_not_kept(store: CheckpointStore) -> None:
    """A program may have a stage for each of a million files."""
    for number in range(1_100):
        assert list(store.checkpointed(_generated(0), run_id="run-7", stage=f"load-{number}")) == []
    assert len(source._begun_last) <= 1_000


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("outer", ["checkpointed", "once", "a function of the start"])
@pytest.mark.parametrize("inner", ["checkpointed", "once", "mapped"])
def test_a_loop_is_no_source_of_another_one(store: CheckpointStore, inner: str, outer: str, is_async: bool) -> None:
    """Both would skip what is done; and the inner one would record as done what the outer one has in hand."""
    given: dict[str, Any] = {"run_id": "run-7", "stage": "inner"}
    records: Any = range(30)
    made: Any = store.once(records, key=str, **given) if inner == "once" else store.checkpointed(records, **given)
    if inner == "mapped":
        made = made.map(str)
    given["stage"] = "outer"

    def loop() -> None:
        if outer == "once":
            over: Any = store.once(made, key=str, **given)
        else:
            over = store.checkpointed((lambda _: made) if outer == "a function of the start" else made, **given)
        if is_async:
            asyncio.run(_take(over, 30))
        else:
            list(over)

    with pytest.raises(InvalidArgumentError, match="checkpoint of its own"):
        loop()
    assert len(store) == 0


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
