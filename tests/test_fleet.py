"""A fleet answers what each of its stores answers alone, and a file that cannot be read is a row with its error."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import shutil
import subprocess
import tempfile
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost import (
    Answer,
    Answers,
    ArchivedStageError,
    Checkpoint,
    CheckpointStore,
    ClosedStoreError,
    DamagedStoreError,
    Fleet,
    Head,
    InvalidArgumentError,
    MilepostError,
    NoCheckpointError,
    NotAStoreError,
    ReadOnlyStoreError,
    SchemaVersionError,
    StoreError,
    StoreSummary,
    Watermark,
    WrongKeyError,
    fleet_workers,
    open_many,
    workers,
)
from milepost.answers import FILES_SHOWN, LINES_SHOWN
from support.chains import chain, entry, mixed
from support.hostile import HOSTILE
from support.programs import PROGRAMS, environment
from support.tampering import tamper
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DESCRIPTORS = Path("/proc/self/fd")


def make(path: Path, entries: list[Checkpoint], **options: Any) -> Path:
    """A file with these entries."""
    with CheckpointStore(path, durability="normal", **options) as store:
        store.append_many(entries)
    return path


def alone(file: str, question: Callable[[CheckpointStore], Any], **options: Any) -> Any:
    """What a store that is opened alone answers, or its error in words."""
    try:
        with CheckpointStore.open_readonly(file, **options) as store:
            return question(store)
    except MilepostError as error:
        return type(error), str(error)


def together(answers: Answers[Any]) -> dict[str, Any]:
    """What a fleet answers, an error in words."""
    return {
        file: answer.value if answer.error is None else (type(answer.error), str(answer.error))
        for file, answer in answers.items()
    }


def _without_time(summary: Any) -> Any:
    """A summary without when it was asked for, and what follows from that."""
    if type(summary) is tuple:
        return summary
    return replace(summary, at_ms=0, stands_out=())


@pytest.fixture
def opened() -> Iterator[set[str]]:
    """Every descriptor that a test leaves open is a failure."""
    before = set(_descriptors())
    yield before
    if set(_descriptors()) - before:
        gc.collect()  # an error holds the frames that it came through
    assert set(_descriptors()) - before == set()


def _descriptors() -> Iterator[str]:
    if DESCRIPTORS.exists():
        for each in DESCRIPTORS.iterdir():
            with contextlib.suppress(OSError):
                target = str(each.readlink())
                if ".milepost" in target:
                    yield target


# Broken files: what is made, how the fleet is opened, and the error of its row


def _not_a_database(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 64)


def _newer(path: Path) -> None:
    make(path, chain(3))
    tamper(path, "PRAGMA user_version = 99")


def _other_application(path: Path) -> None:
    make(path, chain(3))
    tamper(path, "PRAGMA application_id = 7")


def _keyed(path: Path) -> None:
    make(path, chain(3), hmac_key=b"another")


def _damaged(path: Path) -> None:
    make(path, mixed(300))
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(path.stat().st_size - 4096))


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere.milepost")


def _too_long(path: Path) -> None:
    (path.parent / ("x" * 252)).touch()


BROKEN: dict[str, tuple[Callable[[Path], object], type[MilepostError]]] = {
    "missing": (lambda path: None, StoreError),
    "no directory": (lambda path: None, StoreError),
    "empty": (Path.touch, NotAStoreError),
    "not a database": (_not_a_database, NotAStoreError),
    "directory": (Path.mkdir, NotAStoreError),
    "fifo": (os.mkfifo, NotAStoreError),
    "newer version": (_newer, SchemaVersionError),
    "another application": (_other_application, NotAStoreError),
    "dangling link": (_dangling, StoreError),
    "damaged": (_damaged, DamagedStoreError),
    "name too long": (_too_long, InvalidArgumentError),
}


def _broken(kind: str, directory: Path) -> Path:
    path = directory / {"no directory": "gone/b.milepost", "name too long": "x" * 252}.get(kind, "b.milepost")
    BROKEN[kind][0](path)
    return path


QUESTIONS: dict[str, tuple[Callable[[Fleet], Answers[Any]], Callable[[CheckpointStore], Any]]] = {
    "resume_points": (lambda f: f.resume_points(), lambda s: s.resume_points()),
    "resume_points of a run": (lambda f: f.resume_points("run-1"), lambda s: s.resume_points("run-1")),
    "resume_points as of": (lambda f: f.resume_points(as_of=500), lambda s: s.resume_points(as_of=500)),
    "runs": (lambda f: f.runs(), lambda s: s.runs()),
    "runs, newest": (lambda f: f.runs(limit=1, newest_first=True), lambda s: s.runs(limit=1, newest_first=True)),
    "summary": (lambda f: f.summary(), lambda s: s.summary()),
    "verify": (lambda f: f.verify(), lambda s: s.verify()),
    "ask": (lambda f: f.ask(lambda s: list(s.history())), lambda s: list(s.history())),
    "head": (lambda f: f.ask(CheckpointStore.head), CheckpointStore.head),
}


FILES = st.lists(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), max_size=12), min_size=1, max_size=4)


@settings(max_examples=5)
@given(chains=FILES, broken=st.sampled_from([None, *BROKEN]))
def test_a_fleet_answers_what_each_store_answers_alone(chains: list[list[tuple[str, str]]], broken: str | None) -> None:
    """Every question, file by file: the same value, or the same error in the same words."""
    _answers_what_each_answers_alone(chains, broken)


@pytest.mark.long
@settings(max_examples=100)
@given(chains=FILES, broken=st.sampled_from([None, *BROKEN]))
def test_many_fleets_answer_what_each_store_answers_alone(chains: list[list[tuple[str, str]]], broken: str | None) -> None:
    """The full dose."""
    _answers_what_each_answers_alone(chains, broken)


def _answers_what_each_answers_alone(chains: list[list[tuple[str, str]]], broken: str | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        files = [
            str(
                make(
                    directory / f"{number}.milepost",
                    [entry(place, run_id=f"run-{run}", stage=stage) for place, (run, stage) in enumerate(steps, 1)],
                )
            )
            for number, steps in enumerate(chains)
        ]
        if broken is not None:
            files.insert(len(files) // 2, str(_broken(broken, directory)))
        with open_many(files) as fleet:
            for question, (ask, ask_alone) in QUESTIONS.items():
                found, expected = together(ask(fleet)), {file: alone(file, ask_alone) for file in files}
                if question == "summary":
                    found = {file: _without_time(each) for file, each in found.items()}
                    expected = {file: _without_time(each) for file, each in expected.items()}
                assert found == expected, question


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_a_row_with_its_error(tmp_path: Path, kind: str, opened: set[str]) -> None:
    """Of every answer, beside the row of a sound file; and nothing stays open."""
    sound, broken = str(make(tmp_path / "a.milepost", mixed(30))), str(_broken(kind, tmp_path))
    error = BROKEN[kind][1]
    with open_many([sound, broken]) as fleet:
        for ask, _ in QUESTIONS.values():
            answers = ask(fleet)
            assert list(answers) == [sound, broken]
            assert answers[sound].error is None
            assert type(answers[broken].error) is error
            assert answers.errors.keys() == {broken}
            with pytest.raises(error) as caught:
                _ = answers[broken].value
            assert caught.value is not answers[broken].error
            assert str(caught.value) == str(answers[broken].error)
            assert getattr(answers[broken].error, "__traceback__", 1) is None
        assert not fleet.verify().ok
        assert fleet.verify(workers=2) == fleet.verify()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_a_row(tmp_path: Path) -> None:
    """Once it may be read, the same fleet reads it."""
    path = make(tmp_path / "a.milepost", chain(3))
    path.chmod(0)
    with open_many([path]) as fleet:
        assert type(fleet.resume_points()[str(path)].error) is ReadOnlyStoreError
        path.chmod(0o600)
        assert fleet.resume_points()[str(path)].error is None


def test_a_wrong_key_is_a_row_and_a_key_that_was_not_given_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key stays in this process, also with workers."""
    monkeypatch.delattr(workers, "start_python")
    monkeypatch.setattr(fleet_workers, "LEAST_BYTES", 1)
    ours = str(make(tmp_path / "a.milepost", chain(3), hmac_key=b"ours"))
    other, plain = str(tmp_path / "b.milepost"), str(make(tmp_path / "c.milepost", chain(3)))
    _keyed(Path(other))
    with open_many([ours, other, plain], hmac_key=b"ours") as fleet:
        found = fleet.verify(workers=2)
        assert found[ours].value.ok
        assert {file: type(error) for file, error in found.errors.items()} == {other: WrongKeyError, plain: WrongKeyError}
    with open_many([ours]) as fleet:
        assert fleet.resume_points()[ours].value["load"].sequence == 3
        assert [fault.kind for fault in fleet.verify()[ours].value.faults] == ["key"]


