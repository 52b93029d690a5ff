"""`milepost.ship`: what was shipped another machine restores, and of two shippers one is told."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import threading
import time
import warnings
from typing import TYPE_CHECKING, Any

import pytest

import milepost
from milepost import (
    CheckpointStore,
    ClosedStoreError,
    DamagedStoreError,
    DamagedTargetError,
    FencedError,
    ForkedStoreError,
    Head,
    InvalidArgumentError,
    MilepostWarning,
    TargetError,
    Watermark,
    rows,
    segment,
)
from milepost.shipped import ShippedLog
from support.bytecodes import Tripwire
from support.chains import chain, entry, mixed
from support.shipping import NAME, FailingTarget, MemoryTarget, begun_and_told
from support.tampering import tamper
from support.warm import warm_programs

if TYPE_CHECKING:
    from pathlib import Path


def restored(tmp_path: Path, target: Any, **options: Any) -> CheckpointStore:
    """What another machine makes of the target."""
    number = len(list(tmp_path.glob("restored-*.milepost")))
    return CheckpointStore.restore(tmp_path / f"restored-{number}.milepost", target, NAME, durability="normal", **options)


def head_there(tmp_path: Path, target: Any, **options: Any) -> Head:
    """The head that is shipped."""
    with restored(tmp_path, target, **options) as store:
        store.verify().raise_if_broken()
        return store.head()


def test_ship_sends_what_is_committed_and_returns_its_head(store: CheckpointStore, tmp_path: Path) -> None:
    """Again and again; without anything new it puts nothing."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        assert shipper.shipped == shipper.ship() == Head(0, "0" * 64)
        for length in (1, 2, 50):
            store.append_many(chain(length, run_id=f"run-{length}"))
            assert shipper.ship() == shipper.shipped == store.head()
            assert head_there(tmp_path, target) == store.head()
        objects = dict(target.objects_by_name)
        assert shipper.ship() == store.head()
        assert target.objects_by_name == objects


def test_a_block_is_shipped_once_it_is_committed(store: CheckpointStore) -> None:
    """Inside it only what was there before."""
    with milepost.ship(store, MemoryTarget(), NAME) as shipper:
        with store.transaction():
            store.append(entry(1))
            assert shipper.ship().entries == 0
        assert shipper.ship().entries == 1


def test_a_store_opened_to_read_follows_the_writer(store: CheckpointStore, tmp_path: Path) -> None:
    """As `milepost ship` does in a process of its own."""
    target = tmp_path / "target"
    with CheckpointStore.open_readonly(store.path) as reader, milepost.ship(reader, target, NAME) as shipper:
        for sequence in (1, 2, 3):
            store.append(entry(sequence))
            assert shipper.ship() == store.head()


def test_the_next_shipper_goes_on_where_the_last_one_stopped(store: CheckpointStore, tmp_path: Path) -> None:
    """After an orderly end, and after a crash with entries that were not shipped."""
    target = MemoryTarget()
    for sequence in range(1, 8):
        shipper = milepost.ship(store, target, NAME)
        assert shipper.shipped.entries == sequence - 1
        store.append(entry(sequence))
        shipper.ship()
        if sequence % 2:
            shipper.close()
    assert head_there(tmp_path, target) == store.head()


def test_a_zombie_is_refused_from_its_next_ship_on(store: CheckpointStore, tmp_path: Path) -> None:
    """As soon as another one has begun, before that has shipped anything; and what it had shipped is in the chain."""
    target = MemoryTarget()
    zombie = milepost.ship(store, target, NAME)
    store.append_many(chain(3))
    shipped = zombie.ship()
    with restored(tmp_path, target) as other, milepost.ship(other, target, NAME) as shipper:
        store.append(entry(4))
        for _ in range(2):
            with pytest.raises(FencedError) as told:
                zombie.ship()
            assert (told.value.shipped, told.value.found, told.value.unshipped) == (shipped, shipped, 1)
            assert f"process {os.getpid()} of {socket.gethostname()}, which took over at " in told.value.by
            assert "go on from restore() into a new file; the last entry of this file is in it alone" in str(told.value)
        other.append(entry(4, key="another"))
        assert shipper.ship() == other.head()
        assert other.verify(expected=shipped).ok
        assert zombie.shipped == shipped
    zombie.close()


def test_a_zombie_with_nothing_to_ship_is_refused_as_well(store: CheckpointStore, tmp_path: Path) -> None:
    """Before the other one has shipped anything, and after that; ship() asks for it by one request."""
    for ships in (False, True):
        target = MemoryTarget()
        asked = FailingTarget(target, lambda _: None)
        zombie = milepost.ship(store, asked, NAME)
        store.append(entry(1 + ships))
        shipped = zombie.ship()
        before = asked.calls
        assert zombie.ship() == shipped
        assert asked.calls == before + 1
        with restored(tmp_path, target) as other, milepost.ship(other, target, NAME) as shipper:
            if ships:
                other.append(entry(3))
                shipper.ship()
            for _ in range(2):
                with pytest.raises(FencedError, match="every entry of this file was shipped") as told:
                    zombie.ship()
                assert (told.value.shipped, told.value.unshipped) == (shipped, 0)
        zombie.close()


