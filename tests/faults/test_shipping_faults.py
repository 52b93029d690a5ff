"""Shipping under faults: a network that fails at every call, changed and half-written objects, killed nodes."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

import milepost
from milepost import CheckpointStore, DamagedTargetError, FencedError, Head, TargetError, segment
from support.chains import chain, entry
from support.programs import PROGRAMS
from support.shipping import NAME, FailingTarget, MemoryTarget
from support.told_process import ToldProcess

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY: Final = pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED") or random.SystemRandom().randrange(10**9))


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 3)


def _ship_all(folder: Path, inner: MemoryTarget, fails: Callable[[int], Any]) -> int:
    """A program of two shippers and a restore; each call is repeated until it works. How many calls it makes."""
    target = FailingTarget(inner, fails)

    def trying(call: Callable[[], Any]) -> Any:
        for _ in range(10):
            try:
                return call()
            except FencedError:
                raise
            except TargetError:
                pass
        raise AssertionError("it never worked")

    with CheckpointStore(folder / "a", durability="normal", clock=lambda: 1) as store:
        shipper = trying(lambda: milepost.ship(store, target, NAME))
        for sequence in range(1, 6):
            store.append(entry(sequence))
            assert trying(shipper.ship) == store.head()
        with trying(lambda: CheckpointStore.restore(folder / "b", target, NAME, durability="normal")) as other:
            assert other.head() == store.head()
            taken = trying(lambda: milepost.ship(other, target, NAME))
            other.append(entry(6))
            head = trying(taken.ship)
            store.append(entry(6, key="zombie"))
            with pytest.raises(FencedError):
                trying(shipper.ship)
        with CheckpointStore.restore(folder / "c", inner, NAME, durability="normal") as last:
            assert last.head() == head
            last.verify(expected=head).raise_if_broken()
    return target.calls


def _fails_at(when: Any, first: int, last: int) -> Callable[[int], Any]:
    return lambda number: when if first <= number <= last else None


def _folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


@EVERY
@pytest.mark.parametrize(("when", "first"), [("before", 0), ("after", 1)])
def test_a_failure_at_every_call_loses_nothing_and_locks_nobody_out(
    tmp_path: Path, when: Any, first: int, every: int
) -> None:
    """Before or after its effect, by default at every fourth: repeated, the call works, and the old owner is refused."""
    calls = _ship_all(_folder(tmp_path, "none"), MemoryTarget(), lambda _: None)
    assert calls > 20
    for call in range(first % every, calls, every):
        _ship_all(_folder(tmp_path, f"{call}"), MemoryTarget(), _fails_at(when, call, call))


@EVERY
@pytest.mark.parametrize(("when", "first"), [("before", 0), ("after", 1)])
def test_a_network_that_stays_away_leaves_what_was_acknowledged(
    store: CheckpointStore, tmp_path: Path, when: Any, first: int, every: int
) -> None:
    """
    From each call on, or by default from every fourth.

    The error is one of the target's, and a restore gives at least the last head that was returned.
    """
    for call in range(first % every, 40, every):
        inner = MemoryTarget()
        target = FailingTarget(inner, _fails_at(when, call, 10**9))
        acknowledged = Head(0, "0" * 64)
        try:
            shipper = milepost.ship(store, target, NAME)
            for _ in range(6):
                store.append(entry(len(store) + 1))
                acknowledged = shipper.ship()
        except TargetError as error:
            assert "the network failed" in str(error)  # noqa: PT017 - no other error comes
        if any("/log/" in name for name in inner.objects_by_name):
            with CheckpointStore.restore(tmp_path / f"{call}", inner, NAME, durability="normal") as found:
                assert found.head().entries >= acknowledged.entries
                assert store.verify(expected=found.head()).ok
                assert found.verify(expected=acknowledged).ok


def _shipped_directory(store: CheckpointStore, tmp_path: Path) -> tuple[Path, list[Path]]:
    target = tmp_path / "target"
    with milepost.ship(store, target, NAME) as shipper:
        for sequence in range(1, 6):
            store.append(entry(sequence))
            shipper.ship()
    read = [each for each in sorted(target.rglob("*")) if each.is_file() and not each.name.endswith("0-000000000")]
    merged = [each for each in read if each.parent.name == "merged"]
    assert merged
    return target, [*merged, *(each for each in read if each.parent.name == "log" and "04-" in each.name)]


def test_a_changed_bit_in_any_object_is_located(store: CheckpointStore, tmp_path: Path) -> None:
    """In each that a restore reads; a sample of the bits here, all of them in test_segment.py."""
    target, read = _shipped_directory(store, tmp_path)
    draw = random.Random(7)
    for path in read:
        whole = path.read_bytes()
        for _ in range(25):
            changed = bytearray(whole)
            changed[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
            path.write_bytes(changed)
            with pytest.raises(DamagedTargetError) as found:
                CheckpointStore.restore(tmp_path / "restored", target, NAME)
            assert found.value.object_name == str(path.relative_to(target))
            assert str(found.value.position) in str(found.value)
        path.write_bytes(whole)
    assert list(tmp_path.glob("*restored*")) == []
    CheckpointStore.restore(tmp_path / "restored", target, NAME).close()


def test_a_half_written_object_is_located(store: CheckpointStore, tmp_path: Path) -> None:
    """Cut anywhere, empty, or with zeros behind: as a copy of the directory by another tool may leave it."""
    target, read = _shipped_directory(store, tmp_path)
    for path in read:
        whole = path.read_bytes()
        for half in (
            b"",
            whole[:10],
            whole[:100],
            whole[: len(whole) // 2],
            whole[:-1],
            whole + bytes(10),
            bytes(len(whole)),
        ):
            path.write_bytes(half)
            with pytest.raises(DamagedTargetError):
                CheckpointStore.restore(tmp_path / "restored", target, NAME)
        path.write_bytes(whole)
    assert list(tmp_path.glob("*restored*")) == []


def test_a_damaged_last_object_stops_the_next_shipper(store: CheckpointStore, tmp_path: Path) -> None:
    """It would go on behind what it cannot read."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        store.append(entry(1))
        shipper.ship()
    last = max(target.objects_by_name)
    target.objects_by_name[last] = target.objects_by_name[last][:-1]
    with pytest.raises(DamagedTargetError) as found:
        milepost.ship(store, target, NAME)
    assert found.value.object_name == last


