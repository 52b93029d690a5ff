"""Many files asked as one: `open_many`, and the `Fleet` that it returns."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import time
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from milepost import compare, files, fleet_workers
from milepost.answers import (
    Answer,
    Answers,
    AnyAnswers,
    ResumePointsOfFiles,
    RunsOfFiles,
    Summaries,
    Verifications,
    why,
)
from milepost.arguments import check_bool, check_callable, check_integer, check_optional_name, hash_for_key
from milepost.comparison import Comparison
from milepost.database import Database
from milepost.errors import ClosedStoreError, InvalidArgumentError, MilepostError, StoreError
from milepost.fleet_workers import Task
from milepost.history import checked_filter
from milepost.html import error_page
from milepost.readable import count
from milepost.receipt import Head
from milepost.store import CheckpointStore
from milepost.times import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from milepost.checkpoint import ResumePoint
    from milepost.forensics.frames import Frame
    from milepost.signature import Hash
    from milepost.summary import RunSummary, StoreSummary
    from milepost.times import Time
    from milepost.verification import Verification

    _Open = Callable[[str], CheckpointStore]

T = TypeVar("T")

_BESIDE = ("-wal", "-shm")  # what SQLite keeps beside a file


def open_many(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    vfs: str | None = None,
    hmac_key: bytes | None = None,
) -> Fleet:
    """
    Ask many files as one, without changing a byte of them: `open_many("nodes/*.milepost")`.

    Args:
        paths: A pattern for file names (`*`, `?`, `[…]`, and `**` for any directories), or the paths of files. A `str` is
            a pattern; a path object, and each path in a list or another iterable, is taken as it stands. A pattern finds
            files in alphabetical order, when you call this, and passes over the `-wal` and `-shm` beside a file.
        vfs: The name of an SQLite VFS to open them through; None for SQLite's own.
        hmac_key: The key of their keyed chains, one for all. Only `verify` needs it.

    Raises:
        InvalidArgumentError: An argument is not what it must be, the pattern matches no file, there is no path, or the
            only one is a directory. A file that is missing or broken is no error here: each answer says so.
    """
    hash_function = hash_for_key(hmac_key)
    del hmac_key  # from here on no traceback that shows the values of variables shows it
    Database(os.curdir, vfs, hash_function)  # opens nothing, and refuses a VFS that is none
    return Fleet(_found(paths), vfs, hash_function)


def _found(paths: object) -> tuple[str, ...]:
    """Return the paths of the files, each once."""
    kind = type(paths)
    if issubclass(kind, str | bytes):
        return _matching(files.given(paths, "paths"))
    if hasattr(kind, "__fspath__"):
        path = files.given(paths, "paths")
        _refuse_directory(path)
        return (path,)
    try:
        given = iter(paths)  # type: ignore[call-overload]
    except TypeError as error:
        rule = "must be a pattern such as 'nodes/*.milepost', a path, or several paths"
        raise InvalidArgumentError("paths", paths, rule) from error
    found = tuple(dict.fromkeys(files.given(path, "paths") for path in given))
    if not found:
        raise InvalidArgumentError("paths", paths, "has no path: give at least one")
    return found


def _matching(pattern: str) -> tuple[str, ...]:
    found = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - it returns paths as the pattern spells them
    if not found:
        raise InvalidArgumentError("paths", pattern, "matches no file: check the directory and the pattern")
    if found == [pattern]:
        _refuse_directory(pattern)
    beside = {path + suffix for path in found for suffix in _BESIDE}
    return tuple(path for path in found if path not in beside)


def _refuse_directory(path: str) -> None:
    if os.path.isdir(path):  # noqa: PTH112 - `path` is a str, whatever it contains
        rule = "is a directory: give a pattern for the files in it, such as 'nodes/*.milepost'"
        raise InvalidArgumentError("paths", path, rule)


class Fleet:
    """
    Many files, asked as one; `open_many` makes it.

    Each question opens one file after the other, asks it as a store that only reads, and closes it, so a thousand files
    need no more open files than one. Between two questions nothing is open: threads may share a fleet, and a process may
    fork. Every answer is `Answers`: a row for each file, by the path that you gave. A file that cannot be read is such a
    row too, with its `error`. The files are asked one after the other, so the answers are not of one moment.

    Two paths of the same file, such as a symbolic link and its target, are two files here.
    """

    def __init__(self, found: tuple[str, ...], vfs: str | None, hash_function: Hash | None) -> None:
        self._files = found
        self._vfs = vfs
        self._hash = hash_function
        # A later change of the working directory changes no file of the fleet.
        here = "" if all(map(os.path.isabs, found)) else _working_directory()
        self._paths = {file: os.path.join(here, file) for file in found}  # noqa: PTH118 - no name is changed
        self._closed = False

    @property
    def files(self) -> tuple[str, ...]:
        """The files, as you named them."""
        return self._files

    # Lookups

    def resume_points(self, run_id: str | None = None, *, as_of: Time | None = None) -> Answers[dict[str, ResumePoint]]:
        """
        Return where every stage of every file starts again, as `CheckpointStore.resume_points`.

        Args:
            run_id: Only this run.
            as_of: What the answers would have been at this time.

        Raises:
            InvalidArgumentError: A name or a time that no checkpoint can have.
        """
        check_optional_name("run_id", run_id)
        if as_of is not None:
            to_ms("as_of", as_of)
        at_ms = _now_ms()
        return ResumePointsOfFiles(self._each(lambda store: store.resume_points(run_id, as_of=as_of)), at_ms)

    def runs(self, *, limit: int | None = None, newest_first: bool = False) -> Answers[list[RunSummary]]:
        """
        Summarize the runs of every file, as `CheckpointStore.runs`.

        Args:
            limit: Only the first so many of each file.
            newest_first: In the opposite order.

        Raises:
            InvalidArgumentError: An argument breaks a rule.
        """
        if limit is not None:
            check_integer("limit", limit)
        check_bool("newest_first", newest_first)
        at_ms = _now_ms()
        return RunsOfFiles(self._each(lambda store: store.runs(limit=limit, newest_first=newest_first)), at_ms)

    def summary(self) -> Answers[StoreSummary]:
        """Show every file in a line, and what stands out in each; each answer is that of `CheckpointStore.summary`."""
        at_ms = _now_ms()
        return Summaries(self._each(CheckpointStore.summary), at_ms)

    def ask(self, question: Callable[[CheckpointStore], T]) -> Answers[T]:
        """
        Ask every file anything: `fleet.ask(CheckpointStore.head)`, `fleet.ask(lambda store: store.latest("run-7"))`.

        Args:
            question: Called with each store in turn, opened to read. It returns what it has read: an iterator such as
                `history()` cannot be read once the store is closed, so make a list of it.

        Returns:
            What it returned for each file. A `MilepostError` that it raises is the error of that file; any other
            exception passes through.

        Raises:
            InvalidArgumentError: `question` cannot be called.
        """
        check_callable("question", question, "it takes a CheckpointStore")
        at_ms = _now_ms()
        return AnyAnswers(self._each(question), at_ms)

    # Evidence

    def verify(
        self,
        *,
        expected: Mapping[str, Head] | Mapping[Path, Head] | Mapping[str | os.PathLike[str], Head] | None = None,
        workers: int = 1,
        progress: Callable[[int, int], object] | None = None,
    ) -> Verifications:
        """
        Verify every file, as `CheckpointStore.verify`.

        Args:
            expected: Heads kept elsewhere, by file: `{"nodes/a.milepost": head}`. The chain of that file must contain it.
                Files without one are verified too, but a truncation of these cannot show.
            workers: How many processes may share the work, beside this one, which waits for them. Each verifies a file at
                a time. They share a file that is larger than the part of one of them. One process verifies keyed chains,
                whose key stays here, and files opened through a VFS.
            progress: Called with (files done, files in all) after each file.

        Returns:
            A verification for each file that can be read. Its `ok` is true if all of them are intact, and can be read.

        Raises:
            InvalidArgumentError: An argument is not what it must be, or `expected` names a file that is not in the fleet.
        """
        check_integer("workers", workers, least=1)
        if progress is not None:
            check_callable("progress", progress, "it takes the files done and the files in all")
        heads = self._heads(expected)
        self._refuse_if_closed()
        at_ms = _now_ms()
        found: dict[str, Answer[Verification]] = {}
        # Closed here: an exception of `progress` would keep the generator, and its workers, in its traceback.
        with contextlib.closing(self._verified(heads, workers)) as verified:
            for answer in verified:
                found[answer.file] = answer
                if progress is not None:
                    progress(len(found), len(self._files))
        return Verifications((found[file] for file in self._files), at_ms)

    def _heads(self, expected: object) -> dict[str, Head]:
        if expected is None:
            return {}
        try:
            given: dict[object, object] = dict(expected)  # type: ignore[call-overload]
        except Exception as error:
            if type(expected) is dict:
                raise  # it raises nothing: it comes of a signal handler
            raise InvalidArgumentError("expected", expected, "must be a dict of heads by file") from error
        heads: dict[str, Head] = {}
        for path, head in given.items():
            file = files.given(path, "expected")
            if file not in self._paths:
                raise InvalidArgumentError("expected", file, "is not one of the files: name it as `files` does")
            if type(head) is not Head:
                raise InvalidArgumentError("expected", head, "must be a milepost.Head, as head() gives and Head.parse reads")
            heads[file] = head
        return heads

    def _verified(self, heads: Mapping[str, Head], processes: int) -> Generator[Answer[Verification], None, None]:
        """Verify the files in the order in which that is fast."""
        left = dict.fromkeys(self._files, 1)  # with so many processes each
        if processes > 1 and self._hash is None and self._vfs is None:
            tasks = [Task(file, self._paths[file], self._size_bytes(file), heads.get(file)) for file in self._files]
            total = sum(task.size_bytes for task in tasks)
            large = {task.file for task in tasks if task.size_bytes * processes > total}
            left |= dict.fromkeys(large, processes)
            spread = [task for task in tasks if task.file not in large]
            with contextlib.closing(fleet_workers.verify_files(spread, processes)) as found:
                for file, verification in found:
                    del left[file]
                    yield Answer(file, None, verification)
        with self._opener() as open_file:
            for file, shared in left.items():
                question = functools.partial(CheckpointStore.verify, expected=heads.get(file), workers=shared)
                yield _answer(file, open_file, question)

    def _size_bytes(self, file: str) -> int:
        try:
            return files.size_bytes(self._paths[file])
        except (MilepostError, ValueError):  # whoever opens it says why
            return 0

    def compare(
        self,
        run_id: str,
        other_run_id: str | None = None,
        *,
        file: str | os.PathLike[str],
        other_file: str | os.PathLike[str],
    ) -> Comparison:
        """
        Compare a run of one file with a run of another, as `CheckpointStore.compare` does within a file.

        Each run is shown as it was when its file was opened. It reads every entry of both runs, in constant memory.

        Args:
            run_id: The run in `file`.
            other_run_id: The run in `other_file`; None for the same name.
            file: One file of the fleet.
            other_file: The other file.

        Returns:
            For each stage that one of them has: identical, or where they part first, and what only one of them has.

        Raises:
            NoCheckpointError: Nothing is recorded of one of them in its file.
            ArchivedStageError: Entries of one of them are in an archive.
            InvalidArgumentError: A name that no run can have, or a file that is not in the fleet.
            StoreError: One of the two files cannot be read.
        """
        other_run_id = run_id if other_run_id is None else other_run_id
        named, other_named = self._named("file", file), self._named("other_file", other_file)
        self._refuse_if_closed()
        with self._opener() as open_file:
            one, two = open_file(named)._database, open_file(other_named)._database  # noqa: SLF001 - stores of its own
            return Comparison(
                run_id, other_run_id, compare.compare_files(one, run_id, two, other_run_id), named, other_named
            )

    def _named(self, argument: str, path: object) -> str:
        file = files.given(path, argument)
        if file not in self._paths:
            raise InvalidArgumentError(argument, file, "is not one of the files: name it as `files` does")
        return file

    # Forensics: what a notebook takes (the extra `notebook`)

    def frame(
        self,
        run_id: str | None = None,
        stage: str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
    ) -> Frame:
        """
        Return the checkpoints of every file as one table, as `CheckpointStore.frame`, with the columns `file` and `error`.

        It is read when something takes it, and anew each time: one file after the other, in batches. A file that cannot be
        read, or not to its end, has a row with `file` and `error`, in which all else is NULL. Filter by `error IS NULL`
        for checkpoints alone. In a file's name, bytes that are no UTF-8 are written out.

        Args:
            run_id: Only this run.
            stage: Only this stage.
            since: Only what was recorded at this time or later.
            until: Only what was recorded at this time or earlier.

        Raises:
            InvalidArgumentError: A value that nothing recorded can have.
            MissingPackageError: arro3-core is not installed: it is part of the extra `notebook`.
        """
        from milepost.forensics import frames  # noqa: PLC0415

        checked_filter(run_id, stage, since, until, 0, None, False)
        self._refuse_if_closed()

        def batches() -> Iterator[Any]:
            with self._opener() as open_file:
                for file in self._files:
                    self._refuse_if_closed()
                    try:
                        with open_file(file) as store:
                            frame = store.frame(run_id, stage, since=since, until=until)
                            yield from frames.batches_of_file(file, frame)
                    except MilepostError as error:
                        yield frames.batch_of_unreadable(file, why(error))

        return frames.of_files(batches)

    # The end

    def close(self) -> None:
        """End the use of the fleet. Every method raises ClosedStoreError from now on. A second call does nothing."""
        self._closed = True

    def __enter__(self) -> Self:
        self._refuse_if_closed()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise StoreError(self._name(), "a fleet cannot be pickled or copied: hand over its files, and open them there")

    def __repr__(self) -> str:
        return f"<Fleet of {count(len(self._files), 'file')}{', closed' if self._closed else ''}>"

    def _repr_html_(self) -> str:
        try:
            return self.summary()._repr_html_()
        except MilepostError as error:
            return error_page(repr(self), error)

    # One file after the other

    def _name(self) -> str:
        return f"a fleet of {count(len(self._files), 'file')}"

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise ClosedStoreError(self._name(), "the fleet is closed: open it again with open_many()")

    def _each(self, question: Callable[[CheckpointStore], T]) -> list[Answer[T]]:
        self._refuse_if_closed()
        with self._opener() as open_file:
            return [_answer(file, open_file, question) for file in self._files]

    @contextlib.contextmanager
    def _opener(self) -> Iterator[_Open]:
        """Give a function that opens a file to read. At the end nothing is open, wherever an interrupt came."""
        opened: list[Database] = []

        def open_file(file: str) -> CheckpointStore:
            database = Database(files.absolute(self._paths[file]), self._vfs, self._hash)
            opened[:] = [*(each for each in opened if not each.closed), database]  # before it is open
            return _Asked(database.open())

        try:
            yield open_file
        finally:
            for database in opened:
                database.close()


def _answer(file: str, open_file: _Open, question: Callable[[CheckpointStore], T]) -> Answer[T]:
    try:
        with open_file(file) as store:
            return Answer(file, None, question(store))
    except MilepostError as error:
        return Answer(file, _without_frames(error))


class _Asked(CheckpointStore):
    """A store that a fleet opens and closes."""

    def __init__(self, database: Database) -> None:
        self._become_readonly(database)

    # Nothing to do, and no Python: an interrupt that comes in a `__del__` is lost, and a thousand files have a thousand.
    __del__ = staticmethod(tuple)  # type: ignore[assignment]


def _without_frames(error: MilepostError) -> MilepostError:
    """Drop the tracebacks of an error that is kept: they would keep everything that the calls had in their hands."""
    left: list[BaseException] = [error]
    seen = set[int]()  # an error may be its own cause
    while left:
        found = left.pop()
        if id(found) not in seen:
            seen.add(id(found))
            found.__traceback__ = None
            left += [each for each in (found.__cause__, found.__context__) if each is not None]
    return error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _working_directory() -> str:
    try:
        return os.getcwd()  # noqa: PTH109
    except OSError as error:
        raise files.from_os(".", error, "give absolute paths") from error