# Which files


def test_a_pattern_finds_files_in_order_and_passes_over_what_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in directories below, spelled as the pattern spells them; a later change of directory changes nothing."""
    monkeypatch.chdir(tmp_path)
    Path("nodes/deep").mkdir(parents=True)
    for name in ("b", "a", "deep/a"):
        make(Path(f"nodes/{name}.milepost"), chain(2))
    with CheckpointStore("nodes/a.milepost") as store:
        store.append(entry(3))
        assert Path("nodes/a.milepost-wal").exists()
        with open_many("nodes/*milepost*") as fleet:
            assert fleet.files == ("nodes/a.milepost", "nodes/b.milepost")
            monkeypatch.chdir("/")
            assert fleet.resume_points()["nodes/a.milepost"].value["load"].sequence == 3
            monkeypatch.chdir(tmp_path)
    assert open_many("nodes/**/*.milepost").files == ("nodes/a.milepost", "nodes/b.milepost", "nodes/deep/a.milepost")
    assert open_many("nodes/a.milepost").files == ("nodes/a.milepost",)


def test_a_path_is_taken_as_it_stands_and_each_once(tmp_path: Path) -> None:
    """Also one that looks like a pattern, which would find all others; two names of a file are two files."""
    for name in ("*.milepost", "a.milepost"):
        make(tmp_path / name, chain(2 if name[0] == "a" else 3))
    link = tmp_path / "link.milepost"
    link.symlink_to("a.milepost")
    star = tmp_path / "*.milepost"
    assert open_many(star).files == (str(star),)
    with open_many([star, tmp_path / "a.milepost", str(star), link]) as fleet:
        assert fleet.files == (str(star), str(tmp_path / "a.milepost"), str(link))
        heads = fleet.ask(CheckpointStore.head)
        assert [answer.value.entries for answer in heads.values()] == [3, 2, 2]
        assert heads[star] == heads[str(star)], "a path object is taken too"
        given: object = star
        assert given in heads
    assert open_many(iter([star])).files == open_many({str(star): None}).files == (str(star),)
    encoded: Any = os.fsencode(tmp_path / "a*")
    assert open_many(encoded).files == (str(tmp_path / "a.milepost"),)
    assert len(open_many(str(star)).files) == 3, "a str is a pattern, whatever files there are"


def test_a_directory_with_the_name_of_a_pattern_is_in_no_files_way(tmp_path: Path) -> None:
    """What the pattern matches is asked."""
    (tmp_path / "node[1]").mkdir()
    file = str(make(tmp_path / "node1", chain(2)))
    assert open_many(str(tmp_path / "node[1]")).files == (file,)


def test_the_same_name_in_two_directories_is_two_rows(tmp_path: Path) -> None:
    """The key is the path, not the name."""
    files = []
    for number in (1, 2):
        (tmp_path / f"node-{number}").mkdir()
        files.append(str(make(tmp_path / f"node-{number}" / "orders.milepost", chain(number))))
    with open_many(str(tmp_path / "*" / "orders.milepost")) as fleet:
        assert {file: each.value.entries for file, each in fleet.ask(CheckpointStore.head).items()} == dict(
            zip(files, (1, 2), strict=True)
        )


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        ([], "has no path"),
        ((), "has no path"),
        ("nothing-here/*.milepost", "matches no file"),
        ("nothing-here.milepost", "matches no file"),
        ("", "NUL"),
        ("a\0", "NUL"),
        (["a", ""], "NUL"),
        (["a", 7], "path object"),
        ([["a"]], "path object"),
        (7, "pattern"),
        (None, "pattern"),
        (Path(), "is a directory"),
        (".", "is a directory"),
    ],
)
def test_paths_that_are_none_are_refused(paths: Any, said: str) -> None:
    """Before anything is opened; nothing found is no empty fleet."""
    with pytest.raises(InvalidArgumentError, match=said) as caught:
        open_many(paths)
    assert caught.value.argument == "paths"


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_values_are_refused(tmp_path: Path, hostile: str) -> None:
    """As each argument."""
    file = str(make(tmp_path / "a.milepost", chain(2)))
    wrong: Any = HOSTILE[hostile]
    calls: dict[str, Callable[[Fleet], object]] = {
        "paths": lambda f: open_many(wrong),
        "hmac_key": lambda f: open_many(file, hmac_key=wrong),
        "run_id": lambda f: f.resume_points(wrong),
        "as_of": lambda f: f.resume_points(as_of=wrong),
        "limit": lambda f: f.runs(limit=wrong),
        "newest_first": lambda f: f.runs(newest_first=wrong),
        "question": lambda f: f.ask(wrong),
        "expected": lambda f: f.verify(expected=wrong),
        "workers": lambda f: f.verify(workers=wrong),
        "progress": lambda f: f.verify(progress=wrong),
        "file": lambda f: f.compare("run-7", file=wrong, other_file=file),
        "other_file": lambda f: f.compare("run-7", file=file, other_file=wrong),
        "stage": lambda f: f.frame(stage=wrong),
        "since": lambda f: f.frame(since=wrong),
        "until": lambda f: f.frame(until=wrong),
    }
    with open_many([file]) as fleet:
        for argument, call in calls.items():
            with pytest.raises(InvalidArgumentError) as caught:
                call(fleet)
            assert caught.value.argument == argument
            assert str(caught.value).isprintable()


def test_a_vfs_that_is_none_is_told_in_each_row(tmp_path: Path) -> None:
    """As open_readonly tells it."""
    with open_many([make(tmp_path / "a.milepost", chain(2))], vfs="unix") as fleet:
        assert not fleet.resume_points().errors
    with pytest.raises(InvalidArgumentError, match="SQLite VFS"):
        open_many("*", vfs="nonsense")


# Verify


@pytest.fixture
def two_workers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Workers also for small files; the files that they verified."""
    monkeypatch.setattr(fleet_workers, "LEAST_BYTES", 1)
    said: list[str] = []
    verify_files = fleet_workers.verify_files

    def noted(*arguments: Any) -> Iterator[Any]:
        for file, verification in verify_files(*arguments):
            said.append(file)
            yield file, verification

    monkeypatch.setattr(fleet_workers, "verify_files", noted)
    return said


