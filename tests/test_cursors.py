"""A cursor goes with its checkpoint: taken as bytes at once, kept for two of a stage, signed, and exported."""

from __future__ import annotations

import asyncio
import base64
import http
import itertools
import json
import shutil
import sys
import threading
from collections import defaultdict
from contextlib import closing
from hashlib import sha256
from typing import TYPE_CHECKING, Any, cast

import apsw
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import milepost
from milepost import (
    CheckpointStore,
    CursorNotKeptError,
    DamagedStoreError,
    Head,
    InvalidArgumentError,
    InvalidCheckpointError,
    Watermark,
    rows,
    transfer,
    workers,
)
from milepost.cli.exit_code import ExitCode
from milepost.cursors import MAX_CURSOR_BYTES, encode
from support.chains import entry
from support.command import answer, run
from support.doors import writer
from support.tampering import tamper

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from milepost.checkpointed import Checkpointed

KEY = bytes(range(32))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=9,
)
flat = st.dictionaries(texts, texts | st.integers(), max_size=4)  # milepost itself writes these
cursors = st.binary(max_size=40) | json_values.filter(lambda value: value is not None) | flat


class Stated:
    """States steps with keys and offsets that follow from a counter."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self.number = 0

    def __call__(self, cursor: object = None, *, run_id: str = "run-7", stage: str = "load") -> int:
        """The position of a step with this cursor."""
        self.number += 1
        mark = Watermark(self.number, 0)
        step = self.store.advance(run_id, stage, mark, idempotency_key=f"step-{self.number}", cursor=cursor)
        return step.position


@pytest.fixture
def state(store: CheckpointStore) -> Stated:
    """What states steps of a store."""
    return Stated(store)


def kept(path: Path) -> list[tuple[Any, ...]]:
    """All that the file has of cursors: run, stage, position and the bytes."""
    with closing(apsw.Connection(str(path), apsw.SQLITE_OPEN_READONLY)) as connection:
        return connection.execute(
            "SELECT run_id, stage, position, cursor FROM stage_cursor JOIN run USING (run_number) "
            "JOIN stage USING (stage_number) ORDER BY position"
        ).fetchall()


def details(store: CheckpointStore) -> list[dict[str, Any]]:
    """The detail of each entry."""
    return [json.loads(detail) if detail else {} for *_, detail in store.receipts()]


# What a cursor may be


@pytest.mark.parametrize("examples", [25, pytest.param(100, marks=pytest.mark.long)])
def test_every_json_value_and_all_bytes_come_back_as_they_were(store: CheckpointStore, examples: int) -> None:
    """Of the same types all the way down, and with their SHA-256 in the detail."""
    state = Stated(store)

    @settings(max_examples=examples)
    @given(cursors)
    @example({})
    @example([])
    @example("")
    @example(b"")
    @example(0)
    @example(False)
    @example([None, {"": None}])
    @example({"page_token": 'ü " \\ \n', 'a "page"': -7, "": 10**400})
    @example({"page": 7, "more": True})
    @example({"page": "7", "loss": 0.5})
    @example({"a": {"b": [1, 2.5, -0.0, 1e300, 10**400, 'ü 日本 🚀 \u2028 \0 \x7f " \\']}})
    def check(cursor: object) -> None:
        state(cursor)
        found = store.cursor("load", run_id="run-7")
        assert (type(found), repr(found)) == (type(cursor), repr(cursor))
        stored = (
            cursor if isinstance(cursor, bytes) else json.dumps(cursor, ensure_ascii=False, separators=(",", ":")).encode()
        )
        detail = {"cursor": sha256(stored).hexdigest(), "cursor_type": "bytes" if isinstance(cursor, bytes) else "json"}
        last = next(store.receipts(newest_first=True))[2]
        assert last is not None
        assert json.loads(last) == detail

    check()


def test_what_json_has_no_word_for_comes_back_as_what_json_makes_of_it(state: Stated) -> None:
    """A tuple is a list, a key is a text, and a text or an integer with a name is itself; other kinds of bytes are bytes."""
    given_and_found: list[tuple[object, object]] = [
        ({1: (2, 3)}, {"1": [2, 3]}),
        ({1: 2}, {"1": 2}),
        ({True: "x"}, {"true": "x"}),
        ({"page": http.HTTPStatus.OK, "by": http.HTTPMethod.GET}, {"page": 200, "by": "GET"}),
        ({"a": 1, 2: "b", "2": "c"}, {"a": 1, "2": "c"}),
    ]
    for given_cursor, found in given_and_found:
        state(given_cursor)
        assert state.store.cursor("load") == found
    for cursor in (
        bytearray(b"\xff\0"),
        memoryview(b"\xff\0"),
        memoryview(b"\xff.\0")[::2],
        memoryview(bytearray(b"\xff\0")).toreadonly(),
        memoryview(b"\xff\0").cast("B", (2, 1)),
        memoryview(b"\xff\0").cast("H"),
    ):
        state(cursor)
        assert state.store.cursor("load") == b"\xff\0"


LARGEST = [b"x" * MAX_CURSOR_BYTES, "x" * (MAX_CURSOR_BYTES - 2), "日" * 21844 + "é", ["y" * (MAX_CURSOR_BYTES - 4)]]


@pytest.mark.parametrize("cursor", LARGEST, ids=["bytes", "text", "of three bytes each", "list"])
def test_the_largest_cursor_has_65536_bytes_as_it_is_stored(store: CheckpointStore, cursor: Any) -> None:
    """Of UTF-8; with one more it is refused, and the message has both numbers."""
    state = Stated(store)
    state(cursor)
    assert store.cursor("load") == cursor
    more = [cursor[0] + "y"] if isinstance(cursor, list) else cursor + (b"x" if isinstance(cursor, bytes) else "x")
    with pytest.raises(InvalidArgumentError, match=r"at most 65,536 bytes, but has 65,537") as told:
        state(more)
    assert told.value.argument == "cursor"
    assert len(str(told.value)) < 300
    assert len(store) == 1


class _Endless:
    def __repr__(self) -> str:
        raise RuntimeError


def _circle() -> list[Any]:
    circle: list[Any] = []
    circle.append(circle)
    return circle


def _deep() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


def _released() -> memoryview:
    view = memoryview(b"x")
    view.release()
    return view


NO_CURSORS: dict[str, Callable[[], object]] = {
    "a memoryview that was released": _released,
    "NaN": lambda: float("nan"),
    "infinity inside": lambda: {"loss": [float("-inf")]},
    "a lone surrogate": lambda: "\ud800",
    "a lone surrogate as a key": lambda: {"\udcff": 1},
    "a set": lambda: {1},
    "bytes inside": lambda: {"token": b"x"},
    "a key of two": lambda: {(1, 2): 3},
    "an object": _Endless,
    "a circle": _circle,
    "too deep": _deep,
    "an integer with too many digits": lambda: 10**5000,
}


@pytest.mark.parametrize("make", NO_CURSORS.values(), ids=NO_CURSORS)
def test_what_is_neither_json_nor_bytes_is_refused(store: CheckpointStore, make: Callable[[], object]) -> None:
    """In a sentence that says so, before anything is written."""
    with pytest.raises(InvalidArgumentError, match="must be bytes, or fit into JSON") as told:
        Stated(store)(make())
    assert told.value.argument == "cursor"
    assert len(str(told.value)) < 400
    assert len(store) == 0


def _nested(levels: int) -> Any:
    nested: Any = '[{"\\'
    for level in range(levels):
        nested = {'"[{': nested} if level % 2 else [nested]
    return nested


def test_a_cursor_has_at_most_100_levels_so_that_every_program_can_read_it_back(store: CheckpointStore) -> None:
    """However deep within its own stack; a cursor with more brackets side by side, or in its texts, is another thing."""

    def deeper(levels: int) -> Any:
        return deeper(levels - 1) if levels else store.cursor("load")

    state = Stated(store)
    cursor: Any
    for cursor in (_nested(100), [_nested(99)] * 9, ["[" * 2000, {"{" * 2000: "\\[" * 500}], [[]] * 2000):
        state(cursor)
        assert deeper(500) == cursor
    for levels in (101, 900):
        with pytest.raises(InvalidArgumentError, match=f"at most 100 levels of lists and dicts, but has {levels}") as told:
            state(_nested(levels))
        assert told.value.argument == "cursor"
        assert len(str(told.value)) < 400
    assert len(store) == 4


def test_a_cursor_of_more_levels_that_an_older_milepost_recorded_is_read_and_imported(tmp_path: Path) -> None:
    """Only a new one is refused."""
    stored = json.dumps(_nested(300))
    line = _line(cursor=stored, detail=_detail(stored.encode())).encode()
    assert run("import", "-", tmp_path / "new", stdin=line + b"\n").exit_code == ExitCode.SUCCESS
    with CheckpointStore.open_readonly(tmp_path / "new") as store:
        assert store.cursor("s") == _nested(300)


def test_a_cursor_is_taken_as_it_is_at_the_call(state: Stated) -> None:
    """Whatever becomes of the caller's object, also where the commit comes later."""
    token: dict[str, list[int]] = {"page": [1]}
    steps = [{"run_id": "run-7", "stage": "sort", "watermark": Watermark(1, 0), "idempotency_key": "a", "cursor": token}]
    raw = bytearray(b"one")

    def generated() -> Any:
        yield steps[0]
        token["page"].append(3)

    with state.store.transaction():
        state(token)
        state(raw, stage="raw")
        token["page"].append(2)
        raw[:] = b"two"
        state.store.advance_many(generated())
    assert state.store.cursor("load") == {"page": [1]}
    assert state.store.cursor("raw") == b"one"
    assert state.store.cursor("sort") == {"page": [1, 2]}, "of a batch, as its step comes"


