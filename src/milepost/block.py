"""Transaction blocks, `with store.transaction() as connection`, and their owners."""

from __future__ import annotations

import functools
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

import apsw

from milepost import inherited
from milepost.errors import StoreError
from milepost.lent import LentCursor
from milepost.owner import current_owner
from milepost.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from milepost.helper import Gate

CUT_SHORT: Final = (
    "SQLite rolled the transaction back after an error, and nothing of the block was kept: let the exception end the block, "
    "and begin another"
)
UNDONE: Final = (
    "the block was undone before its end, since the `__exit__` that was taken to end it was gone: use `with`, or keep it"
)

_FEW_OPENED: Final = 100
_LOOK_AGAIN_S: Final = 0.001  # between two looks whether a statement of another thread is over


class BlockTurn(Turn):
    """
    The turn of an open block, from the outermost `with` to its end.

    Args:
        path: The file.
        outermost: The outermost block.
    """

    __slots__ = (
        "__weakref__",
        "_kept",
        "_many",
        "_opened",
        "_process",
        "_running",
        "_task",
        "_thread",
        "appended",
        "busy",
        "connection",
        "depth",
        "in_thread",
        "is_closed",
        "loop",
        "outermost",
        "over",
        "path",
    )

    def __init__(self, path: str, outermost: Block) -> None:
        super().__init__()
        self.path: str = path
        self.outermost: Block = outermost
        self.loop: str | None = outermost.loop
        self._process = os.getpid()
        owner = current_owner()
        self._thread: threading.Thread | None = owner.thread  # None when it is nobody's any more
        # Which one it is in now: a loop's may be continued in another. Not its number: if the thread ends before the block
        # does, Python gives that to another one.
        self.in_thread: threading.Thread | None = owner.thread
        # Weak: if nobody else knows the task any more, it must go, and end its `with` as it goes.
        self._task = None if owner.task is None else weakref.ref(owner.task)
        self.connection: apsw.Connection | None = None
        # Cursors and blobs, closed at the end. No WeakSet: Python ignores an interrupt in its callback.
        self._opened: list[weakref.ref[apsw.Cursor | apsw.Blob]] = []
        self._kept: list[apsw.Cursor] = []  # those that another thread has made
        self._many = _FEW_OPENED  # how many to collect before dead ones are removed
        self._running: dict[object, int] = {}  # its statements in progress, and their threads
        self.depth: int = 0  # how many blocks are open inside the outermost one
        self.appended: int = 0  # entries
        self.busy: bool = True  # a call of milepost's is in progress in it, at first the one that begins it
        self.over: bool = False
        self.is_closed: bool = False
        """Whether all that was opened in it is closed."""

    def belongs_to_caller(self) -> bool:
        """Return whether the calling thread and task opened it."""
        return self.loop is None and self.was_opened_by_caller()

    def was_opened_by_caller(self) -> bool:
        """Return the same as `belongs_to_caller`, for the block of a loop too."""
        caller = current_owner()
        if self._thread is not caller.thread:
            return False
        return caller.task is None if self._task is None else caller.task is not None and caller.task is self._task()

    def disown(self) -> None:
        """Take the block from its task, which waits for it no more: what the task does next is not in the block."""
        self._thread = self.in_thread = None

    @property
    def is_of_this_thread(self) -> bool:
        """Whether it is in the calling thread."""
        return self.in_thread is threading.current_thread()

    @property
    def is_open(self) -> bool:
        """Whether it has begun and is not ending. Otherwise a signal handler that reads sees committed data only."""
        return self.connection is not None and not self.over

    def refuse_if_cut_short(self) -> None:
        """
        Refuse any use of the block after SQLite has rolled it back.

        Raises:
            StoreError: SQLite has rolled it back.
        """
        if self.connection is None or not self.connection.in_transaction:
            raise StoreError(self.path, CUT_SHORT)

    def cursor(self, connection: apsw.Connection) -> LentCursor:
        """Make a cursor for the caller, as the connection's cursor factory."""
        cursor = LentCursor(connection)
        cursor.may_run = self._refuse_outside
        cursor.failed = self.outermost.disk_failed
        cursor.running = self._running
        self.remember(cursor)
        return cursor

    def own_cursor(self, connection: apsw.Connection) -> apsw.Cursor:
        """Make a cursor for milepost's own reads inside the block, as the connection's cursor factory."""
        cursor = apsw.Cursor(connection)
        self.remember(cursor)
        return cursor

    def remember(self, opened: apsw.Cursor | apsw.Blob) -> None:
        """Note what is to be closed with the block."""
        self._opened.append(weakref.ref(opened))
        if isinstance(opened, apsw.Cursor) and threading.current_thread() is not self.in_thread:
            # Strong: APSW leaves a statement active whose cursor goes while another thread has the connection.
            self._kept = [*filter(_is_active, self._kept), opened]
        if len(self._opened) > self._many:
            self._opened = [each for each in self._opened if each() is not None]
            self._many = 2 * len(self._opened) + _FEW_OPENED

    def _refuse_outside(self) -> None:
        inherited.refuse_child(self._process, self.path)  # its temporary tables too are its parent's
        if self.over:
            raise outside(self.path)
        # A loop's block goes from thread to thread. From any other, a thread must not write, as it does not end with it.
        if self.loop is None and self._thread is not threading.current_thread():
            raise StoreError(
                self.path,
                "the connection of transaction() belongs to the thread that has opened the block: begin a block of this "
                "thread's own, and in a task run all of a slow one in a thread",
            )
        self.refuse_if_cut_short()

    def close(self, timeout_s: float, *, interrupt: bool) -> None:
        """
        Let no statement begin any more, wait for those of other threads, and close every cursor and blob.

        A task that was cancelled may have left a statement of a loop's block in a thread. Whoever does not wait for it ends
        nothing: neither a COMMIT nor a ROLLBACK runs beside it. A cursor that a traceback keeps would read on after the
        transaction, and a statement that stays active would keep the WAL from being written back.

        Args:
            timeout_s: How long to wait at most, in seconds.
            interrupt: End those statements, as all is undone anyway.

        Raises:
            apsw.ThreadingViolationError: One goes on after that time.
        """
        self.over = True  # first: a statement notes that it runs, and then looks
        deadline = time.monotonic() + timeout_s
        self.await_statements(timeout_s, interrupt=interrupt)
        for each in self._opened:
            opened = each()
            while opened is not None:
                try:
                    opened.close(True)
                    break
                except apsw.ThreadingViolationError:  # its rows are being read in another thread
                    if time.monotonic() >= deadline:
                        raise
                self._look_again(interrupt=interrupt)
        self.is_closed = True

    def await_statements(self, timeout_s: float, *, interrupt: bool) -> None:
        """Wait for the statements of other threads, at most so many seconds, or end them, and with them the transaction."""
        if not self._running:
            return
        me, deadline = threading.get_ident(), time.monotonic() + timeout_s
        while any(thread != me for thread in list(self._running.values())) and time.monotonic() < deadline:
            self._look_again(interrupt=interrupt)

    def _look_again(self, *, interrupt: bool) -> None:
        if interrupt and self.connection is not None:
            self.connection.interrupt()
        time.sleep(_LOOK_AGAIN_S)