def test_workers_say_of_each_file_what_one_process_says(tmp_path: Path, two_workers: list[str], opened: set[str]) -> None:
    """Sound ones, forged ones with their faults, broken ones with their errors, and heads that were kept."""
    files = [str(make(tmp_path / f"{number:02}.milepost", mixed(40 + number))) for number in range(12)]
    heads = {file: alone(file, CheckpointStore.head) for file in files}
    tamper(files[3], "UPDATE entry SET offset = 9999 WHERE position = 5")
    tamper(files[4], "DELETE FROM entry WHERE position = 44", 'CREATE TABLE "\x1b[2J" (a)')
    Path(files[5]).unlink()
    _not_a_database(Path(files[6]))
    expected = {**heads, files[7]: Head(3, "ab" * 32)}
    with open_many(files) as fleet:
        for heads in ({}, expected):
            shared = fleet.verify(expected=heads, workers=2)
            assert shared == fleet.verify(expected=heads)
            found = {}
            for file in files:
                found[file] = alone(file, partial(CheckpointStore.verify, expected=heads.get(file)))
            assert together(shared) == found
            assert list(shared) == files
        broken = {file for file, answer in shared.items() if answer.error is not None or not answer.value.ok}
        assert broken == {files[number] for number in (3, 4, 5, 6, 7)}
        assert not shared.ok
    assert set(two_workers) == set(files) - {files[5], files[6]}


