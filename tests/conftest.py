"""Fixtures: a path for a store, and a store whose chain is verified when the test ends."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, settings

from milepost import CheckpointStore, workers
from support.chains import mixed
from support.used_store import used_store
from support.warm import warm_programs

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# Tests start hundreds of Pythons. Where the environment says that none keeps bytecode, each would compile milepost anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

MEMORY: Final = Path("/dev/shm")
ROOM: Final = 1 << 30  # bytes; the tests need a quarter of that

# The machines that run this are shared: how long an example takes says nothing.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("default")


def pytest_configure() -> None:
    """Put the stores of tests into memory where there is room; a test that wants a real disk takes `disk_path`."""
    fits = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM
    if fits and "TMPDIR" not in os.environ:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None  # look again


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """With `-n auto`, run one worker more than there are processors: some tests wait, for a lock, a timer or a child."""
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return processors + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs ends; a long dose may take as long as it takes."""
    at_most = pytest.mark.timeout(600)
    for item in items:
        if item.get_closest_marker("long") is None:
            item.add_marker(at_most)


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_arrives() -> None:
    """A shell makes what it begins in the background ignore Ctrl-C, and so would every program that a test starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test may make a store."""
    return tmp_path / "orders.milepost"


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """Where a test may make a store whose syncs go to a disk."""
    place = Path("/var/tmp")
    with tempfile.TemporaryDirectory(prefix="milepost-disk-", dir=place if place.is_dir() else None) as directory:
        yield Path(directory).resolve() / "orders.milepost"


@pytest.fixture
def store(path: Path) -> Iterator[CheckpointStore]:
    """A new store, without the wait for the disk; when the test ends its chain must hold."""
    with CheckpointStore(path, durability="normal", clock=Clock()) as store:
        yield store
        store.verify().raise_if_broken()


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CheckpointStore]:
    """A store that the tests of a module share, each leaving one more good entry in it."""
    with used_store(tmp_path_factory.mktemp("used") / "orders.milepost") as store:
        yield store


@pytest.fixture
def file(path: Path) -> Path:
    """A file with three runs of three stages."""
    with CheckpointStore(path, durability="normal") as store:
        store.append_many(mixed(30))
    return path


@pytest.fixture
def reader(file: Path) -> Iterator[CheckpointStore]:
    """The store of that file, with which what a command says should agree."""
    with CheckpointStore.open_readonly(file) as store:
        yield store


@pytest.fixture
def warm_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are forked from a Python that has imported milepost, for a test that doesn't ask how they start."""
    if hasattr(os, "fork"):
        monkeypatch.setattr(workers, "start_python", lambda program: warm_programs().talk_text("-c", program))


class Clock:
    """A clock that goes on by a second at each look, from 2026-01-01."""

    def __init__(self) -> None:
        self.now_ms = 1767225600000

    def __call__(self) -> int:
        """Milliseconds since the epoch."""
        self.now_ms += 1000
        return self.now_ms


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while modules and tests are read, and leave what they have brought out of what comes after."""
    gc.disable()
    found = yield
    gc.freeze()
    gc.enable()
    return found
