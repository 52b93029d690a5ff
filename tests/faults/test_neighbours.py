"""What other programs, processes and clocks do to an open store: nothing acknowledged is lost without a word."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw
import pytest

from milepost import CheckpointStore, Head, Watermark
from milepost.reader import SnapshotReader
from support.chains import chain, entry
from support.doors import wal
from support.fault_workload import fast_directory
from support.programs import PROGRAMS
from support.told_process import ToldProcess, within_the_test

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

SEED: Final = int(os.environ.get("MILEPOST_FAULT_SEED", "6000"))


def _child(program: str, *arguments: object) -> AbstractContextManager[ToldProcess]:
    return within_the_test(ToldProcess(PROGRAMS / program, *arguments))


# The file and its WAL, under an open writer


def _shell(command: str) -> Callable[[Path], None]:
    def run(path: Path) -> None:
        subprocess.run(["sh", "-c", command, "sh", path], check=True, stdin=subprocess.DEVNULL)

    return run


def _older_sqlite(path: Path) -> None:
    """A neighbour reads: it believes itself alone, since the writer has lost its locks, and tidies up."""
    program = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT * FROM entry').fetchall(); c.close()"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)


DEEDS: Final = {
    "WAL removed": _shell('rm "$1-wal"'),
    "WAL moved": _shell('mv "$1-wal" "$1-old"'),
    "WAL replaced by a copy": _shell('cp "$1-wal" "$1-new" && mv "$1-new" "$1-wal"'),
    "WAL and shm removed": _shell('rm "$1-wal" "$1-shm"'),
    "file moved": _shell('mv "$1" "$1-old"'),
    "file replaced by a copy": _shell('cp "$1" "$1-new" && mv "$1-new" "$1"'),
    "locks dropped, WAL removed by an older SQLite": _older_sqlite,
}


def _do(deed: str, path: Path, writer: ToldProcess) -> None:
    if deed.startswith("locks dropped"):
        if sqlite3.sqlite_version_info >= (3, 52):
            pytest.skip("this Python's own sqlite3 spares the WAL of a writer that lost its locks")
        assert writer.tell("copy") == "copied"
    DEEDS[deed](path)


# A kill is the same whatever was done before: by default after two of the deeds, one that takes the WAL and one the file.
@pytest.mark.parametrize(
    ("deed", "killed"),
    [
        pytest.param(
            deed,
            killed,
            marks=pytest.mark.long if killed and deed not in {"WAL removed", "file moved"} else (),
            id=f"{deed}-{killed}",
        )
        for deed in DEEDS
        for killed in (False, True)
    ],
)
def test_a_writer_whose_file_or_wal_is_taken_away_acknowledges_nothing_more(path: Path, deed: str, killed: bool) -> None:
    """Promise A11: it raises before the answer, and closed in good order it saves what it can still reach."""
    with _child("told_writer.py", path, 1000) as writer:
        assert [writer.hear(), *(writer.tell("append") for _ in range(5))] == ["ready", "1", "2", "3", "4", "5"]
        with CheckpointStore.open_readonly(path) as store:
            head = store.head()
        _do(deed, path, writer)
        assert {writer.tell("append") for _ in range(3)} == {"FailedStoreError"}
        if not killed:
            assert writer.tell("close") == "closed"
        writer.kill() if killed else writer.end()
    kept = path
    if deed == "file moved":  # its WAL was left behind, and is to be moved too
        kept = path.with_name(f"{path.name}-old")
        path.with_name(f"{path.name}-wal").rename(f"{kept}-wal")
    with CheckpointStore(kept) as store:
        whole = store.verify(expected=head).ok
        assert whole or killed  # a killed writer's rows may be gone with its WAL, and the kept head shows it
        assert whole is (len(store) >= 5)
        assert [e.sequence for e in store.history()] == list(range(1, len(store) + 1))
        store.append(entry(1000))


def test_a_writer_that_trusts_its_wal_is_caught(path: Path) -> None:
    """Without a look at the WAL before the answer, what is acknowledged is gone."""
    with _child("told_writer.py", path, 1000, "trusting") as writer:
        assert writer.hear() == "ready"
        DEEDS["WAL removed"](path)
        assert [writer.tell("append") for _ in range(3)] == ["1", "2", "3"]
    with CheckpointStore(path) as store:
        assert len(store) == 0


@pytest.mark.parametrize("killed", [False, True])
def test_a_wal_that_is_cut_in_place_is_seen_only_with_a_kept_head(path: Path, killed: bool) -> None:
    """The writer is not told, which is a limit: SQLite writes on behind the hole. Whoever keeps the head is told."""
    with _child("told_writer.py", path, 1000) as writer:
        assert [writer.hear(), *(writer.tell("append") for _ in range(5))][-1] == "5"
        with CheckpointStore.open_readonly(path) as store:
            head = store.head()
        _shell('truncate -s 0 "$1-wal"')(path)
        assert writer.tell("append") == "6"
        if not killed:
            writer.tell("close")
        writer.kill() if killed else writer.end()
    with CheckpointStore.open_readonly(path) as store:
        assert not store.verify(expected=head).ok


# Many processes


def _race(directory: Path, rounds: int, *broken: str) -> list[str]:
    """Three processes open the same new file at once, again and again; what went wrong."""
    problems: list[str] = []
    openers = [ToldProcess(PROGRAMS / "racing_opener.py", f"run-{number}", *broken) for number in range(3)]
    try:
        for number in range(rounds):
            path = directory / f"store-{number}"
            for opener in openers:
                opener.say(str(path))
            problems += [answer for opener in openers if (answer := opener.hear()) != "appended"]
            if broken and problems:
                break
            with CheckpointStore(path) as store:
                if len(store) != 3 or not store.verify().ok:
                    problems.append(f"{len(store)} entries, {store.verify().faults}")
            assert [file.name for file in directory.iterdir()] == [path.name]
            path.unlink()
    finally:
        for opener in openers:
            opener.end()
    return problems


@pytest.mark.parametrize("rounds", [10, pytest.param(300, marks=pytest.mark.long)])
def test_three_processes_that_create_a_store_at_once_all_append_to_it(rounds: int) -> None:
    """Promise A10: nobody is told that it is busy or half made."""
    with fast_directory() as directory:
        problems = _race(directory, rounds)
    print(f"{rounds} rounds of 3 creators, {len(problems)} problems")
    assert problems == []


def test_a_store_that_is_created_in_place_is_caught() -> None:
    """Somebody finds it busy, or half made."""
    with fast_directory() as directory:
        assert _race(directory, 300, "in place") != []


class Reader:
    """Looks at a store again and again; what it saw must never go back."""

    def __init__(self, store: CheckpointStore) -> None:
        self.store = store
        self.seen: dict[int, str] = {0: "0" * 64}
        self.last = 0
        self.looks = 0

    def look(self) -> int:
        """Everything since the last look, and that it follows from what was seen then."""
        self.looks += 1
        head = self.store.head()
        new = list(self.store.receipts(after=self.last))
        assert head.entries >= self.last, "went back"
        assert [receipt.position for receipt, *_ in new] == list(range(self.last + 1, self.last + len(new) + 1))
        self.seen.update((receipt.position, receipt.signature) for receipt, *_ in new)
        assert self.seen[head.entries] == head.signature, "not a prefix of what followed"
        self.last += len(new)
        return self.last


def _kill_beside_readers(path: Path, kills: int, seed: int) -> list[Reader]:
    """A writer that writes its WAL back all the time is killed, and comes back; what was seen and told must stay."""
    chance = random.Random(seed)
    CheckpointStore(path).close()
    told = 0
    readers = [Reader(CheckpointStore.open_readonly(path)), Reader(CheckpointStore(path))]
    try:
        for _ in range(kills):
            with _child("told_writer.py", path, chance.choice((2, 10, 50, 1000))) as writer:
                assert writer.hear() == "ready"
                writer.say("append for ever")
                until = time.monotonic() + chance.random() * 0.08
                while time.monotonic() < until:
                    for reader in readers:
                        reader.look()
                writer.process.send_signal(signal.SIGKILL)
                answers = writer.end().split("\n")[:-1]  # the last line may be torn
                told = max([told, *map(int, answers)])
            for reader in readers:
                assert reader.look() >= told, "an answer was given, and the reader does not see it"
        last = readers[0].store
        last.verify(expected=Head(readers[0].last, readers[0].seen[readers[0].last])).raise_if_broken()
        final = {receipt.position: receipt.signature for receipt, *_ in last.receipts()}
        assert all(reader.seen.items() <= {0: "0" * 64, **final}.items() for reader in readers)
    finally:
        for reader in readers:
            reader.store.close()
    return readers


@pytest.mark.parametrize("kills", [3, pytest.param(300, marks=pytest.mark.long)])
def test_what_a_reader_saw_never_goes_back(path: Path, kills: int) -> None:
    """Promises A4 and B2: while a writer writes, writes its WAL back, is killed and recovers."""
    readers = _kill_beside_readers(path, kills, SEED)
    print(
        f"MILEPOST_FAULT_SEED={SEED}: {kills} kills, {sum(reader.looks for reader in readers):,} looks at up to "
        f"{readers[0].last:,} entries"
    )


def test_a_reader_that_overlooks_the_wal_is_caught(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `immutable=1` does with a WAL beside the file."""

    def nothing_beside(self: SnapshotReader) -> tuple[tuple[int, ...] | None, ...]:
        return (0,), None, None

    monkeypatch.setattr(SnapshotReader, "_look", nothing_beside)
    with pytest.raises(AssertionError, match=r"does not see it|went back|prefix"):
        _kill_beside_readers(path, 80, SEED)  # it ends with the first round that shows it