@pytest.mark.usefixtures("warm_workers")
def test_a_large_file_is_shared_by_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_workers: list[str]
) -> None:
    """It would keep one worker busy while the others wait."""
    monkeypatch.setattr(workers, "LEAST", 10)
    large = str(make(tmp_path / "large.milepost", chain(3000)))
    small = [str(make(tmp_path / f"{number}.milepost", chain(3))) for number in range(3)]
    shared: list[int] = []
    confirm = workers.confirm

    def noted(*arguments: Any) -> object:
        shared.append(arguments[3])
        return confirm(*arguments)

    monkeypatch.setattr(workers, "confirm", noted)
    with open_many([small[0], large, *small[1:]]) as fleet:
        found = fleet.verify(workers=2)
        assert found.ok
        assert list(found) == list(fleet.files)
    assert shared == [2]
    assert sorted(two_workers) == sorted(small)


@pytest.mark.parametrize("program", ["raise SystemExit(1)", "print('nonsense')", "print('{}')", "input(); input()"])
def test_a_worker_that_dies_changes_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_workers: list[str], program: str
) -> None:
    """This process does it then."""
    monkeypatch.setattr(fleet_workers, "_PROGRAM", program)
    with open_many([make(tmp_path / f"{number}.milepost", chain(9)) for number in range(4)]) as fleet:
        assert fleet.verify(workers=2) == fleet.verify()
    assert two_workers == []


@pytest.mark.parametrize("processes", [2, 8])
def test_no_worker_is_started_for_little_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int) -> None:
    """A process takes longer to start, whether it would verify whole files or a part of one."""
    monkeypatch.delattr(workers, "start_python")
    with open_many([make(tmp_path / f"{number}.milepost", chain(9)) for number in range(4)]) as fleet:
        assert fleet.verify(workers=processes).ok


def test_heads_that_do_not_go_with_the_files_are_refused(tmp_path: Path) -> None:
    """The path is named; a typo would be a file that nobody looked at."""
    file = make(tmp_path / "a.milepost", chain(3))
    head = alone(str(file), CheckpointStore.head)
    wrong: dict[str, Any] = {
        "path": {tmp_path / "b.milepost": head},
        "value": {file: str(head)},
        "key": {7: head},
        "list": [1],
    }
    with open_many([file]) as fleet:
        assert fleet.verify(expected={file: head}).ok
        for each in wrong.values():
            with pytest.raises(InvalidArgumentError) as caught:
                fleet.verify(expected=each)
            assert caught.value.argument == "expected"
        with pytest.raises(InvalidArgumentError, match=r"b\.milepost"):
            fleet.verify(expected=wrong["path"])


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.usefixtures("warm_workers")
def test_progress_counts_the_files_and_an_interrupt_ends_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_workers: list[str], opened: set[str], number: int
) -> None:
    """In the caller's thread; Ctrl-C comes out, and no process or file is left."""
    children: list[subprocess.Popen[str]] = []
    start = workers.start_python

    def noted(program: str) -> subprocess.Popen[str]:
        children.append(start(program))
        return children[-1]

    monkeypatch.setattr(workers, "start_python", noted)
    seen: list[tuple[int, int]] = []
    with open_many([make(tmp_path / f"{each}.milepost", chain(9)) for each in range(6)]) as fleet:
        assert fleet.verify(workers=number, progress=lambda done, files: seen.append((done, files))).ok
        assert seen == [(done, 6) for done in range(1, 7)]

        def interrupted(done: int, files: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt) as caught:
            fleet.verify(workers=number, progress=interrupted)
        assert len(children) == (4 if number == 2 else 0)
        assert all(child.poll() is not None for child in children), "while the traceback is still there"
        assert caught.value.__traceback__ is not None
        assert fleet.verify(workers=number).ok


# Compare


@settings(max_examples=15)
@given(data=st.data())
def test_two_files_compare_as_two_runs_of_one_file_do(data: st.DataObject) -> None:
    """The same stages with the same numbers, first differences and divergences, also of branches."""
    _compare_as_two_runs_of_one_file_do(data)


@pytest.mark.long
@settings(max_examples=200)
@given(data=st.data())
def test_many_files_compare_as_runs_of_one_file_do(data: st.DataObject) -> None:
    """The full dose."""
    _compare_as_two_runs_of_one_file_do(data)


