"""Where a store is shipped to: a directory, a URL, a store of obstore; each puts an object once, and durably."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import milepost
from milepost import InvalidArgumentError, MissingPackageError, TargetError
from milepost.targets import DirectoryTarget, ObjectTarget, Target, checked_name, target_of
from support.programs import PROGRAMS
from support.syncs import synced_inodes
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Callable

obstore = pytest.importorskip("obstore")


@pytest.fixture(params=["directory", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    """One of each kind."""
    return target_of(tmp_path / "target" if request.param == "directory" else obstore.store.MemoryStore())


def test_an_object_is_put_once_and_stays_as_it_was(target: Target) -> None:
    """The second one is told."""
    assert target.put_new("orders/log/1", b"one")
    assert not target.put_new("orders/log/1", b"two")
    assert target.get("orders/log/1") == b"one"
    assert target.get("orders/log/2") is None


def test_a_folder_is_listed_in_order_and_from_a_name_on(target: Target) -> None:
    """Without what begins with its name."""
    assert target.objects("orders/log") == []
    for name in ("orders/log/2", "orders/log/1", "orders/log/3", "orders/logs/9", "other/log/8"):
        target.put_new(name, b"12")
    assert target.objects("orders/log", "orders/log/1") == [("orders/log/2", 2), ("orders/log/3", 2)]
    target.remove(["orders/log/2", "orders/log/7"])
    assert [name for name, _ in target.objects("orders/log")] == ["orders/log/1", "orders/log/3"]


def test_an_object_that_is_too_large_for_a_segment_is_not_read(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may write to the target could fill the memory of who restores; what comes is refused as no segment."""
    monkeypatch.setattr("milepost.targets.MOST_OBJECT_BYTES", 4)
    target.put_new("orders/log/1", b"1234")
    target.put_new("orders/log/2", b"12345")
    assert (target.get("orders/log/1"), target.get("orders/log/2")) == (b"1234", b"")


def test_of_many_threads_one_puts_the_object(target: Target) -> None:
    """And all see its bytes."""
    won: list[bytes] = []

    def put(number: int) -> None:
        data = b"%d" % number * 1000
        if target.put_new("orders/log/1", data):
            won.append(data)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert won == [target.get("orders/log/1")]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "/a",
        "a\\b",
        ".hidden",
        "-x",
        "ü",
        "a b",
        "a\0",
        "a\n",
        "x" * 201,
        "x" * 1024,
        b"x",
        5,
        None,
        "a:b",
        "a%2F",
        "~",
    ],
)
def test_a_name_that_is_not_the_same_everywhere_is_refused(tmp_path: Path, store: Any, name: Any) -> None:
    """Before anything is put: slashes, dots alone, other alphabets, 1,024 bytes."""
    with pytest.raises(InvalidArgumentError, match="add folders to the target instead"):
        milepost.ship(store, tmp_path / "target", name)
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("name", ["a", "orders", "Orders-2026_11.28", "0" * 200])
def test_an_ordinary_name_is_taken(name: str) -> None:
    """Letters, digits, dots, underscores, hyphens."""
    assert checked_name(name) == name


def test_what_is_no_target_is_refused(tmp_path: Path) -> None:
    """Values that name no place, and URLs that obstore does not know."""
    for wrong in (None, 5, b"x" * 5000, object(), "", "a\0b"):
        with pytest.raises(InvalidArgumentError):
            target_of(wrong)
    for elsewhere in ("file://shared/orders", "file://", "file://localhost", "file:///shared#1", "file:///shared?1"):
        with pytest.raises(InvalidArgumentError, match="absolute path"):
            target_of(elsewhere)  # which would be another directory than it says
    with pytest.raises(TargetError, match=r"foo://x: .*check the target"):
        target_of("foo://x")


def test_a_path_a_file_url_and_a_local_store_are_the_same_directory(tmp_path: Path) -> None:
    """Which milepost writes itself, since the puts of obstore are not synced."""
    local = obstore.store.LocalStore(str(tmp_path))
    for given in (tmp_path, str(tmp_path), tmp_path.as_uri(), local):
        found = target_of(given)
        assert isinstance(found, DirectoryTarget)
        found.put_new("orders/log/1", str(given).encode())
    assert (tmp_path / "orders/log/1").read_bytes() == str(tmp_path).encode()


def test_a_memory_url_means_one_store_in_a_process() -> None:
    """So that what is shipped there can be restored."""
    target_of("memory://of-this-test").put_new("a/log/1", b"1")
    assert target_of("memory://of-this-test").get("a/log/1") == b"1"
    assert target_of("memory://another").get("a/log/1") is None


def test_a_target_that_needs_obstore_says_how_to_install_it(tmp_path: Path) -> None:
    """A directory needs nothing."""
    program = (
        "import sys; sys.modules['obstore'] = None\n"
        "import milepost\n"
        "with milepost.CheckpointStore('a.milepost') as store:\n"
        "    milepost.ship(store, 'target', 'orders').ship()\n"
        "    try: milepost.ship(store, 's3://bucket', 'orders')\n"
        "    except milepost.MissingPackageError as error: print(error)\n"
    )
    found = warm_programs().run("-c", program, cwd=tmp_path)
    assert found.stdout == 'this needs obstore, which is not installed: pip install "milepost[ship]"\n'
    assert issubclass(MissingPackageError, ImportError)


