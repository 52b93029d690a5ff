"""The command `history`: that of the store, with each of its options; and following a file that is written to."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from milepost import CheckpointStore
from support.chains import MAX, chain, entry
from support.command import answer, run, talk
from support.warm import warm_programs


def lines(text: str) -> list[dict[str, Any]]:
    """JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]


def positions(text: str) -> list[int]:
    """The positions in a table of the history."""
    return [int(line.split()[0]) for line in text.splitlines()[1:]]


@pytest.mark.parametrize(
    ("options", "filters"),
    [
        ([], {}),
        (["--run", "run-1"], {"run_id": "run-1"}),
        (["--stage", "load"], {"stage": "load"}),
        (["--run", "run-1", "--stage", "load"], {"run_id": "run-1", "stage": "load"}),
        (["--since", "100", "--until", "1970-01-01T00:00:00.500Z"], {"since": 100, "until": 500}),
        (["--after", "7", "--limit", "5"], {"after": 7, "limit": 5}),
        (["--newest-first", "--limit", "4"], {"newest_first": True, "limit": 4}),
        (["--limit", "0"], {"limit": 0}),
    ],
)
def test_history_is_that_of_the_store(
    file: Path, reader: CheckpointStore, options: list[str], filters: dict[str, Any]
) -> None:
    """With each of its options, as a table and as JSON Lines."""
    expected = list(reader.receipts(**filters))
    found = lines(answer("history", file, *options, "--json"))
    assert [(e["position"], e["signature"], e["idempotency_key"], e["at_ms"]) for e in found] == [
        (receipt.position, receipt.signature, e.idempotency_key, e.at_ms) for receipt, e, _ in expected
    ]
    assert positions(answer("history", file, *options)) == [receipt.position for receipt, *_ in expected]


def test_a_long_history_is_one_table(path: Path) -> None:
    """One heading, and every row, however many pages it is read in."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(2500))
    assert positions(answer("history", path)) == list(range(1, 2501))


@pytest.mark.parametrize(
    "options",
    [
        ["--since", "the day before"],
        ["--since", "1767225600"],
        ["--tail", "3", "--newest-first"],
        ["--since", "-5"],
        ["--until", "2026-13-01"],
        ["--until", str(MAX + 1)],
        ["--after", "-1"],
        ["--limit", "x"],
        ["--run", ""],
        ["--stage", "a" * 1025],
        ["--run", "\udc80"],
        ["--follow", "--newest-first"],
    ],
)
def test_a_wrong_option_is_exit_code_2(file: Path, options: list[str]) -> None:
    """And a sentence, before any output."""
    result = run("history", file, *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


# Following


class Follower:
    """`milepost history --follow --json` as a process."""

    def __init__(self, path: Path, *options: str) -> None:
        self.child = talk("history", path, "--follow", "--json", *options)

    def next(self) -> str:
        """The key of the next entry, when it comes."""
        key = json.loads(self.child.stdout.readline())["idempotency_key"]
        assert isinstance(key, str)
        return key

    def end(self) -> tuple[int, bytes]:
        """The exit code, and what it said to standard error."""
        try:
            return self.child.wait(30), self.child.stderr.read()
        finally:
            for stream in (self.child.stdin, self.child.stdout, self.child.stderr):
                stream.close()


def test_follow_goes_on_through_restarts_and_kills_of_the_writer(path: Path) -> None:
    """Each entry once, in order, with a clean close, a kill and a new writer in between; Ctrl-C ends it without a word."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
    follower = Follower(path)
    assert follower.next() == "load:1"
    for sequence in (2, 3):
        with CheckpointStore(path) as store:
            store.append(entry(sequence))
        assert follower.next() == f"load:{sequence}"
    program = (
        "import os, sys\nfrom support.chains import entry\nfrom milepost import CheckpointStore\n"
        "CheckpointStore(sys.argv[1]).append(entry(int(sys.argv[2])))\nos.kill(os.getpid(), 9)"
    )
    for sequence in (4, 5):
        warm_programs().run("-c", program, path, str(sequence), cwd=Path(__file__).parent)
        assert follower.next() == f"load:{sequence}"
    with CheckpointStore(path) as store:
        store.append(entry(6))
        assert follower.next() == "load:6"
        follower.child.send_signal(signal.SIGINT)
        assert follower.end() == (130, b"")


def test_follow_goes_on_while_entries_are_archived(path: Path) -> None:
    """The chain has grown by an archive's entry, though the file has fewer: nobody has replaced it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(60))
        follower = Follower(path, "--tail", "1")
        assert follower.next() == "load:60"
        store.archive(path.with_name("archive"), before=store.head())
        store.append(entry(61))
        assert (follower.next(), follower.next()) == ("archive-60", "load:61")
        follower.child.send_signal(signal.SIGINT)
        assert follower.end() == (130, b"")
    assert answer("history", path, "--tail", "0").splitlines()[1:] == [], "the last none, counted from the end of the chain"


def test_follow_ends_when_its_reader_goes_away(file: Path) -> None:
    """At once, although nothing more is ever appended; without a word."""
    follower = Follower(file)
    follower.next()
    follower.child.stdout.close()
    assert follower.end() == (141, b"")


def test_follow_ends_after_limit_entries(file: Path) -> None:
    """Those that it shows."""
    with CheckpointStore(file) as store:
        follower = Follower(file, "--stage", "extract", "--limit", "11")
        keys = [follower.next() for _ in range(10)]
        store.append(entry(1, key="other"))
        store.append(entry(100, stage="extract", key="last"))
        assert [*keys[-1:], follower.next()] == [next(store.history(stage="extract", after=27)).idempotency_key, "last"]
        assert follower.end() == (0, b"")


def test_the_reader_of_a_pipe_may_go_away(path: Path) -> None:
    """As `head` does: not a word, and the shell's own exit code for it."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(chain(5000))
    for options in ([], ["--json"]):
        child = talk("history", path, *options)
        with child.stdin, child.stderr:
            child.stdout.readline()
            child.stdout.close()
            assert (child.wait(30), child.stderr.read()) == (141, b"")
