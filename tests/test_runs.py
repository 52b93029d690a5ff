"""run(): how attempts began and ended, what stands of it in the chain, and who leaves it out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw
import pytest

from conftest import Clock
from milepost import (
    CheckpointStore,
    ClosedStoreError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    NoCheckpointError,
    RunFinishedError,
    RunSummary,
    StageMovedError,
    StoreBusyError,
    StoreError,
    Watermark,
    append,
)
from milepost.checkpoint import chain_signature
from milepost.forensics import active
from milepost.rows import Filter
from support import doors
from support.chains import chain, entry
from support.command import answer, run
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from milepost.run import Run

STAGE = "milepost:run"


def summary(store: CheckpointStore, run_id: str = "nightly") -> RunSummary:
    """Of one run."""
    (found,) = [each for each in store.runs() if each.run_id == run_id]
    return found


def said(store: CheckpointStore, run_id: str = "nightly") -> list[tuple[int, int, str, dict[str, Any]]]:
    """What stands in the reserved stage of a run: sequence, attempt, key and detail."""
    return [
        (each.sequence, each.watermark.offset, each.idempotency_key, json.loads(detail or "{}"))
        for _, each, detail in store.receipts(run_id, STAGE)
    ]


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Another program has the lock meanwhile."""
    with contextlib.closing(apsw.Connection(str(path))) as other:
        other.execute("BEGIN IMMEDIATE")
        yield


# What is recorded


def test_an_attempt_that_finishes_stands_in_the_chain_as_two_entries(store: CheckpointStore) -> None:
    """The attempt is the offset, and its handle has the run's name."""
    with store.run("nightly") as run:
        assert (run.run_id, run.attempt) == ("nightly", 1)
        assert repr(run) == "<Run 'nightly', attempt 1>"
        assert summary(store).state == "open"
        run.advance("load", Watermark(500, 7), idempotency_key="a", cursor="page-2")
        assert run.cursor("load") == "page-2"
        assert run.resume_point("load").watermark == Watermark(500, 7)
        with pytest.raises(NoCheckpointError):
            run.resume_point("sort")
        assert list(run.checkpointed([1, 2, 3], stage="sort")) == [1, 2, 3]
    assert said(store) == [
        (1, 1, "attempt-1:began", {"run": "began"}),
        (2, 1, "attempt-1:finished", {"run": "finished"}),
    ]
    found = summary(store)
    assert (found.state, found.attempts, found.killed, found.error) == ("finished", 1, 0, None)
    assert (found.entries, found.stages, found.records) == (2, ("load", "sort"), 500)