def test_an_error_of_an_object_store_is_one_sentence() -> None:
    """Whatever the client raises, with its first line."""

    class Broken:
        pass

    target = ObjectTarget(Broken(), "s3://bucket")
    calls: list[Callable[[], object]] = [
        lambda: target.put_new("a", b""),
        lambda: target.get("a"),
        lambda: target.objects("a"),
        lambda: target.remove(["a"]),
    ]
    for call in calls:
        with pytest.raises(TargetError, match=r"^s3://bucket: .*check the target, its credentials and the network$"):
            call()


def test_a_file_appears_after_its_bytes_and_its_name_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is synced before it has its name, and its directory after."""
    done: list[str] = []
    sync, link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        done.append("sync directory" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "sync file")
        sync(descriptor)

    def linked(old: str, new: str, **options: Any) -> None:
        done.append("link")
        link(old, new, **options)

    target = target_of(tmp_path)
    target.put_new("orders/log/1", b"")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", linked)
    target.put_new("orders/log/2", b"x")
    assert done == ["sync file", "link", "sync directory"]
    assert not target.put_new("orders/log/2", b"y")
    assert done[3:] == ["sync file", "link", "sync directory"]


def test_what_a_killed_process_left_half_written_is_no_object(tmp_path: Path) -> None:
    """It is not listed, and removed once it is a day old."""
    target = target_of(tmp_path)
    for folder in ("log", "merged"):
        target.put_new(f"orders/{folder}/1", b"x")
        left, young = tmp_path / f"orders/{folder}/.new-1", tmp_path / f"orders/{folder}/.new-2"
        left.write_bytes(b"half")
        young.write_bytes(b"half")
        os.utime(left, (1, 1))
        os.utime(young, (time.time() - 80_000,) * 2)
        assert [name for name, _ in target.objects(f"orders/{folder}")] == [f"orders/{folder}/1"]
        target.tidy("orders")
        assert (left.exists(), young.exists()) == (False, True)


def test_a_put_leaves_nothing_but_the_object(tmp_path: Path) -> None:
    """Nor does one that comes too late, nor one that the disk refuses."""
    target = target_of(tmp_path)
    for _ in range(2):
        target.put_new("orders/log/1", b"x")
        assert [each.name for each in (tmp_path / "orders/log").iterdir()] == ["1"]
    with pytest.raises(TargetError):
        target.put_new("orders/log/" + "x" * 300, b"x")
    assert [each.name for each in (tmp_path / "orders/log").iterdir()] == ["1"]


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """No parent, a file in its place."""
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "missing/target", tmp_path / "file"):
        with pytest.raises(TargetError, match="check the directory and its disk"):
            target_of(wrong).put_new("orders/log/1", b"")
        assert target_of(wrong).get("orders/log/1") is None
        assert target_of(wrong).objects("orders/log") == []


def test_the_folders_of_an_object_are_durable_before_it_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each in the one above it, also those that another process has made just now; the target is its owner's alone."""
    synced = synced_inodes(monkeypatch)
    root = tmp_path / "target"
    folders = [root / "orders/log", root / "orders", root, tmp_path]
    for name in ("orders/log/1", "orders/log/2"):
        synced.clear()
        target_of(root).put_new(name, b"x")
        assert {folder.stat().st_ino for folder in folders} <= set(synced)
    assert root.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_another_process_makes_meanwhile_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look for it and the making of it."""
    assert target_of(tmp_path).put_new("orders/log/1", b"x")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_dir", lambda _self: False)
        assert target_of(tmp_path).put_new("orders/log/2", b"x")
    assert [name for name, _ in target_of(tmp_path).objects("orders/log")] == ["orders/log/1", "orders/log/2"]


def test_an_object_that_goes_while_its_folder_is_listed_is_left_out(tmp_path: Path) -> None:
    """It has a name still, and is no more, as a link to nothing."""
    target = target_of(tmp_path)
    target.put_new("orders/log/1", b"x")
    (tmp_path / "orders/log/2").symlink_to("nothing")
    assert target.objects("orders/log") == [("orders/log/1", 1)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_an_object_store_that_was_used_before_a_fork_is_refused_in_the_child(tmp_path: Path) -> None:
    """Its threads are not there, and a call would never return; a directory works, and so does the parent."""
    program = (
        "import os, milepost\n"
        "from milepost.targets import target_of\n"
        "target_of('memory://').put_new('a', b'')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    target_of('target').put_new('a/log/1', b'')\n"
        "    try: target_of('memory://').get('a')\n"
        "    except milepost.TargetError as error: print(error, flush=True)\n"
        "    os._exit(7)\n"
        "code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "print(code, target_of('memory://').get('a'), flush=True)\n"
        "os._exit(0)\n"  # obstore 0.12 may crash at the end of an interpreter that has forked
    )
    found = warm_programs().run("-c", program, cwd=tmp_path)
    refused, parent = found.stdout.splitlines()
    assert refused.startswith("memory://: obstore was used before this process was forked")
    assert parent == "7 b''"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nobody forks here")
@pytest.mark.parametrize("leaves", ["leaves", "goes-on"])
@pytest.mark.parametrize("waits", ["waits", "at-once"])
def test_a_child_that_is_forked_within_a_put_changes_nothing_of_it(tmp_path: Path, leaves: str, waits: str) -> None:
    """Neither its file, while it is made, nor the object, once it was acknowledged."""
    ended = warm_programs().run(PROGRAMS / "forks_within_put.py", tmp_path, leaves, waits)
    assert (ended.returncode, ended.stderr) == (0, "")
    put, children = ended.stdout.split()
    assert int(children) > 5
    assert put == "True" or leaves != "leaves"  # a child that goes on may have put it
    target = DirectoryTarget(str(tmp_path))
    assert target.get("orders/log/1") == b"an object"
    assert target.put_new("orders/log/2", b"an object")
