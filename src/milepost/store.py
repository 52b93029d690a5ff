"""`CheckpointStore`: the methods that a pipeline and a notebook call, one transaction for each call."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NoReturn, Self, TypeVar

from milepost import across, compare, cursors, details, files, restore, rows, verify
from milepost.append import NOT_ASKED
from milepost.arguments import (
    check_bool,
    check_callable,
    check_integer,
    check_name,
    check_optional_name,
    check_seconds,
    hash_for_key,
)
from milepost.checkpoint import Checkpoint, ResumePoint, Watermark, resume_point
from milepost.checkpointed import Checkpointed
from milepost.database import Database
from milepost.errors import (
    InvalidArgumentError,
    MilepostError,
    ReadOnlyStoreError,
)
from milepost.history import checked_filter, pages
from milepost.html import error_page
from milepost.once import Once
from milepost.plot import Plot
from milepost.receipt import BatchReceipt, Head, Receipt
from milepost.run import Run
from milepost.steps import checked_entries, checked_step, checked_steps
from milepost.summary import RUNS_SHOWN, StoreSummary, longest_silences, stage_states, summary_page, what_stands_out
from milepost.tables import History, ResumePoints, Runs, Stages
from milepost.times import to_ms
from milepost.tracked import Tracked
from milepost.writer import Writer

if TYPE_CHECKING:
    import os
    from collections.abc import AsyncIterable, Callable, Iterator, Mapping, Sequence
    from types import TracebackType

    import apsw

    from milepost.append import NotAsked
    from milepost.archive import Plan
    from milepost.block import Block
    from milepost.comparison import Comparison
    from milepost.forensics.frames import Frame
    from milepost.rows import Filter
    from milepost.source import Records
    from milepost.summary import RunSummary, StageSummary
    from milepost.times import Time
    from milepost.verification import Verification
    from milepost.writer import Durability

Record = TypeVar("Record")
Item = TypeVar("Item")


def _wall_clock() -> int:
    return time.time_ns() // 1_000_000


class CheckpointStore:
    """
    The checkpoints of a pipeline, in one SQLite file.

    Threads and tasks may share a store, and several processes may open the same file. Use it as a context manager: a
    store that is never closed warns with ResourceWarning.

    Args:
        path: The file. The store creates it if it is missing, readable by its owner only. Its directory must exist.
        durability: With `"full"`, a returned `append` survives a loss of power. With `"normal"`, it survives a crash of
            the process, and a loss of power leaves a shorter, intact chain.
        busy_timeout_ms: How long to wait for another writer, in ms.
        clock: Returns the wall clock in ms since the epoch. `advance` reads it once for each checkpoint.
        vfs: The name of an SQLite VFS to open the file through; None for SQLite's own.
        on_connect: Called with the `apsw.Connection` of `transaction()` whenever the store opens it: at first, and again
            after a fork. Add your sink's functions, collations and attached files here.
        hmac_key: A secret, at best 32 random bytes. With it, HMAC-SHA-256 makes the links of a new file's chain, and
            nobody without the secret can forge one. For an existing file, give the key that it was made with. The file
            does not contain the key: if you lose it, you can read the chain, but no longer verify it.

    Raises:
        InvalidArgumentError: An argument breaks one of these rules.
        NotAStoreError: `path` is no file of milepost. Nothing in it was touched.
        SchemaVersionError: The file has a version that this milepost does not know. Nothing in it was touched.
        WrongKeyError: The chain has another key, has one but you gave none, or has none but you gave one.
        StoreError: The file cannot be created or opened.
    """

    _database: Database

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "full",
        busy_timeout_ms: int = 5000,
        clock: Callable[[], int] = _wall_clock,
        vfs: str | None = None,
        hmac_key: bytes | None = None,
        on_connect: Callable[[apsw.Connection], object] | None = None,
    ) -> None:
        hash_function = hash_for_key(hmac_key)
        del hmac_key  # from here on no traceback that shows the values of variables shows it
        _check_options(durability, busy_timeout_ms, clock, on_connect)
        self._clock: Callable[[], int] = clock
        self._durability: Durability | None = durability
        self._open_runs: dict[int, Run] = {}  # by id()
        writer = Writer(
            files.absolute(path),
            synchronous=durability,
            busy_timeout_ms=busy_timeout_ms,
            vfs=vfs,
            hmac=hash_function,
            on_connect=on_connect,
        )
        writer.open()
        self._database = writer

    @classmethod
    def open_readonly(cls, path: str | os.PathLike[str], *, vfs: str | None = None, hmac_key: bytes | None = None) -> Self:
        """
        Open an existing file for reading, without changing a byte of it or of its directory.

        It works while a pipeline writes, after a pipeline was killed, and where you may not write. Every method that
        writes raises ReadOnlyStoreError. It reads a file of an older version through a temporary, upgraded copy.

        Args:
            path: The file.
            vfs: The name of an SQLite VFS to open it through; None for SQLite's own.
            hmac_key: The key of a keyed chain. Only `verify` needs it.

        Raises:
            InvalidArgumentError: `path`, `vfs` or `hmac_key` breaks a rule.
            NotAStoreError: `path` is no file of milepost.
            SchemaVersionError: The file has a version that this milepost does not know.
            WrongKeyError: The chain has another key, or has none but you gave one.
            StoreError: The file does not exist or cannot be opened.
        """
        hash_function = hash_for_key(hmac_key)
        del hmac_key
        store = cls.__new__(cls)
        store._become_readonly(Database(files.absolute(path), vfs, hash_function).open())  # noqa: SLF001 - an instance of its own
        return store

    @classmethod
    def restore(
        cls,
        path: str | os.PathLike[str],
        target: object,
        name: str,
        *,
        durability: Durability = "full",
        busy_timeout_ms: int = 5000,
        clock: Callable[[], int] = _wall_clock,
        vfs: str | None = None,
        hmac_key: bytes | None = None,
        on_connect: Callable[[apsw.Connection], object] | None = None,
    ) -> Self:
        """
        Make a new file of what `milepost.ship` has shipped, and open it, ready to go on.

        Everything that is read is verified: an object that is missing or changed is located, and no file appears. What is
        missing at the end shows only with a head that you kept elsewhere: `verify(expected=…)`. The file has all entries
        with their details, and the cursors of each stage, but no tables of your own. It has the shipped chain from its
        first entry on.

        Nothing is written to the target, so you can restore at any time to look. To take over, call `milepost.ship` with
        the store next: from then on the former shipper is refused.

        Args:
            path: A file that does not exist yet.
            target: As `milepost.ship`.
            name: The store's name there.
            durability: As the constructor.
            busy_timeout_ms: As the constructor.
            clock: As the constructor.
            vfs: As the constructor.
            hmac_key: The key of a keyed chain.
            on_connect: As the constructor.

        Raises:
            InvalidArgumentError: An argument breaks a rule.
            DamagedTargetError: An object is missing, or is not what was shipped.
            TargetError: Nothing is shipped under the name, or the target cannot be read.
            WrongKeyError: The chain has another key, has one but you gave none, or has none but you gave one.
            MissingPackageError: obstore is not installed: it is part of the extra `ship`.
            StoreError: The file exists already, or cannot be written.
        """
        hash_function = hash_for_key(hmac_key)
        _check_options(durability, busy_timeout_ms, clock, on_connect)
        made = files.absolute(path)
        Database(made, vfs, hash_function)  # refuses a wrong VFS before anything is read
        restore.restore(made, target, name, hash_function)
        return cls(
            path,
            durability=durability,
            busy_timeout_ms=busy_timeout_ms,
            clock=clock,
            vfs=vfs,
            hmac_key=hmac_key,
            on_connect=on_connect,
        )

    def _become_readonly(self, database: Database) -> None:
        self._clock = _wall_clock
        self._durability = None
        self._open_runs = {}
        self._database = database

    @property
    def _writer(self) -> Writer:
        if isinstance(self._database, Writer):
            return self._database
        self._database.refuse_if_ended()
        raise ReadOnlyStoreError(self.path, "opened with open_readonly(): open it with CheckpointStore() to write")

    @property
    def path(self) -> str:
        """The file's absolute name, symbolic links resolved."""
        return self._database.path

    @property
    def durability(self) -> Durability | None:
        """What an acknowledgement means, `"full"` or `"normal"`; None for a store opened to read."""
        return self._durability

    # Writing

    def append(self, entry: Checkpoint) -> Receipt:
        """
        Record one checkpoint at the end of the chain.

        Once this returns, the checkpoint survives a crash of the process and, with durability `"full"`, of the machine.
        If it raises, the chain is as it was. Inside `transaction()` both hold from the end of the block on.

        Args:
            entry: The progress to record. Its sequence rises, and its watermark does not fall, within its run and stage.

        Returns:
            Its position (1, 2, 3 …), the chain's signature there, and whether it was a duplicate. Then nothing was written,
            because the stage of that run had recorded this idempotency key with the same sequence and watermark.

        Raises:
            InvalidCheckpointError: A field breaks a rule of `milepost.checkpoint.valid`.
            IdempotencyConflictError: The key is recorded there with another sequence or watermark.
            SequenceError: The sequence is not above the last one.
            WatermarkRegressionError: The offset or the event time is behind the last one.
            StoreBusyError: Another writer kept the lock for `busy_timeout_ms`.
            StoreError: The file could not be written.

        Source:
            https://sqlite.org/pragma.html#pragma_synchronous (FULL syncs the WAL at each commit)
        """
        return self._writer.append(entry)

    def append_many(self, entries: Iterable[Checkpoint]) -> BatchReceipt:
        """
        Record a batch in one transaction: all of it, or nothing.

        Args:
            entries: Checkpoints in the order in which they are to stand in the chain. They are read before the
                transaction begins, so that a slow source keeps no other writer waiting.

        Returns:
            How many were recorded, how many were duplicates, and the chain's position and signature with them.

        Raises:
            InvalidArgumentError: `entries` cannot be iterated.
            InvalidCheckpointError: As `append`; it carries the `index` of the entry (0, 1, 2 …).
            RejectedCheckpointError: As `append`; it carries the `index` of the entry.
            StoreError: As `append`.
        """
        return self._writer.append_many(checked_entries(entries))

    def advance(
        self,
        run_id: str,
        stage: str,
        watermark: Watermark,
        *,
        idempotency_key: str,
        after: Watermark | NotAsked | None = NOT_ASKED,
        cursor: Any = None,
    ) -> Receipt:
        """
        Record that a stage has come as far as `watermark`.

        The store stamps the sequence (the last one of the stage in this run + 1, the first is 1) and `at_ms` (its clock),
        inside the write transaction. Calling it again with the same key and watermark is a duplicate, as after a kill
        whose victim never saw the answer: the receipt is that of the first call.

        Args:
            run_id: The execution of the pipeline.
            stage: The step of the pipeline.
            watermark: How far it has come: offset, and event time in ms since the epoch; also NumPy's integers, which
                are stored as Python's.
            idempotency_key: Names the step that was done; unique within the stage of this run.
            after: The watermark at which the stage must stand now, or None for no checkpoint yet. `watermark` must differ
                from it. This is compare and set: of two owners of a stage, one is told. It is looked at before the key.
                Without it the stage may stand anywhere.
            cursor: Where the source goes on behind this checkpoint, where two integers cannot say it (a page token, a
                `state_dict`): what JSON can hold, or bytes, at most 65,536 bytes and 100 levels of lists and dicts. It
                commits with the checkpoint, whose detail has its SHA-256. `cursor()` reads it back; the last two of each
                stage of each run are kept.

        Returns:
            As `append`.

        Raises:
            InvalidArgumentError: `after` or `cursor` is not what it must be.
            InvalidCheckpointError: As `append`; also where the clock gave something else than ms since the epoch.
            StageMovedError: The stage does not stand at `after`, or would not move from it.
            IdempotencyConflictError: The key is recorded there with another watermark.
            WatermarkRegressionError: As `append`.
            StoreError: As `append`.
        """
        step = checked_step(run_id, stage, watermark, idempotency_key, after, cursor)
        return self._writer.advance(step, self._clock)

    def advance_many(self, steps: Iterable[Mapping[str, Any] | Sequence[Any]]) -> BatchReceipt:
        """
        Advance several stages, or one of them by several steps, in one transaction: all of it, or nothing.

        Args:
            steps: Each a mapping with the arguments of `advance` by name, or a tuple of them: run_id, stage, watermark,
                idempotency_key and, where they are wanted, after and cursor. They are read before the transaction begins.

        Returns:
            How many were recorded, how many were duplicates, and the chain's position and signature with them.

        Raises:
            InvalidArgumentError: `steps` cannot be iterated, or one of them is not what it must be.
            InvalidCheckpointError: As `advance`; it carries the `index` of the step (0, 1, 2 …).
            RejectedCheckpointError: As `advance`; it carries the `index` of the step.
            StoreError: As `append`.
        """
        return self._writer.advance_many(checked_steps(steps), self._clock)

    async def append_async(self, entry: Checkpoint) -> Receipt:
        """
        As `append`, for a task of asyncio: the event loop goes on, and all tasks that wait share one commit.

        Cancelled while it is queued, it is withdrawn. Cancelled once its commit is under way, it is recorded, and the same
        call once more tells so: its receipt is a duplicate's. Inside the task's own `transaction()` it joins that; of
        another task's block it waits for the end, at most `busy_timeout_ms`.

        Args:
            entry: As `append`.

        Returns:
            As `append`.

        Raises:
            MilepostError: As `append`.
        """
        return await self._writer.append_async(entry)

    async def append_many_async(self, entries: Iterable[Checkpoint]) -> BatchReceipt:
        """As `append_many`, for a task: see `append_async`. The entries are read before anything is awaited."""
        return await self._writer.append_many_async(checked_entries(entries))

    async def advance_async(
        self,
        run_id: str,
        stage: str,
        watermark: Watermark,
        *,
        idempotency_key: str,
        after: Watermark | NotAsked | None = NOT_ASKED,
        cursor: Any = None,
    ) -> Receipt:
        """As `advance`, for a task: see `append_async`."""
        step = checked_step(run_id, stage, watermark, idempotency_key, after, cursor)
        return await self._writer.advance_async(step, self._clock)

    async def advance_many_async(self, steps: Iterable[Mapping[str, Any] | Sequence[Any]]) -> BatchReceipt:
        """As `advance_many`, for a task: see `append_async`. The steps are read before anything is awaited."""
        return await self._writer.advance_many_async(checked_steps(steps), self._clock)

    def transaction(self) -> Block:
        """
        Commit the block's own writes and its checkpoints together, or not at all: exactly-once into the same file.

        The block writes to tables of its own through the connection it is given, and calls the store's methods as always.
        At its end everything is committed at once; an exception undoes everything and passes through. A block inside a
        block is a savepoint. Other threads, and other processes that write, wait meanwhile.

        The block belongs to the thread and the task that opened it. In a task, `async with store.transaction()` does not
        hold the event loop: neither while it waits for its turn nor while it commits. Its statements do: with slow ones, run
        all of a plain `with` in a thread (`asyncio.to_thread`).

        Returns:
            A context manager, for `with` and `async with`, that gives the store's `apsw.Connection`.

        Raises:
            StoreBusyError: Another writer kept the lock for `busy_timeout_ms`.
            StoreError: The block, or SQLite after an error, ended the transaction before its time.
        """
        return self._writer.block()

    def _note_stop(self, run_id: str) -> None:
        """Note that a loop of a run was stopped, whoever made it: an attempt that is open has not finished."""
        for run in list(self._open_runs.values()):
            if run.run_id == run_id:
                run.stops.append(None)

    def run(self, run_id: str, *, again: bool = False) -> Run:
        """
        Begin an attempt of a run: `with store.run("nightly-2026-11-28") as run:`, or `async with`.

        That the attempt began, and how it ended, are entries in the stage `milepost:run`: finished, or failed with the type
        of the exception. If a loop of the run was stopped, the attempt has failed, with the error `stopped`. An attempt that
        was killed has no end; a later one shows that it was. `runs()` has the state, the number of attempts and how long the
        last one took. A failure to record the end never masks the body's exception, but where a generator is closed: nobody
        would hear of it. Cancelled as it begins or ends, a task waits for the commit: a run that began has an end.

        Args:
            run_id: The run; the same name after a kill or a failure, and its loops go on from their last checkpoints.
            again: Begin another attempt though the run has finished.

        Returns:
            A context manager that gives a handle with the run's name bound: `run.checkpointed(…, stage=…)`, `run.advance`,
            `run.resume_point(stage)`.

        Raises:
            InvalidArgumentError: A name that no run can have.
            RunFinishedError: From the `with`: the run has finished.
            StoreError: From the `with`: the file could not be written.
        """
        check_name("run_id", run_id)
        check_bool("again", again)
        return Run(self, run_id, again=again)

    def branch(self, run_id: str, new_run_id: str, *, stage: str | None = None, as_of: Time | None = None) -> BatchReceipt:
        """
        Let a new run start where another one stands, or stood: nothing is overwritten, and both go on by themselves.

        For each stage the new run gets one first checkpoint, with the sequence, watermark, idempotency key and cursor of
        the other run's, and that one's position in its detail. Of a bag (`once`) that is its last item: all others are done
        again in the new run. The same call once more writes nothing. Without `as_of`, it raises RunExistsError once the old
        run has moved on.

        Args:
            run_id: The run to start from.
            new_run_id: The new one.
            stage: Only this stage.
            as_of: Where the stages stood at this time; as `latest`.

        Returns:
            How many checkpoints were recorded, how many were duplicates, and the chain's position and signature with them.

        Raises:
            InvalidArgumentError: A name or a time that no checkpoint can have, or twice the same run. Or the `source` of a
                stage, recorded by an older milepost, is too long for the new checkpoint.
            NoCheckpointError: There is nothing to start from.
            RunExistsError: The new run has one of the stages already, and not from there.
            CursorNotKeptError: A stage stood where its cursor is not kept any more.
            ArchivedStageError: Where a stage stood at that time is in an archive.
            StoreError: As `append`.
        """
        check_name("run_id", run_id)
        check_name("new_run_id", new_run_id)
        check_optional_name("stage", stage)
        if stage is not None and stage.startswith(details.RESERVED):
            raise InvalidArgumentError("stage", stage, details.RESERVED_RULE)
        if run_id == new_run_id:
            raise InvalidArgumentError("new_run_id", new_run_id, "must be another run than the one to branch from")
        return self._writer.branch(run_id, new_run_id, stage, _as_of(as_of), self._clock)

    def checkpointed(
        self,
        records: Records[Record],
        *,
        run_id: str,
        stage: str,
        every: int = 1000,
        every_s: float | None = None,
        event_time: Callable[[Record], Time] | None = None,
        cursor: Callable[[Record], Any] | None = None,
        source: str | None = None,
        accept_source: bool = False,
        transaction: bool = False,
    ) -> Checkpointed[Record]:
        """
        Make a loop over an ordered source resumable: `for record in store.checkpointed(records, run_id=…, stage=…)`.

        The loop starts after the stage's last checkpoint and hands out the rest. It records a checkpoint after every `every`
        finished records, and at the end. After an exception, a `break` or a kill, a new loop resumes at the last checkpoint.
        Records after it are done again. With `transaction=True` they were rolled back, so each is done exactly once.

        **A record is finished when the loop asks for the next one. If the body only hands it to a thread or a queue, it is
        recorded before the work is done, and a crash loses it. Use `.map(work)` for workers, `tracked` for your own pool.**

        The offset of a checkpoint is the number of finished records, and its event time is the latest one seen. Its
        idempotency key is the stage and the range of offsets, `load:0-999`. If another process advances the stage
        meanwhile, the loop raises StageMovedError.

        Use it with `async for` in a task, over an async source or an ordinary one. The loop then never holds the event loop
        while it records. It has `start`, `done` and `stop()`, and works as a context manager too.

        Args:
            records: An iterable that gives the same records in the same order at every start; the loop reads and skips
                those that are done. A second try in one process needs a fresh iterator. Or a function that takes a `Start`
                and returns the records from there on. `Start` is the offset, 0 at first, and has the last checkpoint's
                `cursor`.
            run_id: The execution of the pipeline.
            stage: The step of the pipeline.
            every: After how many finished records to record a checkpoint.
            every_s: After how many seconds to record what is finished, also while the source blocks. With
                `transaction=True` it ends a batch, but not while the source blocks.
            event_time: Returns the event time of a record: ms since the epoch, a datetime with a zone, or ISO 8601 text.
                Without it, event times stay 0.
            cursor: Returns where to go on behind a record, such as a page token: what JSON can hold, or bytes, at most
                65,536 bytes and 100 levels of lists and dicts. The loop calls it once for each record, as soon as it is
                read. None says that the offset alone tells where to go on, or that nothing follows.
            source: Text that says which source this is, at most 1,024 bytes, such as `milepost.fingerprint(path)`. The
                loop records it, and refuses to resume with another one.
            accept_source: Resume though `source` has changed. The next checkpoint records the new one.
            transaction: Run each batch in one transaction with its checkpoint. The sink's writes go through the loop's
                `connection`: `for record in (loop := store.checkpointed(…)): loop.connection.execute(…)`. Inside it, use the
                loop's own `append` and `advance`. `async for` needs `async with loop:` around it.

        Returns:
            A loop over the records that remain.

        Raises:
            InvalidArgumentError: An argument breaks one of these rules; from the loop: the source is shorter than it was,
                cannot begin again, or is another loop; or the stage is a bag of `once`.
            SourceChangedError: From the loop: the last checkpoint names another source.
        """
        self._check_loop(run_id, stage, every, every_s, transaction)
        if event_time is not None:
            check_callable("event_time", event_time, "it takes a record and returns its time")
        if cursor is not None:
            check_callable("cursor", cursor, "it takes a record and returns where to go on behind it")
        check_optional_name("source", source)
        check_bool("accept_source", accept_source)
        return Checkpointed(
            self,
            records,
            run_id=run_id,
            stage=stage,
            every=every,
            every_s=every_s,
            event_time=event_time,
            cursor=cursor,
            source=source,
            accept_source=accept_source,
            transaction=transaction,
        )

    def once(
        self,
        items: Iterable[Item] | AsyncIterable[Item],
        *,
        run_id: str,
        stage: str,
        key: Callable[[Item], str],
        every: int = 100,
        every_s: float | None = None,
        transaction: bool = False,
    ) -> Once[Item]:
        """
        Do each item of a bag once, in any order: `for url in store.once(urls, run_id=…, stage=…, key=str)`.

        The loop hands out the items whose key the stage has not recorded. Items may come in another order at the next start,
        and others may be added. Each finished item is an entry of its own: its idempotency key is the item's key, and its
        offset is how many items are done. Entries are recorded `every` at a time.

        **An item is finished when the loop asks for the next one**, as with `checkpointed`. Use `.map(work)` for workers.
        It hands out `(item, result)` as they finish.

        Several processes may share a bag. What one has recorded, the others pass over from then on. Before that two of them
        may do the same item, unless `transaction=True`. The key is then looked up again under the lock, so that each
        item's sink writes are committed once. Only sink writes belong into the body then, since it holds the lock: do the
        work in `.map`, which runs outside.

        Args:
            items: The bag: an iterable, or an async one for `async for`. A collection is looked up 256 items at a time, any
                other source item by item, since it may block.
            run_id: The execution of the pipeline.
            stage: The step of the pipeline.
            key: Returns an item's key: text of 1 to 1,024 bytes, unique in the bag. The second item with a key is passed
                over.
            every: After how many finished items to record them.
            every_s: After how many seconds to record what is finished; as `checkpointed`.
            transaction: Run each batch in one transaction with its entries; as `checkpointed`.

        Returns:
            A loop over the items that are not recorded.

        Raises:
            InvalidArgumentError: An argument breaks one of these rules.
        """
        self._check_loop(run_id, stage, every, every_s, transaction)
        check_callable("key", key, "it takes an item and returns its key, a str")
        return Once(self, items, run_id=run_id, stage=stage, key=key, every=every, every_s=every_s, transaction=transaction)

    def tracked(
        self, *, run_id: str, stage: str, every: int = 1000, every_s: float | None = None, in_flight: int = 1000
    ) -> Tracked:
        """
        Track an ordered source whose records your own pool or callbacks finish out of order.

            with store.tracked(run_id="run-7", stage="load") as track, ThreadPoolExecutor() as pool:
                for offset in range(track.start, 5000):
                    done = track(offset)
                    pool.submit(work, offset).add_done_callback(done)

        `track(offset)` says that work on a record begins, and returns `done`. Call `done()` when it is finished, from any
        thread, or add it to a future as a callback. A checkpoint has the lowest unfinished offset: all below it is finished.

        `track` records what is finished, never the callback. It waits while `in_flight` records are unfinished. If a future
        failed or was cancelled, its record is not finished. The next `track` raises its exception, and so does the end of
        the `with`. The end waits for all records. After an exception it waits for none, and records what is finished without
        a gap.

        In a task, use `async with`, and `done = await track(offset)`.

        Args:
            run_id: The execution of the pipeline.
            stage: The step of the pipeline.
            every: After how many finished records to record a checkpoint.
            every_s: After how many seconds to record what is finished, also while nobody calls `track`.
            in_flight: How many records may be begun and not finished.

        Returns:
            A context manager, for `with` and `async with`. It has `start`, the offset to start at, `done` and `stop()`.

        Raises:
            InvalidArgumentError: An argument breaks one of these rules; from the `with`: the stage is a bag of `once`.
        """
        self._check_loop(run_id, stage, every, every_s, False)
        check_integer("in_flight", in_flight, least=1)
        return Tracked(self, run_id, stage, every, every_s, in_flight)

    def _check_loop(self, run_id: str, stage: str, every: int, every_s: float | None, transaction: bool) -> None:
        check_name("run_id", run_id)
        check_name("stage", stage)
        if stage.startswith(details.RESERVED):
            raise InvalidArgumentError("stage", stage, details.RESERVED_RULE)
        check_integer("every", every, least=1)
        if every_s is not None:
            check_seconds("every_s", every_s)
        check_bool("transaction", transaction)

    # Lookups: each a search through an index, the same at ten entries and at ten million
    #
    # A time is ms since the epoch, a datetime with a zone, or ISO 8601 text such as "2013-03-01T03:12Z" (times.py).

    def latest(self, run_id: str | None = None, *, as_of: Time | None = None) -> Checkpoint | None:
        """
        Return the last checkpoint of the chain, or of one run; None if there is none.

        What milepost itself records counts too: an attempt of a run (stage `milepost:run`), and an archive. To see when the
        pipeline moved last, ask `summary().stages`.

        Args:
            run_id: Only this run.
            as_of: The last one whose `at_ms` is not above this time. A time is ms since the epoch, a datetime with a zone,
                or ISO 8601 text such as `"2013-03-01T03:12Z"`, in UTC if it has no zone. Walks back from the end. Of a
                time before that of `base`, only an archive can tell: this answers from the entries that stayed.

        Raises:
            InvalidArgumentError: A name or a time that no checkpoint can have.
        """
        return self._latest(run_id, None, as_of)

    def latest_for_stage(self, stage: str, *, run_id: str | None = None, as_of: Time | None = None) -> Checkpoint | None:
        """
        Return the last checkpoint of a stage, in any run or in one; None if there is none.

        Args:
            stage: The stage.
            run_id: Only this run.
            as_of: As `latest`.

        Raises:
            InvalidArgumentError: A name or a time that no checkpoint can have.
        """
        check_name("stage", stage)
        return self._latest(run_id, stage, as_of)

    def _latest(self, run_id: str | None, stage: str | None, as_of: Time | None) -> Checkpoint | None:
        check_optional_name("run_id", run_id)
        return self._database.read(rows.latest, run_id, stage, _as_of(as_of))

    def resume_point_for_stage(self, stage: str, *, run_id: str | None = None, as_of: Time | None = None) -> ResumePoint:
        """
        Return where a stage starts again: at its last checkpoint, in any run or in one.

        Args:
            stage: The stage.
            run_id: Only this run.
            as_of: What the answer would have been at this time; as `latest`.

        Raises:
            NoCheckpointError: Nothing is recorded for it yet: start it from the beginning.
            InvalidArgumentError: A name or a time that no checkpoint can have.
        """
        check_name("stage", stage)
        as_of_ms = _as_of(as_of)
        return resume_point(self._latest(run_id, stage, as_of_ms), run_id, stage, as_of_ms)

    def resume_points(self, run_id: str | None = None, *, as_of: Time | None = None) -> dict[str, ResumePoint]:
        """
        Return where every stage starts again, by stage, in any run or in one.

        Args:
            run_id: Only this run.
            as_of: What the answer would have been at this time; as `latest`.

        Raises:
            InvalidArgumentError: A name or a time that no checkpoint can have.
        """
        check_optional_name("run_id", run_id)
        return ResumePoints(self._database.read(rows.resume_points, run_id, _as_of(as_of)))

    def cursor(self, stage: str, *, run_id: str | None = None) -> Any:
        """
        Return the cursor of a stage's last checkpoint, in any run or in one: where its source goes on.

        Args:
            stage: The stage.
            run_id: Only this run.

        Returns:
            What `advance` was given: bytes, or what JSON made of it (a tuple is a list). None where the checkpoint has no
            cursor, or the stage no checkpoint.

        Raises:
            InvalidArgumentError: A name that no checkpoint can have.
            DamagedStoreError: The file was tampered with: what is stored there is no cursor.
        """
        check_name("stage", stage)
        check_optional_name("run_id", run_id)
        return cursors.of_stage(self._database.read(rows.cursor, run_id, stage), self.path, stage)

    def get(self, run_id: str, stage: str, sequence: int) -> Checkpoint | None:
        """
        Return the checkpoint with one sequence, or None.

        Args:
            run_id: Its run.
            stage: Its stage.
            sequence: Its sequence.

        Raises:
            InvalidArgumentError: A name or a sequence that no checkpoint can have.
        """
        check_name("run_id", run_id)
        check_name("stage", stage)
        check_integer("sequence", sequence)
        return self._database.read(rows.get, run_id, stage, sequence)

    def find(self, idempotency_key: str, *, stage: str | None = None, run_id: str | None = None) -> Iterator[Checkpoint]:
        """
        Find the checkpoints with one idempotency key, in chain order: at most one in each stage of each run.

        Args:
            idempotency_key: The key.
            stage: Only this stage.
            run_id: Only this run.

        Raises:
            InvalidArgumentError: A name that no checkpoint can have.
        """
        check_name("idempotency_key", idempotency_key)
        check_optional_name("stage", stage)
        check_optional_name("run_id", run_id)
        return iter(self._database.read(rows.find, idempotency_key, run_id, stage))

    def chain_signature(self, run_id: str | None = None) -> str:
        """
        Look up the signature of the chain, or of the chain over one run's own entries.

        Args:
            run_id: Only this run.

        Returns:
            64 lower-case hex digits; zeros where nothing is recorded.

        Raises:
            InvalidArgumentError: A name that no checkpoint can have.
        """
        if run_id is None:
            return self._database.read(rows.signature)
        check_name("run_id", run_id)
        return self._database.read(rows.run_signature, run_id)

    def head(self) -> Head:
        """Return the number of entries and the signature of the chain. Keep it elsewhere, for `verify(expected=…)`."""
        return self._database.read(rows.head)

    def __len__(self) -> int:
        """Return the number of entries in the file. It is a lookup, unless some were archived: see `base`."""
        return self._database.read(rows.count)

    @property
    def base(self) -> Head:
        """Where the chain in this file begins: what was recorded up to this head is in archives. At first it is empty."""
        return self._database.read(rows.base)

    def __bool__(self) -> bool:
        """Return True, for an empty store too: `if store:` asks whether there is a store."""
        return True

    # Walks and summaries

    def history(
        self,
        run_id: str | None = None,
        stage: str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
        after: int = 0,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Checkpoint]:
        """
        Iterate over the recorded checkpoints in chain order, in constant memory.

        You see the chain as it was at the call, however long you take. No read transaction stays open between two pages.

        Args:
            run_id: Only this run.
            stage: Only this stage.
            since: Only with an `at_ms` not below this time, which may be what `as_of` of `latest` may be. A date is its
                first moment.
            until: Only with an `at_ms` not above this time.
            after: Only at positions above this one.
            limit: Only the first so many.
            newest_first: In the opposite order.

        Raises:
            InvalidArgumentError: A value that nothing recorded can have.
        """
        chosen = checked_filter(run_id, stage, since, until, after, limit, newest_first)
        return self._history(chosen)

    def _history(self, chosen: Filter) -> History:
        def entries(chosen: Filter) -> Iterator[Checkpoint]:
            return chain.from_iterable(pages(self._database.read, chosen, rows.numbered_rows, rows.checkpoints))

        def look(most: int) -> list[Checkpoint]:
            return list(entries(replace(chosen, limit=min(most, chosen.limit))))

        return History(entries(chosen), look)

    def receipts(
        self,
        run_id: str | None = None,
        stage: str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
        after: int = 0,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[tuple[Receipt, Checkpoint, str | None]]:
        """
        As `history`, each checkpoint between its receipt and its detail.

        The receipt has the position and the signature that it has in the chain. The detail is what milepost itself has
        recorded with it, a JSON text (docs/file-format.md says which); None where there is none, as a rule.
        """
        chosen = checked_filter(run_id, stage, since, until, after, limit, newest_first)
        return chain.from_iterable(pages(self._database.read, chosen, rows.signed_rows, rows.recorded))

    def runs(self, *, limit: int | None = None, newest_first: bool = False) -> list[RunSummary]:
        """
        Summarize the runs, in order of first appearance. The cost grows with the number of runs, not of entries.

        Args:
            limit: Only the first so many.
            newest_first: In the opposite order.

        Raises:
            InvalidArgumentError: An argument breaks a rule.
        """
        if limit is not None:
            check_integer("limit", limit)
        check_bool("newest_first", newest_first)
        most = -1 if limit is None else limit
        found = self._database.read(lambda connection: rows.runs(connection, most, newest_first=newest_first))
        return Runs(found, _wall_clock())

    def _count_runs(self) -> int:
        return self._database.read(rows.count_of_runs)

    def stages(self) -> list[StageSummary]:
        """Summarize every stage, in order of first appearance. The cost grows with the number of runs, not of entries."""
        return Stages(self._database.read(rows.stages))

    def summary(self) -> StoreSummary:
        """
        Show the file on one page: what it holds, where each stage stands, the last runs, the longest silences.

        The cost grows with the number of runs and stages, not of entries, so silences are those between runs. Use `str()`
        of it on a terminal. In a notebook, it and the store itself show as tables.
        """
        found = self._database.read(rows.contents, RUNS_SHOWN)
        latest_run_id = found.last and found.last.run_id
        at_ms = _wall_clock()  # not the clock of the store, which stamps entries and may be anything
        stages = stage_states(found.stages, latest_run_id, found.foremost)
        silences = longest_silences(found.spans)
        return StoreSummary(
            path=self.path,
            size_bytes=files.size_bytes(self.path),
            durability=self._durability,
            at_ms=at_ms,
            head=found.head,
            first_at_ms=found.first_at_ms,
            last_at_ms=found.last and found.last.at_ms,
            latest_run_id=latest_run_id,
            runs=found.runs,
            last_runs=found.last_runs,
            stages=stages,
            silences=silences,
            stands_out=what_stands_out(found.last_runs, stages, silences, found.recent, at_ms),
        )

    # Evidence

    def verify(
        self,
        *,
        run_id: str | None = None,
        trusted: Head | None = None,
        expected: Head | None = None,
        archives: Iterable[str | os.PathLike[str]] = (),
        workers: int = 1,
        progress: Callable[[int, int], object] | None = None,
    ) -> Verification:
        """
        Recompute the chain from the rows, and report everything that does not fit, and where.

        A chain alone cannot show that its end was cut off, that an older copy was put back, or that it was written anew.
        To find these, keep a head elsewhere and give it as `expected`.

        Every verification runs `PRAGMA integrity_check` too, on a connection of its own, so appends and lookups go on. It
        evaluates no CHECK of other people's tables. A table that only its own program can check is named in `unchecked`.
        A keyed chain opened without its key cannot be judged, and gives a fault of the kind `key`. Memory grows with the
        number of runs, not of entries.

        Args:
            run_id: Read the entries of this run only. `expected` is then a head of the run's own chain. The entries are
                found as lookups find them. If somebody has hidden the last ones from lookups, only `expected` or a
                verification of the whole chain shows it.
            trusted: Read only what came after this head. Runs that began before it go on from their last rows there.
            expected: A head kept elsewhere, which this chain must contain. The chain may have grown since.
            archives: The archives of this chain, in any order. The verification then begins with the first entry of the
                first of them. Without them it begins at `base`, and checks what stayed against the archive's entry.
            workers: How many processes may share the work, beside this one, which waits for them. They help with the
                whole chain of a long file. One process walks a keyed chain, whose key stays here, a file opened through
                a VFS, and one that can only be read through a copy. It also looks into what the workers find wrong.
            progress: Called with (entries done, entries in all), every few hundred or thousand entries.

        Returns:
            Whether all is well; how many entries the chain, or the run, has; its signature as recomputed; the faults.

        Raises:
            InvalidArgumentError: An argument is not what it must be, or `trusted` is given with `run_id`.
            NoCheckpointError: Nothing was ever recorded of the run.
        """
        check_optional_name("run_id", run_id)
        check_integer("workers", workers, least=1)
        for name, kept in (("trusted", trusted), ("expected", expected)):
            if kept is not None and type(kept) is not Head:
                raise InvalidArgumentError(name, kept, "must be a milepost.Head, as head() gives and Head.parse reads")
        if progress is not None:
            check_callable("progress", progress, "it takes the entries done and the entries in all")
        if run_id is not None and trusted is not None:
            raise InvalidArgumentError("trusted", trusted, "goes with the whole chain: leave it out, or leave out run_id")
        paths = _paths(archives)
        for name, value in (("run_id", run_id), ("trusted", trusted)):
            if paths and value is not None:
                raise InvalidArgumentError(
                    "archives", paths, f"goes with the whole chain: leave it out, or leave out {name}"
                )
        if paths:
            return across.verify_across(self._database, paths, expected, workers, progress)
        if run_id is None:
            return verify.verify_chain(self._database, trusted, expected, workers, progress)
        return verify.verify_run(self._database, run_id, expected, progress)

    def compare(self, run_id: str, other_run_id: str) -> Comparison:
        """
        Compare a replay with the original: two runs side by side, stage by stage and sequence by sequence.

        Offset, event time and idempotency key are compared; `run_id` and `at_ms` are not, since they differ in any two
        runs. It shows both as they were at the call. A million entries against a million take about a second, in constant
        memory. How many entries a run has is taken from the counts that the file keeps, which `verify` checks. Where one
        of the runs is a branch, its stages are compared from their first sequence on.

        Args:
            run_id: One run.
            other_run_id: The other run.

        Returns:
            For each stage that one of them has: identical, or where they part first, and what only one of them has.

        Raises:
            NoCheckpointError: Nothing is recorded of one of them. A name with a typo is not a run without entries, and two
                of those are not identical.
            ArchivedStageError: Entries of one of them are in an archive.
            InvalidArgumentError: A name that no run can have.
        """
        return compare.compare_runs(self._database, run_id, other_run_id)

    def backup(self, path: str | os.PathLike[str]) -> Head:
        """
        Make an exact copy of the file, as it is at one moment, while others go on writing.

        The copy is whole, durable and a store like any other when this returns; it verifies, and its head is in the chain
        of the original. What an open `transaction()` block has written is not in it.

        Args:
            path: A file that does not exist yet.

        Returns:
            The head of the copy.

        Raises:
            StoreError: There is a file already, or it cannot be written; nothing is left behind.
        """
        target = files.absolute(path)
        self._database.copy_to(target)
        with type(self).open_readonly(target) as made:
            return made.head()

    def archive(self, path: str | os.PathLike[str], *, before: Head | Time, workers: int = 1) -> Head:
        """
        Move what was recorded before a head or a time into a file of its own, so that this file stays small.

        The archive is copied, verified and sealed: it opens for reading only. Then an entry records what was archived (run
        `milepost`, stage `milepost:archive`), and the entries are deleted here in small commits, between which other
        writers get their turns. Of every stage of a run the last entry stays, and all entries with its watermark, and of a
        bag (`once`) all until its run has finished. Every lookup therefore answers as before, and a step stated again is
        refused or a duplicate as before. Your own tables stay where they are.

        A kill at any moment leaves a complete store. Call `archive` again with the same arguments: it goes on. Keep the
        archives: `verify(archives=[…])` proves the whole chain across them.

        Args:
            path: A file that does not exist yet.
            before: A head of this chain, whose entries are archived, or a time: all before the first entry whose `at_ms` is
                not below it.
            workers: How many processes may share the verification of the copy, as in `verify`.

        Returns:
            The new `base`, which is the head of the archive. If there was nothing to archive, no file was made, and the base
            is as it was.

        Raises:
            InvalidArgumentError: `before` is no time, and no head of this chain; or `workers` is not what it must be.
            BrokenChainError: The chain is broken. Nothing was moved, and no file was made.
            StoreError: There is another file already, or it cannot be written; or another archive came first.
        """
        from milepost import archive  # noqa: PLC0415 - few programs ever archive

        check_integer("workers", workers, least=1)
        return archive.archive(self._writer, files.absolute(path), _cut(before), self._clock, workers)

    def _plan_archive(self, before: Head | Time) -> Plan:
        from milepost import archive  # noqa: PLC0415

        return archive.plan(self._database, _cut(before))

    # Forensics: what a notebook takes (the extra `notebook`)

    def frame(
        self,
        run_id: str | None = None,
        stage: str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
        after: int = 0,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Frame:
        """
        Return the same as `history`, as a table: `polars.DataFrame(store.frame())`, `duckdb.sql("SELECT … FROM frame")`.

        It has the columns position, run_id, stage, sequence, offset, event_time, idempotency_key, at, signature, detail and
        cursor_sha256. It is read when something takes it, and anew each time, in batches of a page; nothing of the file is
        held between two of them. Inside `transaction()` it shows what was committed before. Times are timestamps of 64
        bits in ms, which hold every time that a checkpoint may have; what a library makes of the year 200,000 is its own.

        Args:
            run_id: As `history`.
            stage: As `history`.
            since: As `history`.
            until: As `history`.
            after: As `history`.
            limit: As `history`.
            newest_first: As `history`.

        Raises:
            InvalidArgumentError: A value that nothing recorded can have.
            MissingPackageError: arro3-core is not installed: it is part of the extra `notebook`.
        """
        from milepost.forensics import frames  # noqa: PLC0415

        chosen = checked_filter(run_id, stage, since, until, after, limit, newest_first)
        # A connection of its own, because DuckDB reads in a thread of its own: inside transaction() that would wait for
        # the end of the block, which waits for DuckDB.
        read = self._database.read_committed
        return frames.of_checkpoints(lambda: pages(read, chosen, rows.signed_rows, frames.batch, rows.BATCH))

    def sql(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> Frame:
        """
        Ask the file anything: `store.sql("SELECT stage, max(offset) FROM checkpoint GROUP BY stage")`.

        The view `checkpoint` has the recorded checkpoints in readable columns; every other table of the file can be read
        too. The statement runs on a connection of its own that can only read, and its answer is read at once and kept in
        memory, so that nothing stays open. Inside `transaction()` it sees what was committed before. Ctrl-C stops it.

        A column has the type of its values: int, float, text or bytes, each with or without NULL. Int beside float is
        float. A column without a value has the type that its table declares, or text. Of two columns with one name, the
        second gets the name with `_2`.

        Args:
            statement: One statement that only reads, with `?` or `:name` for what comes from data.
            parameters: A sequence for `?`, a mapping for `:name`.

        Raises:
            InvalidArgumentError: It would write, is not one statement, SQLite cannot run it, or a column has values of
                several types; the message is SQLite's.
            MissingPackageError: arro3-core is not installed: it is part of the extra `notebook`.
            StoreError: The file cannot be read.
        """
        from milepost import query  # noqa: PLC0415
        from milepost.forensics import sql  # noqa: PLC0415

        if type(statement) is not str:
            raise InvalidArgumentError("statement", statement, "must be a str")
        if not isinstance(parameters, tuple | list | dict):
            raise InvalidArgumentError("parameters", parameters, "must be a tuple or a list for ?, or a dict for :name")
        return sql.frame(statement, *self._database.read_on_own_connection(query.ask, statement, parameters))

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the whole chain as an Arrow stream, as `frame()` does: `polars.DataFrame(store)` takes it."""
        return self.frame().__arrow_c_stream__(requested_schema)

    @property
    def plot(self) -> Plot:
        """Draw what happened: `store.plot.progress()`, `.runs()`, `.lag()`, `.compare(…)`."""
        return Plot(self._database)

    # The end

    def close(self) -> None:
        """Close the file. A second call does nothing; every other method raises ClosedStoreError from now on."""
        self._database.close()

    def __enter__(self) -> Self:
        if self._database.closed:
            self._database.refuse_if_ended()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(self._database, Writer):
            await self._database.close_async()
        else:
            self.close()

    def __del__(self) -> None:
        database = getattr(self, "_database", None)  # missing where opening it failed
        if database is not None and not database.closed:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)
            database.close()

    def __reduce__(self) -> NoReturn:
        self._database.__reduce__()

    def _repr_html_(self) -> str:
        try:
            return summary_page(self.summary())
        except MilepostError as error:  # closed, damaged …: a notebook shows that as well
            return error_page(repr(self), error)

    def __repr__(self) -> str:
        if not hasattr(self, "_database"):
            return "<CheckpointStore that could not be opened>"
        how = "read-only" if self._durability is None else f"durability={self._durability!r}"
        return f"<CheckpointStore {self.path!r} {'closed' if self._database.closed else how}>"


def _paths(archives: Iterable[str | os.PathLike[str]]) -> list[str]:
    if isinstance(archives, str | bytes) or not isinstance(archives, Iterable):
        raise InvalidArgumentError("archives", archives, "must be a list of paths")
    return [files.absolute(path) for path in archives]


def _cut(before: Head | Time) -> Head | int:
    # Not isinstance(), which runs code of the value's class.
    return before if type(before) is Head else to_ms("before", before, round_up=True)


def _check_options(durability: object, busy_timeout_ms: object, clock: object, on_connect: object) -> None:
    if type(durability) is not str or durability not in {"full", "normal"}:
        raise InvalidArgumentError("durability", durability, 'must be "full" or "normal"')
    check_integer("busy_timeout_ms", busy_timeout_ms, most=2**31 - 1)
    check_callable("clock", clock, "it takes nothing and returns ms since the epoch")
    if on_connect is not None:
        check_callable("on_connect", on_connect, "it takes an apsw.Connection")


def _as_of(time: Time | None) -> int | None:
    return None if time is None else to_ms("as_of", time)