def _is_active(cursor: apsw.Cursor) -> bool:
    try:
        return cursor.has_vdbe
    except apsw.ThreadingViolationError:  # another thread has the connection
        return True
    except apsw.Error:  # it is at its end
        return False


def outside(path: str) -> StoreError:
    """Return the error for the use of a lent connection outside of its block."""
    return StoreError(path, "the connection of transaction() is only valid inside its block: begin another block")


class _Blocks(Protocol):
    """The writer, as an object that opens and ends blocks."""

    def enter(self, block: Block) -> apsw.Connection: ...
    def leave(self, block: Block, error: BaseException | None) -> None: ...
    def disk_failed_in_block(self, error: apsw.IOError) -> None: ...
    async def enter_async(self, block: Block) -> apsw.Connection: ...
    async def leave_async(self, block: Block, error: BaseException | None) -> None: ...


class _Exit:
    """
    `Block.__exit__`, bound so that the block notices the end of its `with` even if `__exit__` never runs.

    Python runs signal handlers as a function begins, before its first line. If a handler raises there, the `with` ends
    without the work of `__exit__`. But only the `with` statement holds the bound `__exit__`, so the `with` is over when that
    object is gone.
    """

    def __get__(self, block: Block | None, _type: type[Block]) -> Callable[..., None]:
        if block is None:
            return Block.end
        end = functools.partial(Block.end, block)
        block.watch(end)
        return end


