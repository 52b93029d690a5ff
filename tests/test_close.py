"""Close: what a closed store says, and what must not close it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointStore, ClosedStoreError, StoreError
from support.chains import entry
from support.methods import READING, SHOWING, WRITING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS_WHEN_CLOSED: dict[str, Callable[[CheckpointStore], object]] = {
    **{name: call for name, call in READING.items() if name != "_repr_html_"},  # which says so in a page
    **SHOWING,
    **WRITING,
    "append_many, of nothing": lambda s: s.append_many([]),
    "history, before it is walked": lambda s: s.history(),
    "transaction, that is entered": lambda s: s.transaction().__enter__(),
    "backup": lambda s: s.backup(s.path + "-copy"),
    "__enter__": lambda s: s.__enter__(),
}


@pytest.fixture(scope="module", params=[False, True], ids=["opened to write", "opened to read"])
def closed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> CheckpointStore:
    """A store that was closed, which all verbs share: none of them changes anything."""
    path = tmp_path_factory.mktemp("closed") / "orders.milepost"
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
    if request.param:
        with CheckpointStore.open_readonly(path) as store:
            pass
    return store


@pytest.mark.parametrize("verb", CALLS_WHEN_CLOSED.values(), ids=CALLS_WHEN_CLOSED)
def test_every_verb_of_a_closed_store_says_that_it_is_closed(
    closed: CheckpointStore, verb: Callable[[CheckpointStore], object]
) -> None:
    """The message has the path and the way out; closing again does nothing."""
    directory = Path(closed.path).parent
    before = {file.name: file.read_bytes() for file in directory.iterdir()}
    with pytest.raises(ClosedStoreError, match=r"orders\.milepost: the store is closed: open it again"):
        verb(closed)
    closed.close()
    assert "closed" in repr(closed)
    assert before == {file.name: file.read_bytes() for file in directory.iterdir()}


@pytest.mark.parametrize("walk", ["history", "receipts"])
def test_a_walk_over_a_store_that_is_closed_meanwhile_says_so(path: Path, walk: str) -> None:
    """A walk reads on from the file, which is no longer there for it."""
    store = CheckpointStore(path, durability="normal")
    store.append_many(entry(i, run_id=f"run-{i % 2}", key=f"key {i // 2}") for i in range(4000))
    rest: Iterator[Any] = getattr(store, walk)()
    next(rest)
    store.close()
    with pytest.raises(ClosedStoreError):
        list(rest)


def test_a_block_cannot_close_the_connection_of_the_store(path: Path) -> None:
    """Closing it is a mistake, told in words; the block is undone by it, and the store goes on."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1))
        with pytest.raises(StoreError, match="close the store"), store.transaction() as connection:
            store.append(entry(2))
            connection.close()
        store.append(entry(2))
        assert [entry(1), entry(2)] == list(store.history())
        store.verify().raise_if_broken()
