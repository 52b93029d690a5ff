"""Transaction blocks: `with store.transaction() as connection`, and who may write into one."""

from __future__ import annotations

import functools
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from milepost.errors import StoreError
from milepost.lent import LentCursor
from milepost.owner import current_owner
from milepost.turn import Turn

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import apsw

CUT_SHORT: Final = (
    "the transaction was rolled back within its block, by SQLite after an error; nothing of the block was kept: let the "
    "exception end the block, and begin another"
)


class BlockTurn(Turn):
    """
    The turn of an open block, from the outermost `with` to its end.

    Args:
        path: The file.
        outermost: The outermost block.
    """

    __slots__ = (
        "__weakref__",
        "appended",
        "busy",
        "connection",
        "cursors",
        "depth",
        "loop",
        "outermost",
        "over",
        "owner",
        "path",
    )

    def __init__(self, path: str, outermost: Block) -> None:
        super().__init__()
        self.path = path
        self.outermost = outermost
        self.loop = outermost.loop
        self.owner = current_owner()
        self.connection: apsw.Connection | None = None
        self.cursors: weakref.WeakSet[LentCursor] = weakref.WeakSet()  # the caller's, to be closed at the end
        self.depth = 0  # how many blocks are open inside the outermost one
        self.appended = 0  # entries
        self.busy = False  # one of milepost's own calls is under way in it
        self.over = False

    def belongs_to_caller(self) -> bool:
        """Whether the caller is the thread and the task that opened it."""
        return self.loop is None and self.owner == current_owner()

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
        self.cursors.add(cursor)
        return cursor

    def _refuse_outside(self) -> None:
        if self.over:
            raise outside(self.path)
        self.refuse_if_cut_short()

    def close_cursors(self) -> None:
        """What the caller has left open would read on in a transaction that has ended."""
        self.over = True
        for cursor in list(self.cursors):
            cursor.close(True)


def outside(path: str) -> StoreError:
    """What the use of a lent connection outside of its block raises."""
    return StoreError(path, "the connection of transaction() is valid inside its block only: begin another block")


class _Blocks(Protocol):
    """What opens and ends blocks: the writer."""

    def enter(self, block: Block) -> apsw.Connection: ...
    def leave(self, block: Block, error: BaseException | None) -> None: ...


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
    One `with store.transaction()`; inside another one of the same owner it is a savepoint of that.

    Args:
        writer: What opens and ends it.
        loop: In words, the loop that the block belongs to; None where it belongs to the thread and the task that open it.
    """

    turn: BlockTurn | None = None
    depth = 0
    """How deep inside the outermost block it is."""

    def __init__(self, writer: _Blocks, loop: str | None = None) -> None:
        self._writer = writer
        self.loop = loop
        self._held: weakref.ref[object] | None = None

    def __enter__(self) -> apsw.Connection:
        return self._writer.enter(self)

    __exit__ = _Exit()

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
        self._held = weakref.ref(end, self._abandoned)

    @property
    def abandoned(self) -> bool:
        """Whether its `with` is over, though it was not ended."""
        return self.turn is not None and self._held is not None and self._held() is None

    def _abandoned(self, _: object) -> None:
        if self.abandoned:
            self._writer.leave(self, GeneratorExit())