def _compare_as_two_runs_of_one_file_do(data: st.DataObject) -> None:
    steps = st.lists(st.tuples(st.sampled_from("xy"), st.integers(1, 3), st.booleans()), min_size=1, max_size=12)
    one, other = data.draw(steps), data.draw(steps)

    def entries(run_id: str, of: list[tuple[str, int, bool]]) -> list[Checkpoint]:
        sequences: dict[str, int] = {}
        found = []
        for stage, further, as_usual in of:
            sequences[stage] = sequences.get(stage, 0) + further
            sequence = sequences[stage]
            key = f"{stage}:{sequence}" if as_usual else f"{run_id}:{stage}:{sequence}"
            found.append(Checkpoint(run_id, stage, sequence, Watermark(sequence, 0), key, 1))
        return found

    branched = data.draw(st.booleans())
    with tempfile.TemporaryDirectory() as name:
        both, first, second = (Path(name, f"{number}.milepost") for number in range(3))
        for path in (both, first):
            make(path, entries("a", one))
        make(second, entries("b", other))
        with CheckpointStore(both, durability="normal") as store:
            store.append_many(entries("b", other))
        run_id = "a"
        if branched:
            run_id = "branch"
            for path in (both, first):
                with CheckpointStore(path, durability="normal", clock=lambda: 1) as store:
                    store.branch("a", "branch")
        with CheckpointStore.open_readonly(both) as store:
            expected = store.compare(run_id, "b")
        with open_many([first, second]) as fleet:
            found = fleet.compare(run_id, "b", file=first, other_file=second)
            assert (found.file, found.other_file) == (str(first), str(second))
            ordered = {stage.stage: stage for stage in found.stages}
            assert ordered == {stage.stage: stage for stage in expected.stages}
            assert found.identical == expected.identical
            assert fleet.compare("a", file=first, other_file=first).identical


def test_a_comparison_names_the_files(tmp_path: Path) -> None:
    """As text and as a page, since both runs may have one name."""
    one, other = (make(tmp_path / f"{number}.milepost", chain(2 + number)) for number in (1, 2))
    with open_many([one, other]) as fleet:
        found = fleet.compare("run-7", file=one, other_file=other)
        for text in (str(found), found._repr_html_()):
            assert text.index("1.milepost") < text.index("2.milepost")
        with pytest.raises(NoCheckpointError):
            fleet.compare("run-8", file=one, other_file=other)
        with pytest.raises(InvalidArgumentError, match="not one of the files"):
            fleet.compare("run-7", file=one, other_file=tmp_path / "3.milepost")
        other.unlink()
        with pytest.raises(StoreError, match="no such file"):
            fleet.compare("run-7", file=one, other_file=other)


# Frame


def test_a_frame_has_the_rows_of_each_file_and_one_for_each_that_cannot_be_read(tmp_path: Path, opened: set[str]) -> None:
    """With the same filters and values; half read and dropped, it leaves nothing open."""
    polars = pytest.importorskip("polars")
    files = [str(make(tmp_path / f"{number}.milepost", mixed(20 + number))) for number in range(3)]
    broken = str(tmp_path / "missing.milepost")
    with open_many([files[0], broken, *files[1:]]) as fleet:
        for filters in ({}, {"run_id": "run-1"}, {"stage": "load", "since": 300, "until": 700}):
            found = polars.DataFrame(fleet.frame(**filters))
            expected = []
            for file in files:
                with CheckpointStore.open_readonly(file) as store:
                    one = polars.DataFrame(store.frame(**filters))
                expected.append(one.with_columns(file=polars.lit(file)))
            rows = found.filter(polars.col("error").is_null())
            assert rows.drop("error", "file").to_dicts() == polars.concat(expected).drop("file").to_dicts()
            assert rows["file"].cast(str).to_list() == [file for each in expected for file in each["file"].to_list()]
            (row,) = found.filter(polars.col("error").is_not_null()).to_dicts()
            assert row.pop("file") == broken
            assert row.pop("error").startswith("no such file")
            assert set(row.values()) == {None}
        frame = fleet.frame()
        assert frame.columns[0] == "file"
        assert frame.columns[-1] == "error"
        reader: Any = pytest.importorskip("pyarrow").RecordBatchReader.from_stream(frame)
        assert reader.read_next_batch().num_rows == 20
        del reader
        assert ">NULL<" in frame._repr_html_()
        for module in ("duckdb", "pandas"):
            pytest.importorskip(module)
        import duckdb  # noqa: PLC0415

        assert duckdb.sql('SELECT count("position"), count(*), count(DISTINCT file) FROM frame').fetchall() == [(63, 64, 4)]
        assert len(frame.to_pandas()) == 64


def test_a_name_that_is_no_utf8_is_a_row_and_is_written_out(tmp_path: Path) -> None:
    """SQLite takes no such name."""
    polars = pytest.importorskip("polars")
    name = os.fsencode(tmp_path) + b"/\xff.milepost"
    try:
        Path(os.fsdecode(name)).touch()
    except OSError:
        pytest.skip("the file system takes UTF-8 only")
    with open_many(str(tmp_path / "*")) as fleet:
        (answer,) = fleet.resume_points().values()
        assert type(answer.error) is InvalidArgumentError
        assert "\\udcff" in str(fleet.resume_points())
        assert "\\udcff" in fleet.resume_points()._repr_html_()
        assert "udcff" in polars.DataFrame(fleet.frame())["file"].cast(str)[0]
        assert not fleet.verify(workers=2).ok


