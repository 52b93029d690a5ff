"""Fixtures for the dose, the disk, the filled stores and the race, and the table at the end."""

from __future__ import annotations

import platform
import tempfile
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

import apsw
import pytest

from benchmarks import floor
from benchmarks.race import Race, Result, table
from benchmarks.workload import CHUNK, checkpoint, many_runs
from milepost import CheckpointStore

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from pytest_benchmark.fixture import BenchmarkFixture

SMALL: Final = 1_000
QUICK_SIZES: Final = (SMALL, 100_000)
FULL_SIZES: Final = (SMALL, 100_000, 1_000_000)
LONG_SIZE: Final = 10_000_000

HEAD: Final = ("work (µs an operation, if not said)", "floor", "milepost", "ratio", "P90", "P99", "max", "to reach", "")

_results = pytest.StashKey[dict[str, list[Result]]]()
_directory = pytest.StashKey[Path]()
peer_results = pytest.StashKey[dict[str, dict[str, str]]]()
"""The cells of the peers' table: by work, then by peer."""


@dataclass(frozen=True, slots=True)
class Dose:
    """The amount of work to measure."""

    quick: bool

    def of(self, full: int, quick: int) -> int:
        """Choose a number by the dose."""
        return quick if self.quick else full


@dataclass(frozen=True, slots=True)
class Filled:
    """A closed store and a closed file of the floor with its indexes, with the same `size` rows of many runs."""

    size: int
    path: Path
    floor_path: Path


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options `--quick` and `--benchmark-directory`."""
    group = parser.getgroup("milepost's benchmarks")
    group.addoption(
        "--quick", action="store_true", help="measure a small dose: fewer rounds, stores of up to 100,000 entries"
    )
    group.addoption("--benchmark-directory", type=Path, help="put the measured files into this directory, on a real disk")


def pytest_configure(config: pytest.Config) -> None:
    """Replace pytest-benchmark's table by this one. `--benchmark-verbose` still shows the other."""
    config.stash[_results] = {}
    config.stash[peer_results] = {}
    config.option.benchmark_quiet = not config.getoption("benchmark_verbose")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize `size` with every size of the dose, and `large` with the largest."""
    sizes = QUICK_SIZES if metafunc.config.getoption("quick") else FULL_SIZES
    for name, chosen in (("size", sizes), ("large", sizes[-1:])):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, [*chosen, pytest.param(LONG_SIZE, marks=pytest.mark.long)])


@pytest.fixture(scope="session")
def dose(request: pytest.FixtureRequest) -> Dose:
    """Return the chosen dose."""
    return Dose(quick=request.config.getoption("quick"))


@pytest.fixture(scope="session")
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Make a directory on a real disk, and remove it at the end."""
    given: Path | None = request.config.getoption("benchmark_directory")
    places = [Path(tempfile.gettempdir()), Path(__file__).parent / "results"]
    parent = given or next((place for place in places if _filesystem(place) not in {"tmpfs", "ramfs"}), places[-1])
    with tempfile.TemporaryDirectory(prefix="milepost-benchmark-", dir=parent) as name:
        request.config.stash[_directory] = Path(name)
        yield Path(name)


@pytest.fixture
def place(directory: Path) -> Iterator[Callable[[], Path]]:
    """Give paths of new files, and remove the files after the benchmark."""
    numbers = count(1)
    with tempfile.TemporaryDirectory(dir=directory) as name:
        yield lambda: Path(name, f"{next(numbers)}.milepost")


@pytest.fixture(scope="session")
def filled(directory: Path) -> Callable[[int], Filled]:
    """Give a store and a floor of a size, each filled once."""
    made: dict[int, Filled] = {}

    def fill(size: int) -> Filled:
        if size not in made:
            made[size] = Filled(size, directory / f"{size}.milepost", directory / f"{size}.floor")
            _fill(made[size])
        return made[size]

    return fill


def _fill(empty: Filled) -> None:
    with CheckpointStore(empty.path, durability="normal") as store:
        connection = floor.create(empty.floor_path, "normal")
        for first in range(1, empty.size + 1, CHUNK):
            rows = [many_runs(number) for number in range(first, min(first + CHUNK, empty.size + 1))]
            store.append_many(map(checkpoint, rows))
            floor.append_many(connection, rows)
        for index in floor.INDEXES:
            connection.execute(index)
        assert len(store) == connection.execute("SELECT count(*) FROM checkpoint").get == empty.size
        connection.close()


@pytest.fixture
def race(request: pytest.FixtureRequest, benchmark: BenchmarkFixture) -> Race:
    """Return the race between milepost and the floor."""
    return Race(benchmark, request.config.stash[_results].setdefault(request.module.__name__, []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of ratios, and a second one if peers were measured."""
    lines: list[tuple[str, ...]] = []
    for results in config.stash[_results].values():
        lines += [(), *(result.cells() for result in results)]
    if lines:
        _print(terminalreporter, "milepost and the floor", table(HEAD, lines))
        terminalreporter.write_line("")
        terminalreporter.write_line(
            "Medians over rounds in which both took turns; the ratio is the median of the rounds' ratios.\n"
            "P90, P99 and max are milepost's, of single operations. The figures to reach are ratios, or, where\n"
            "written without decimals, milepost's own value.\n" + _machine(config.stash.get(_directory, None))
        )
    peers = config.stash[peer_results]
    if peers:
        names = list(dict.fromkeys(name for cells in peers.values() for name in cells))
        head = ("ratio to the floor", *names)
        _print(
            terminalreporter,
            "milepost and its peers",
            table(head, [(work, *(cells.get(name, "") for name in names)) for work, cells in peers.items()]),
        )


def _print(reporter: pytest.TerminalReporter, title: str, lines: list[str]) -> None:
    reporter.section(title)
    for line in lines:
        reporter.write_line(line)


def _machine(directory: Path | None) -> str:
    where = f", files on {_filesystem(directory)} in {directory.parent}" if directory else ""
    return (
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}, APSW {apsw.apsw_version()}, "
        f"SQLite {apsw.sqlite_lib_version()}{where}"
    )


def _filesystem(path: os.PathLike[str]) -> str:
    """Return the kind of a path's file system as Linux names it, or `a disk` elsewhere."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return "a disk"
    resolved = Path(path).resolve()
    kinds = {Path(line.split()[1].replace("\\040", " ")): line.split()[2] for line in mounts.read_text().splitlines()}
    return next(kinds[parent] for parent in (resolved, *resolved.parents) if parent in kinds)
