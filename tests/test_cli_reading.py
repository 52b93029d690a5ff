"""The commands that look: they answer what the store answers, to people and to programs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from milepost import CheckpointStore, Head, Watermark
from support.chains import MAX, chain, entry, mixed
from support.command import COMMAND, ENVIRONMENT, answer, on_terminal, process, run

if TYPE_CHECKING:
    from collections.abc import Iterator

JUMPING_MS = 1767225600123


@pytest.fixture
def file(path: Path) -> Path:
    """A file with three runs of three stages."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(mixed(30))
    return path


@pytest.fixture
def reader(file: Path) -> Iterator[CheckpointStore]:
    """The store that the commands should agree with."""
    with CheckpointStore.open_readonly(file) as store:
        yield store


def lines(text: str) -> list[dict[str, Any]]:
    """JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]


def positions(text: str) -> list[int]:
    """The positions in a table of the history."""
    return [int(line.split()[0]) for line in text.splitlines()[1:]]


def test_runs_are_those_of_the_store(file: Path, reader: CheckpointStore) -> None:
    """A line each, and everything in JSON."""
    found = json.loads(answer("runs", file, "--json"))
    kept = ("run_id", "entries", "first_at_ms", "last_at_ms", "signature")
    assert [tuple(run[name] for name in kept) for run in found] == [
        tuple(getattr(run, name) for name in kept) for run in reader.runs()
    ]
    assert [tuple(run["stages"]) for run in found] == [run.stages for run in reader.runs()]
    table = answer("runs", file).splitlines()
    assert table[0].split() == ["run", "entries", "stages", "first", "(UTC)", "last", "(UTC)", "signature"]
    assert [line.split()[0] for line in table[1:]] == [run.run_id for run in reader.runs()]


def test_stages_are_those_of_the_store(file: Path, reader: CheckpointStore) -> None:
    """A line each, and everything in JSON."""
    found = json.loads(answer("stages", file, "--json"))
    assert [(each["stage"], each["entries"], each["runs"], each["first_at_ms"], each["last_at_ms"]) for each in found] == [
        (each.stage, each.entries, each.runs, each.first_at_ms, each.last_at_ms) for each in reader.stages()
    ]
    assert [line.split()[0] for line in answer("stages", file).splitlines()[1:]] == [s.stage for s in reader.stages()]


@pytest.mark.parametrize("run_id", [None, "run-1"])
@pytest.mark.parametrize("stage", [None, "load"])
@pytest.mark.parametrize("as_of", [None, 500])
def test_latest_is_that_of_the_store(
    file: Path, reader: CheckpointStore, run_id: str | None, stage: str | None, as_of: int | None
) -> None:
    """With each of its options, and with where it stands in the chain."""
    options = [] if run_id is None else ["--run", run_id]
    options += [] if stage is None else ["--stage", stage]
    options += [] if as_of is None else ["--as-of", str(as_of)]
    if stage is None:
        expected = reader.latest(run_id, as_of=as_of)
    else:
        expected = reader.latest_for_stage(stage, run_id=run_id, as_of=as_of)
    assert expected is not None
    found = json.loads(answer("latest", file, *options, "--json"))
    assert found["idempotency_key"] == expected.idempotency_key
    receipt, recorded, _ = next(reader.receipts(after=found["position"] - 1, limit=1))
    assert recorded == expected
    assert found["signature"] == receipt.signature
    assert f"\nkey         {expected.idempotency_key}\n" in answer("latest", file, *options)


@pytest.mark.parametrize(
    "arguments",
    [
        ("latest", "--run", "run-x"),
        ("latest", "--stage", "x"),
        ("resume", "--stage", "x"),
        ("head", "--run", "run-x"),
        ("latest", "--as-of", "1960-01-01"),
    ],
)
def test_nothing_recorded_there_is_exit_code_1_or_2(file: Path, arguments: tuple[str, ...]) -> None:
    """One sentence, and nothing on standard output; a time that no checkpoint can have is a wrong argument."""
    command, *options = arguments
    result = run(command, file, *options)
    assert result.exit_code == (2 if "--as-of" in options else 1)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")


def test_resume_gives_every_stage_or_one(file: Path, reader: CheckpointStore) -> None:
    """As resume_points() and resume_point_for_stage()."""

    def shown(*options: str) -> list[tuple[Any, ...]]:
        found = json.loads(answer("resume", file, *options, "--json"))
        return [(p["run_id"], p["stage"], p["sequence"], Watermark(p["offset"], p["event_time_ms"])) for p in found]

    assert shown() == list(reader.resume_points().values())
    assert shown("--run", "run-2") == list(reader.resume_points("run-2").values())
    assert shown("--stage", "load") == [reader.resume_point_for_stage("load")]
    assert shown("--as-of", "500") == list(reader.resume_points(as_of=500).values()) != shown()
    expected = reader.resume_point_for_stage("load", as_of="1970-01-01T00:00:00.500Z")
    assert shown("--stage", "load", "--as-of", "1970-01-01T00:00:00.500Z") == [expected]
    assert shown("--stage", "load", "--run", "run-0") == [reader.resume_point_for_stage("load", run_id="run-0")]
    assert len(answer("resume", file).splitlines()) == 1 + len(reader.resume_points())


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


def test_json_is_exact_and_ascii(path: Path) -> None:
    """Integers up to 2^63-1, every character, and times also in words, as far as there are any."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(MAX, run_id="Zürich\x1b\x7f\u202e", offset=MAX, event_time_ms=MAX, at_ms=JUMPING_MS))
    text = answer("history", path, "--json")
    assert text.isascii()
    assert text.removesuffix("\n").isprintable()
    found = json.loads(text)
    assert found["run_id"] == "Zürich\x1b\x7f\u202e"
    assert (found["sequence"], found["offset"], found["event_time_ms"]) == (MAX, MAX, MAX)
    assert (found["event_time"], found["at"]) == (None, "2026-01-01T00:00:00.123Z")
    assert "9223372036854775807 ms" in answer("history", path)


