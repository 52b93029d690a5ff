"""Transaction blocks: `with store.transaction() as connection`, and who may write into one."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

import apsw

from milepost.errors import StoreError
from milepost.lent import LentCursor
from milepost.owner import current_owner
from milepost.turn import Turn

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

    from milepost.owner import Owner

CUT_SHORT: Final = (
    "the transaction was rolled back within its block, by SQLite after an error; nothing of the block was kept: let the "
    "exception end the block, and begin another"
)


_FEW: Final = 100  # cursors


class BlockTurn(Turn):
    """
    The turn of an open block, from the outermost `with` to its end.

    Args:
        path: The file.
        outermost: The outermost block.
    """

    __slots__ = (
        "__weakref__",
        "_cursors",
        "_many",
        "appended",
        "busy",
        "connection",
        "depth",
        "loop",
        "outermost",
        "over",
        "owner",
        "path",
    )

    def __init__(self, path: str, outermost: Block) -> None:
        super().__init__()
        self.path: str = path
        self.outermost: Block = outermost
        self.loop: str | None = outermost.loop
        self.owner: Owner = current_owner()
        self.connection: apsw.Connection | None = None
        # To be closed at the end. No WeakSet: an interrupt in its callback, which is Python's, would be swallowed.
        self._cursors: list[weakref.ref[apsw.Cursor]] = []
        self._many = _FEW  # how many to look through for those that are gone
        self.depth: int = 0  # how many blocks are open inside the outermost one
        self.appended: int = 0  # entries
        self.busy: bool = True  # one of milepost's own calls is under way in it, at first the one that begins it
        self.over: bool = False

    def belongs_to_caller(self) -> bool:
        """Whether the caller is the thread and the task that opened it."""
        return self.loop is None and self.owner == current_owner()

    @property
    def is_open(self) -> bool:
        """Whether it has begun, and its end has not: else a signal handler that reads sees what is committed."""
        return self.connection is not None and not self.over

    def refuse_if_cut_short(self) -> None:
        """
        Nothing more may be done in it once SQLite has rolled it back.

        Raises:
            StoreError: It has.
        """
        if self.connection is None or not self.connection.in_transaction:
            raise StoreError(self.path, CUT_SHORT)

    def cursor(self, connection: apsw.Connection) -> LentCursor:
        """What the connection makes the caller's cursors with."""
        cursor = LentCursor(connection)
        cursor.may_run = self._refuse_outside
        self._remember(cursor)
        return cursor

    def own_cursor(self, connection: apsw.Connection) -> apsw.Cursor:
        """What the connection makes milepost's cursors with, for reads inside the block."""
        cursor = apsw.Cursor(connection)
        self._remember(cursor)
        return cursor

    def _remember(self, cursor: apsw.Cursor) -> None:
        self._cursors.append(weakref.ref(cursor))
        if len(self._cursors) > self._many:
            self._cursors = [each for each in self._cursors if each() is not None]
            self._many = 2 * len(self._cursors) + _FEW

    def _refuse_outside(self) -> None:
        if self.over:
            raise outside(self.path)
        self.refuse_if_cut_short()

    def close_cursors(self) -> None:
        """What is left open, a kept traceback is enough, would read on in a transaction that has ended."""
        self.over = True
        for each in self._cursors:
            cursor = each()
            if cursor is not None:
                cursor.close(True)


def outside(path: str) -> StoreError:
    """What the use of a lent connection outside of its block raises."""
    return StoreError(path, "the connection of transaction() is valid inside its block only: begin another block")


class _Blocks(Protocol):
    """What opens and ends blocks: the writer."""

    def enter(self, block: Block) -> apsw.Connection: ...
    def leave(self, block: Block, error: BaseException | None) -> None: ...
    async def enter_async(self, block: Block) -> apsw.Connection: ...
    async def leave_async(self, block: Block, error: BaseException | None) -> None: ...


class _Exit:
    """
    `Block.__exit__`, bound so that the end of the `with` shows even when it never begins to run.

    Python runs signal handlers as a function begins, before its first line. One that raises there ends the `with`, and what
    `__exit__` should have done is not done. But the `with` statement holds what it has got as `__exit__`, and nobody
    else does: once that is gone, the `with` is over.
    """

    def __get__(self, block: Block | None, _type: type[Block]) -> Callable[..., None]:
        if block is None:
            return Block.end
        end = functools.partial(Block.end, block)
        block.watch(end)
        return end


class Block:
    """
    One `with store.transaction()`, or `async with`; inside another one of the same owner it is a savepoint of that.

    Args:
        writer: What opens and ends it.
        loop: In words, the loop that the block belongs to; None where it belongs to the thread and the task that open it.
    """

    turn: BlockTurn | None = None
    depth: int = 0
    """How deep inside the outermost block it is."""

    def __init__(self, writer: _Blocks, loop: str | None = None) -> None:
        self._writer = writer
        self.loop: str | None = loop
        self.held: weakref.ref[object] | None = None
        """What the `with` holds; None when it has ended in order."""

    gate: asyncio.Lock | None = None
    """What the other tasks of its loop wait at, where a task has opened it."""

    def __enter__(self) -> apsw.Connection:
        return self._writer.enter(self)

    async def __aenter__(self) -> apsw.Connection:
        return await self._writer.enter_async(self)

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):  # the task is gone, and nothing can be awaited
            try:
                self._writer.leave(self, error)
            finally:
                self.open_gate()
        else:
            await self._writer.leave_async(self, error)

    def open_gate(self) -> None:
        """Let the next task in."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.release()

    __exit__: _Exit = _Exit()

    def end(
        self,
        _kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        _traceback: TracebackType | None = None,
    ) -> None:
        """Commit, or undo where an exception has ended the `with`."""
        self._writer.leave(self, error)

    def watch(self, end: Any) -> None:
        """The `with` is over when `end` is gone."""
        self.held = weakref.ref(end, self._abandoned)

    @property
    def abandoned(self) -> bool:
        """Whether its `with` is over, though it was not ended."""
        return self.turn is not None and self.held is not None and self.held() is None

    def _abandoned(self, _: object) -> None:
        if self.abandoned:
            self._writer.leave(self, GeneratorExit())