def test_files_of_older_versions_answer_as_they_do_alone(
    opened: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read through upgraded copies, which are gone afterwards; some of them are keyed."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # the tests beside this one make such copies too
    with open_many(str(Path(__file__).parent / "old_files" / "*.milepost")) as fleet:
        assert len(fleet.files) >= 4
        for ask, ask_alone in (QUESTIONS["resume_points"], QUESTIONS["verify"], QUESTIONS["ask"]):
            answers = ask(fleet)
            assert answers.errors == {}
            assert together(answers) == {file: alone(file, ask_alone) for file in fleet.files}
    assert list(tmp_path.glob("milepost-*")) == []


@pytest.mark.usefixtures("warm_workers")
def test_files_with_an_archive_and_the_archives_answer_as_they_do_alone(tmp_path: Path, two_workers: list[str]) -> None:
    """What is elsewhere is counted by workers too; a run whose entries have been moved is not compared in part."""
    for number in range(2):
        with CheckpointStore(tmp_path / f"{number}.milepost", durability="normal") as store:
            store.append_many(chain(40))
            head = store.head()
            store.append_many(chain(60)[40:])
            store.archive(tmp_path / f"{number}-old.milepost", before=head)
    whole = make(tmp_path / "whole.milepost", chain(60))
    with open_many(str(tmp_path / "*.milepost")) as fleet:
        shared = fleet.verify(workers=2)
        assert shared.ok
        assert together(shared) == {file: alone(file, CheckpointStore.verify) for file in fleet.files}
        assert sorted(answer.value.elsewhere for answer in shared.values()) == [0, 0, 0, 40, 40]
        assert len(two_workers) == 5
        for ask, ask_alone in (QUESTIONS["resume_points"], QUESTIONS["runs"], QUESTIONS["ask"]):
            assert together(ask(fleet)) == {file: alone(file, ask_alone) for file in fleet.files}
        moved = str(tmp_path / "0.milepost")
        for file, other_file in ((moved, whole), (whole, moved)):
            with pytest.raises(ArchivedStageError):
                fleet.compare("run-7", file=file, other_file=other_file)
        old = tmp_path / "0-old.milepost"
        assert fleet.compare("run-7", file=old, other_file=whole).stages[0].other_only == 20


# How many, and what goes on meanwhile


@pytest.mark.parametrize("number", [1, 40, *(pytest.param(number, marks=pytest.mark.long) for number in (300, 1000))])
def test_many_files_need_no_more_descriptors_than_one(tmp_path: Path, number: int, opened: set[str]) -> None:
    """With as few as a process can have, which stands for a thousand files and 1,024."""
    resource = pytest.importorskip("resource")
    pattern = tmp_path / "pattern.milepost"
    make(pattern, mixed(15))
    for each in range(number):
        shutil.copy(pattern, tmp_path / f"node-{each}.milepost")
    pattern.unlink()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(each.name) for each in DESCRIPTORS.iterdir()) if DESCRIPTORS.exists() else 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 15, limits[1]))
    try:
        with open_many(str(tmp_path / "*.milepost")) as fleet:
            assert len(fleet.files) == number
            questions: list[Callable[[], Answers[Any]]] = [fleet.resume_points, fleet.runs]
            if number != 300:
                questions += [fleet.summary, fleet.verify]
            for answers in (question() for question in questions):
                assert len(answers) == number
                assert answers.errors == {}
                rows = [answer.value for answer in answers.values()]
                assert len({repr(row) for row in rows}) == 1 or type(rows[0]) is StoreSummary
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_files_that_vanish_come_and_change_meanwhile_are_told_as_they_are(tmp_path: Path) -> None:
    """Between listing and asking, while another is asked, and between two questions."""
    files = [make(tmp_path / f"{number}.milepost", chain(3)) for number in range(3)]
    with open_many(str(tmp_path / "*.milepost")) as fleet:
        files[1].unlink()
        make(tmp_path / "9.milepost", chain(3))
        assert list(fleet.resume_points().errors) == [str(files[1])]
        assert len(fleet.files) == 3, "the files are those that the pattern found"

        def ask(store: CheckpointStore) -> int:
            if store.path == str(files[0].resolve()):
                files[2].unlink()
            return len(store)

        assert list(fleet.ask(ask).errors) == [str(files[1]), str(files[2])]
        make(files[1], chain(5))
        assert fleet.ask(len)[str(files[1])].value == 5


def test_a_file_that_vanishes_while_it_is_read_is_a_row(tmp_path: Path) -> None:
    """Its reader notices, and says so."""
    file = make(tmp_path / "a.milepost", chain(900))

    def ask(store: CheckpointStore) -> int:
        walk = store.history()
        next(walk)
        file.unlink()
        return sum(1 for _ in walk)

    with open_many([file]) as fleet:
        assert isinstance(fleet.ask(ask)[str(file)].error, StoreError)