def test_a_zombie_that_was_told_asks_its_target_no_more(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays refused, whatever has become of the target since; nor can a host's name write to a terminal."""
    target = MemoryTarget()
    zombie = milepost.ship(store, target, NAME)
    monkeypatch.setattr(socket, "gethostname", lambda: "node\x1b[7m")
    milepost.ship(store, target, NAME)
    store.append(entry(1))
    for _ in range(2):
        with pytest.raises(FencedError, match=r"of 'node\\x1b\[7m', which took over"):
            zombie.ship()
        target.put_new = target.get = pytest.fail  # type: ignore[method-assign, assignment]


def test_a_zombie_is_told_of_an_object_that_is_gone_when_it_looks(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when the zombie put its own, and was merged and removed since."""
    target = MemoryTarget()
    zombie = milepost.ship(store, target, NAME)
    milepost.ship(store, target, NAME)
    store.append(entry(1))
    monkeypatch.setattr(target, "get", lambda name: None)
    with pytest.raises(FencedError, match="who has merged its objects since"):
        zombie.ship()


def test_a_restarted_zombie_is_refused_at_its_beginning(store: CheckpointStore, tmp_path: Path) -> None:
    """Once the other one has shipped an entry, since the chains part; before that too, where files have a birth."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        store.append(entry(1))
        shipper.ship()
    with restored(tmp_path, target) as other, milepost.ship(other, target, NAME) as taken:
        store.append(entry(2))
        if milepost.files.birth_of(store.path) is not None:
            with pytest.raises(FencedError, match="the last entry of this file is in it alone"):
                milepost.ship(store, target, NAME)
        other.append(entry(2, key="another"))
        taken.ship()
        with pytest.raises(FencedError, match="some entries of this file may be in it alone") as told:
            milepost.ship(store, target, NAME)
        assert (told.value.shipped, told.value.found.entries) == (None, 2)
        other.append(entry(3))
        assert taken.ship().entries == 3
    with pytest.raises(FencedError):
        milepost.ship(store, target, NAME)


def test_a_file_with_fewer_entries_than_were_shipped_is_refused(store: CheckpointStore, tmp_path: Path) -> None:
    """An older copy, or one whose end a loss of power took (durability normal)."""
    target = MemoryTarget()
    store.append(entry(1))
    store.backup(tmp_path / "older")
    with milepost.ship(store, target, NAME) as shipper:
        store.append(entry(2))
        shipper.ship()
    with CheckpointStore(tmp_path / "older") as older, pytest.raises(FencedError) as told:
        milepost.ship(older, target, NAME)
    assert told.value.found.entries == 2


def test_a_target_that_ignores_the_condition_of_a_put_is_refused(store: CheckpointStore) -> None:
    """Two shippers would replace one another's objects there, and neither would be told."""

    class Unconditional(MemoryTarget):
        def put_new(self, name: str, data: bytes) -> bool:
            self.objects_by_name[name] = data
            return True

    store.append(entry(1))
    with pytest.raises(TargetError, match=r"although there is one.*If-None-Match"):
        milepost.ship(store, Unconditional(), NAME)


def test_a_store_under_another_stores_name_is_refused(store: CheckpointStore, tmp_path: Path) -> None:
    """Also a keyed chain with the same entries."""
    target = MemoryTarget()
    store.append_many(chain(3))
    with milepost.ship(store, target, NAME) as shipper:
        shipper.ship()
    with CheckpointStore(tmp_path / "other", durability="normal", hmac_key=b"secret") as other:
        other.append_many(chain(3))
        with pytest.raises(FencedError):
            milepost.ship(other, target, NAME)


@pytest.mark.parametrize("keys", [(b"k" * 32, None), (None, b"k" * 32), (b"k" * 32, b"o" * 32)])
def test_a_chain_with_another_key_is_refused_though_nothing_is_shipped_yet(
    tmp_path: Path, keys: tuple[bytes | None, bytes | None]
) -> None:
    """Else its entries would stand behind a claim of the first one, and nobody could restore them."""
    target = MemoryTarget()
    for number, key in enumerate(keys):
        with CheckpointStore(tmp_path / f"{number}.milepost", durability="normal", hmac_key=key) as store:
            if number == 0:
                milepost.ship(store, target, NAME).close()
                continue
            store.append(entry(1))
            with pytest.raises(FencedError, match="or the name is another store's"):
                milepost.ship(store, target, NAME)
    assert len(target.objects_by_name) == 1


def test_a_shipper_whose_file_was_put_back_is_refused(path: Path, tmp_path: Path) -> None:
    """It would ship behind entries that are no longer there."""
    with CheckpointStore(path, durability="normal") as store:
        store.backup(tmp_path / "older")
        store.append(entry(1))
    with CheckpointStore.open_readonly(path) as reader, milepost.ship(reader, MemoryTarget(), NAME) as shipper:
        shipper.ship()
        (tmp_path / "older").replace(path)
        with pytest.raises(FencedError, match="no longer has what was shipped"):
            shipper.ship()


def test_two_openers_at_once_take_over_one_after_the_other(store: CheckpointStore) -> None:
    """Of eight threads that begin together, one can ship at the end, and the others are told."""
    assert begun_and_told(store, MemoryTarget(), 8) == (8, 7)


def test_threads_share_a_shipper(store: CheckpointStore, tmp_path: Path) -> None:
    """Each of them returns once its own entry is shipped."""
    target = tmp_path / "target"
    with milepost.ship(store, target, NAME) as shipper:
        behind: list[bool] = []

        def work(number: int) -> None:
            for sequence in range(1, 21):
                position = store.append(entry(sequence, run_id=f"run-{number}")).position
                behind.append(shipper.ship().entries >= position)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert behind == [True] * 80
    assert head_there(tmp_path, target) == store.head()


def test_many_ships_leave_few_objects_and_every_claim(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Merged in the steps of two levels; a take-over reads what the bound says."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 4)
    target = MemoryTarget()
    for sequence in range(1, 61):
        if sequence % 20 == 1:
            shipper = milepost.ship(store, target, NAME)
        store.append(entry(sequence))
        shipper.ship()
    claims = [name for name, data in target.objects_by_name.items() if not segment.Reading(data).header.entries]
    assert sum("/log/" in name for name in claims) == 3
    assert len(target.objects_by_name) - 3 <= 3 * 3 + 3
    gets: list[str] = []

    def get(name: str) -> bytes | None:
        gets.append(name)
        return target.objects_by_name.get(name)

    monkeypatch.setattr(target, "get", get)
    assert head_there(tmp_path, target) == store.head()
    assert len(gets) <= 3 * 3


def test_a_merge_reads_nothing_that_was_just_shipped(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the claim: each request to an object store costs milliseconds, and money."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 4)
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        read = target.get
        gets: list[str] = []

        def noted(name: str) -> bytes | None:
            gets.append(name)
            return read(name)

        monkeypatch.setattr(target, "get", noted)
        for sequence in range(1, 8):
            store.append(entry(sequence))
            shipper.ship()
    assert sum("/merged/" in name for name in target.objects_by_name) == 2
    assert len(gets) == 1


@pytest.mark.parametrize("there", ["the same", "another", "none"])
def test_a_merge_that_failed_goes_on_if_what_is_there_is_what_it_puts(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    """Nobody knows whether the merged object was put before the error; what it repeats is removed behind it."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 4)
    other = MemoryTarget()
    with CheckpointStore(tmp_path / "other.milepost") as another, milepost.ship(another, other, NAME) as shipper:
        for sequence in range(1, 4):
            another.append(entry(sequence, key=f"{sequence}"))
            shipper.ship()
    (merged,) = [name for name in other.objects_by_name if "/merged/" in name]

    target = MemoryTarget()
    put = target.put_new

    def put_and_fail(name: str, data: bytes) -> bool:
        new = put(name, data)
        if name == merged and new:
            raise TargetError(target.label, "the network failed after the call")
        return new

    monkeypatch.setattr(target, "put_new", put_and_fail)
    with milepost.ship(store, target, NAME) as shipper:
        for sequence in range(1, 4):
            store.append(entry(sequence))
            shipper.ship()
        assert sum("/log/" in name for name in target.objects_by_name) == 4
        if there == "the same":
            shipper.ship()
            assert sum("/log/" in name for name in target.objects_by_name) == 1
            assert head_there(tmp_path, target) == store.head()
        else:
            if there == "another":
                target.objects_by_name[merged] = other.objects_by_name[merged]
            else:
                monkeypatch.setattr(target, "put_new", lambda name, data: False)
                del target.objects_by_name[merged]
            with pytest.raises(DamagedTargetError, match="it is not what the objects say that it repeats"):
                shipper.ship()
            assert sum("/log/" in name for name in target.objects_by_name) == 4


def test_a_zombie_is_told_though_the_object_at_its_slot_was_merged_and_removed(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim that took over from it stays, and it runs into that."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 2)
    target = MemoryTarget()
    zombie = milepost.ship(store, target, NAME)
    store.append(entry(1))
    zombie.ship()
    with restored(tmp_path, target) as other, milepost.ship(other, target, NAME) as shipper:
        for sequence in range(2, 20):
            other.append(entry(sequence, key=f"other-{sequence}"))
            shipper.ship()
        store.append(entry(2))
        with pytest.raises(FencedError):
            zombie.ship()
        assert head_there(tmp_path, target) == other.head()


def test_an_opener_that_was_passed_and_merged_over_looks_again(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It puts its claim where an object was that another has merged and removed meanwhile: that claim counts for nothing."""
    monkeypatch.setattr(segment, "MERGED_TOGETHER", 2)
    target = MemoryTarget()
    first = milepost.ship(store, target, NAME)
    store.append(entry(1))
    first.ship()
    put, passed = target.put_new, list[str]()

    def put_late(name: str, data: bytes) -> bool:
        if not passed:
            passed.append(name)
            for sequence in range(2, 12):
                store.append(entry(sequence))
                first.ship()
            assert target.get(name) is None
        return put(name, data)

    monkeypatch.setattr(target, "put_new", put_late)
    late = milepost.ship(store, target, NAME)
    assert late.shipped == store.head()
    store.append(entry(12))
    with pytest.raises(FencedError):
        first.ship()
    assert late.ship() == store.head()


def test_details_cursors_runs_and_branches_arrive(store: CheckpointStore, tmp_path: Path) -> None:
    """With everything that is signed, and the last two cursors of each stage, bytes as well as JSON."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper, store.run("nightly") as run:
        for number in range(5):
            run.advance("pages", Watermark(number, number), idempotency_key=f"{number}", cursor={"page": number})
            run.advance("log", Watermark(number, number), idempotency_key=f"{number}", cursor=bytes([number]))
            shipper.ship()
        with pytest.raises(ZeroDivisionError), store.run("failed"):
            raise ZeroDivisionError
        store.branch("nightly", "replay")
        shipper.ship()
    with milepost.ship(store, target, NAME) as shipper:
        assert shipper.ship() == store.head()
    with restored(tmp_path, target) as other:
        assert list(other.receipts()) == list(store.receipts())
        assert other.runs() == store.runs()
        assert (other.cursor("pages"), other.cursor("log")) == ({"page": 4}, b"\x04")
        kept = "SELECT run_number, stage_number, position, hex(cursor) AS cursor FROM stage_cursor ORDER BY 1, 2, 3"
        assert other.sql(kept).to_polars().equals(store.sql(kept).to_polars())
        other.verify(expected=store.head()).raise_if_broken()


def test_a_keyed_chain_is_shipped_without_its_key_and_restored_with_it(tmp_path: Path) -> None:
    """The signatures are copied; the key is nowhere in the target."""
    target = MemoryTarget()
    with CheckpointStore(tmp_path / "keyed", durability="normal", hmac_key=b"secret") as store:
        store.append_many(mixed(30))
        head = store.head()
    with CheckpointStore.open_readonly(tmp_path / "keyed") as reader, milepost.ship(reader, target, NAME) as shipper:
        assert shipper.ship() == head
    for wrong in (None, b"another"):
        with pytest.raises(milepost.WrongKeyError):
            CheckpointStore.restore(tmp_path / "wrong", target, NAME, hmac_key=wrong)
    assert not (tmp_path / "wrong").exists()
    with restored(tmp_path, target, hmac_key=b"secret") as other:
        assert other.head() == head
        other.verify().raise_if_broken()


def test_names_that_are_hostile_to_lines_arrive(store: CheckpointStore, tmp_path: Path) -> None:
    """Line ends, quotes, other alphabets, 1,024 bytes."""
    target = MemoryTarget()
    names = ["a\nb", '"],["', "\u2028", "ü" * 512, "\x1b[2J", "../x", "😀"]
    store.append_many(entry(1, run_id=name, stage=name, key=name) for name in names)
    with milepost.ship(store, target, NAME) as shipper:
        shipper.ship()
    with restored(tmp_path, target) as other:
        assert list(other.history()) == list(store.history())


@pytest.mark.parametrize("key", [None, b"k" * 32])
@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entry SET offset = 77 WHERE position = 5",
        "UPDATE entry SET signature = zeroblob(32) WHERE position = 5",
        "UPDATE entry SET signature = zeroblob(32) WHERE position = 20",
        "UPDATE entry SET detail = 'no JSON' WHERE position = 20",
        "UPDATE run SET run_id = 'another' WHERE run_number = 1",
        "UPDATE stage_cursor SET cursor = '[2]'",
    ],
)
def test_what_the_chain_does_not_sign_is_never_shipped(tmp_path: Path, key: bytes | None, change: str) -> None:
    """Else it would be acknowledged, and no machine could restore it, nor what comes after it."""
    target, path = MemoryTarget(), tmp_path / "damaged.milepost"
    with CheckpointStore(path, durability="normal", hmac_key=key) as store:
        store.append_many(chain(19))
        store.advance("run-1", "load", Watermark(10**6, 10**13), idempotency_key="last", cursor=[1])
    tamper(path, change)
    with CheckpointStore(path, durability="normal", hmac_key=key) as store:
        shipper = milepost.ship(store, target, NAME)
        with pytest.raises(DamagedStoreError, match="was changed"):
            shipper.ship()
    assert shipper.shipped.entries == 0 == head_there(tmp_path, target, hmac_key=key).entries


def _entries_of_segments(target: MemoryTarget) -> list[int]:
    """How many entries each has that has any, in their order."""
    found = [segment.Reading(data).header for _, data in sorted(target.objects_by_name.items())]
    return [header.entries for header in found if header.entries]


@pytest.mark.parametrize("most", [700, 1500])
def test_long_backlogs_are_shipped_as_several_segments(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """None has more entries than a segment may."""
    monkeypatch.setattr(segment, "MOST_ENTRIES", most)
    store.append_many(mixed(3000))
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        assert shipper.ship() == store.head()
    assert _entries_of_segments(target) == [most] * (3000 // most) + [3000 % most] * (3000 % most > 0)
    assert head_there(tmp_path, target) == store.head()


def test_a_segment_ends_when_its_lines_and_cursors_are_long_enough(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the next thousand entries: so that no object fills the memory of who reads it."""
    for number in range(30):
        store.advance("r", f"stage-{number}", Watermark(0, 0), idempotency_key="k", cursor="x" * 10_000)
    store.append_many(mixed(2970))
    for most_bytes, entries in ((290_000, [1000, 2000]), (1, [1000, 1000, 1000]), (1 << 30, [3000])):
        monkeypatch.setattr(segment, "MOST_BYTES", most_bytes)
        target = MemoryTarget()
        with milepost.ship(store, target, NAME) as shipper:
            assert shipper.ship() == store.head()
        assert _entries_of_segments(target) == entries
    assert head_there(tmp_path, target) == store.head()


def test_a_ship_ends_though_the_pipeline_goes_on(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ships what was there when it began, in several segments too; the rest is left to the next one."""
    monkeypatch.setattr(segment, "MOST_ENTRIES", 4)
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        store.append_many(chain(10))
        put, more = target.put_new, iter(range(11, 1000))

        def put_while_more_comes(name: str, data: bytes) -> bool:
            store.append_many(entry(next(more)) for _ in range(3))
            return put(name, data)

        monkeypatch.setattr(target, "put_new", put_while_more_comes)
        assert 10 <= shipper.ship().entries < 14
        assert _entries_of_segments(target) == [4, 4, 4]


@pytest.mark.parametrize("key", [None, b"k" * 32])
@pytest.mark.parametrize(
    "statement", ["DELETE FROM entry WHERE position = 5", "UPDATE entry SET signature = 'x' WHERE position = 7"]
)
def test_of_a_damaged_file_nothing_is_shipped_that_is_not_in_its_chain(
    path: Path, monkeypatch: pytest.MonkeyPatch, statement: str, key: bytes | None
) -> None:
    """A row is missing, or no signature; a shipper without the key of a keyed chain cannot compute any, and sees it too."""
    monkeypatch.setattr(segment, "MOST_ENTRIES", 7)
    with CheckpointStore(path, durability="normal", hmac_key=key) as store:
        store.append_many(chain(20))
    tamper(path, statement, loose=True)
    target = MemoryTarget()
    with CheckpointStore.open_readonly(path) as reader, milepost.ship(reader, target, NAME) as shipper:
        with pytest.raises(milepost.DamagedStoreError):
            shipper.ship()
        assert _entries_of_segments(target) == []


def test_a_target_that_never_gives_its_last_object_is_told_in_a_sentence(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed, and gone at each look, as if others merged without end."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME):
        pass
    monkeypatch.setattr(target, "get", lambda name: None)
    with pytest.raises(TargetError, match="orders: its objects are merged again and again: retry"):
        milepost.ship(store, target, NAME)


def test_an_opener_that_finds_the_last_object_gone_looks_again(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another shipper has merged it between the look at the names and the look at the object."""
    target = MemoryTarget()
    store.append(entry(1))
    with milepost.ship(store, target, NAME) as before:
        before.ship()
    get, gone = target.get, list[str]()

    def get_late(name: str) -> bytes | None:
        gone.append(name)
        return None if len(gone) == 1 else get(name)

    monkeypatch.setattr(target, "get", get_late)
    with milepost.ship(store, target, NAME) as shipper:
        assert shipper.shipped == store.head()
    assert gone[0] == gone[1]


def test_an_object_under_the_name_of_another_is_refused(store: CheckpointStore) -> None:
    """Its own SHA-256 is right, and its chain too: a copy put elsewhere would hide what belongs there."""
    target = MemoryTarget()
    log = ShippedLog(target, NAME)
    with milepost.ship(store, target, NAME) as shipper:
        store.append_many(chain(3))
        shipper.ship()
    (name,) = [name for name, data in target.objects_by_name.items() if segment.Reading(data).header.entries]
    data = target.objects_by_name[name]
    begins, ends = segment.Reading(data).header[:2]
    assert log.reading(segment.merged_piece(NAME, begins, ends, 1, len(data)), data).header.ends == ends
    later = segment.Slot(ends.position + 1, 0)
    for piece in (
        segment.merged_piece(NAME, begins, later, 1, len(data)),
        segment.merged_piece(NAME, segment.Slot(1, 0), ends, 1, len(data)),
        segment.Piece(segment.log_object(NAME, later), later, None, 0, len(data)),
    ):
        with pytest.raises(milepost.DamagedTargetError, match="its name and its header disagree"):
            log.reading(piece, data)


# A thread that follows


def wait_for(condition: Any, seconds: float = 20.0) -> None:
    """Until it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_thread_ships_what_is_recorded(store: CheckpointStore, tmp_path: Path) -> None:
    """Without a call; the end ships the rest."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME, every_s=0.01) as shipper:
        store.append(entry(1))
        wait_for(lambda: shipper.shipped.entries == 1)
        store.append(entry(2))
    assert shipper.closed
    assert head_there(tmp_path, target) == store.head()


def test_the_end_of_a_shipper_without_a_thread_ships_nothing(store: CheckpointStore) -> None:
    """Only ship() does."""
    with milepost.ship(store, MemoryTarget(), NAME) as shipper:
        store.append(entry(1))
    assert shipper.shipped.entries == 0


def test_a_store_that_is_closed_first_still_has_its_rest_shipped(path: Path, tmp_path: Path) -> None:
    """The shipper reads the file on its own then."""
    target = MemoryTarget()
    with CheckpointStore(path, durability="normal") as store:
        shipper = milepost.ship(store, target, NAME, every_s=60)
        store.append(entry(1))
        head = store.head()
    shipper.close()
    assert shipper.shipped == head == head_there(tmp_path, target)


def test_a_thread_that_is_fenced_warns_at_once_and_tells_the_caller(store: CheckpointStore) -> None:
    """At the next ship(), and at close()."""
    target = MemoryTarget()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        shipper = milepost.ship(store, target, NAME, every_s=0.01)
        milepost.ship(store, target, NAME)
        store.append(entry(1))
        follower = shipper._follower
        assert follower is not None
        wait_for(lambda: not follower.thread.is_alive())
    assert [each.category for each in heard if "taken over" in str(each.message)] == [MilepostWarning]
    with pytest.raises(FencedError):
        shipper.ship()
    with pytest.raises(FencedError):
        shipper.close()
    shipper.close()


def test_a_thread_with_nothing_to_ship_asks_now_and_then_whether_another_has_taken_over(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each request costs money. The end of a shipper asks nothing, for nothing can be lost."""
    target = MemoryTarget()
    asked = FailingTarget(target, lambda _: None)
    with milepost.ship(store, asked, NAME, every_s=0.001) as shipper:
        before, looked = asked.calls, shipper._at
        time.sleep(0.1)
        assert (asked.calls, shipper._at) == (before, looked)
    milepost.ship(store, target, NAME)
    shipper.close()
    monkeypatch.setattr(milepost.shipper, "ASK_AGAIN_S", 0.05)
    idle = milepost.ship(store, asked, NAME, every_s=0.001)
    thread = idle._follower.thread  # type: ignore[union-attr]
    with pytest.warns(MilepostWarning, match="taken over"), milepost.ship(store, target, NAME):
        wait_for(lambda: not thread.is_alive())
    with pytest.raises(FencedError):
        idle.close()


def test_a_thread_goes_on_after_the_network_came_back(store: CheckpointStore) -> None:
    """With one warning for one outage."""
    down = [False]
    target = FailingTarget(MemoryTarget(), lambda _: "before" if down[0] else None)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with milepost.ship(store, target, NAME, every_s=0.005) as shipper:
            down[0] = True
            store.append(entry(1))
            wait_for(lambda: target.failed > 3)
            down[0] = False
            wait_for(lambda: shipper.shipped.entries == 1)
    assert [str(each.message).partition(" cannot ship, and tries again: ")[2] for each in heard] == [
        "memory: the network failed before the call"
    ]


def test_what_could_not_be_shipped_at_the_end_is_raised(store: CheckpointStore) -> None:
    """And never hides the error of the block."""
    down = [False]
    target = FailingTarget(MemoryTarget(), lambda _: "before" if down[0] else None)
    with pytest.raises(TargetError), milepost.ship(store, target, NAME, every_s=60):
        store.append(entry(1))
        down[0] = True
    down[0] = False
    with pytest.raises(ZeroDivisionError) as raised, milepost.ship(store, target, NAME, every_s=60):
        store.append(entry(2))
        down[0] = True
        raise ZeroDivisionError
    assert raised.value.__notes__ == ["and the shipper could not ship the rest: memory: the network failed before the call"]


def test_an_error_that_nobody_foresaw_reaches_the_caller(store: CheckpointStore) -> None:
    """From the thread, at the next ship()."""
    target = MemoryTarget()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shipper = milepost.ship(store, target, NAME, every_s=0.01)
        put = target.put_new

        def put_wrongly(name: str, data: bytes) -> bool:
            raise ZeroDivisionError

        target.put_new = put_wrongly  # type: ignore[method-assign]
        store.append(entry(1))
        wait_for(lambda: shipper._late is not None)
        with pytest.raises(ZeroDivisionError):
            shipper.ship()
        target.put_new = put  # type: ignore[method-assign]
        assert shipper.ship() == store.head()
        shipper.close()


def test_a_dropped_shipper_ends_its_thread_and_warns(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a store that was never closed; at once, and not when the thread looks again."""
    monkeypatch.setattr(milepost.shipper, "_LOOK_AGAIN_S", 3600)
    shipper = milepost.ship(store, MemoryTarget(), NAME, every_s=3600)
    thread = shipper._follower.thread  # type: ignore[union-attr]
    with pytest.warns(ResourceWarning, match="was never closed"):
        del shipper
    gc.collect()
    wait_for(lambda: not thread.is_alive())


def test_the_end_of_the_interpreter_ships_the_rest(tmp_path: Path) -> None:
    """Of a program that forgot to close."""
    program = (
        "import milepost, sys\n"
        "store = milepost.CheckpointStore('a.milepost')\n"
        "shipper = milepost.ship(store, 'target', 'orders', every_s=3600)\n"
        "store.append(milepost.Checkpoint('run-7', 'load', 1, milepost.Watermark(1, 1), 'a', 1))\n"
        "print(store.head())\n"
    )
    found = warm_programs().run("-c", program, cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert str(head_there(tmp_path, tmp_path / "target")) == found.stdout.strip()


# The end, forks, signals


def test_a_closed_shipper_is_refused(store: CheckpointStore) -> None:
    """Its head can still be asked for."""
    shipper = milepost.ship(store, MemoryTarget(), NAME)
    shipper.close()
    shipper.close()
    with pytest.raises(ClosedStoreError, match="its shipper is closed"):
        shipper.ship()
    assert shipper.shipped.entries == 0
    with pytest.raises(ClosedStoreError):
        closed = CheckpointStore(store.path)
        closed.close()
        closed.append(entry(1))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_shipper_carried_over_a_fork_is_refused(store: CheckpointStore, tmp_path: Path) -> None:
    """In the child, though another thread was shipping at the fork; the parent's goes on."""
    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("no forks here")
    target = tmp_path / "target"
    with milepost.ship(store, target, NAME, every_s=3600) as shipper:
        store.append(entry(1))
        child = os.fork()
        if child == 0:
            shipper._lock.acquire()
            signal.alarm(20)  # ends it where it hangs
            code = 1
            try:
                shipper.ship()
            except ForkedStoreError:
                shipper.close()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert shipper.ship() == store.head()


def test_a_call_within_a_call_is_refused(store: CheckpointStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """As from a signal handler, which would wait for its own thread for ever."""
    target = MemoryTarget()
    shipper = milepost.ship(store, target, NAME, every_s=60)
    put, told = target.put_new, list[str]()

    def put_interrupted(name: str, data: bytes) -> bool:
        with pytest.raises(TargetError, match="a signal handler called"):
            shipper.ship()
        with pytest.raises(TargetError, match="a signal handler called"):
            shipper.close()
        told.append(name)
        return put(name, data)

    monkeypatch.setattr(target, "put_new", put_interrupted)
    store.append(entry(1))
    assert shipper.ship() == store.head()
    assert told
    assert not shipper.closed
    shipper.close()


def test_a_close_that_is_interrupted_anywhere_is_finished_by_the_next(store: CheckpointStore) -> None:
    """Ctrl-C at each place: its thread has ended then, and the rest is shipped."""
    target, tripwire, place = MemoryTarget(), Tripwire(), -1
    while place < 1 or tripwire.hit:
        store.append(entry(1, run_id=f"run-{place}"))
        shipper = milepost.ship(store, target, NAME, every_s=60)
        thread = shipper._follower.thread  # type: ignore[union-attr]
        with contextlib.suppress(KeyboardInterrupt):
            tripwire.run(shipper.close, None if place < 0 else place)
        shipper.close()
        assert (shipper.shipped, thread.is_alive()) == (store.head(), False), f"place {place}"
        shipper.close()
        place += 1
    assert place > 20


def test_an_interrupt_at_every_call_to_the_target_leaves_it_sound(store: CheckpointStore, tmp_path: Path) -> None:
    """Ctrl-C before or after the effect: the next call ships the rest, once."""
    inner = MemoryTarget()
    for number, when in enumerate(("before", "after")):
        target = FailingTarget(inner, lambda _: None)
        shipper = milepost.ship(store, target, NAME)
        do = target._do

        def interrupted(call: Any, do: Any = do, when: str = when) -> Any:
            if when == "after":
                do(call)
            raise KeyboardInterrupt

        store.append(entry(1, run_id=f"run-{number}"))
        target._do = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            shipper.ship()
        target._do = do  # type: ignore[method-assign]
        store.append(entry(2, run_id=f"run-{number}"))
        assert shipper.ship() == store.head() == head_there(tmp_path, inner)


def test_wrong_arguments_are_refused_before_anything_is_put(store: CheckpointStore) -> None:
    """What is no store, no target, no number of seconds."""
    target = MemoryTarget()
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((None, target, NAME), {}),
        ((store.path, target, NAME), {}),
        ((store, None, NAME), {}),
        ((store, target, NAME), {"every_s": 0}),
        ((store, target, NAME), {"every_s": float("nan")}),
        ((store, target, NAME), {"every_s": True}),
    ]
    for given, options in calls:
        with pytest.raises(InvalidArgumentError):
            milepost.ship(*given, **options)
    assert not target.objects_by_name


def test_a_shipper_says_what_it_ships(store: CheckpointStore) -> None:
    """In its repr, open and closed."""
    with milepost.ship(store, MemoryTarget(), NAME) as shipper:
        assert repr(shipper) == f"<Shipper of {store.path!r} to 'orders' in 'memory'>"
    assert repr(shipper) == f"<Shipper of {store.path!r} to 'orders' in 'memory', closed>"


def _archived(store: CheckpointStore, tmp_path: Path) -> None:
    """Runs, a bag in progress, cursors and branches, of which most goes into an archive."""
    for number in range(40):
        mark = Watermark(number, number)
        store.advance(f"pages-{number % 3}", "load", mark, idempotency_key=f"{number}", cursor=number)
    store.append_many(mixed(60))
    for item in store.once(["a", "b", "c"], run_id="bag", stage="items", key=str, every=1):
        if item == "c":
            break
    with store.run("nightly"):
        pass
    store.archive(tmp_path / "archive.milepost", before=store.head())


def test_a_chain_is_shipped_on_after_an_archive(store: CheckpointStore, tmp_path: Path) -> None:
    """What is restored has it from its first entry on, since the target has all of it."""
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        store.append(entry(1))
        shipper.ship()
        before = len(store)
        _archived(store, tmp_path)
        assert store.base.entries > before
        with pytest.raises(TargetError, match="archived before they were shipped"):
            shipper.ship()
    whole = MemoryTarget()
    with CheckpointStore(tmp_path / "other", durability="normal") as other, milepost.ship(other, whole, NAME) as shipper:
        other.append_many(mixed(30))
        shipper.ship()
        other.archive(tmp_path / "another archive", before=other.head())
        other.append(entry(1))
        assert shipper.ship() == other.head()
        with restored(tmp_path, whole) as found:
            assert (found.head(), len(found), found.base.entries) == (other.head(), other.head().entries, 0)
            found.verify().raise_if_broken()
        with milepost.ship(other, whole, NAME) as again:
            assert again.ship() == other.head()


@pytest.mark.parametrize("key", [None, b"secret"])
def test_a_store_with_an_archived_beginning_is_restored_as_it_is(tmp_path: Path, key: bytes | None) -> None:
    """Into an empty target it ships what the archive has left first; the archive proves the rest of it, as before."""
    target = MemoryTarget()
    with CheckpointStore(tmp_path / "a", durability="normal", hmac_key=key) as store:
        _archived(store, tmp_path)
        shipper = milepost.ship(store, target, NAME)
        with pytest.raises(milepost.NothingShippedError, match="only the beginning of orders is shipped"):
            restored(tmp_path, target, hmac_key=key)
        assert shipper.ship() == store.head()
        with restored(tmp_path, target, hmac_key=key) as other:
            assert (other.head(), other.base) == (store.head(), store.base)
            assert list(other.receipts()) == list(store.receipts())
            assert (other.runs(), other.resume_points()) == (store.runs(), store.resume_points())
            assert other.cursor("load", run_id="pages-0") == 39
            assert (len(other), other.stages()) == (len(store), store.stages())
            assert other.verify(archives=[tmp_path / "archive.milepost"]).elsewhere == 0
            kept = "SELECT * FROM run JOIN run_stage USING (run_number) JOIN stage USING (stage_number)"
            assert other.sql(kept).to_polars().equals(store.sql(kept).to_polars())
            with milepost.ship(other, target, NAME) as taken:
                for sequence in range(1000, 1100):
                    other.append(entry(sequence, run_id="run-0"))
                    taken.ship()
                assert list(other.once(["a", "b", "d"], run_id="bag", stage="items", key=str)) == ["d"]
                assert taken.ship() == other.head()
            other.verify().raise_if_broken()
            with restored(tmp_path, target, hmac_key=key) as last:
                assert list(last.receipts()) == list(other.receipts())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE entry SET at_ms = at_ms + 1 WHERE position = (SELECT min(position) FROM entry)",
        "UPDATE stage_cursor SET cursor = '[2]' WHERE position <= (SELECT position FROM chain_base)",
    ],
)
def test_what_an_archive_has_left_is_not_shipped_once_it_was_changed(
    store: CheckpointStore, tmp_path: Path, change: str
) -> None:
    """No machine could restore it."""
    _archived(store, tmp_path)
    store.backup(tmp_path / "changed.milepost")
    assert tamper(tmp_path / "changed.milepost", change) != [0]
    target = MemoryTarget()
    with CheckpointStore(tmp_path / "changed.milepost") as changed, pytest.raises(DamagedStoreError, match="changed"):
        milepost.ship(changed, target, NAME)
    assert not target.objects_by_name


@pytest.mark.parametrize("place", ["signature_at", "kept_before"])
def test_what_an_archive_has_left_is_not_called_changed_while_another_one_takes_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """What is looked at then is of two archives: it is looked at again. What was taken is told as ever."""
    path, key, target = tmp_path / "a", b"secret", MemoryTarget()
    query, ends = getattr(rows, place), iter([50, 60])
    with CheckpointStore(path, hmac_key=key) as store, CheckpointStore(path, hmac_key=key) as other:
        store.append_many(chain(80))
        heads = {receipt.position: Head(receipt.position, receipt.signature) for receipt, _, _ in store.receipts()}
        store.archive(tmp_path / "first", before=heads[40])

        def overtaken(connection: Any, *values: Any) -> Any:
            end = next(ends, None) if connection.filename == str(path) else None
            if end is not None:
                with monkeypatch.context() as patched:
                    patched.setattr(rows, place, query)
                    other.archive(tmp_path / f"up to {end}", before=heads[end])
            return query(connection, *values)

        with monkeypatch.context() as patched:
            patched.setattr(rows, place, overtaken)
            shipper = milepost.ship(store, target, NAME)
        assert next(ends, None) is None
        with pytest.raises(TargetError, match="archived before they were shipped"):
            shipper.ship()


def test_more_left_by_an_archive_than_can_be_restored_is_not_shipped(
    store: CheckpointStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be acknowledged, and refused by each restore."""
    _archived(store, tmp_path)
    monkeypatch.setattr(segment, "MOST_OBJECT_BYTES", 1000)
    target = MemoryTarget()
    with pytest.raises(TargetError, match=r"entries that an archive has left have .* in one object"):
        milepost.ship(store, target, NAME)
    assert not target.objects_by_name


def test_the_cursor_of_the_last_archived_entry_arrives(store: CheckpointStore, tmp_path: Path) -> None:
    """It stands at the base itself, and its stage resumes from it."""
    for page in (1, 2):
        store.advance("r", "s", Watermark(page, page), idempotency_key=f"{page}", cursor={"page": page})
    store.archive(tmp_path / "archive.milepost", before=store.head())
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        shipper.ship()
    with restored(tmp_path, target) as other:
        assert other.cursor("s", run_id="r") == store.cursor("s", run_id="r") == {"page": 2}


def test_what_an_archive_has_left_cannot_be_forged_on_its_way(store: CheckpointStore, tmp_path: Path) -> None:
    """The archive's entry, further on in the chain, has its digest."""
    _archived(store, tmp_path)
    target = MemoryTarget()
    with milepost.ship(store, target, NAME) as shipper:
        shipper.ship()
    name = min(target.objects_by_name)
    whole = segment.decode(target.objects_by_name[name])
    for forge in (
        lambda lines: [*lines[:-1], lines[-1].replace(b'"began"', b'"begun"')],
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines],
        lambda lines: [lines[0].replace(b"[", b"[9", 1), *lines[1:]],
        lambda lines: [b"[1]", *lines[1:]],
        lambda lines: [line.replace(b"1767225600000", b"1767225600001") for line in lines],
        lambda lines: [line.replace(b'"load"', b'"loot"') for line in lines],
    ):
        lines = forge(list(whole.lines))
        if lines == whole.lines:
            continue
        forged = segment.Segment(whole.header._replace(kept=len(lines)), lines, whole.cursors)
        target.objects_by_name[name] = segment.encode(forged)
        with pytest.raises(milepost.DamagedTargetError) as found:
            restored(tmp_path, target)
        assert found.value.object_name == name
    del target.objects_by_name[name]
    with pytest.raises(milepost.DamagedTargetError, match="missing"):
        restored(tmp_path, target)


def test_an_archive_that_cannot_judge_what_an_earlier_one_has_left_is_not_shipped(
    store: CheckpointStore, tmp_path: Path
) -> None:
    """It was cut before the entry that records the earlier one, so `restore` could not judge it either. Others are."""
    store.append_many(chain(10))
    heads = {position: Head(position, signature) for position, signature in _signatures(store)}
    for number, head in ((1, heads[5]), (2, heads[8]), (3, None)):
        store.archive(tmp_path / f"archive-{number}", before=head or store.head())
    for number in (1, 2, 3):
        with CheckpointStore.open_readonly(tmp_path / f"archive-{number}") as archive:
            assert archive.verify().ok
            name = f"archive-{number}"
            if number == 2:
                with pytest.raises(DamagedStoreError, match="cannot judge by itself what an earlier one has left"):
                    milepost.ship(archive, tmp_path / "target", name).ship()
            else:
                with milepost.ship(archive, tmp_path / "target", name) as shipper:
                    head = shipper.ship()
                with CheckpointStore.restore(tmp_path / f"again-{number}", tmp_path / "target", name) as again:
                    assert again.head() == head


def _signatures(store: CheckpointStore) -> list[tuple[int, str]]:
    return [(receipt.position, receipt.signature) for receipt, _, _ in store.receipts()]
