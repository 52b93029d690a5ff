"""The command `backup`: a copy, and its head."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from milepost import CheckpointStore, Head
from support.chains import entry
from support.command import answer, run
from support.exported import recorded
from support.warm import warm_commands, warm_programs


def test_backup_is_a_copy_with_the_head_it_prints(file: Path, tmp_path: Path) -> None:
    """Also while a writer holds the file."""
    with CheckpointStore(file, durability="normal") as store:
        store.append(entry(1, run_id="later"))
        printed = answer("backup", file, tmp_path / "copy")
    assert recorded(tmp_path / "copy") == recorded(file)
    assert Head.parse(printed) == recorded(file)[1]
    assert json.loads(answer("backup", file, tmp_path / "copy-2", "--json"))["entries"] == 31


@pytest.fixture
def old(file: Path, tmp_path: Path) -> Path:
    """An older copy: the store has one entry more."""
    path = tmp_path / "old.milepost"
    answer("backup", file, path)
    with CheckpointStore(file, durability="normal") as store:
        store.append(entry(1, run_id="later"))
    return path


def _names(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def test_overwrite_replaces_an_older_copy(file: Path, old: Path) -> None:
    """With the whole of the store, and nothing is left beside it; without the option, or where no file is, as ever."""
    before = old.read_bytes()
    refused = run("backup", file, old)
    assert (refused.exit_code, old.read_bytes()) == (3, before)
    assert "give --overwrite" in refused.stderr
    assert Head.parse(answer("backup", file, old, "--overwrite")) == recorded(file)[1]
    assert recorded(old) == recorded(file)
    answer("backup", file, old.with_name("new.milepost"), "--overwrite")
    assert _names(old.parent) == ["new.milepost", "old.milepost", "orders.milepost"]
    with CheckpointStore(old) as store:
        store.append(entry(2, run_id="later"))
        assert store.verify().ok


def test_overwrite_through_a_link_replaces_the_file_that_it_leads_to(file: Path, old: Path) -> None:
    """The link stays one."""
    link = old.with_name("link")
    link.symlink_to(old.name)
    answer("backup", file, link, "--overwrite")
    assert link.is_symlink()
    assert recorded(old) == recorded(file)


def test_overwrite_replaces_nothing_but_a_file_of_milepost(file: Path, tmp_path: Path) -> None:
    """Whatever else is there, the store itself above all, stays as it is."""
    (tmp_path / "text").write_text("mine")
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    subprocess.run([sys.executable, "-c", "import sqlite3; sqlite3.connect('other').execute('CREATE TABLE t (x)')"],
                   cwd=tmp_path, check=True)  # fmt: skip
    (tmp_path / "same").hardlink_to(file)
    (tmp_path / "itself").symlink_to(file)
    before = {each: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()}
    for name in ("text", "empty", "folder", "other", "same", "itself", file.name):
        result = run("backup", file, tmp_path / name, "--overwrite")
        assert result.exit_code == 3, name
        assert result.stdout == ""
    assert {each: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()} == before
    assert _names(tmp_path) == sorted(["folder", *(each.name for each in before)])


@pytest.mark.parametrize(
    "program",
    [
        "from milepost import CheckpointStore as S; s = S(sys.argv[1])",
        "import sqlite3; s = sqlite3.connect(sys.argv[1]); s.execute('SELECT * FROM entry').fetchall()",
    ],
)
def test_overwrite_replaces_no_file_that_a_program_has_open(file: Path, old: Path, program: str) -> None:
    """The new file would get its WAL and its shared memory, also those of another tool that only reads."""
    other = warm_programs().talk("-c", f"import sys; {program}; print('open', flush=True); input(); s.close()", old)
    assert other.stdout.readline() == b"open\n"
    result = run("backup", file, old, "--overwrite")
    other.communicate(b"\n")
    assert result.exit_code == 3
    assert "a program has this file open" in result.stderr
    assert len(recorded(old)[0]) == len(recorded(file)[0]) - 1
    answer("backup", file, old, "--overwrite")


def test_a_reader_of_the_older_copy_goes_on_with_the_new_one(file: Path, old: Path) -> None:
    """Milepost's own readers hold no lock on a file that nobody writes, and see that it was replaced."""
    with CheckpointStore.open_readonly(old) as store:
        assert len(store) == len(recorded(file)[0]) - 1
        answer("backup", file, old, "--overwrite")
        assert list(store.history()) == recorded(file)[0]