def test_a_live_writer_is_read_and_not_held_up(tmp_path: Path) -> None:
    """Each answer has what was committed; the writer goes on, and so do other threads that ask."""
    path = make(tmp_path / "a.milepost", [])
    make(tmp_path / "b.milepost", chain(5))
    counts: list[list[int]] = [[], []]
    with CheckpointStore(path, durability="normal") as store, open_many(str(tmp_path / "*.milepost")) as fleet:
        done = threading.Event()

        def look(counted: list[int]) -> None:
            while not done.is_set():
                answers = fleet.ask(len)
                assert not answers.errors
                counted.append(answers[str(path)].value)
            assert fleet.verify().ok

        threads = [threading.Thread(target=look, args=(counted,)) for counted in counts]
        for thread in threads:
            thread.start()
        for sequence in range(1, 150):
            store.append(entry(sequence))
        done.set()
        for thread in threads:
            thread.join()
        assert fleet.ask(len)[str(path)].value == 149
    for counted in counts:
        assert counted == sorted(counted)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_parent_and_child_of_a_fork_both_ask(tmp_path: Path) -> None:
    """Nothing is open between two questions, so nothing is carried over."""
    files = [make(tmp_path / f"{number}.milepost", chain(3)) for number in range(3)]
    program = (
        "import os, sys\nfrom milepost import CheckpointStore, open_many\n"
        "with open_many(sys.argv[1:]) as fleet:\n"
        "    assert not fleet.resume_points().errors\n"
        "    child = os.fork()\n"
        "    assert not fleet.resume_points().errors and fleet.verify().ok\n"
        "    with CheckpointStore(sys.argv[1]) as store: store.verify().raise_if_broken()\n"
        "    if child: assert os.waitpid(child, 0)[1] == 0\n"
    )
    ended = warm_programs().run("-c", program, *files)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize("rounds", [150, pytest.param(8000, marks=pytest.mark.long)])
def test_ctrl_c_at_any_moment_leaves_nothing_open(tmp_path: Path, rounds: int) -> None:
    """Wherever the signal comes, it comes out, and the next question is answered in full."""
    for number in range(8):
        make(tmp_path / f"{number}.milepost", mixed(15))
    program, pattern = str(PROGRAMS / "interrupted_fleet.py"), str(tmp_path / "*.milepost")
    run = warm_programs().run(program, pattern, str(rounds), env=environment())
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout) > rounds // 20


@pytest.mark.usefixtures("warm_workers")
def test_workers_read_through_a_link_what_its_writer_has_just_committed(tmp_path: Path, two_workers: list[str]) -> None:
    """The WAL lies beside the target, not beside the link."""
    with contextlib.ExitStack() as stack:
        for number in range(4):
            path = make(tmp_path / f"{number}.milepost", chain(20))
            (tmp_path / f"{number}.link").symlink_to(path.name)
            stack.enter_context(CheckpointStore(path, durability="normal")).append(entry(21))
        with open_many(str(tmp_path / "*.link")) as fleet:
            found = fleet.verify(workers=2)
            assert {answer.value.entries for answer in found.values()} == {21}
            assert len(two_workers) == 4


# The values


def test_answers_are_a_mapping_that_cannot_be_changed_and_pickles(tmp_path: Path) -> None:
    """Compared by value, errors too; what is no file of the fleet is a KeyError, as of a dict."""
    file, missing = str(make(tmp_path / "a.milepost", chain(3))), str(tmp_path / "b.milepost")
    with open_many([file, missing]) as fleet:
        for ask, _ in QUESTIONS.values():
            answers, again = ask(fleet), ask(fleet)
            assert pickle.loads(pickle.dumps(answers)) == answers
            assert {type(answer) for answer in answers.values()} == {Answer}
            if "summary" not in str(type(answers)).lower():
                assert {hash(answer) for answer in answers.values()} == {hash(answer) for answer in again.values()}
            assert "b.milepost" in repr(answers[missing])
            with pytest.raises(AttributeError):
                answers[file].error = None  # type: ignore[misc]
            with pytest.raises(TypeError):
                answers[file] = answers[missing]  # type: ignore[index]
            with pytest.raises(KeyError):
                answers["c.milepost"]
        assert fleet.resume_points() == fleet.resume_points()
        assert fleet.resume_points() != fleet.resume_points("run-8")
        assert fleet.resume_points()[file] != fleet.resume_points()[missing]


def test_a_question_that_fails_is_the_error_of_its_file_and_a_mistake_in_it_passes_through(tmp_path: Path) -> None:
    """So that a typo in the question is no broken file."""
    file = make(tmp_path / "a.milepost", chain(3))
    with open_many([file]) as fleet:
        answers = fleet.ask(lambda store: store.resume_point_for_stage("never"))
        assert type(answers[str(file)].error) is NoCheckpointError
        assert type(fleet.ask(lambda store: store.append(entry(9)))[str(file)].error) is ReadOnlyStoreError
        with pytest.raises(ZeroDivisionError):
            fleet.ask(lambda store: 1 / 0)

        class OwnError(MilepostError):
            def __init__(self, *, why: str) -> None:
                super().__init__(why, "more")

        def fails(_: CheckpointStore) -> None:
            error = OwnError(why="it is its own cause")
            raise error from error

        with pytest.raises(OwnError, match="its own cause"):
            _ = fleet.ask(fails)[str(file)].value


