"""A disk that fails at one VFS call: what it raises there, of five kinds."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import apsw

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.hooked_vfs import Call

IO_ERRORS: Final = {
    "xOpen": apsw.SQLITE_CANTOPEN,
    "xRead": apsw.SQLITE_IOERR_READ,
    "xWrite": apsw.SQLITE_IOERR_WRITE,
    "xTruncate": apsw.SQLITE_IOERR_TRUNCATE,
    "xFileSize": apsw.SQLITE_IOERR_FSTAT,
    "xLock": apsw.SQLITE_IOERR_LOCK,
    "xUnlock": apsw.SQLITE_IOERR_UNLOCK,
    "xCheckReservedLock": apsw.SQLITE_IOERR_CHECKRESERVEDLOCK,
    "xFileControl": apsw.SQLITE_IOERR,
    "xDelete": apsw.SQLITE_IOERR_DELETE,
    "xAccess": apsw.SQLITE_IOERR_ACCESS,
    "xClose": apsw.SQLITE_IOERR_CLOSE,
}
# A read allocates nothing, so no VFS of SQLite's answers it so; SQLite would keep the page it did not get as an empty one.
ALLOCATING: Final = (*(method for method in IO_ERRORS if method != "xRead"), "xSync")
KINDS: Final[dict[str, dict[str, Callable[[], BaseException]]]] = {
    "I/O error": {method: lambda code=code: apsw.exception_for(code) for method, code in IO_ERRORS.items()},  # type: ignore[misc]
    "disk full": {method: lambda: apsw.exception_for(apsw.SQLITE_FULL) for method in ("xWrite", "xTruncate")},
    "failed fsync": {"xSync": lambda: apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)},
    "no memory": {method: lambda: apsw.exception_for(apsw.SQLITE_NOMEM) for method in ALLOCATING},
    "MemoryError": dict.fromkeys(ALLOCATING, MemoryError),
}


@dataclass
class Fault:
    """The hook: from call number `at` on it raises, once or until it is healed."""

    errors: dict[str, Callable[[], BaseException]]
    at: int
    lasting: bool
    calls: int = 0
    raised: int = 0
    healed: bool = False

    def __call__(self, call: Call) -> None:
        """Look at one call."""
        number, self.calls = self.calls, self.calls + 1
        due = number == self.at or (self.lasting and number > self.at)
        if due and not self.healed and call.method in self.errors:
            self.raised += 1
            raise self.errors[call.method]()  # noqa: RSE102 - a factory, not a class


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """An error that comes while an object goes has no caller to be raised to; Python would print it."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
