"""advance_many() is as many advances in one transaction: all of them, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Clock
from milepost import (
    BatchReceipt,
    CheckpointStore,
    IdempotencyConflictError,
    InvalidArgumentError,
    InvalidCheckpointError,
    MilepostError,
    StageMovedError,
    Watermark,
    WatermarkRegressionError,
)
from milepost.append import NOT_ASKED
from support.chains import MAX, entry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

marks = st.builds(Watermark, st.integers(0, 4), st.integers(0, 2))
steps = st.tuples(
    st.sampled_from("ab"), st.sampled_from("xy"), marks, st.sampled_from("klmnop"),
    st.just(NOT_ASKED) | st.none() | marks, st.none() | st.integers(0, 9) | st.binary(max_size=2),
)  # fmt: skip


def step(number: int, **changed: Any) -> dict[str, Any]:
    """A good step."""
    mark = Watermark(number, 0)
    return {"run_id": "run-7", "stage": "load", "watermark": mark, "idempotency_key": f"step-{number}", **changed}


def receipt_of(store: CheckpointStore, appended: int, duplicates: int) -> BatchReceipt:
    """What a batch is told when the chain stands as it does."""
    return BatchReceipt(appended, duplicates, store.head().entries, store.head().signature)


def one_by_one(store: CheckpointStore, batch: list[tuple[Any, ...]]) -> BatchReceipt | tuple[type, int]:
    """The model: advances in one block; what the batch receipt says, or the error and the index of its step."""
    index = duplicates = 0
    try:
        with store.transaction():
            for index, (run_id, stage, mark, key, after, cursor) in enumerate(batch):  # noqa: B007 - of the one that failed
                receipt = store.advance(run_id, stage, mark, idempotency_key=key, after=after, cursor=cursor)
                duplicates += receipt.duplicate
    except MilepostError as error:
        return type(error), index
    return receipt_of(store, len(batch) - duplicates, duplicates)


def at_once(store: CheckpointStore, batch: list[Any]) -> BatchReceipt | tuple[type, int]:
    """What the batch receipt says, or the error and the index that it carries."""
    try:
        return store.advance_many(batch)
    except MilepostError as error:
        return type(error), getattr(error, "index", -1)


def _programs(tmp_path_factory: pytest.TempPathFactory, examples: int) -> None:
    @settings(max_examples=examples)
    @given(st.lists(st.tuples(st.lists(steps, max_size=8), st.booleans()), max_size=6))
    def check(batches: list[tuple[list[tuple[Any, ...]], bool]]) -> None:
        folder = tmp_path_factory.mktemp("batches")
        with (
            CheckpointStore(folder / "one", durability="normal", clock=lambda: 7) as one,
            CheckpointStore(folder / "many", durability="normal", clock=lambda: 7) as many,
        ):
            for batch, interrupted in batches:
                expected = one_by_one(one, batch)
                assert at_once(many, batch) == expected
                assert many.head() == one.head()
                if interrupted:  # by somebody else, so that the end of the chain is looked up anew
                    for folder_ in ("one", "many"):
                        with CheckpointStore(folder / folder_, durability="normal", clock=lambda: 7) as other:
                            other.advance("b", "y", Watermark(4, 2), idempotency_key=f"other-{len(other)}")
            assert list(many.receipts()) == list(one.receipts())
            for stage in "xy":
                for run_id in "ab":
                    assert many.cursor(stage, run_id=run_id) == one.cursor(stage, run_id=run_id)
            many.verify().raise_if_broken()

    check()


def test_a_batch_does_what_single_advances_in_one_block_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Receipts, errors, chain and cursors; duplicates, `after` and conflicts inside a batch too."""
    _programs(tmp_path_factory, 12)