def test_a_store_that_a_question_keeps_is_closed(tmp_path: Path) -> None:
    """So is what it began to read, which is told, and is no empty answer."""
    kept: list[CheckpointStore] = []
    with open_many([make(tmp_path / "a.milepost", chain(900))]) as fleet:
        assert not fleet.ask(kept.append).errors
        (answer,) = fleet.ask(lambda store: store.history()).values()
        with pytest.raises(ClosedStoreError):
            list(answer.value)
    with pytest.raises(ClosedStoreError):
        kept[0].latest()
    kept[0].close()


def test_a_closed_fleet_says_so(tmp_path: Path) -> None:
    """Each method; closing twice is once."""
    file = str(make(tmp_path / "a.milepost", chain(3)))
    with open_many([file]) as fleet:
        pass
    assert "closed" in repr(fleet)
    fleet.close()
    calls = [ask for ask, _ in QUESTIONS.values()]
    others: list[Callable[[Fleet], object]] = [
        lambda f: f.compare("run-7", file=file, other_file=file),
        lambda f: f.frame(),
        lambda f: f.__enter__(),
    ]
    for call in [*calls, *others]:
        with pytest.raises(ClosedStoreError, match="open_many"):
            call(fleet)
    assert "closed" in repr(fleet)
    assert "closed" in fleet._repr_html_()
    assert fleet.files == (file,)
    with pytest.raises(StoreError, match="pickled"):
        pickle.dumps(fleet)


def test_a_table_tells_names_apart_counts_the_rest_and_obeys_nothing(tmp_path: Path) -> None:
    """As text and as a page; the names of files are as hostile as those of runs."""
    names = ["\x1b[2J", "\u202egnp", "<script>alert(1)</script>", "a\nb", "%s{0}", "x" * 200, "--help", "[bold]x[/]"]
    for name in names:
        make(tmp_path / f"{name.replace('/', '')}.milepost", [entry(1, run_id=name, stage=name)])
    (tmp_path / "\x1b[31m.milepost").touch()
    with open_many(str(tmp_path / "*")) as fleet:
        assert len(fleet.files) == 9
        for answers in (
            fleet.resume_points(),
            fleet.runs(),
            fleet.summary(),
            fleet.verify(),
            fleet.ask(CheckpointStore.head),
        ):
            text, page = str(answers), answers._repr_html_()
            assert text.replace("\n", "").isprintable()
            assert len([line for line in text.splitlines() if "x" * 20 in line]) == 1 or isinstance(
                answers, type(fleet.summary())
            )
            assert "<script>" not in page
            assert "9 files, 1 of them unreadable" in text
            assert "9 files, 1 of them unreadable" in page
            assert "the file is empty" in text
            assert "the file is empty" in page
        assert fleet.summary()._repr_html_().split("</style>")[1] == fleet._repr_html_().split("</style>")[1]


def test_a_long_table_counts_the_files_that_it_leaves_out(tmp_path: Path) -> None:
    """Those that cannot be read are named all the same, up to a number."""
    missing = [str(tmp_path / f"{number}.milepost") for number in range(FILES_SHOWN + 25)]
    with open_many(missing) as fleet:
        for found in (str(fleet.runs()), fleet.runs()._repr_html_()):
            assert "and 25 more files" in found
            assert f"and {FILES_SHOWN + 25 - LINES_SHOWN} more files" in found


def test_a_table_is_cut_within_a_file_too(tmp_path: Path) -> None:
    """One file with more stages than a page has rows, and one behind it."""
    stages = [entry(1, stage=f"stage-{number}") for number in range(FILES_SHOWN + 7)]
    one, other = make(tmp_path / "a.milepost", stages), make(tmp_path / "b.milepost", chain(2))
    with open_many([one, other]) as fleet:
        for found in (str(fleet.resume_points()), fleet.resume_points()._repr_html_()):
            assert "and 7 more rows and 1 more file" in found
            assert found.count("stage-") == FILES_SHOWN


def test_what_stands_out_and_what_is_wrong_is_told_with_the_file(tmp_path: Path) -> None:
    """A failed run in the summary, a changed row in the verification."""
    file = make(tmp_path / "a.milepost", [])
    with CheckpointStore(file, durability="normal") as store, contextlib.suppress(OSError), store.run("nightly"):
        store.append_many(chain(3))
        raise OSError
    empty = make(tmp_path / "b.milepost", [])
    with open_many([file, empty]) as fleet:
        summary: Answers[StoreSummary] = fleet.summary()
        assert "a.milepost: run 'nightly' failed with" in str(summary)
        assert "nothing recorded yet" in str(summary)
        assert "nothing recorded yet" in str(fleet.resume_points())
        tamper(file, "UPDATE entry SET offset = 7 WHERE position = 2")
        assert "BROKEN" in str(fleet.verify())
        assert "a.milepost: position 2" in str(fleet.verify())
        assert json.loads(json.dumps(list(fleet.verify()))) == [str(file), str(empty)]
