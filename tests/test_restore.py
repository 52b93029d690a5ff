"""`CheckpointStore.restore`: the shipped chain in a new file that goes on, or no file and the object that is wrong."""

from __future__ import annotations

import os
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import milepost
from milepost import (
    CheckpointStore,
    DamagedTargetError,
    Head,
    InvalidArgumentError,
    MilepostWarning,
    StoreError,
    TargetError,
    Watermark,
    WrongKeyError,
    open_files,
    segment,
)
from milepost.segment import FIRST, Segment, Slot
from support.chains import chain, entry, mixed
from support.patience import until
from support.shipping import NAME, MemoryTarget
from test_segment import line, made

if TYPE_CHECKING:
    from pathlib import Path


def shipped(store: CheckpointStore, *batches: list[Any]) -> MemoryTarget:
    """A target to which these batches were shipped, one after the other."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        for batch in batches:
            store.append_many(batch)
            shipper.ship()
    return target


def test_restore_gives_an_equal_store_that_goes_on(store: CheckpointStore, tmp_path: Path) -> None:
    """The same receipts, durable by default, and open to write."""
    target = shipped(store, mixed(30), chain(20))
    with CheckpointStore.restore(tmp_path / "restored", target, NAME, clock=lambda: 7) as other:
        assert list(other.receipts()) == list(store.receipts())
        assert (other.head(), other.durability) == (store.head(), "full")
        assert other.verify(expected=store.head()).ok
        assert other.append(entry(21)).position == 51
        assert other.advance("new", "load", Watermark(1, 1), idempotency_key="1").position == 52
        assert other.latest("new").at_ms == 7  # type: ignore[union-attr]


class ForkingTarget(MemoryTarget):
    """A target: when its last object is read, another thread has begun to fork, and waits for a block of a store's."""

    def __init__(self, inner: MemoryTarget, store: CheckpointStore) -> None:
        super().__init__()
        self.objects_by_name = inner.objects_by_name
        self._store = store
        self.threads: list[threading.Thread] = []

    def get(self, name: str) -> bytes | None:
        """Read an object."""
        if name == max(self.objects_by_name) and not self.threads:
            entered = threading.Event()
            for work in (lambda: self._hold(entered), self._fork):
                self.threads.append(threading.Thread(target=work))
                self.threads[-1].start()
                assert entered.wait(10)
            until(lambda: bool(open_files.forking))
            time.sleep(0.05)  # it has taken its turn at the file that is being filled, and waits for the block
        return super().get(name)

    def _hold(self, entered: threading.Event) -> None:
        with self._store.transaction():
            entered.set()
            until(lambda: bool(open_files.forking))
            time.sleep(0.2)

    def _fork(self) -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)


def test_a_restore_goes_on_beside_a_thread_that_forks(store: CheckpointStore, tmp_path: Path) -> None:
    """The fork takes a turn at every file that is open, also at the one that is being filled."""
    target = ForkingTarget(shipped(store, mixed(30), chain(20)), store)
    with CheckpointStore.restore(tmp_path / "restored", target, NAME) as other:
        assert other.head() == store.head()
    for thread in target.threads:
        thread.join()