def test_a_cursor_that_another_thread_changes_is_taken_as_it_was_at_one_moment(store: CheckpointStore) -> None:
    """Two members that are always changed together are never torn apart, and none comes or goes while it is written."""
    token: dict[str, int] = {"page": 0, **{f"partition-{number}": number for number in range(50)}, "offset": 0}
    over = threading.Event()

    def change() -> None:
        for number in itertools.count(1):
            token.update({"page": number, "offset": number})
            token[f"new-{number % 7}"] = token.pop(f"new-{(number + 1) % 7}", number)
            if over.is_set():
                return

    switch_interval = sys.getswitchinterval()
    thread = threading.Thread(target=change)
    try:
        sys.setswitchinterval(1e-6)
        thread.start()
        taken = [cast("str", encode(token)) for _ in range(2_000)]
    finally:
        sys.setswitchinterval(switch_interval)
        over.set()
        thread.join()
    found = [json.loads(each) for each in taken]
    assert [each for each in found if each["page"] != each["offset"]] == []
    assert len({each["page"] for each in found}) > 1
    Stated(store)(token)


# What is kept


@pytest.mark.parametrize("examples", [12, pytest.param(30, marks=pytest.mark.long)])
def test_the_last_two_cursors_of_each_stage_of_each_run_are_kept_and_no_more(
    tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    """However steps with and without one take turns, in one commit or in many; cursor() answers for the last step alone."""
    steps = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.none() | cursors), max_size=25)

    @settings(max_examples=examples)
    @given(steps, st.integers(0, 25))
    def check(steps: list[tuple[str, str, object]], many: int) -> None:
        path = tmp_path_factory.mktemp("kept") / "store"
        expected: dict[tuple[str, str], list[tuple[int, object]]] = defaultdict(list)
        last: dict[tuple[str | None, str], object] = {}
        for position, (run_id, stage, cursor) in enumerate(steps, 1):
            if cursor is not None:
                expected[run_id, stage].append((position, cursor))
            last[run_id, stage] = last[None, stage] = cursor
        with CheckpointStore(path, durability="normal") as store:
            state = Stated(store)
            for run_id, stage, cursor in steps[:many]:
                state(cursor, run_id=run_id, stage=stage)
            store.advance_many(
                (run_id, stage, Watermark(number, 0), f"step-{number}", milepost.append.NOT_ASKED, cursor)
                for number, (run_id, stage, cursor) in enumerate(steps[many:], many + 1)
            )
            for (run_id_, stage), cursor in last.items():
                assert repr(store.cursor(stage, run_id=run_id_)) == repr(cursor)
            assert [bool(detail) for detail in details(store)] == [cursor is not None for *_, cursor in steps]
            store.verify().raise_if_broken()
        stored = [(run_id, stage, position) for run_id, stage, position, _ in kept(path)]
        both = [(*names, position) for names, of_stage in expected.items() for position, _ in of_stage[-2:]]
        assert stored == sorted(both, key=lambda each: each[2])

    check()