def test_a_table_in_a_pipe_leaves_nothing_out(path: Path) -> None:
    """Not a column, not an end of a name, not a row: and no escape codes, also with FORCE_COLOR."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many([entry(1, run_id="r" * 1000, key="k" * 1000), entry(2)])
    text = process("history", path, env={**ENVIRONMENT, "FORCE_COLOR": "1", "COLUMNS": "40"}).stdout.decode()
    assert len(text.splitlines()) == 3
    assert "r" * 1000 in text
    assert "k" * 1000 in text
    assert "\x1b" not in text


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("command", ["runs", "stages", "resume", "history"])
def test_a_table_fits_the_terminal(file: Path, command: str, columns: int) -> None:
    """No line is wider than the screen; a column that is left out is named, on standard error."""
    exit_code, screen = on_terminal(command, file, columns=columns, NO_COLOR="1")
    assert exit_code == 0
    notes = [line for line in screen.splitlines() if line.startswith("milepost: left out here: ")]
    assert [line for line in screen.splitlines() if len(line) > columns and line not in notes] == []
    narrow = {("runs", 60), ("runs", 80), ("stages", 60), ("history", 60), ("history", 80)}
    assert len(notes) == ((command, columns) in narrow)


def test_a_name_that_is_too_long_for_the_terminal_goes_on_below(path: Path) -> None:
    """All of it is there; wide characters are counted as two cells."""
    name = "東京" * 40
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1, run_id=name))
    screen = on_terminal("history", path, NO_COLOR="1")[1]
    assert screen.count("東京") >= 30
    assert screen.count("東") == 40


def test_colour_is_for_terminals_whose_user_wants_it(file: Path) -> None:
    """A bold heading on a terminal; nothing with NO_COLOR, on a dumb one, or in a pipe."""
    assert "\x1b[1m" in on_terminal("runs", file)[1]
    assert "\x1b" not in on_terminal("runs", file, NO_COLOR="1")[1]
    assert "\x1b" not in on_terminal("runs", file, TERM="dumb")[1]
    assert b"\x1b" not in process("runs", file).stdout


def test_a_terminal_that_knows_ascii_only_gets_ascii(path: Path) -> None:
    """A name is written out rather than lost."""
    with CheckpointStore(path, durability="normal") as store:
        store.append(entry(1, run_id="Zürich"))
    assert b"Z\\xfcrich" in process("runs", path, env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"}).stdout


def test_head_is_one_line_that_verify_takes_back(file: Path, reader: CheckpointStore) -> None:
    """Of the file, and of a run."""
    assert Head.parse(answer("head", file)) == reader.head()
    assert json.loads(answer("head", file, "--json")) == {"entries": 30, "signature": reader.head().signature}
    of_run = Head.parse(answer("head", file, "--run", "run-1"))
    assert (of_run.entries, of_run.signature) == (10, reader.chain_signature("run-1"))
    assert answer("verify", file, "--run", "run-1", "--expected", str(of_run)).startswith("intact")


@pytest.mark.parametrize(
    "options",
    [
        ["--since", "yesterday"],
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


@pytest.mark.parametrize("command", ["runs", "stages", "latest", "resume", "history", "head", "verify"])
def test_a_file_that_is_no_store_is_exit_code_3(tmp_path: Path, command: str) -> None:
    """Missing, of something else, a directory: a sentence, and nothing is made."""
    (tmp_path / "notes.txt").write_text("not a store, but long enough to have a header of one hundred bytes " * 2)
    for name in ("missing", "notes.txt", "."):
        result = run(command, tmp_path / name)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith("Error: ")
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_store_has_empty_answers(path: Path) -> None:
    """A heading without rows; an empty list."""
    CheckpointStore(path).close()
    for command in ("runs", "stages", "resume", "history"):
        assert len(answer(command, path).splitlines()) == 1
    for command in ("runs", "stages", "resume"):
        assert json.loads(answer(command, path, "--json")) == []
    assert answer("history", path, "--json") == ""
    assert answer("verify", path).startswith("intact  0 entries")


# Following


class Follower:
    """`milepost history --follow --json` as a process."""

    def __init__(self, path: Path, *options: str) -> None:
        self.child = subprocess.Popen(
            [*COMMAND, "history", path, "--follow", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert self.child.stdout is not None
        self.stdout = self.child.stdout

    def next(self) -> str:
        """The key of the next entry, when it comes."""
        key = json.loads(self.stdout.readline())["idempotency_key"]
        assert isinstance(key, str)
        return key

    def end(self) -> tuple[int, bytes]:
        """The exit code, and what it said to standard error."""
        assert self.child.stderr is not None
        with self.child, self.child.stderr:
            try:
                return self.child.wait(30), self.child.stderr.read()
            finally:
                self.child.kill()


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
        subprocess.run([sys.executable, "-c", program, path, str(sequence)], cwd=Path(__file__).parent, check=False)
        assert follower.next() == f"load:{sequence}"
    with CheckpointStore(path) as store:
        store.append(entry(6))
        assert follower.next() == "load:6"
        follower.child.send_signal(signal.SIGINT)
        assert follower.end() == (130, b"")


def test_follow_ends_when_its_reader_goes_away(file: Path) -> None:
    """At once, although nothing more is ever appended; without a word."""
    follower = Follower(file)
    follower.next()
    follower.stdout.close()
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
        command = [*COMMAND, "history", str(path), *options]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as child:
            assert child.stdout is not None
            assert child.stderr is not None
            child.stdout.readline()
            child.stdout.close()
            assert (child.wait(30), child.stderr.read()) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_answer_that_cannot_be_written_is_exit_code_3(file: Path) -> None:
    """One sentence, no traceback."""
    with Path("/dev/full").open("wb") as full:
        ended = process("runs", file, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 3
    assert ended.stderr == b"Error: [Errno 28] No space left on device\n"