def test_a_long_reader_loses_nothing_and_lets_the_wal_grow(path: Path) -> None:
    """Promise B3: all rows are there; the WAL holds them until the reader is done, and then grows no more."""
    beside = path.with_name(f"{path.name}-wal")
    sizes = []
    with CheckpointStore(path, durability="normal") as store:
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN; SELECT count(*) FROM entry")
        wal(store).write_back_pages //= 4  # so that fewer appends are enough
        entries = chain(3_000)
        for each in entries[:1500]:
            store.append(each)
        sizes.append(beside.stat().st_size)
        assert reader.execute("SELECT count(*) FROM entry").get == 0
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM entry").get == 1500
        for each in entries[1500:]:
            store.append(each)
        sizes.append(beside.stat().st_size)
        reader.close()
        assert list(store.history()) == entries
        store.verify().raise_if_broken()
    print(f"WAL after 1,500 appends beside a reader: {sizes[0]:,} bytes; after 1,500 more without it: {sizes[1]:,}")
    assert sizes[0] > 3 * wal(store).write_back_pages * 2048
    assert sizes[1] < sizes[0] + 2 * wal(store).write_back_pages * 2072


# Clocks


@pytest.mark.parametrize(
    "times",
    [[10**12] * 20, [0] * 20, [10**12 - hour * 3_600_000 for hour in range(20)], [(n * 7919) % 1000 for n in range(20)]],
    ids=["stopped", "zero", "an hour back each time", "jumping"],
)
def test_a_clock_that_stops_or_jumps_back_changes_no_order(path: Path, times: list[int]) -> None:
    """Promise B7: the order is the chain's; what the clock said is kept as evidence."""
    clock = iter(times)
    with CheckpointStore(path, durability="normal", clock=lambda: next(clock)) as store:
        for n in range(20):
            store.advance("run-7", "load", Watermark(n, n), idempotency_key=str(n))
        assert [(e.sequence, e.at_ms) for e in store.history()] == [(n + 1, times[n]) for n in range(20)]
        assert store.resume_point_for_stage("load").sequence == 20
        assert store.latest() == store.get("run-7", "load", 20)
        store.verify().raise_if_broken()