@pytest.mark.long
def test_many_batches_do_what_single_advances_do(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A larger dose."""
    _programs(tmp_path_factory, 400)


def test_a_step_is_a_mapping_or_a_tuple_of_four_to_six(store: CheckpointStore) -> None:
    """In one batch, from a generator, which is read before the transaction begins."""
    read_at: list[int] = []

    def generated() -> Iterator[Any]:
        yield step(1, cursor="a")
        yield ("run-7", "load", Watermark(2, 0), "step-2")
        read_at.append(len(store))
        store.append(entry(1, stage="from within the generator"))
        yield ["run-7", "load", Watermark(3, 0), "step-3", Watermark(2, 0)]
        yield ("run-7", "load", Watermark(4, 0), "step-4", NOT_ASKED, "d")

    receipt = store.advance_many(generated())
    assert read_at == [0]
    assert receipt == receipt_of(store, 4, 0)
    found = [(each.sequence, each.watermark.offset) for each in store.history("run-7", "load")]
    assert found == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert store.cursor("load") == "d"


def test_a_batch_of_nothing_records_nothing(store: CheckpointStore) -> None:
    """Its receipt is that of the head."""
    assert store.advance_many([]) == BatchReceipt(0, 0, 0, "0" * 64)
    store.append(entry(1))
    assert store.advance_many(iter(())) == receipt_of(store, 0, 0)


def test_steps_of_one_stage_go_on_from_each_other(store: CheckpointStore) -> None:
    """Each has the next sequence, and the clock is read for each; `after` sees the steps before it."""
    store.append(entry(41, offset=0, event_time_ms=0))
    batch = [step(n, after=Watermark(n - 1, 0)) for n in range(1, 300)]
    store.advance_many(batch)
    entries = list(store.history())[1:]
    assert [each.sequence for each in entries] == list(range(42, 341))
    clock = Clock()
    assert [each.at_ms for each in entries] == [clock() for _ in entries]


def test_a_duplicate_inside_a_batch_is_suppressed_and_the_rest_is_recorded(store: CheckpointStore) -> None:
    """Of what was recorded before, and of what the batch itself records."""
    store.advance_many([step(1), step(2)])
    receipt = store.advance_many([step(1), step(3, cursor="c"), step(3, cursor="other"), step(2), step(4)])
    assert (receipt.appended, receipt.duplicates, receipt.position) == (2, 3, 4)
    assert receipt.signature == store.chain_signature()
    assert [each.idempotency_key for each in store.history()] == ["step-1", "step-2", "step-3", "step-4"]
    assert store.advance_many([step(4), step(1)]) == receipt_of(store, 0, 2)


def test_a_duplicate_inside_a_batch_is_counted_also_where_no_sequence_is_left(store: CheckpointStore) -> None:
    """Nothing has to be stamped for it."""
    store.append(entry(MAX - 1, offset=0, event_time_ms=0))
    store.advance_many([step(1)])
    assert store.advance_many([step(1), step(2, stage="extract"), step(1)]) == receipt_of(store, 1, 2)


BAD_STEPS: dict[str, tuple[object, str]] = {
    "a text": ("load", "must be a mapping or a tuple"),
    "bytes": (b"1234", "must be a mapping or a tuple"),
    "too short": (("run-7", "load", Watermark(1, 1)), "must be a mapping or a tuple"),
    "too long": (("run-7", "load", Watermark(1, 1), "k", NOT_ASKED, None, None), "must be a mapping or a tuple"),
    "a set": ({"run-7", "load"}, "must be a mapping or a tuple"),
    "an iterator": (iter(("run-7", "load", Watermark(1, 1), "k")), "must be a mapping or a tuple"),
    "None": (None, "must be a mapping or a tuple"),
    "a value is missing": ({"run_id": "r", "stage": "s", "watermark": Watermark(1, 1)}, "must be a mapping or a tuple"),
    "an unknown name": (step(9, sequence=4), "must be a mapping or a tuple"),
    "a name that is no text": (step(9) | {7: 7}, "must be a mapping or a tuple"),
    "a cursor that is none": (step(9, cursor={1}), "must be bytes, or fit into JSON"),
    "an after that is none": (step(9, after=(1, 2)), "must be a milepost.Watermark"),
    "an after that is not valid": (
        ("run-7", "load", Watermark(9, 9), "k", Watermark(-1, 0)),
        "must be a milepost.Watermark",
    ),
    "a checkpoint": (entry(9), "must be a mapping or a tuple"),
}


@pytest.mark.parametrize("wrong", BAD_STEPS)
def test_a_step_that_is_none_is_named_by_its_place(store: CheckpointStore, wrong: str) -> None:
    """And nothing of the batch is recorded."""
    bad, rule = BAD_STEPS[wrong]
    with pytest.raises(InvalidArgumentError, match=rule) as told:
        store.advance_many([step(1), step(2), bad, step(3)])  # type: ignore[list-item]
    assert told.value.argument.startswith("steps[2]")
    assert len(str(told.value)) < 400
    assert len(store) == 0


@pytest.mark.parametrize("steps", [None, 7, "load", b"load", step(1), lambda: None])
def test_steps_that_are_no_iterable_of_steps_are_refused(store: CheckpointStore, steps: Any) -> None:
    """A single step among them, which is a mapping."""
    with pytest.raises(InvalidArgumentError) as told:
        store.advance_many(steps)
    assert told.value.argument == "steps"
    assert len(store) == 0


def test_an_exception_of_the_generator_passes_through(store: CheckpointStore) -> None:
    """Nothing was begun."""

    def generated() -> Iterator[Any]:
        yield step(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.advance_many(generated())
    assert len(store) == 0


REFUSED: dict[str, tuple[dict[str, Any], type[MilepostError]]] = {
    "no key": (step(9, idempotency_key=""), InvalidCheckpointError),
    "no watermark": (step(9, watermark=7), InvalidCheckpointError),
    "a negative offset": (step(9, watermark=Watermark(-1, 0)), InvalidCheckpointError),
    "a reserved stage": (step(9, stage="milepost:run"), InvalidCheckpointError),
    "a watermark that falls": (step(1, idempotency_key="new"), WatermarkRegressionError),
    "a key that is recorded": (step(9, idempotency_key="step-1"), IdempotencyConflictError),
    "a key of the batch": (step(9, idempotency_key="step-3"), IdempotencyConflictError),
    "a stage that has moved": (step(9, after=Watermark(1, 0)), StageMovedError),
    "a stage that would not move": (step(3, after=Watermark(3, 0)), StageMovedError),
    "a stage that is there already": (step(9, after=None), StageMovedError),
    "no sequence is left": (step(9, stage="full"), InvalidCheckpointError),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_step_that_is_refused_undoes_the_batch_and_tells_its_index(
    store: CheckpointStore, path: Path, why: str, place: int
) -> None:
    """The error is that of an advance; the chain goes on as if nothing had been."""
    store.advance_many([step(1), step(2)])
    store.append(entry(MAX, stage="full", offset=0, event_time_ms=0))
    before = list(store.receipts())
    bad, error = REFUSED[why]
    batch = [step(3, cursor="undone"), step(3)]  # the second one is a duplicate
    if "batch" in why or "would not move" in why:
        place = 2
    batch.insert(place, bad)
    with pytest.raises(error) as told:
        store.advance_many(batch)
    assert getattr(told.value, "index") == place  # noqa: B009 - of two classes
    assert list(store.receipts()) == before
    assert store.cursor("load") is None
    with CheckpointStore.open_readonly(path) as reader:
        assert list(reader.receipts()) == before
    assert store.advance_many([step(3)]) == receipt_of(store, 1, 0)


def test_a_batch_inside_a_block_is_undone_alone_where_it_fails(store: CheckpointStore) -> None:
    """The block goes on, and commits what it did before and after."""
    with store.transaction():
        store.advance_many([step(1)])
        with pytest.raises(WatermarkRegressionError):
            store.advance_many([step(2), step(1, idempotency_key="new")])
        store.advance_many([step(3), step(1)])
    assert [each.idempotency_key for each in store.history()] == ["step-1", "step-3"]


def test_a_clock_that_fails_in_the_middle_of_a_batch_undoes_it(path: Path) -> None:
    """Its exception passes through; a clock that gives no time is refused with the index of the step."""
    times: list[Any] = [1, 2, ZeroDivisionError(), 3, "noon"]

    def clock() -> int:
        found = times.pop(0)
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    with CheckpointStore(path, durability="normal", clock=clock) as store:
        with pytest.raises(ZeroDivisionError):
            store.advance_many([step(1), step(2), step(3)])
        assert len(store) == 0
        with pytest.raises(InvalidCheckpointError) as told:
            store.advance_many([step(1), step(2)])
        assert (told.value.field, told.value.index) == ("at_ms", 1)
        assert len(store) == 0