def test_a_stage_without_a_checkpoint_or_without_a_cursor_has_none(state: Stated) -> None:
    """Nor has a run that does not have the stage; and a name that nothing can have is refused."""
    state()
    state(1, stage="sort", run_id="run-8")
    assert state.store.cursor("load") is None
    assert state.store.cursor("load", run_id="run-7") is None
    assert state.store.cursor("sort") == 1
    assert state.store.cursor("sort", run_id="run-7") is None
    assert state.store.cursor("other") is None
    for wrong in ({"stage": ""}, {"stage": "load", "run_id": "\0"}):
        with pytest.raises(InvalidArgumentError):
            state.store.cursor(**wrong)


@pytest.mark.parametrize("many", [False, True])
def test_a_step_stated_again_keeps_the_cursor_that_it_had_first(state: Stated, many: bool) -> None:
    """Though another one is given, or none, and whether it is the last step or not."""
    for number, key in enumerate("ab", 1):
        state.store.advance("run-7", "load", Watermark(number, 0), idempotency_key=key, cursor=key)
    for key, cursor in (("a", "other"), ("b", "other"), ("b", None)):
        mark = Watermark(1 if key == "a" else 2, 0)
        if many:
            step = {"run_id": "run-7", "stage": "load", "watermark": mark, "idempotency_key": key, "cursor": cursor}
            assert state.store.advance_many([step]).duplicates == 1
        else:
            assert state.store.advance("run-7", "load", mark, idempotency_key=key, cursor=cursor).duplicate
    assert state.store.cursor("load") == "b"
    assert [cursor for *_, cursor in kept(state.store.path)] == ['"a"', '"b"']  # type: ignore[arg-type]