def test_restore_writes_nothing_to_the_target(store: CheckpointStore, tmp_path: Path) -> None:
    """So that you can look at any time, and the shipper goes on."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        store.append(entry(1))
        shipper.ship()
        before = dict(target.objects_by_name)
        CheckpointStore.restore(tmp_path / "restored", target, NAME).close()
        assert target.objects_by_name == before
        store.append(entry(2))
        assert shipper.ship() == store.head()


def test_a_claimed_name_without_entries_gives_an_empty_store(store: CheckpointStore, tmp_path: Path) -> None:
    """And it can be shipped on."""
    target = shipped(store)
    with CheckpointStore.restore(tmp_path / "restored", target, NAME) as other:
        assert other.head() == Head(0, "0" * 64)
        milepost.ship(other, target, NAME).ship()


def test_a_name_under_which_nothing_is_shipped_is_refused(tmp_path: Path) -> None:
    """With both names in the sentence, and without a file."""
    with pytest.raises(TargetError, match="nothing is shipped under the name orders: check both"):
        CheckpointStore.restore(tmp_path / "restored", tmp_path / "nowhere", NAME)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_never_overwritten(store: CheckpointStore, tmp_path: Path) -> None:
    """Whatever it is; it is looked at before anything is read."""
    (tmp_path / "file").write_text("kept")
    target = shipped(store, chain(2))
    target.get = pytest.fail  # type: ignore[method-assign, assignment]
    with pytest.raises(StoreError, match="the file exists already, and restore never overwrites"):
        CheckpointStore.restore(tmp_path / "file", target, NAME)
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize(
    "options",
    [{"durability": "some"}, {"busy_timeout_ms": -1}, {"clock": 5}, {"on_connect": 5}, {"hmac_key": "text"}, {"vfs": "x"}],
)
def test_a_wrong_option_is_refused_before_a_file_is_made(
    store: CheckpointStore, tmp_path: Path, options: dict[str, Any]
) -> None:
    """The options of the constructor."""
    target = shipped(store, chain(2))
    with pytest.raises(InvalidArgumentError):
        CheckpointStore.restore(tmp_path / "restored", target, NAME, **options)
    assert not (tmp_path / "restored").exists()


def test_every_missing_object_is_located_unless_it_is_the_last(store: CheckpointStore, tmp_path: Path) -> None:
    """By its name and by the position that it begins after. The last one shows with an expected head."""
    target = shipped(store, *[[each] for each in chain(4)])
    names = sorted(target.objects_by_name)
    for place, name in enumerate(names):
        data = target.objects_by_name.pop(name)
        if place < len(names) - 1:
            with pytest.raises(DamagedTargetError, match="the object is missing, and there are later ones") as found:
                CheckpointStore.restore(tmp_path / "restored", target, NAME)
            assert (found.value.object_name, found.value.position) == (name, max(place, 1))
            assert list(tmp_path.glob("*restored*")) == []
        else:
            with CheckpointStore.restore(tmp_path / "restored", target, NAME) as other:
                assert not other.verify(expected=store.head()).ok
        target.objects_by_name[name] = data


def test_an_object_that_is_listed_and_never_read_is_located(store: CheckpointStore, tmp_path: Path) -> None:
    """It may have been merged when it is read; but not again and again."""
    target = shipped(store, chain(2), [entry(3)])
    read, last = target.get, max(target.objects_by_name)
    target.get = lambda name: None if name == last else read(name)  # type: ignore[method-assign]
    with pytest.raises(DamagedTargetError, match="the object is listed, but cannot be read") as found:
        CheckpointStore.restore(tmp_path / "restored", target, NAME)
    assert (found.value.object_name, found.value.position) == (last, 3)


def test_a_missing_merged_object_is_located(store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the position where the way through the objects ends."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 3)
    target = shipped(store, *[[each] for each in chain(9)])
    (name,) = [name for name in target.objects_by_name if "/merged/" in name and name.endswith("_2")]
    del target.objects_by_name[name]
    with pytest.raises(DamagedTargetError, match="missing") as found:
        CheckpointStore.restore(tmp_path / "restored", target, NAME)
    assert found.value.position == 1


def _forged(target: MemoryTarget, name: str, segment_: Segment) -> None:
    target.objects_by_name[name] = segment.encode(segment_)


@pytest.mark.parametrize("forgery", ["key", "order", "duplicate", "invalid", "swap", "cut", "grown", "cursor", "keyed"])
def test_a_forged_object_with_the_right_sha256_is_refused(store: CheckpointStore, tmp_path: Path, forgery: str) -> None:
    """The chain, the rules of an append and the cursors' hashes show it; the position is in the object."""
    target = shipped(store, chain(2), chain(2, stage="other"))
    name = sorted(target.objects_by_name)[2]
    whole = segment.decode(target.objects_by_name[name])
    header, lines = whole.header, list(whole.lines)
    position = 3
    if forgery == "key":
        lines[1] = lines[1].replace(b"other:2", b"other:9")
    elif forgery == "order":
        lines.reverse()
        header = made(lines, header.begins, header.before).header
        position = 4
    elif forgery == "duplicate":
        lines[1] = lines[0]
        header = made(lines, header.begins, header.before).header
    elif forgery == "invalid":
        lines[1] = lines[1].replace(b",2,[", b",-2,[")
        header = made(lines, header.begins, header.before).header
        position = 4
    elif forgery == "swap":
        _forged(target, name, made([line(each) for each in chain(2, stage="x")], header.begins, b"\1" * 32))
    elif forgery == "cut":
        lines = lines[:1]
        header = header._replace(entries=1, ends=Slot(3, 0))
    elif forgery == "grown":
        lines.append(line(entry(3, stage="other")))
        header = header._replace(entries=3, ends=Slot(5, 0))
    elif forgery == "cursor":
        header = header._replace(cursors=1)
    elif forgery == "keyed":
        header = header._replace(key_check=b"\1" * 32)
    if forgery != "swap":
        _forged(target, name, Segment(header, lines, {4: "1"} if forgery == "cursor" else {}))
    with pytest.raises(DamagedTargetError) as found:
        CheckpointStore.restore(tmp_path / "restored", target, NAME)
    if forgery == "duplicate":
        assert "an entry of it was in the chain before" in str(found.value)
    if forgery == "swap":
        assert "it does not follow from the object before it" in str(found.value)
    assert (found.value.object_name, found.value.position) == (name, 4 if forgery == "cursor" else position)
    assert list(tmp_path.glob("*restored*")) == []