def test_overwrite_replaces_no_file_with_a_log_beside_it(file: Path, old: Path) -> None:
    """It is of a writer that was killed, and SQLite would replay it into the new file."""
    program = (
        "import os, sys\nfrom support.chains import entry\nfrom milepost import CheckpointStore\n"
        "store = CheckpointStore(sys.argv[1])\nstore.append(entry(1, run_id='later'))\nos.kill(os.getpid(), 9)"
    )
    killed = warm_programs().run("-c", program, old, cwd=Path(__file__).parent)
    assert killed.returncode == -signal.SIGKILL
    result = run("backup", file, old, "--overwrite")
    assert result.exit_code == 3
    assert f"{old.name}-wal is not empty" in result.stderr
    assert recorded(old) == recorded(file)
    CheckpointStore(old).close()
    answer("backup", file, old, "--overwrite")
    assert recorded(old) == recorded(file)


def test_overwrite_replaces_no_record_that_the_store_does_not_have(file: Path, old: Path) -> None:
    """Another store, a copy that went on by itself, or one of before an archive: it may be the only record."""
    another = old.with_name("another.milepost")
    with CheckpointStore(another, durability="normal") as store:
        store.append(entry(1))
    with CheckpointStore(old, durability="normal") as store:
        store.append(entry(1, run_id="elsewhere"))
    for target in (another, old):
        before = target.read_bytes()
        result = run("backup", file, target, "--overwrite")
        assert (result.exit_code, target.read_bytes()) == (3, before)
        assert f"it has entries that {file} does not have" in result.stderr
    earlier, sealed = old.with_name("earlier.milepost"), old.with_name("sealed.milepost")
    answer("backup", file, earlier)
    with CheckpointStore(file, durability="normal") as store:
        (receipt, _, _) = next(store.receipts(after=9, limit=1))
        store.archive(sealed, before=Head(receipt.position, receipt.signature))
    for target in (earlier, sealed):
        assert "because they were archived" in run("backup", file, target, "--overwrite").stderr
    now = old.with_name("now.milepost")
    answer("backup", file, now)
    assert Head.parse(answer("backup", file, now, "--overwrite")) == recorded(file)[1]
    empty = old.with_name("empty.milepost")
    CheckpointStore(empty).close()
    assert run("backup", empty, now, "--overwrite").exit_code == 3


def test_overwrite_sees_a_file_that_changes_during_the_copy(file: Path, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another program records there meanwhile is not lost."""
    backup = CheckpointStore.backup

    def slow(store: CheckpointStore, path: str) -> Head:
        with CheckpointStore(old, durability="normal") as other:
            other.append(entry(7, run_id="meanwhile"))
        return backup(store, path)

    monkeypatch.setattr(CheckpointStore, "backup", slow)
    result = run("backup", file, old, "--overwrite")
    assert result.exit_code == 3
    assert "another program has just changed it" in result.stderr
    assert recorded(old)[0][-1].run_id == "meanwhile"


@pytest.mark.parametrize(
    ("step", "replaced"),
    [("os.open", False), ("os.mkdir", False), ("os.ftruncate", False), ("os.link", False), ("os.replace", True)],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_leaves_the_old_copy_or_the_new_one(file: Path, old: Path, step: str, replaced: bool, when: str) -> None:
    """And what it leaves beside it is removed by the next."""
    function = step.removeprefix("os.")
    program = (
        f"import os, sys\nfrom milepost.cli import commands\nreal = os.{function}\n"
        f"def killed(*given, **options):\n"
        f"    if {when!r} == 'after': real(*given, **options)\n"
        f"    os.kill(os.getpid(), 9)\n"
        f"os.{function} = killed\ncommands()"
    )
    expected, before = recorded(file), recorded(old)
    ended = warm_commands(warnings=None).run("-c", program, "backup", file, old, "--overwrite")
    assert ended.returncode == -signal.SIGKILL
    assert recorded(old) == (expected if replaced and when == "after" else before)
    with CheckpointStore.open_readonly(old) as store:
        assert store.verify().ok
    answer("backup", file, old, "--overwrite")
    assert recorded(old) == expected
    assert _names(old.parent) == ["old.milepost", "orders.milepost"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anything")
def test_a_copy_that_is_protected_is_not_overwritten(file: Path, old: Path) -> None:
    """A file that nobody may write stays."""
    old.chmod(0o400)
    assert run("backup", file, old, "--overwrite").exit_code == 3
    assert len(recorded(old)[0]) == len(recorded(file)[0]) - 1