def test_an_appended_checkpoint_has_no_cursor_and_hides_the_one_before(state: Stated) -> None:
    """cursor() is of the last checkpoint, however that came."""
    state("page-2")
    state.store.append(entry(9))
    assert state.store.cursor("load") is None


def test_what_was_undone_leaves_no_cursor(state: Stated, path: Path) -> None:
    """A block that ends by an exception, one inside another, a batch that fails at its end."""
    state("kept")
    before = kept(path)
    with pytest.raises(ZeroDivisionError), state.store.transaction():
        state("undone")
        assert state.store.cursor("load") == "undone"
        raise ZeroDivisionError
    assert state.store.cursor("load") == "kept"
    with state.store.transaction():
        with pytest.raises(ZeroDivisionError), state.store.transaction():
            state("undone")
            raise ZeroDivisionError
        assert state.store.cursor("load") == "kept"
        state("inner", stage="sort")
    good = ("run-7", "load", Watermark(90, 0), "new", milepost.append.NOT_ASKED, "undone")
    with pytest.raises(InvalidCheckpointError):
        state.store.advance_many([good, (*good[:2], Watermark(-1, 0), "bad")])
    assert state.store.cursor("load") == "kept"
    assert kept(path) == [*before, ("run-7", "sort", 3 - 1, '"inner"')]


def _another_states(state: Stated) -> None:
    with CheckpointStore(state.store.path, durability="normal") as other:
        another = Stated(other)
        another.number = state.number
        state.number = another("another's")


def _a_block_is_undone(state: Stated) -> None:
    with state.store.transaction():
        state("whole")
        with pytest.raises(ZeroDivisionError), state.store.transaction():
            state("undone")
            raise ZeroDivisionError


def _two_are_restored(state: Stated) -> None:
    numbers = state.number + 1, state.number + 2
    restored = [entry(n, run_id="run-7", stage="load", offset=n, event_time_ms=0) for n in numbers]
    writer(state.store).restore(restored, [None, None], {len(state.store) + 1: '"one"', len(state.store) + 2: '"two"'})
    state.number += 2


@pytest.mark.parametrize("between", [_another_states, _a_block_is_undone, _two_are_restored])
@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_the_last_two_are_kept_whatever_comes_between(
    state: Stated, path: Path, before: int, between: Callable[[Stated], None]
) -> None:
    """Which two there are is remembered from one step to the next."""
    for number in range(before):
        state(number)
    between(state)
    state("last but one")
    assert len(kept(path)) == 2
    state("last")
    assert [cursor for *_, cursor in kept(path)] == ['"last but one"', '"last"']


def test_a_reader_and_the_next_process_see_the_cursor_of_what_is_committed(state: Stated, path: Path) -> None:
    """Not that of an open block."""
    state("committed")
    with CheckpointStore.open_readonly(path) as reader, state.store.transaction():
        state("in the block")
        assert reader.cursor("load") == "committed"
    with CheckpointStore.open_readonly(path) as reader:
        assert reader.cursor("load") == "in the block"


# A file that somebody has changed


