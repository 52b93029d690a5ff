"""Processes that append, read, verify and archive one file at once: nothing is lost or doubled, and no fault is found."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from milepost import Checkpoint, CheckpointStore
from support.chains import chain, entry
from support.programs import PROGRAMS, environment
from support.warm import warm_programs


def _together(path: Path, roles: list[str], seconds: float) -> dict[str, list[dict[str, Any]]]:
    """Let processes of these roles work on a file for a while. Return what each says at the end, by role."""
    numbers: Counter[str] = Counter()
    CheckpointStore(path).close()
    processes = []
    for role in roles:
        program = (PROGRAMS / "beside_archive.py", path, f"{role}r-{numbers[role]}", role)
        numbers[role] += 1
        processes.append((role, warm_programs(warnings=None).talk_text(*program, stderr=2, env=environment())))
    # On a busy machine a process may take longer to start than all of this is to last.
    while not _all_at_work(path) and all(process.poll() is None for _, process in processes):
        time.sleep(0.01)
    time.sleep(seconds)
    path.with_name(f"{path.name}-stop").touch()
    said: dict[str, list[dict[str, Any]]] = {role: [] for role in roles}
    for role, process in processes:
        out, _ = process.communicate()
        assert process.returncode == 0
        said[role].append(json.loads(out))
    return said


def _all_at_work(path: Path) -> bool:
    with CheckpointStore.open_readonly(path) as store:
        return len(list(path.parent.glob(f"{path.name}-archive-*"))) > 1 and store.latest("writer-0") is not None


def _all_of_it(path: Path) -> list[Checkpoint]:
    """What was recorded, from the archives and the file; each archive goes on where the one before it ends."""
    archives: dict[tuple[int, int], Path] = {}
    for made in path.parent.glob(f"{path.name}-archive-*"):
        with CheckpointStore.open_readonly(made) as store:  # two that were asked for the same are the same
            archives[store.base.entries, store.head().entries] = made
    found: list[Checkpoint] = []
    for (begin, end), made in sorted(archives.items()):
        assert begin == len(found)
        with CheckpointStore.open_readonly(made) as store:
            found += store.history(after=begin)
        assert end == len(found)
    with CheckpointStore.open_readonly(path) as store:
        assert store.verify(archives=archives.values()).elsewhere == 0
        assert store.verify().ok
        assert store.base.entries == len(found)
        return found + list(store.history(after=store.base.entries))


@pytest.mark.parametrize(
    ("roles", "seconds"),
    [
        (["archive", "write", "write", "read"], 0.4),
        pytest.param(["archive", *["write"] * 8, "read", "read"], 30, marks=pytest.mark.long),
        pytest.param(["archive", "archive", "archive", "write", "write", "read"], 30, marks=pytest.mark.long),
    ],
)
def test_archives_beside_writers_and_readers_lose_double_and_accuse_nothing(
    path: Path, roles: list[str], seconds: float
) -> None:
    """A walk completes, or raises EntriesArchivedError; of several who archive at once each succeeds or is told."""
    said = _together(path, roles, seconds)
    print(said)
    assert [each["problems"] for each in [*said["read"], *said["archive"]]] == [[]] * (len(roles) - roles.count("write"))
    assert sum(each["made"] for each in said["archive"]) > 1
    recorded = [each for each in _all_of_it(path) if each.run_id != "milepost"]
    for number, each in enumerate(said["write"]):
        own = [found.sequence for found in recorded if found.run_id == f"writer-{number}"]
        assert own == list(range(1, each["entries"] + 1))


def test_threads_that_archive_at_once_through_one_store_all_end(path: Path) -> None:
    """Beside tasks that append: each archive succeeds, or is told that another one was made."""
    refused: list[str] = []

    async def main() -> None:
        async with CheckpointStore(path, durability="normal") as store:
            store.append_many(chain(200))

            async def archive(name: int) -> None:
                for step in range(4):
                    target = path.with_name(f"{path.name}-archive-{step}-{name}")
                    try:
                        await asyncio.to_thread(store.archive, target, before=store.head())
                    except Exception as error:  # noqa: BLE001 - whatever it is
                        refused.append(str(error))

            async def append(name: int) -> None:
                for number in range(1, 41):
                    await store.append_async(entry(number, run_id=f"task-{name}"))

            await asyncio.gather(*(archive(name) for name in range(3)), *(append(name) for name in range(4)))

    asyncio.run(main())
    assert [said for said in refused if "same time" not in said] == []
    recorded = _all_of_it(path)
    for name in range(4):
        assert [each.sequence for each in recorded if each.run_id == f"task-{name}"] == list(range(1, 41))
    assert len([each for each in recorded if each.run_id == "run-7"]) == 200


def test_a_fork_while_another_thread_archives_leaves_both_processes_a_whole_file(path: Path) -> None:
    """The child opens a store of its own; the archive goes on in the parent."""
    program = (
        "import os, sys, threading\n"
        "from milepost import CheckpointStore, archive\n"
        "from support.chains import chain, entry\n"
        "archive._STEP = 20\n"
        "store = CheckpointStore(sys.argv[1], durability='normal')\n"
        "store.append_many(chain(3000))\n"
        "head, target = store.head(), sys.argv[1] + '-archive-1'\n"
        "thread = threading.Thread(target=lambda: store.archive(target, before=head))\n"
        "thread.start()\n"
        "for number in range(10):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        with CheckpointStore(sys.argv[1], durability='normal') as own:\n"
        "            own.append(entry(1, run_id=f'child-{number}'))\n"
        "        os._exit(0)\n"
        "    assert os.waitpid(child, 0)[1] == 0\n"
        "thread.join()\n"
        "assert store.base.entries == 3000\n"
        "store.close()\n"
    )
    ended = warm_programs().run("-c", program, path, env=environment())
    assert (ended.returncode, ended.stderr) == (0, "")
    assert {f"child-{number}" for number in range(10)} <= {each.run_id for each in _all_of_it(path)}