def test_the_entries_of_attempts_are_numbered_without_a_gap_and_have_no_event_time(store: CheckpointStore) -> None:
    """Whatever attempt they are of."""
    for error in (ValueError, KeyError):
        with contextlib.suppress(error), store.run("nightly"):
            raise error
    with store.run("nightly"):
        pass
    found = [(each.sequence, each.watermark) for each in store.history("nightly", "milepost:run")]
    assert found == [(sequence, Watermark((sequence + 1) // 2, 0)) for sequence in range(1, 7)]


class _Loud(BaseException):
    pass


NESTED = type("Inner", (ValueError,), {"__qualname__": "Outer.<locals>.Inner"})


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError("secret"), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (SystemExit(0), "SystemExit"),
        (GeneratorExit(), "GeneratorExit"),
        (_Loud(), f"{__name__}._Loud"),
        (NESTED(), f"{__name__}.Outer.<locals>.Inner"),
        (ExceptionGroup("two", [ValueError(), KeyError()]), "ExceptionGroup"),
        (NoCheckpointError("secret", None), "milepost.errors.NoCheckpointError"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_attempt_that_fails_records_the_type_of_the_exception(
    store: CheckpointStore, error: BaseException, name: str
) -> None:
    """And not a word of its message; the exception itself comes out, without a note."""
    with pytest.raises(type(error)) as told, store.run("nightly"):
        raise error
    assert told.value is error
    assert not hasattr(error, "__notes__")
    assert said(store)[1:] == [(2, 1, "attempt-1:failed", {"run": "failed", "error": name})]
    found = summary(store)
    assert (found.state, found.error, found.attempts, found.killed) == ("failed", name, 1, 0)


def test_an_exception_that_is_caught_inside_is_no_failure(store: CheckpointStore) -> None:
    """Nor does the failure of a run within a run fail the outer one."""
    with store.run("outer"):
        with pytest.raises(ValueError, match="inner"), store.run("inner"):
            raise ValueError("inner")
        with pytest.raises(KeyError):
            raise KeyError
    assert (summary(store, "outer").state, summary(store, "inner").state) == ("finished", "failed")


HOSTILE_NAMES = {
    "long": ("x" * 5000, "pipeline"),
    "long in bytes": ("日" * 5000, "🚀" * 100),
    "control characters": ("\0\x1b" * 500, "\n"),
    "lone surrogates": ("\ud800", "\udcff"),
    "empty": ("", ""),
}


@pytest.mark.parametrize("names", HOSTILE_NAMES)
def test_an_exception_of_any_name_is_recorded_and_comes_out(store: CheckpointStore, names: str) -> None:
    """Whatever its class calls itself."""
    qualified, module = HOSTILE_NAMES[names]
    error = type("E", (Exception,), {"__qualname__": qualified, "__module__": module})()
    with pytest.raises(Exception) as told, store.run("nightly"):  # noqa: PT011 - of any name
        raise error
    assert told.value is error
    assert not hasattr(error, "__notes__")
    found = summary(store)
    assert found.state == "failed"
    assert found.error is not None
    assert len(found.error) <= 200
    store.verify().raise_if_broken()


def test_a_module_that_is_no_text_masks_nothing(store: CheckpointStore) -> None:
    """It is written as what it is."""
    error = type("E", (Exception,), {"__module__": 7})()
    with pytest.raises(Exception) as told, store.run("nightly"):  # noqa: PT011
        raise error
    assert told.value is error
    assert summary(store).error == "7.E"


# Attempts


def test_a_run_that_finished_is_not_begun_again_unless_it_is_asked_for(store: CheckpointStore) -> None:
    """The error says when and in which attempt; nothing is written by it."""
    with store.run("nightly"):
        pass
    before = len(store)
    for _ in range(2):
        with pytest.raises(RunFinishedError) as told, store.run("nightly"):
            pytest.fail("it has begun")
    assert (told.value.run_id, told.value.attempt, told.value.at_ms) == ("nightly", 1, summary(store).ended_at_ms)
    assert str(told.value) == (
        "run 'nightly' finished in attempt 1: use a new run_id, or give again=True for another attempt"
    )
    assert len(store) == before
    with store.run("nightly", again=True) as run:
        assert run.attempt == 2
    with pytest.raises(RunFinishedError, match="finished in attempt 2"), store.run("nightly"):
        pass
    assert (summary(store).attempts, summary(store).killed) == (2, 0)


def test_an_attempt_after_a_failure_or_a_kill_needs_no_asking(store: CheckpointStore) -> None:
    """An attempt whose `with` was never left has no end; the next one shows that it was killed."""
    with pytest.raises(ValueError, match="why"), store.run("nightly"):
        raise ValueError("why")
    store.run("nightly").__enter__()
    assert (summary(store).state, summary(store).killed) == ("open", 0)
    with store.run("nightly") as run:
        assert run.attempt == 3
        assert (summary(store).state, summary(store).attempts, summary(store).killed) == ("open", 3, 1)
    found = summary(store)
    assert (found.state, found.attempts, found.killed, found.error) == ("finished", 3, 1, None)
    assert [key for _, _, key, _ in said(store)] == [
        "attempt-1:began", "attempt-1:failed", "attempt-2:began", "attempt-3:began", "attempt-3:finished",
    ]  # fmt: skip


def test_a_handle_begins_one_attempt(store: CheckpointStore) -> None:
    """A second `with` of it is refused, inside the first and after it; one that could not begin may try again."""
    run = store.run("nightly")
    assert repr(run) == "<Run 'nightly', not begun>"
    with run:
        with pytest.raises(StoreError, match="attempt 1 was begun with this"), run:
            pass
        assert summary(store).state == "open"
    with pytest.raises(StoreError, match="call run\\(\\) again"), run:
        pass
    assert summary(store).attempts == 1
    late = store.run("nightly")
    with pytest.raises(RunFinishedError), late:
        pass
    assert late.attempt is None


def test_an_attempt_ends_once(store: CheckpointStore) -> None:
    """A second end is refused, and writes nothing."""
    run = store.run("nightly")
    run.__enter__()
    run.__exit__(None, None, None)
    with pytest.raises(StageMovedError):
        run.__exit__(None, None, None)
    error = ValueError()
    run.__exit__(ValueError, error, None)
    assert len(error.__notes__) == 1
    assert (len(store), summary(store).state) == (2, "finished")


def test_of_two_that_enter_a_handle_at_once_one_begins_an_attempt(store: CheckpointStore) -> None:
    """Two tasks, of which the second comes while the first waits for its commit."""

    async def attempt(run: Run) -> None:
        async with run:
            await asyncio.sleep(0)

    async def main() -> Sequence[BaseException | None]:
        run = store.run("nightly")
        return await asyncio.gather(attempt(run), attempt(run), return_exceptions=True)

    one, other = asyncio.run(main())
    assert one is None
    assert isinstance(other, StoreError)
    assert "an attempt is being begun with this" in str(other)
    assert (summary(store).state, summary(store).attempts) == ("finished", 1)


def test_a_handle_whose_beginning_could_not_be_recorded_may_try_again(path: Path) -> None:
    """It has begun nothing."""
    with CheckpointStore(path, durability="normal", busy_timeout_ms=20) as store:
        run = store.run("nightly")
        with locked(path), pytest.raises(StoreBusyError), run:
            pass
        with run:
            assert run.attempt == 1
        assert summary(store).state == "finished"


def test_an_attempt_that_was_undone_does_not_end_the_one_that_has_its_number(store: CheckpointStore) -> None:
    """It is told that it was undone, and the other one goes on and ends."""
    undone = store.run("nightly")
    with pytest.raises(ValueError, match="undo"), store.transaction():
        undone.__enter__()
        raise ValueError("undo")
    with pytest.raises(StageMovedError, match=r"was undone with the transaction.* has none"):
        undone.__exit__(None, None, None)
    with store.run("nightly") as run:
        assert run.attempt == undone.attempt == 1
        with pytest.raises(StageMovedError, match="its last is 1"):
            undone.__exit__(None, None, None)
        assert summary(store).state == "open"
    assert summary(store).state == "finished"


def test_an_attempt_that_was_overtaken_is_told_at_its_end(store: CheckpointStore) -> None:
    """Of two owners of one run, the second one is right; what the first one recorded stays."""
    with pytest.raises(StageMovedError) as told, store.run("nightly") as first, store.run("nightly") as second:
        first.advance("load", Watermark(1, 0), idempotency_key="a")
        second.advance("load", Watermark(2, 0), idempotency_key="b")
    assert (told.value.expected, told.value.found) == (Watermark(1, 0), Watermark(2, 0))
    assert (told.value.run_id, told.value.stage) == ("nightly", STAGE)
    found = summary(store)
    assert (found.state, found.attempts, found.killed, found.entries) == ("finished", 2, 1, 2)
    assert "attempt 1 of run 'nightly' cannot end" in str(told.value)


def test_the_end_of_an_attempt_that_was_overtaken_never_masks_the_exception(store: CheckpointStore) -> None:
    """It becomes a note of it."""
    error = ValueError("the body's")
    with pytest.raises(ValueError, match="the body's") as told, store.run("nightly"):
        store.run("nightly").__enter__()
        raise error
    assert told.value is error
    (note,) = error.__notes__
    assert note.startswith("and its end could not be recorded: attempt 1 of run 'nightly' cannot end")
    assert (summary(store).state, summary(store).attempts) == ("open", 2)


@pytest.mark.parametrize("error", [None, ValueError("the body's"), _Loud("the body's")], ids=["none", "error", "base"])
def test_a_store_that_is_closed_inside_the_body_cannot_record_its_end(path: Path, error: BaseException | None) -> None:
    """Which is told, as an error or as a note; the attempt stays open."""
    with pytest.raises((ClosedStoreError, ValueError, _Loud)) as told, CheckpointStore(path, durability="normal") as store:
        run = store.run("nightly")
        with run:
            store.close()
            if error is not None:
                raise error
    if error is None:
        assert isinstance(told.value, ClosedStoreError)
    else:
        assert told.value is error
        assert len(error.__notes__) == 1
        error.__notes__.clear()
    with CheckpointStore.open_readonly(path) as store:
        assert summary(store).state == "open"


@pytest.mark.parametrize("failure", [ZeroDivisionError, lambda: "noon", lambda: -1, lambda: 10**30])
@pytest.mark.parametrize("fails", [False, True])
def test_a_clock_that_fails_at_the_end_never_masks_the_exception(path: Path, failure: Any, fails: bool) -> None:
    """Without one it comes out itself."""
    clock: list[Any] = [lambda: 7]

    def tick() -> int:
        found = clock[0]()
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    error = ValueError("the body's")
    with CheckpointStore(path, durability="normal", clock=tick) as store:
        with pytest.raises((ValueError, ZeroDivisionError)) as told, store.run("nightly"):
            clock[0] = failure
            if fails:
                raise error
        clock[0] = lambda: 8
        if fails:
            assert told.value is error
            (note,) = error.__notes__
            assert note.startswith("and its end could not be recorded: ")
        else:
            assert isinstance(told.value, InvalidCheckpointError | ZeroDivisionError)
        assert summary(store).state == "open"
        with store.run("nightly") as run:
            assert run.attempt == 2


class _Frozen(Exception):  # noqa: N818 - it is no error of anybody's
    """One that takes no notes, as a frozen dataclass."""

    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError(f"{name} is frozen")


def test_an_exception_that_takes_no_notes_comes_out_though_the_end_could_not_be_recorded(path: Path) -> None:
    """Of `with` and of `async with`, and beside records that could not be recorded."""
    odd = ValueError("notes are no list")
    odd.__notes__ = "a text"  # type: ignore[assignment]

    async def main(store: CheckpointStore, error: Exception) -> None:
        async with store.run("later"):
            store.close()
            raise error

    for error in (_Frozen("frozen"), odd):
        store = CheckpointStore(path, durability="normal")
        with pytest.raises(type(error)) as told, store.run("nightly"):
            store.close()
            raise error
        assert told.value is error
        with pytest.raises(type(error)) as told:
            asyncio.run(main(CheckpointStore(path, durability="normal"), error))
        assert told.value is error
        store = CheckpointStore(path, durability="normal")
        with pytest.raises(type(error)) as told, store.tracked(run_id="x", stage="s") as tracked:
            tracked(0)()
            store.close()
            raise error
        assert told.value is error


def test_who_closes_a_generator_hears_that_the_end_of_its_run_could_not_be_recorded(path: Path) -> None:
    """Nobody would ever see a note on its GeneratorExit; as a rule the end is recorded."""

    def records(store: CheckpointStore) -> Iterator[int]:
        with store.run("nightly"):
            yield from range(10)

    async def records_async(store: CheckpointStore) -> AsyncIterator[int]:
        async with store.run("later"):
            for number in range(10):
                yield number

    async def main(store: CheckpointStore) -> None:
        for busy in (False, True):
            generator = records_async(store)
            await anext(generator)
            if busy:
                with locked(store.path), pytest.raises(StoreBusyError):
                    await generator.aclose()  # type: ignore[attr-defined]
            else:
                await generator.aclose()  # type: ignore[attr-defined]
                assert (summary(store, "later").state, summary(store, "later").error) == ("failed", "GeneratorExit")

    with CheckpointStore(path, durability="normal", busy_timeout_ms=50) as store:
        generator: Any = records(store)
        next(generator)
        generator.close()
        assert (summary(store).state, summary(store).error) == ("failed", "GeneratorExit")
        generator = records(store)
        next(generator)
        with locked(store.path), pytest.raises(StoreBusyError):
            generator.close()
        asyncio.run(main(store))


@pytest.mark.parametrize("tasks", [300, pytest.param(3000, marks=pytest.mark.long)])
def test_a_task_that_is_cancelled_as_its_run_begins_or_ends_leaves_no_open_attempt(path: Path, tasks: int) -> None:
    """The attempt never began, or has an end: that of the body if it was over, and else the cancellation."""
    rng = random.Random(7)
    over: set[str] = set()

    async def work(store: CheckpointStore, run_id: str) -> None:
        async with store.run(run_id):
            await asyncio.sleep(0)
            over.add(run_id)

    async def main(store: CheckpointStore) -> None:
        for number in range(tasks):
            task = asyncio.create_task(work(store, f"run-{number}"))
            for _ in range(rng.randrange(40)):
                await asyncio.sleep(0)
            task.cancel()
            if rng.random() < 0.3:
                await asyncio.sleep(0)
                task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() or task.exception() is None

    with CheckpointStore(path, durability="normal") as store:
        asyncio.run(main(store))
        found = {each.run_id: (each.state, each.error) for each in store.runs()}
        cancelled = "failed", "asyncio.exceptions.CancelledError"
        assert set(found.values()) == {("finished", None), cancelled}
        assert {run_id for run_id, end in found.items() if end != cancelled} <= over


def test_a_cancellation_is_heard_though_the_end_could_not_be_recorded(path: Path) -> None:
    """With the failure as its cause."""

    async def work(store: CheckpointStore) -> None:
        async with store.run("nightly"):
            pass

    async def main(store: CheckpointStore) -> BaseException:
        with locked(path):
            task = asyncio.create_task(work(store))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.wait([task])
        with pytest.raises(asyncio.CancelledError) as told:
            await task
        return told.value

    with CheckpointStore(path, durability="normal", busy_timeout_ms=200) as store:
        store.append(entry(1))
        assert isinstance(asyncio.run(main(store)).__cause__, StoreBusyError)


def test_runs_without_stages_of_their_own_do_not_pile_up_in_memory(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only so many are remembered, and those that are forgotten go on as they were."""
    monkeypatch.setattr(append, "_RUN_STAGES", 8)
    for number in range(30):
        with store.run(f"run-{number % 20}", again=True):
            pass
        end = store._writer._end
        assert end is not None
        assert len(end._runs) <= 8
    assert store.verify().ok
    assert [each.attempts for each in store.runs()] == [2] * 10 + [1] * 10


def test_ctrl_c_while_an_end_is_recorded_is_obeyed(path: Path) -> None:
    """It is no failure to record: what the body raised is its context."""
    clock: list[Callable[[], int]] = [lambda: 7]

    def interrupted() -> int:
        raise KeyboardInterrupt

    def tick() -> int:
        return clock[-1]()

    with CheckpointStore(path, durability="normal", clock=tick) as store:
        with pytest.raises(KeyboardInterrupt) as told, store.run("nightly"):
            clock.append(interrupted)
            raise ValueError("the body's")
        assert isinstance(told.value.__context__, ValueError)
        clock.append(lambda: 8)
        assert summary(store).state == "open"


def test_a_run_inside_a_block_is_part_of_it(store: CheckpointStore, path: Path) -> None:
    """Committed with it, or gone with it."""
    with store.transaction(), store.run("kept") as run:
        run.advance("load", Watermark(1, 0), idempotency_key="a")
        assert summary(store, "kept").state == "open"
        with CheckpointStore.open_readonly(path) as reader:
            assert reader.runs() == []
    assert summary(store, "kept").state == "finished"
    with pytest.raises(ValueError, match="why"), store.transaction(), store.run("gone"):
        raise ValueError("why")
    assert [each.run_id for each in store.runs()] == ["kept"]
    with store.run("around") as run, pytest.raises(ValueError, match="why"), store.transaction():
        run.advance("load", Watermark(1, 0), idempotency_key="a")
        raise ValueError("why")
    assert (summary(store, "around").state, summary(store, "around").entries) == ("finished", 0)


def test_an_attempt_whose_block_was_undone_is_told_that_it_never_began(store: CheckpointStore) -> None:
    """Its end has nothing to end."""
    run = store.run("nightly")
    with pytest.raises(ValueError, match="why"), store.transaction():
        run.__enter__()
        raise ValueError("why")
    with pytest.raises(StageMovedError) as told:
        run.__exit__(None, None, None)
    assert told.value.found is None
    assert len(store) == 0


def test_a_reader_begins_no_run(store: CheckpointStore, path: Path) -> None:
    """As every method that writes; and a name that none can have is refused before anything."""
    with CheckpointStore.open_readonly(path) as reader, pytest.raises(MilepostError, match="open_readonly"), reader.run("a"):
        pass
    for wrong in ("", "\0", 7, None):
        with pytest.raises(InvalidArgumentError):
            store.run(wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError):
        store.run("a", again=1)  # type: ignore[arg-type]


# Against a model


class Model:
    """Of one run: what its summary says."""

    def __init__(self) -> None:
        self.first_ms: int | None = None
        self.last_ms = 0
        self.entries: list[tuple[str, int]] = []
        self.attempts: list[list[Any]] = []  # when it began; the state, when it ended and its error
        self.recorded_before = False

    def expected(self, run_id: str, signature: str) -> RunSummary:
        """The summary."""
        assert self.first_ms is not None
        stages = tuple(sorted({stage for stage, _ in self.entries}))
        records = max((offset for _, offset in self.entries), default=0)
        base = RunSummary(run_id, len(self.entries), stages, self.first_ms, self.last_ms, signature, records=records)
        if not self.attempts:
            return base
        began_ms, state, ended_ms, error = self.attempts[-1]
        killed = sum(state == "open" for _, state, _, _ in self.attempts[:-1])
        return RunSummary(
            run_id, len(self.entries), stages, self.first_ms, self.last_ms, signature,
            state, len(self.attempts), killed, began_ms, ended_ms, error, records, recorded_before=self.recorded_before,
        )  # fmt: skip


KILLED = """
import os, sys
from milepost import CheckpointStore, Watermark
times = iter(map(int, sys.argv[3:]))
store = CheckpointStore(sys.argv[1], durability="normal", clock=lambda: next(times))
with store.run(sys.argv[2], again=True) as run:
    os.kill(os.getpid(), 9)
"""


def _program(path: Path, seed: int, steps: int, kills: int) -> None:
    """Attempts that finish, fail, are killed or overtaken, in any order, with checkpoints of theirs and of others."""
    chance, clock = random.Random(seed), Clock()
    models: dict[str, Model] = {}
    handles: list[tuple[Run, str, list[Any]]] = []

    def note(run_id: str) -> Model:
        model = models.setdefault(run_id, Model())
        model.first_ms = clock.now_ms if model.first_ms is None else model.first_ms
        model.last_ms = clock.now_ms
        return model

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        for number in range(steps):
            run_id = chance.choice("abc")
            model = models.get(run_id)
            attempts = model.attempts if model else []
            action = chance.choice(["begin", "begin", "end", "end", "fail", "advance", "advance", "append", "kill"])
            if action == "begin":
                again = chance.random() < 0.5
                run = store.run(run_id, again=again)
                if attempts and attempts[-1][1] == "finished" and not again:
                    with pytest.raises(RunFinishedError):
                        run.__enter__()
                    continue
                run.__enter__()
                assert run.attempt == len(attempts) + 1
                attempt = [clock.now_ms, "open", None, None]
                note(run_id).attempts.append(attempt)
                handles.append((run, run_id, attempt))
            elif action in {"end", "fail"} and handles:
                run, run_id, attempt = handles.pop(chance.randrange(len(handles)))
                error = ValueError() if action == "fail" else None
                if models[run_id].attempts[-1] is attempt:
                    run.__exit__(type(error) if error else None, error, None)
                    attempt[1:] = ["failed" if error else "finished", clock.now_ms, "ValueError" if error else None]
                    note(run_id)
                elif error is None:
                    with pytest.raises(StageMovedError):
                        run.__exit__(None, None, None)
                else:
                    run.__exit__(type(error), error, None)
                    assert len(error.__notes__) == 1
            elif action in {"advance", "append"}:
                stage = chance.choice(["load", "sort"])
                if action == "advance":
                    store.advance(run_id, stage, Watermark(number, 0), idempotency_key=f"step-{number}")
                else:
                    store.append(
                        entry(1000 + number, run_id=run_id, stage=stage, offset=number, event_time_ms=0, at_ms=clock())
                    )
                model = note(run_id)
                model.entries.append((stage, number))
                model.recorded_before |= not model.attempts
            elif action == "kill" and kills:
                kills -= 1
                program = "-c", KILLED, path, run_id, str(clock())
                assert warm_programs().run(*program).returncode == -signal.SIGKILL
                note(run_id).attempts.append([clock.now_ms, "open", None, None])
        found = {each.run_id: each for each in store.runs()}
        order = list(dict.fromkeys(each.run_id for each in store.history()))
        assert list(found) == order
        for run_id, model in models.items():
            expected = model.expected(run_id, store.chain_signature(run_id))
            stages = tuple(stage for stage in dict.fromkeys(e.stage for e in store.history()) if stage in expected.stages)
            got = found[run_id]
            assert sorted(got.stages) == sorted(expected.stages)
            given = {"stages": stages, "chain_entries": sum(1 for _ in store.history(run_id))}
            assert got == RunSummary(**{**_fields(expected), **given}), f"seed {seed}, run {run_id}"
            assert store.verify(run_id=run_id, expected=got.head).ok
            ended = expected.last_at_ms if expected.ended_at_ms is None else expected.ended_at_ms
            began = expected.first_at_ms if expected.began_at_ms is None else expected.began_at_ms
            assert got.duration_ms == ended - began
            known = got.duration_ms and got.attempts <= 1 and not got.recorded_before
            assert got.rate == (got.records * 1000 / got.duration_ms if known else None)
        store.verify().raise_if_broken()


def _fields(found: RunSummary) -> dict[str, Any]:
    return {name: getattr(found, name) for name in RunSummary.__dataclass_fields__}


def test_any_program_of_attempts_is_summed_up_as_a_plain_model_says(tmp_path: Path) -> None:
    """With kills of real processes, two handles at once, and whatever comes before, between and after."""
    for number in range(2):
        seed = random.SystemRandom().randrange(10**9)
        print(f"seed {seed}")
        _program(tmp_path / str(number), seed, 60, 1)


@pytest.mark.long
def test_many_programs_of_attempts_are_summed_up_as_a_plain_model_says(tmp_path: Path) -> None:
    """A larger dose."""
    for number in range(100):
        seed = random.SystemRandom().randrange(10**9)
        print(f"seed {seed}")
        _program(tmp_path / str(number), seed, 200, 3)


def test_a_process_that_is_killed_in_its_body_leaves_an_open_attempt_and_goes_on_from_its_checkpoint(path: Path) -> None:
    """The next one finishes it."""
    program = (
        "import os, sys\nfrom milepost import CheckpointStore\nstore = CheckpointStore(sys.argv[1], durability='normal')\n"
        "with store.run('nightly') as run:\n"
        "    for record in run.checkpointed(range(10), stage='load', every=2):\n"
        "        if record == int(sys.argv[2]): os.kill(os.getpid(), 9)\n"
        "store.close()"
    )
    for record, returncode in (("5", -signal.SIGKILL), ("99", 0)):
        ended = warm_programs().run("-c", program, path, record)
        assert ended.returncode == returncode
        with CheckpointStore.open_readonly(path) as store:
            found = summary(store)
        if returncode:
            assert (found.state, found.attempts, found.killed, found.records) == ("open", 1, 0, 4)
    assert (found.state, found.attempts, found.killed, found.records) == ("finished", 2, 1, 10)


def test_a_second_attempt_has_no_rate(store: CheckpointStore) -> None:
    """It takes a second for what is left of a million records, most of which the first one did."""
    for offset in (999_000, 1_000_000):
        with store.run("nightly", again=True) as run:
            run.advance("load", Watermark(offset, 0), idempotency_key=f"to-{offset}")
        assert (summary(store).rate, summary(store).duration_ms) == (499_500.0 if offset == 999_000 else None, 2000)
    (line,) = [line for line in str(store.summary()).splitlines() if line.startswith("  nightly ")]
    assert re.fullmatch(r"  nightly +finished +2 +\S+ +2 s +2 +1,000,000 +–", line)


def test_what_was_recorded_before_the_first_attempt_gives_it_no_rate(store: CheckpointStore) -> None:
    """It takes two seconds for ten records, after a million that nobody timed. A branch's first checkpoint is none of it."""
    store.advance("nightly", "load", Watermark(1_000_000, 0), idempotency_key="before")
    store.branch("nightly", "branch")
    store.branch("nightly", "another")
    store.advance("another", "load", Watermark(1_000_005, 0), idempotency_key="before the attempt")
    for run_id in ("nightly", "branch", "another"):
        assert not summary(store, run_id).recorded_before
        with store.run(run_id) as run:
            run.advance("load", Watermark(1_000_010, 0), idempotency_key="in the attempt")
    found = {each.run_id: (each.rate, each.duration_ms, each.records, each.recorded_before) for each in store.runs()}
    assert found == {
        "nightly": (None, 2000, 1_000_010, True),
        "branch": (5.0, 2000, 10, False),
        "another": (None, 2000, 10, True),
    }


# The reserved stages: who writes them, who shows them

WRITERS: dict[str, Callable[[CheckpointStore, str], object]] = {
    "append": lambda store, stage: store.append(entry(9, stage=stage)),
    "append of what is there": lambda store, stage: store.append(
        next(store.history("nightly", STAGE))._replace(stage=stage)
    ),
    "append_many": lambda store, stage: store.append_many([entry(9), entry(9, stage=stage)]),
    "advance": lambda store, stage: store.advance("nightly", stage, Watermark(9, 0), idempotency_key="a"),
    "advance_many": lambda store, stage: store.advance_many(
        [("nightly", "load", Watermark(90_000, 2**50), "a"), ("nightly", stage, Watermark(9, 0), "a")]
    ),
    "checkpointed": lambda store, stage: store.checkpointed([1], run_id="nightly", stage=stage),
    "the handle's advance": lambda store, stage: store.run("nightly").advance(stage, Watermark(9, 0), idempotency_key="a"),
    "the handle's checkpointed": lambda store, stage: store.run("nightly").checkpointed([1], stage=stage),
    "branch": lambda store, stage: store.branch("nightly", "other", stage=stage),
}


@pytest.fixture
def recorded(store: CheckpointStore) -> CheckpointStore:
    """Two runs with attempts and checkpoints, of which one failed, one of the attempts alone, one without."""
    with store.run("nightly") as run:
        store.append_many(chain(3, run_id="nightly"))
        with pytest.raises(ValueError, match="why"), store.run("other"):
            store.append_many(chain(2, run_id="other", stage="sort"))
            raise ValueError("why")
    assert run.attempt == 1
    with store.run("alone"):
        pass
    store.append_many(chain(2, run_id="without"))
    return store


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("stage", [STAGE, "milepost:", "milepost:archive", "milepost:anything"])
def test_nobody_but_milepost_writes_a_stage_of_its_own(
    recorded: CheckpointStore, write: Callable[[CheckpointStore, str], object], stage: str
) -> None:
    """The error names the stage and the rule, and nothing is written; also right after an attempt began."""
    before = list(recorded.receipts())
    for _ in range(2):
        with pytest.raises((InvalidArgumentError, InvalidCheckpointError), match="must not begin with 'milepost:'") as told:
            write(recorded, stage)
        assert "stage" in told.value.args
    assert list(recorded.receipts()) == before


@pytest.mark.parametrize("stage", ["milepost", "Milepost:run", " milepost:run", "milepostX", "my:milepost:run"])
def test_a_stage_with_nearly_such_a_name_is_one_as_any(store: CheckpointStore, stage: str) -> None:
    """Also in the lists."""
    store.append(entry(1, stage=stage))
    assert list(store.resume_points()) == [each.stage for each in store.stages()] == [stage]
    assert store.branch("run-7", "new").appended == 1
    assert summary(store, "new").stages == (stage,)
    assert [each.stage for each in store.compare("run-7", "new").stages] == [stage]


def test_the_chain_includes_the_reserved_stages(recorded: CheckpointStore) -> None:
    """In all that shows, counts, signs or verifies it."""
    entries = list(recorded.history())
    receipts = list(recorded.receipts())
    of_runs = [each for each in entries if each.stage == STAGE]
    assert len(of_runs) == 6
    assert len(recorded) == len(entries) == recorded.head().entries == 13
    assert [each for _, each, _ in receipts] == entries
    assert list(recorded.history(stage=STAGE)) == of_runs
    assert recorded.get("nightly", STAGE, 1) == of_runs[0]
    assert list(recorded.find("attempt-1:began")) == [each for each in of_runs if each.idempotency_key == "attempt-1:began"]
    assert recorded.latest("alone") == [each for each in entries if each.run_id == "alone"][-1]
    assert recorded.latest_for_stage(STAGE) == of_runs[-1]
    assert recorded.chain_signature() == receipts[-1][0].signature
    assert recorded.verify() == recorded.verify(workers=2)
    assert recorded.verify().entries == 13
    assert recorded.verify(run_id="alone").entries == 2
    assert (
        recorded.verify(run_id="alone").signature
        == recorded.chain_signature("alone")
        == summary(recorded, "alone").signature
    )
    plain = [each for each in entries if each.run_id == "without"]
    assert recorded.chain_signature("without") == chain_signature(plain)
    assert len(recorded.frame().to_polars()) == 13


def test_a_kept_head_of_a_run_counts_all_its_entries(recorded: CheckpointStore) -> None:
    """So that a verification of the run finds it again; the command line prints the same."""
    for found in recorded.runs():
        printed = answer("head", recorded.path, "--run", found.run_id)
        assert printed == f"{found.head}\n"
        assert found.head.entries == len(list(recorded.history(found.run_id)))
        assert recorded.verify(run_id=found.run_id, expected=found.head).ok
        answer("verify", recorded.path, "--run", found.run_id, "--expected", printed.strip())
    assert [each["head"] for each in json.loads(answer("runs", recorded.path, "--json"))] == [
        str(found.head) for found in recorded.runs()
    ]


def test_a_run_of_a_pipeline_with_the_name_of_mileposts_own_is_shown(store: CheckpointStore) -> None:
    """From its first attempt on."""
    with store.run("milepost"):
        assert [(each.run_id, each.state) for each in store.runs()] == [("milepost", "open")]
    assert (store.summary().runs, summary(store, "milepost").state) == (1, "finished")


def test_everything_else_leaves_the_reserved_stages_out(recorded: CheckpointStore, path: Path) -> None:
    """And tells of runs, with their attempts, by its own means."""
    assert list(recorded.resume_points()) == ["load", "sort"]
    assert list(recorded.resume_points("nightly")) == ["load"]
    assert recorded.resume_points("alone") == {}
    assert [(each.stage, each.entries, each.runs) for each in recorded.stages()] == [("load", 5, 2), ("sort", 2, 1)]
    found = {each.run_id: (each.entries, each.stages, each.state, each.attempts) for each in recorded.runs()}
    assert found == {
        "nightly": (3, ("load",), "finished", 1),
        "other": (2, ("sort",), "failed", 1),
        "alone": (0, (), "finished", 1),
        "without": (2, ("load",), None, 0),
    }
    page = recorded.summary()
    assert [state.point.stage for state in page.stages] == ["load", "sort"]
    assert (page.runs, [each.run_id for each in page.last_runs]) == (4, ["without", "alone", "other", "nightly"])
    compared = recorded.compare("nightly", "without")
    assert [(each.stage, each.entries, each.other_entries) for each in compared.stages] == [("load", 3, 2)]
    for text in (str(page), page._repr_html_(), answer("summary", path), answer("runs", path), answer("stages", path)):
        assert STAGE not in text
    for text in (answer("resume", path), answer("compare", path, "nightly", "nightly")):
        assert STAGE not in text


def test_a_page_of_attempts_alone_shows_them(store: CheckpointStore) -> None:
    """Though there is no stage to show."""
    with pytest.raises(KeyError), store.run("nightly"):
        raise KeyError
    for page in (str(store.summary()), store.summary()._repr_html_()):
        assert "nightly" in page
        assert "failed: KeyError" in page


def test_a_run_that_has_attempts_alone_has_nothing_to_compare(recorded: CheckpointStore) -> None:
    """As one that was never recorded."""
    with pytest.raises(NoCheckpointError):
        recorded.compare("alone", "nightly")
    with pytest.raises(NoCheckpointError):
        recorded.resume_point_for_stage("load", run_id="alone")


def test_the_run_of_milepost_itself_is_shown_only_if_a_pipeline_records_in_it(path: Path, tmp_path: Path) -> None:
    """Such entries come with an import."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
        store._writer.restore([entry(1, run_id="milepost", stage="milepost:archive", at_ms=7)], [None], {})
        assert [each.run_id for each in store.runs()] == ["run-7"]
        assert (store.summary().runs, [each.run_id for each in store.summary().last_runs]) == (1, ["run-7"])
        assert store.summary().silences == ()
        assert "of 1 run" in _text_of(store.plot.progress())
        store.append(entry(1, run_id="milepost"))
        assert [(each.run_id, each.entries) for each in store.runs()] == [("run-7", 1), ("milepost", 1)]
        assert "of 2 runs" in _text_of(store.plot.progress())


def _text_of(picture: Any) -> str:
    """What is written under a picture."""
    found: str = picture.get_supxlabel()
    return found


def test_the_pictures_leave_the_reserved_stages_out(recorded: CheckpointStore) -> None:
    """And a run that has no others."""

    def same_stages(runs: int, stages: int, run_id: str | None = None) -> active.Excerpt:
        return recorded._database.read(active.same_stages, Filter(run_id), runs, stages, active.unusual)

    same = same_stages(9, 9)
    each = recorded._database.read(active.of_each_run, Filter(), 9, 9, active.unusual)
    names = [(span.run_stage.run_id, span.run_stage.stage) for span in same.spans]
    assert names == [("nightly", "load"), ("other", "sort"), ("without", "load")]
    assert each.spans == same.spans
    assert (same.rest, each.rest, each.rest_of_run) == (0, 0, {})
    assert same_stages(9, 9, "nightly").spans == same.spans[:1]
    assert same_stages(9, 9, "alone").spans == []
    one = same_stages(9, 1)
    assert ([span.run_stage.stage for span in one.spans], one.rest) == (["load", "load"], 1)
    assert [span.run_stage.run_id for span in same_stages(2, 9).spans] == ["other", "without"]


def test_the_pictures_are_full_however_many_attempts_came_last(store: CheckpointStore) -> None:
    """As long as there are not thousands of them."""
    store.append_many(chain(3, run_id="nightly"))
    for _ in range(5):
        with store.run("nightly", again=True):
            pass
    for number in range(2):
        store.run(f"empty-{number}").__enter__()
    found = store._database.read(active.of_each_run, Filter(), 2, 2, active.unusual)
    (span,) = found.spans
    assert (span.run_stage.run_id, span.run_stage.stage, span.run_stage.entries) == ("nightly", "load", 3)
    assert (found.rest, found.rest_of_run) == (0, {})


# A file from elsewhere


def _imported(tmp_path: Path, *attempts: tuple[int, object], stage: str = STAGE) -> Path:
    lines = [
        {
            "run_id": "nightly", "stage": stage, "sequence": number, "offset": offset, "event_time_ms": 0,
            "idempotency_key": f"key-{number}", "at_ms": number, "detail": json.dumps(detail),
        }
        for number, (offset, detail) in enumerate(attempts, 1)
    ]  # fmt: skip
    found = run("import", "-", tmp_path / "new", stdin="".join(json.dumps(line) + "\n" for line in lines).encode())
    assert found.exit_code == 0, found.output
    return tmp_path / "new"


def test_an_import_takes_the_reserved_stages(recorded: CheckpointStore, tmp_path: Path) -> None:
    """To an equal file, whose attempts go on from there."""
    (tmp_path / "exported").write_text(answer("export", recorded.path), encoding="ascii")
    answer("import", tmp_path / "exported", tmp_path / "again")
    with CheckpointStore(tmp_path / "again", durability="normal") as store:
        assert list(store.receipts()) == list(recorded.receipts())
        assert (store.runs(), store.stages(), store.head()) == (recorded.runs(), recorded.stages(), recorded.head())
        with pytest.raises(RunFinishedError), store.run("nightly"):
            pass
        with store.run("other") as run:
            assert run.attempt == 2
        with pytest.raises(InvalidCheckpointError):
            store.append(entry(9, stage=STAGE))
        store.verify().raise_if_broken()


HOSTILE = [
    [],
    {},
    7,
    {"run": []},
    {"run": {}},
    {"run": None},
    {"run": "finished"},
    {"run": "failed", "error": 7},
    {"run": "failed", "error": ["x"]},
    {"run": "began"},
]


@pytest.mark.parametrize("last", HOSTILE, ids=json.dumps)
def test_details_that_milepost_never_wrote_break_no_summary(tmp_path: Path, last: object) -> None:
    """A file may come from anybody: what is no end is none, and what is no name of an error is none."""
    path = _imported(tmp_path, (1, {"run": "began"}), (1, last))
    with CheckpointStore.open_readonly(path) as store:
        found = summary(store)
        state = last.get("run") if isinstance(last, dict) else None
        assert found.state == (state if state in ("finished", "failed") else "open")
        assert (found.attempts, found.error) == (1, None)
        assert found.killed >= 0
        str(store.summary())
        store.summary()._repr_html_()
        store.verify().raise_if_broken()
    assert "nightly" in answer("runs", path)
    answer("runs", path, "--json")
    with CheckpointStore(path, durability="normal") as store, store.run("nightly", again=True) as run:
        assert run.attempt == 2


@pytest.mark.parametrize("attempts", [(0, 0), (5, 9), (3,), (2**63 - 1,)], ids=str)
def test_attempts_that_milepost_never_counted_break_no_summary(tmp_path: Path, attempts: tuple[int, ...]) -> None:
    """No number of it is negative, and another attempt is begun or refused in a sentence."""
    path = _imported(tmp_path, *((attempt, {"run": "finished"}) for attempt in attempts))
    with CheckpointStore(path, durability="normal") as store:
        found = summary(store)
        assert found.attempts >= 0
        assert found.killed >= 0
        assert found.state == "finished"
        try:
            with store.run("nightly", again=True) as run:
                assert run.attempt == attempts[-1] + 1
        except MilepostError:
            assert attempts == (2**63 - 1,)
    answer("runs", path)


# What it costs


def test_a_summary_of_runs_does_the_same_work_however_many_checkpoints_they_have(store: CheckpointStore) -> None:
    """SQLite's own step counter; both times each stage ends as far behind its last milepost."""

    def steps() -> int:
        return doors.steps(store, CheckpointStore.runs)

    def fill(first: int, last: int) -> None:
        store.append_many(
            entry(number, run_id=f"run-{number % 2}", stage=f"stage-{number % 3}") for number in range(first, last)
        )

    for number in range(2):
        with store.run(f"run-{number}"):
            pass
    fill(0, 252)
    few = steps()
    fill(252, 24 * 252)
    assert few > 0
    assert steps() == few


@pytest.mark.parametrize("how", ["checkpointed", "once", "tracked", "async tracked"])
def test_a_run_whose_loop_was_stopped_has_not_finished_whoever_made_the_loop(store: CheckpointStore, how: str) -> None:
    """Made by the store with the run's name, before the run or inside it; a loop of another run changes nothing."""
    loops: Any = {
        "checkpointed": lambda run_id: store.checkpointed(range(9), run_id=run_id, stage="s"),
        "once": lambda run_id: store.once(["a", "b"], run_id=run_id, stage="s", key=str),
        "tracked": lambda run_id: store.tracked(run_id=run_id, stage="s"),
        "async tracked": lambda run_id: store.tracked(run_id=run_id, stage="s"),
    }

    async def track(loop: Any) -> None:
        async with loop as tracked:
            tracked.stop()

    before = loops[how]("before")
    for run_id, loop in (("nightly", None), ("before", before)):
        with store.run(run_id):
            other = loops["checkpointed"]("other")
            other.stop()
            loop = loop or loops[how](run_id)  # noqa: PLW2901 - made inside, unless it was made before
            if how == "async tracked":
                asyncio.run(track(loop))
            else:
                loop.stop()
        assert (summary(store, run_id).state, summary(store, run_id).error) == ("failed", "stopped")
    with store.run("next"):
        before.stop()
    assert summary(store, "next").state == "finished"
    assert store._open_runs == {}


@pytest.mark.parametrize("how", ["checkpointed", "map", "once", "tracked", "async tracked"])
def test_a_run_whose_loop_was_stopped_has_not_finished(store: CheckpointStore, how: str) -> None:
    """Records are left: the next start goes on, where a finished run would be refused."""

    async def track(run: Run) -> None:
        async with run.tracked(stage="s") as tracked:
            for offset in range(tracked.start, 10):
                (await tracked(offset))()
                if offset == 3:
                    tracked.stop()

    def work(run: Run) -> None:
        if how == "async tracked":
            asyncio.run(track(run))
        elif how == "tracked":
            with run.tracked(stage="s") as tracked:
                for offset in range(tracked.start, 10):
                    tracked(offset)()
                    if offset == 3:
                        tracked.stop()
        else:
            loop: Any = run.once(map(str, range(10)), stage="s", key=str) if how == "once" else None
            loop = loop or run.checkpointed(range(10), stage="s")
            for number, _ in enumerate(loop.map(str) if how == "map" else loop, loop.start):
                if number == 3:
                    loop.stop()
            assert loop.stopped == (loop.start == 0)

    with store.run("nightly") as run:
        work(run)
    assert (summary(store).state, summary(store).error) == ("failed", "stopped")
    assert store.resume_point_for_stage("s").watermark.offset == 4
    with store.run("nightly") as run:
        work(run)
    assert (summary(store).state, summary(store).attempts) == ("finished", 2)
    assert store.resume_point_for_stage("s").watermark.offset == 10