class _AsyncEnd:
    """What `async with` holds as `__aexit__`, and the coroutine that it awaits holds after it."""

    def __init__(self, block: Block) -> None:
        self._block = block

    async def __call__(
        self,
        _kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        _traceback: TracebackType | None = None,
    ) -> None:
        await self._block.end_async(None, error)


class _AsyncExit:
    """`Block.__aexit__`, bound as `_Exit` binds `__exit__`."""

    def __get__(self, block: Block | None, _type: type[Block]) -> Callable[..., Coroutine[Any, Any, None]]:
        if block is None:
            return Block.end_async
        end = _AsyncEnd(block)
        block.watch(end)
        return end


class Block:
    """
    One `with store.transaction()`, or `async with`. Inside another block of the same owner it is a savepoint.

    Args:
        writer: The writer, which opens and ends it.
        loop: A description of the loop that owns the block; None if the thread and task that open it own it.
    """

    turn: BlockTurn | None = None
    depth: int = 0
    """The number of blocks around it."""

    def __init__(self, writer: _Blocks, loop: str | None = None) -> None:
        self._writer = writer
        self.loop: str | None = loop
        self.held: weakref.ref[object] | None = None
        """A reference to the `__exit__` that the `with` holds; None after an ordinary end."""
        self._watched = False  # entered, or about to be
        self.undone: bool = False
        """Whether it was undone before its end."""

    gate: Gate | None = None
    """What the other tasks of its loop wait at, where a task has opened it."""

    def __enter__(self) -> apsw.Connection:
        try:
            self._begin_to_watch()
            return self._writer.enter(self)
        finally:
            self._watched = self.turn is not None

    async def __aenter__(self) -> apsw.Connection:
        try:
            self._begin_to_watch()
            return await self._writer.enter_async(self)
        finally:
            self._watched = self.turn is not None

    async def end_async(
        self,
        _kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        _traceback: TracebackType | None = None,
    ) -> None:
        """Do as `end` does, without holding the event loop."""
        if isinstance(error, GeneratorExit):  # the task is gone, and nothing can be awaited
            self._writer.leave(self, error)
        else:
            await self._writer.leave_async(self, error)

    def open_gate(self) -> None:
        """Let the next task in."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.open()

    __exit__: _Exit = _Exit()
    __aexit__: _AsyncExit = _AsyncExit()

    def end(
        self,
        _kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        _traceback: TracebackType | None = None,
    ) -> None:
        """Commit, or roll back if an exception ended the `with`."""
        self._writer.leave(self, error)

    def disk_failed(self, error: apsw.IOError) -> None:
        """Tell the writer of an error of the disk in a statement of the block's."""
        self._writer.disk_failed_in_block(error)

    def watch(self, end: Any) -> None:
        """
        Watch `end`, which a `with` takes just before it enters: the `with` is over when that object is gone.

        Whoever looks at `__exit__` of a block that is entered, as a debugger does, gets one that nobody watches.
        """
        if not self._watched:
            self.held = weakref.ref(end, self._abandoned)

    def _begin_to_watch(self) -> None:
        self._watched, self.undone = True, False
        if self.held is not None and self.held() is None:  # somebody has looked at `__exit__`, and enters without a `with`
            self.held = None

    @property
    def abandoned(self) -> bool:
        """Whether its `with` is over, but the block has not ended."""
        return self.turn is not None and self.held is not None and self.held() is None

    def _abandoned(self, _: object) -> None:
        if self.abandoned:
            self.undo()

    def undo(self) -> None:
        """Undo it, since its `with` is over and it has not ended."""
        self.undone = True
        self._writer.leave(self, GeneratorExit())