def test_an_object_damaged_before_it_is_merged_is_located_at_once(store: CheckpointStore) -> None:
    """By the shipper that would merge it, while its entries are still in the file; they are shipped all the same."""
    target = MemoryTarget()
    store.append_many(chain(1))
    milepost.ship(store, target, NAME).ship()
    shipper = milepost.ship(store, target, NAME)
    damaged = segment.log_object(NAME, segment.Slot(0, 1))
    target.objects_by_name[damaged] = target.objects_by_name[damaged][:-1]
    store.append(entry(2))
    for _ in range(2):
        with pytest.raises(DamagedTargetError) as found:
            shipper.ship()
        assert found.value.object_name == damaged
    assert shipper.shipped == store.head()


class _Node:
    """A node as a process of its own."""

    def __init__(self, path: Path, target: Path, *more: str) -> None:
        self.heads: list[str] = []
        self.fenced = False
        self._process = ToldProcess(PROGRAMS / "shipping_node.py", path, target, NAME, *more).process

    def read(self, heads: int) -> None:
        """Wait for so many heads, or for its end."""
        while len(self.heads) < heads and (line := self._process.stdout.readline()):
            self._note(line)

    def kill(self) -> None:
        """Kill it, and read what it had printed."""
        self._process.kill()
        self.end()

    def pause(self) -> None:
        """Stop it in the middle of whatever it does."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Wake it up."""
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Wait for its end."""
        goes_on = threading.Timer(60, self._process.kill)  # nobody told it
        goes_on.start()
        try:
            out, _ = self._process.communicate()
        finally:
            goes_on.cancel()
        for line in out.splitlines():
            self._note(line)

    def _note(self, line: str) -> None:
        said = line.strip()
        if said == "fenced":
            self.fenced = True
        elif len(said.partition(":")[2]) == 64:  # a whole head, which a kill has not cut
            self.heads.append(said)


def _round(folder: Path, seed: int) -> None:
    """A is killed or paused at a random moment, B takes over and goes on, A comes back."""
    draw = random.Random(seed)
    target, name = folder / "target", folder / "a"
    first = _Node(name, target)
    first.read(draw.randrange(1, 6))
    time.sleep(draw.random() * 0.01)
    paused = draw.random() < 0.5
    if paused:
        first.pause()
    else:
        first.kill()
    second = _Node(folder / "b", target, "restore")
    second.read(draw.randrange(2, 6))
    if paused:  # a zombie that never died
        first.go_on()
        first.end()
        assert first.fenced
    back = _Node(name, target)  # one that was started again
    back.end()
    assert back.fenced
    second.read(len(second.heads) + 2)
    second.kill()
    heads = [Head.parse(head) for head in first.heads + second.heads]
    with CheckpointStore.restore(folder / "c", target, NAME, durability="normal") as store:
        for head in (max(map(Head.parse, first.heads), key=lambda head: head.entries), heads[-1]):
            store.verify(expected=head).raise_if_broken()
        assert len(store) >= max(head.entries for head in heads)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs signals that pause a process")
def test_a_killed_or_paused_node_is_taken_over_from_and_refused(tmp_path: Path) -> None:
    """Its last shipped head is in the chain of the other one: 0 shipped entries lost."""
    print(f"MILEPOST_FAULT_SEED={SEED}")
    _round(_folder(tmp_path, "round"), SEED)


@pytest.mark.long
def test_200_rounds_of_killed_and_paused_nodes_lose_no_shipped_entry(tmp_path: Path) -> None:
    """The full dose, at random moments."""
    print(f"MILEPOST_FAULT_SEED={SEED}")
    for seed in range(SEED, SEED + 200):
        _round(_folder(tmp_path, f"{seed}"), seed)


def test_of_two_processes_that_ship_at_once_one_is_told(tmp_path: Path) -> None:
    """From two files that were made from the same; what both shipped is one chain."""
    target = tmp_path / "target"
    with CheckpointStore(tmp_path / "a", durability="normal") as store, milepost.ship(store, target, NAME) as shipper:
        store.append_many(chain(3, run_id="first"))
        shipper.ship()
        store.backup(tmp_path / "b")
    nodes = [_Node(tmp_path / name, target) for name in ("a", "b")]
    while not any(node.fenced for node in nodes):
        for node in nodes:
            node.read(len(node.heads) + 1)
    loser, winner = sorted(nodes, key=lambda node: not node.fenced)
    winner.read(len(winner.heads) + 3)
    assert not winner.fenced
    winner.kill()
    loser.end()
    with CheckpointStore.restore(tmp_path / "c", target, NAME, durability="normal") as found:
        for head in (*loser.heads[-1:], *winner.heads[-1:]):
            found.verify(expected=Head.parse(head)).raise_if_broken()


@pytest.mark.parametrize("seconds", [0.5, pytest.param(60, marks=pytest.mark.long)])
def test_owners_that_take_over_from_one_another_again_and_again_lose_nothing(tmp_path: Path, seconds: float) -> None:
    """Four threads restore, claim, ship and merge at once; each head that was acknowledged is in the last chain."""
    target = tmp_path / "target"
    heads: list[Head] = []
    errors: list[BaseException] = []
    deadline = time.monotonic() + seconds
    with CheckpointStore(tmp_path / "first", durability="normal") as store:
        milepost.ship(store, target, NAME)

    def own(name: str) -> None:
        number = 0
        try:
            while time.monotonic() < deadline:
                number += 1
                path = tmp_path / f"{name}-{number}"
                with CheckpointStore.restore(path, target, NAME, durability="normal") as store:
                    try:
                        shipper = milepost.ship(store, target, NAME)
                        for sequence in range(1, 30):
                            store.append(entry(sequence, run_id=f"{name}-{number}"))
                            heads.append(shipper.ship())
                    except FencedError:
                        pass
                path.unlink()
        except BaseException as error:  # noqa: BLE001 - raised in the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=own, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    with CheckpointStore.restore(tmp_path / "last", target, NAME, durability="normal") as last:
        last.verify().raise_if_broken()
        signatures = ["0" * 64, *(receipt.signature for receipt, _, _ in last.receipts())]
        assert [head for head in heads if signatures[head.entries] != head.signature] == []
    assert heads