@pytest.fixture(params=[None, KEY], ids=["plain", "keyed"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    """Of the chain."""
    found: bytes | None = request.param
    return found


def _record(path: Path, key: bytes | None) -> None:
    with CheckpointStore(path, durability="normal", hmac_key=key) as store:
        state = Stated(store)
        for number in (1, 2, 3):
            state({"page": number}, stage="load") if number < 3 else state(stage="none")
        state(stage="none")
        state(b"5", run_id="run-8", stage="raw")
        state({"page": 6}, stage="load")
        state(b"7", run_id="run-8", stage="raw")
        state("8", stage="sort")
        for _ in range(60):
            state(run_id="run-9", stage="none")
    assert [position for _, _, position, _ in kept(path)] == [2, 5, 6, 7, 8]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[bytes | None, Path]:
    """A file of each kind of chain, which no test changes."""
    folder = tmp_path_factory.mktemp("recorded")
    files = {None: folder / "plain", KEY: folder / "keyed"}
    for key, path in files.items():
        _record(path, key)
    return files


@pytest.fixture
def file(recorded: dict[bytes | None, Path], path: Path, key: bytes | None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs; cursors at positions 1, 2 and 5 to 8, of which 1 is gone; and so long that two workers would share it."""
    shutil.copy(recorded[key], path)
    monkeypatch.setattr(workers, "LEAST", 10)
    return path


CHANGES = {
    "another JSON": ("UPDATE stage_cursor SET cursor = '{\"page\":7}' WHERE position = 6", "run-7", [6]),
    "white space": ("UPDATE stage_cursor SET cursor = cursor || ' ' WHERE position = 6", "run-7", [6]),
    "no UTF-8": ("UPDATE stage_cursor SET cursor = CAST(x'ff' AS TEXT) WHERE position = 6", "run-7", [6]),
    "the cursor before the last": ("UPDATE stage_cursor SET cursor = '{}' WHERE position = 2", "run-7", [2]),
    "other bytes": ("UPDATE stage_cursor SET cursor = x'00' WHERE position = 7", "run-8", [7]),
    "a text in place of bytes": ("UPDATE stage_cursor SET cursor = '7' WHERE position = 7", "run-8", [7]),
    "bytes in place of a text": ("UPDATE stage_cursor SET cursor = CAST(cursor AS BLOB) WHERE position = 6", "run-7", [6]),
    "an integer in place of bytes": ("UPDATE stage_cursor SET cursor = 7 WHERE position = 7", "run-8", [7]),
    "a float in place of a text": ("UPDATE stage_cursor SET cursor = 8.0 WHERE position = 8", "run-7", [8]),
    "taken away": ("DELETE FROM stage_cursor WHERE position = 6", "run-7", [6]),
    "put to an earlier position": ("UPDATE stage_cursor SET position = 1 WHERE position = 6", "run-7", [1, 6]),
    "put to the position of another stage": ("UPDATE stage_cursor SET position = 5 WHERE position = 6", "run-7", [5, 6]),
    "put to no position": ("UPDATE stage_cursor SET position = 99 WHERE position = 7", "run-8", [99, 7]),
    "exchanged": (
        "UPDATE stage_cursor SET cursor = iif(position = 6, '{\"page\":2}', '{\"page\":6}') WHERE position IN (2, 6)",
        "run-7",
        [2, 6],
    ),
    "put where there was none": (
        "INSERT INTO stage_cursor SELECT run_number, stage_number, position, x'09' FROM entry WHERE position = 4",
        "run-7",
        [4],
    ),
    "of a stage without a name": ("UPDATE stage_cursor SET stage_number = 99 WHERE position = 6", "run-7", [6, 6]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_cursor_that_was_changed_is_found_where_it_is(file: Path, key: bytes | None, change: str) -> None:
    """And nothing else is accused: by the whole, by its run, and where workers would have shared the work."""
    statement, run_id, positions = CHANGES[change]
    other = "run-8" if run_id == "run-7" else "run-7"
    tamper(file, statement)
    with CheckpointStore.open_readonly(file, hmac_key=key) as store:
        for options in ({}, {"run_id": run_id}, {"workers": 2}):
            found = store.verify(**options)
            assert [(fault.kind, fault.position) for fault in found.faults] == [("cursor", each) for each in positions], (
                options
            )
        assert store.verify(run_id=other).ok


def test_a_cursor_that_was_put_to_another_run_is_found_in_both(file: Path, key: bytes | None) -> None:
    """One has lost it, and the other one never had it."""
    tamper(
        file, "UPDATE stage_cursor SET run_number = (SELECT run_number FROM run WHERE run_id = 'run-8') WHERE position = 6"
    )
    with CheckpointStore.open_readonly(file, hmac_key=key) as store:
        for options, times in (({}, 2), ({"workers": 2}, 2), ({"run_id": "run-7"}, 1), ({"run_id": "run-8"}, 1)):
            found = store.verify(**options)
            assert [(fault.kind, fault.position) for fault in found.faults] == times * [("cursor", 6)]


def test_a_detail_that_was_changed_to_fit_a_changed_cursor_breaks_its_link(file: Path, key: bytes | None) -> None:
    """The detail is signed."""
    cursor = '{"page":7}'
    digest = sha256(cursor.encode()).hexdigest()
    detail = f'{{"cursor":"{digest}","cursor_type":"json"}}'
    tamper(
        file,
        f"UPDATE stage_cursor SET cursor = '{cursor}' WHERE position = 6",
        f"UPDATE entry SET detail = '{detail}' WHERE position = 6",
    )
    with CheckpointStore.open_readonly(file, hmac_key=key) as store:
        for options in ({}, {"run_id": "run-7"}, {"workers": 2}):
            found = store.verify(**options)
            assert [(fault.kind, fault.position) for fault in found.faults] == [("link", 6)], options


def test_a_chain_that_was_rewritten_with_another_cursor_is_shown_by_a_kept_head_or_by_its_key(
    file: Path, key: bytes | None, tmp_path: Path
) -> None:
    """Whoever has no key can make a plain chain only, which is whole in itself and another one."""
    with CheckpointStore.open_readonly(file, hmac_key=key) as store:
        head = store.head()
    entries = list(transfer.entries_of(str(file), None, None))
    forged = [
        each._replace(cursor='"9"', detail=json.dumps({"cursor": sha256(b'"9"').hexdigest(), "cursor_type": "json"}))
        if each.checkpoint.stage == "sort"
        else each
        for each in entries
    ]
    assert forged != entries
    transfer.restore(str(tmp_path / "forged"), forged, None)
    if key is not None:
        with pytest.raises(milepost.WrongKeyError):
            CheckpointStore.open_readonly(tmp_path / "forged", hmac_key=key)
    with CheckpointStore.open_readonly(tmp_path / "forged") as store:
        assert store.cursor("sort") == "9"
        assert store.verify().ok
        assert [fault.kind for fault in store.verify(expected=head).faults] == ["head"]


@pytest.mark.parametrize(
    "value",
    ["'no JSON'", "CAST(x'ff' AS TEXT)", "7", "7.5", "'\"' || char(0) || '\"'", "'NaN'", f"'{'[' * 60_000}'"],
    ids=["no JSON", "no UTF-8", "an integer", "a float", "NUL", "NaN", "deep"],
)
def test_what_is_stored_as_a_cursor_and_is_none_is_damage(path: Path, value: str) -> None:
    """No value of another type comes out, and no exception of json's or of SQLite's."""
    with CheckpointStore(path, durability="normal") as store:
        Stated(store)("token")
        tamper(path, f"UPDATE stage_cursor SET cursor = {value}")
        with pytest.raises(DamagedStoreError):
            store.cursor("load")
        with pytest.raises(DamagedStoreError):
            store.cursor("load", run_id="run-7")
        loop: Checkpointed[Any] = store.checkpointed(lambda _: [], run_id="run-7", stage="load")
        for begin in (lambda: loop.start, lambda: loop.done, lambda: list(loop), lambda: list(loop.map(str))):
            with pytest.raises(DamagedStoreError):
                begin()
        with pytest.raises(DamagedStoreError):
            asyncio.run(_all_of(loop))


async def _all_of(loop: Checkpointed[Any]) -> list[Any]:
    return [record async for record in loop]


# For other programs


def everything(path: Path) -> tuple[object, ...]:
    """What two equal files have in common."""
    with CheckpointStore.open_readonly(path) as store:
        stages = {(each.run_id, each.stage) for each in store.history()}
        found = {names: repr(store.cursor(names[1], run_id=names[0])) for names in stages}
        return list(store.receipts()), found, store.head(), store.runs(), kept(path), store.stages()


@pytest.mark.parametrize("batch", [3, 10_000])
def test_an_import_makes_an_equal_file_of_an_export_with_cursors(
    file: Path, key: bytes | None, tmp_path: Path, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """History, receipts, cursors and head, however many entries are taken at a time; a keyed chain with its key."""
    monkeypatch.setattr(transfer, "_BATCH", batch)
    (tmp_path / "key").write_bytes(KEY)
    options = ["--key-file", str(tmp_path / "key")] if key else []
    exported = answer("export", file)
    lines = [json.loads(line) for line in exported.splitlines()]
    assert [number for number, line in enumerate(lines, 1) if "cursor" in line] == [2, 5, 6, 7, 8]
    (tmp_path / "exported").write_text(exported, encoding="ascii")
    Head.parse(answer("import", tmp_path / "exported", tmp_path / "again", *options))
    assert everything(tmp_path / "again") == everything(file)
    with CheckpointStore(tmp_path / "again", hmac_key=key) as store:
        store.verify().raise_if_broken()
        store.advance("run-7", "load", Watermark(99, 0), idempotency_key="on", cursor="on")
        assert store.cursor("load") == "on"
        store.verify().raise_if_broken()


@pytest.mark.parametrize("run_id", [None, "run-7"])
def test_an_export_has_the_cursors_of_its_moment_though_a_pipeline_goes_on(
    state: Stated, tmp_path: Path, run_id: str | None
) -> None:
    """It drops them meanwhile; without them the copy would not verify."""
    for number in range(450):
        state(number, run_id=f"run-{number % 2 * 7}")
    before = {names: state.store.cursor("load", run_id=names) for names in ("run-0", "run-7")}
    exported = transfer.entries_of(state.store.path, run_id, None)
    entries = [next(exported)]
    for number in range(3):
        state({"later": number}, run_id="run-0")
        state({"later": number}, run_id="run-7")
    entries += exported
    assert len(entries) == (225 if run_id else 450)
    assert [each.cursor for each in entries if each.cursor is not None] == (
        ["447", "449"] if run_id else ["446", "447", "448", "449"]
    )
    transfer.restore(str(tmp_path / "again"), entries, None)
    with CheckpointStore.open_readonly(tmp_path / "again") as copy:
        assert copy.verify().ok
        assert copy.cursor("load", run_id="run-7") == before["run-7"]


def test_an_export_ends_where_its_cursors_were_read(state: Stated, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is recorded right afterwards would come without its own."""
    state("first")
    read = rows.kept_as_of_now

    def and_then(connection: apsw.Connection, run_id: str | None) -> Any:
        found = read(connection, run_id)
        state("second")
        return found

    monkeypatch.setattr(rows, "kept_as_of_now", and_then)
    assert [each.cursor for each in transfer.entries_of(state.store.path, None, None)] == ['"first"']


def test_any_cursors_go_through_an_export_and_an_import(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The longest lines too."""

    @settings(max_examples=8)
    @given(st.lists(cursors, max_size=12))
    @example([*LARGEST, "\x7f\u2028" * 9000, '"' * 32000, b"\xff" * MAX_CURSOR_BYTES])
    def check(many: list[object]) -> None:
        folder = tmp_path_factory.mktemp("through")
        with CheckpointStore(folder / "store", durability="normal") as store:
            state = Stated(store)
            for number, cursor in enumerate(many):
                state(cursor, stage=f"stage-{number % 3}")
        (folder / "exported").write_text(answer("export", folder / "store"), encoding="ascii")
        answer("import", folder / "exported", folder / "again")
        assert everything(folder / "again") == everything(folder / "store")

    check()


def _line(**values: object) -> str:
    return json.dumps(
        {"run_id": "r", "stage": "s", "sequence": 1, "offset": 1, "event_time_ms": 1, "idempotency_key": "k", "at_ms": 1}
        | {name: value for name, value in values.items() if value is not None}
    )


def _detail(stored: bytes, kind: object = "json") -> str:
    return json.dumps({"cursor": sha256(stored).hexdigest()} | ({} if kind is None else {"cursor_type": kind}))


LONG = b"x" * (MAX_CURSOR_BYTES + 1)
NO_FIT: dict[str, dict[str, object]] = {
    "no detail": {"cursor": '"a"'},
    "a detail of something else": {"cursor": '"a"', "detail": "{}"},
    "a detail that is a list": {"cursor": '"a"', "detail": "[]"},
    "another cursor": {"cursor": '"a"', "detail": _detail(b'"b"')},
    "its SHA-256 is none": {"cursor": '"a"', "detail": '{"cursor":7,"cursor_type":"json"}'},
    "JSON said to be bytes": {"cursor": '"a"', "detail": _detail(b'"a"', "bytes")},
    "bytes said to be JSON": {"cursor": base64.b64encode(b"a").decode(), "detail": _detail(b"a")},
    "no type": {"cursor": '"a"', "detail": _detail(b'"a"', None)},
    "another type": {"cursor": '"a"', "detail": _detail(b'"a"', "text")},
    "a type that is a list": {"cursor": '"a"', "detail": _detail(b'"a"', ["json"])},
    "no base64": {"cursor": "YQ=", "detail": _detail(b"a", "bytes")},
    "no text": {"cursor": 7, "detail": _detail(b"7")},
    "no JSON": {"cursor": "a", "detail": _detail(b"a")},
    "JSON that is null": {"cursor": "null", "detail": _detail(b"null")},
    "not a number": {"cursor": "NaN", "detail": _detail(b"NaN")},
    "a lone surrogate": {"cursor": '"\udc80"', "detail": _detail(b'"\x80"')},
    "too many bytes": {"cursor": base64.b64encode(LONG).decode(), "detail": _detail(LONG, "bytes")},
    "too long a text": {"cursor": f'"{"x" * MAX_CURSOR_BYTES}"', "detail": _detail(b'"' + LONG[1:] + b'"')},
}


@pytest.mark.parametrize("fault", NO_FIT)
def test_a_line_whose_cursor_does_not_fit_is_named(tmp_path: Path, fault: str) -> None:
    """And nothing is made."""
    given = _line(idempotency_key="j", sequence=0) + "\n" + _line(**NO_FIT[fault]) + "\n"
    found = run("import", "-", tmp_path / "new", stdin=given.encode())
    assert (found.exit_code, found.stdout) == (ExitCode.WRONG_INPUT, ""), found.exception
    assert found.stderr.startswith("Error: line 2: cursor ")
    assert len(found.stderr) < 300
    assert not (tmp_path / "new").exists()


def test_a_last_line_of_a_stage_that_has_lost_its_cursor_is_found_by_verify(tmp_path: Path) -> None:
    """The detail says that there was one."""
    found = run("import", "-", tmp_path / "new", stdin=_line(detail=_detail(b'"a"')).encode() + b"\n")
    assert found.exit_code == ExitCode.SUCCESS
    with CheckpointStore.open_readonly(tmp_path / "new") as store:
        assert [(fault.kind, fault.position) for fault in store.verify().faults] == [("cursor", 1)]
        assert store.cursor("s") is None


def test_a_frame_has_the_sha256_of_each_cursor(file: Path) -> None:
    """Also where the cursor is not kept any more; NULL where there was none."""
    with CheckpointStore.open_readonly(file) as store:
        found = store.frame(limit=8).to_polars()["cursor_sha256"].to_list()
        assert found == [each.get("cursor") for each in details(store)[:8]]
        assert [number for number, each in enumerate(found, 1) if each] == [1, 2, 5, 6, 7, 8]
        assert found[6] == sha256(b"7").hexdigest()


HOSTILE = {
    "escape codes": {"cursor": "\x1b[31m", "cursor_type": "\u202e"},
    "lone surrogates": {"cursor": "\ud800", "cursor_type": "\udfff"},
    "a long text": {"cursor": "x" * 3000, "cursor_type": "json"},
    "numbers": {"cursor": 7, "cursor_type": 8.5},
    "lists": {"cursor": [["x"]], "cursor_type": {}},
    "nulls": {"cursor": None, "cursor_type": None},
}


@pytest.mark.parametrize("said", HOSTILE)
def test_a_detail_that_is_about_no_cursor_of_milepost_harms_nobody(tmp_path: Path, said: str) -> None:
    """An import may have any: verify() says in one harmless line what is wrong, and a frame has a NULL or a text."""
    line = _line(detail=json.dumps(HOSTILE[said]))
    assert run("import", "-", tmp_path / "new", stdin=line.encode() + b"\n").exit_code == ExitCode.SUCCESS
    with CheckpointStore(tmp_path / "new", durability="normal") as store:
        for found in (store.verify(), store.verify(run_id="r")):
            (fault,) = found.faults
            assert (fault.kind, fault.position, fault.found) == ("cursor", 1, "none")
            assert str(fault).isprintable()
            assert len(str(fault)) < 400
        assert store.cursor("s") is None
        assert len(store.frame().to_polars()["cursor_sha256"]) == 1
        with pytest.raises(CursorNotKeptError):
            store.branch("r", "new")
