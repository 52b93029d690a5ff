"""Random programs of nodes that append, ship, die, restore, take over and come back, against plain lists."""

from __future__ import annotations

import random
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import milepost
from milepost import CheckpointStore, FencedError, MilepostError, Shipper, TargetError, Watermark, segment
from milepost.files import birth_of
from support.shipping import NAME, FailingTarget, MemoryTarget

if TYPE_CHECKING:
    from collections.abc import Iterator

OPERATIONS = ["append", "append many", "ship", "ship", "ship", "crash", "take over", "look", "zombie", "restart"]


@dataclass
class Node:
    """A machine: its store, what it has recorded, and the shipper that it had last."""

    store: CheckpointStore
    recorded: list[Any] = field(default_factory=list)
    shipper: Shipper | None = None
    shipped: int = 0


class World:
    """The nodes, and what the model says is shipped."""

    def __init__(self, folder: Path, seed: int, failures: float) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.inner = MemoryTarget()
        self.failures = failures
        self.target = FailingTarget(self.inner, self._fails)
        self.acknowledged: list[Any] = []
        self.nodes: list[Node] = [Node(CheckpointStore(folder / "node-0", durability="normal"))]
        self.active = self.nodes[0]
        self.entries = 0

    def _fails(self, _call: int) -> Any:
        return self.random.choice(["before", "after"]) if self.random.random() < self.failures else None

    def trying(self, call: Any) -> Any:
        """Until the network lets it through."""
        while True:
            try:
                return call()
            except FencedError:
                raise
            except TargetError as error:
                assert "the network failed" in str(error)  # noqa: PT017 - nothing else goes wrong

    def append(self, node: Node, entries: int) -> None:
        """Record something on a node, partly with cursors."""
        for _ in range(entries):
            self.entries += 1
            stage = self.random.choice(["extract", "load"])
            cursor = self.random.choice([None, self.entries])
            mark = Watermark(self.entries, self.entries)
            node.store.advance(f"run-{self.entries % 3}", stage, mark, idempotency_key=f"{self.entries}", cursor=cursor)
            node.recorded.append(self.entries)

    def ship(self, node: Node) -> None:
        """A node ships: it is the last one that took over, and all is shipped; or it is told."""
        if node.shipper is None:
            return
        try:
            head = self.trying(node.shipper.ship)
        except FencedError as error:
            assert node.shipper is not self.owner
            assert error.found.entries >= node.shipped  # noqa: PT017
            return
        assert head == node.store.head() == node.shipper.shipped
        if node.shipper is self.owner:
            self.acknowledged = list(node.recorded)
            node.shipped = len(node.recorded)
        else:  # it may not know yet, as long as it has nothing to ship
            assert node.shipped == len(node.recorded)

    owner: Shipper | None = None

    def begin(self, node: Node) -> None:
        """A process on a node begins to ship, which takes over or is refused."""
        prefix = node.recorded[: len(self.there())] == self.there()
        try:
            node.shipper = self.trying(lambda: milepost.ship(node.store, self.target, NAME))
        except FencedError:
            # Its chain is another one; or somebody has taken over from its file, and shipped nothing since.
            assert not prefix or (node is not self.active and birth_of(node.store.path) is not None)
            node.shipper = None
            return
        assert prefix
        self.owner, self.active = node.shipper, node
        node.shipped = len(self.there())

    def there(self) -> list[Any]:
        """What the target holds, entry by entry."""
        number = len(list(self.folder.glob("look-*")))
        try:
            with CheckpointStore.restore(self.folder / f"look-{number}", self.inner, NAME, durability="normal") as found:
                return [entry.watermark.offset for entry in found.history()]
        except TargetError as error:
            assert "nothing is shipped" in str(error)  # noqa: PT017
            return []

    def look(self) -> None:
        """What was acknowledged is there, whole and sound."""
        found = self.there()
        assert found[: len(self.acknowledged)] == self.acknowledged
        if self.inner.objects_by_name:
            path = self.folder / f"look-{len(list(self.folder.glob('look-*'))) - 1}"
            with CheckpointStore(path) as store:
                store.verify().raise_if_broken()

    def run(self, operation: str) -> None:
        """Do one thing on the active node, or on another."""
        node = self.active
        if operation == "append":
            self.append(node, 1)
        elif operation == "append many":
            self.append(node, self.random.randrange(1, 12))
        elif operation == "ship":
            if node.shipper is None:
                self.begin(node)
            self.ship(node)
        elif operation == "crash":  # in the middle of a put whose outcome nobody learns
            if node.shipper is not None:
                self.append(node, 1)
                kept, self.failures = self.failures, 1.0
                with pytest.raises(MilepostError):
                    node.shipper.ship()
                self.failures = kept
            self.begin(node)
        elif operation == "take over" and self.inner.objects_by_name:
            path = self.folder / f"node-{len(self.nodes)}"
            store = self.trying(lambda: CheckpointStore.restore(path, self.target, NAME, durability="normal"))
            other = Node(store, [entry.watermark.offset for entry in store.history()])
            self.nodes.append(other)
            self.begin(other)
        elif operation == "look":
            self.look()
        elif operation == "zombie":
            other = self.random.choice(self.nodes)
            if other is not node:
                self.append(other, 1)
            self.ship(other)
        elif operation == "restart":
            other = self.random.choice(self.nodes)
            self.append(other, self.random.randrange(2))
            self.begin(other)

    def close(self) -> None:
        """End all."""
        for node in self.nodes:
            node.store.close()


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 3)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for one test."""
    made = Path(tempfile.mkdtemp(prefix="milepost-ship-"))
    yield made
    shutil.rmtree(made)


def _play(folder: Path, operations: list[str], seed: int, failures: float) -> None:
    place = Path(tempfile.mkdtemp(dir=folder))
    world = World(place, seed, failures)
    try:
        for operation in operations:
            world.run(operation)
        world.look()
    finally:
        world.close()
        shutil.rmtree(place)


PROGRAMS = st.lists(st.sampled_from(OPERATIONS), min_size=5, max_size=30)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PROGRAMS, st.integers(0, 2**32), st.sampled_from([0.0, 0.0, 0.15]))
def test_nothing_that_was_acknowledged_is_ever_lost(folder: Path, operations: list[str], seed: int, failures: float) -> None:
    """Whoever ships, dies, takes over or comes back, with and without a network that fails."""
    _play(folder, operations, seed, failures)


@pytest.mark.long
@settings(max_examples=2000, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(PROGRAMS, st.integers(0, 2**32), st.sampled_from([0.0, 0.15, 0.4]))
def test_nothing_is_lost_in_thousands_of_programs(folder: Path, operations: list[str], seed: int, failures: float) -> None:
    """The full dose."""
    _play(folder, operations, seed, failures)