def test_an_object_under_another_ones_name_is_refused(store: CheckpointStore, tmp_path: Path) -> None:
    """Sound in itself, but not what was shipped there."""
    target = shipped(store, chain(2), chain(2, stage="other"))
    names = sorted(target.objects_by_name)
    target.objects_by_name[names[2]] = target.objects_by_name[names[1]]
    with pytest.raises(DamagedTargetError, match="its name and its header disagree"):
        CheckpointStore.restore(tmp_path / "restored", target, NAME)


def test_a_restore_beside_a_merging_shipper_reads_all_of_it(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Objects go away between the look at their names and the look at them, again and again."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 3)
    target = MemoryTarget()
    shipper = milepost.ship(store, target, NAME)
    get, sequences = target.get, iter(range(1, 1000))

    def record(entries: int) -> None:
        for _ in range(entries):
            store.append(entry(next(sequences)))
            monkeypatch.setattr(target, "get", get)
            shipper.ship()
            monkeypatch.setattr(target, "get", get_late)

    def get_late(name: str) -> bytes | None:
        if len(store) < 200:
            record(3)
        return get(name)

    record(10)
    with CheckpointStore.restore(tmp_path / "restored", target, NAME) as other:
        assert len(other) >= 10
        other.verify().raise_if_broken()
        assert store.verify(expected=other.head()).ok


def test_overlapping_merged_objects_are_read_once_and_merged_on(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two shippers leave them that merged while one took over from the other."""
    store.append_many(chain(9))
    lines = [line(each) for each in chain(9)]
    signatures = [bytes(32)] + [bytes.fromhex(receipt.signature) for receipt, _, _ in store.receipts()]
    target = MemoryTarget()
    for begin, end in ((0, 5), (3, 8)):
        part = made(lines[begin:end], Slot(begin, 0), signatures[begin])
        piece = segment.merged_piece(NAME, Slot(begin, 0), Slot(end, 0), 1, 0)
        target.put_new(piece.object_name, segment.encode(part))
    target.put_new(segment.log_object(NAME, Slot(8, 0)), segment.encode(made(lines[8:], Slot(8, 0), signatures[8])))
    target.put_new(segment.log_object(NAME, FIRST), b"an orphan below, which nobody reads")
    with CheckpointStore.restore(tmp_path / "restored", target, NAME) as other:
        assert other.head() == store.head()
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 2)
    with milepost.ship(store, target, NAME) as shipper:
        assert shipper.ship() == store.head()
        for sequence in range(10, 40):  # what is merged next begins with them
            store.append(entry(sequence))
            assert shipper.ship() == store.head()
    with CheckpointStore.restore(tmp_path / "later", target, NAME) as other:
        assert other.head() == store.head()
    assert len([name for name in target.objects_by_name if "/merged/" in name]) < 8


def test_a_cursor_that_overlapping_objects_share_is_no_fault(store: CheckpointStore, tmp_path: Path) -> None:
    """Its entry was read with the first of them."""
    store.append_many(chain(4))
    for number in (1, 2):
        store.advance("run-8", "fetch", Watermark(number, 0), idempotency_key=f"{number}", cursor=number)
    store.append_many(chain(3, run_id="run-9"))
    lines = [line(each, detail) for _, each, detail in store.receipts()]
    signatures = [bytes(32)] + [bytes.fromhex(receipt.signature) for receipt, _, _ in store.receipts()]
    target = MemoryTarget()
    for begin, end in ((0, 6), (3, 9)):
        part = made(lines[begin:end], Slot(begin, 0), signatures[begin], {5: "1", 6: "2"})
        target.put_new(segment.merged_piece(NAME, Slot(begin, 0), Slot(end, 0), 1, 0).object_name, segment.encode(part))
    with CheckpointStore.restore(tmp_path / "restored", target, NAME) as other:
        assert (other.head(), other.cursor("fetch")) == (store.head(), 2)


def test_a_key_for_a_chain_without_one_is_refused(store: CheckpointStore, tmp_path: Path) -> None:
    """Whoever has a key expects that nobody else could have made the chain."""
    target = shipped(store, chain(2))
    with pytest.raises(WrongKeyError, match="the shipped chain is not keyed, and a key was given"):
        CheckpointStore.restore(tmp_path / "restored", target, NAME, hmac_key=b"k" * 32)
    assert list(tmp_path.glob("*restored*")) == []


def test_a_cursor_that_did_not_arrive_is_warned_about(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that died between two segments of its first ship: its older cursors were gone from the file."""
    for page in range(8):
        store.advance("run", "load", Watermark(page, page), idempotency_key=f"{page}", cursor=page)
    monkeypatch.setattr(segment, "MOST_ENTRIES", 4)
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        shipper.ship()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CheckpointStore.restore(tmp_path / "whole", target, NAME).close()
    del target.objects_by_name[segment.log_object(NAME, Slot(4, 0))]
    with pytest.warns(MilepostWarning, match="1 stage lost the cursor of the last checkpoint .the first at position 4"):
        CheckpointStore.restore(tmp_path / "part", target, NAME).close()


@pytest.mark.parametrize("later", [0, 1])
def test_a_look_that_misses_merged_objects_is_not_the_end(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """While one merged object gives way to a longer one, a list may have neither. Nor are they missing before later ones."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 3)
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        while not shipper._pieces or shipper._pieces[-1].level == 0:  # until all of it is merged
            store.append(entry(len(store) + 1))
            shipper.ship()
        for _ in range(later):
            store.append(entry(len(store) + 1))
            shipper.ship()
        assert shipper._pieces[-1].level == (0 if later else 1)
    objects, looks = target.objects, list[str]()

    def objects_missed(folder: str, after: str = "") -> list[tuple[str, int]]:
        looks.append(folder)
        return [] if len(looks) in missed else objects(folder, after)

    missed = {1, 3} if later else {1}  # each time that it asks for what is merged
    monkeypatch.setattr(target, "objects", objects_missed)
    with CheckpointStore.restore(tmp_path / "restored", target, NAME, durability="normal") as other:
        assert other.head() == store.head()
    looks.clear()
    with milepost.ship(store, target, NAME) as shipper:
        assert shipper.shipped == store.head()
