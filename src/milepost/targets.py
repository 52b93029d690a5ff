"""
Where a store is shipped to: a directory, or an object store by obstore.

A target holds objects by name, with `/` between folders. It needs four things: put an object only if there is none of that
name, read one, list a folder, remove some. What it has answered, it has made durable; a list has every object that was put
before it was asked for. A directory gets this from the file system; S3, GCS and Azure give it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from abc import ABC, abstractmethod
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from milepost import create, files
from milepost.errors import InvalidArgumentError, MilepostError, MissingPackageError, StoreError, TargetError, kind, shown
from milepost.segment import MOST_OBJECT_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://.*", re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_ABANDONED_S: Final = 86_400  # a temporary file of this age belongs to nobody
_MEMORY: dict[str, Any] = {}  # the stores in memory by URL, so that two calls mean the same one
_users: set[int] = set()  # the processes in which obstore was used: this one, or one that it was forked from


class Target(ABC):
    """Where objects are put. Its `label` names it in messages."""

    label: str

    @abstractmethod
    def put_new(self, name: str, data: bytes) -> bool:
        """
        Put an object, durably, unless there is one of that name.

        Returns:
            Whether it was put; False if there is one.

        Raises:
            TargetError: It is not known whether it was put.
        """

    @abstractmethod
    def get(self, name: str) -> bytes | None:
        """
        Read an object; None if there is none.

        Raises:
            TargetError: It cannot be read.
        """

    @abstractmethod
    def objects(self, folder: str, after: str = "") -> list[tuple[str, int]]:
        """
        List the names of a folder's objects that are above `after`, in order, each with its size in bytes.

        Raises:
            TargetError: They cannot be listed.
        """

    @abstractmethod
    def remove(self, names: Sequence[str]) -> None:
        """
        Remove objects that may be there.

        Raises:
            TargetError: They cannot be removed.
        """

    def tidy(self, name: str) -> None:  # noqa: B027 - most have nothing to tidy
        """Remove what a killed process left half written."""


def checked_name(name: object) -> str:
    """
    Refuse the name of a store that is not the same in every target.

    Raises:
        InvalidArgumentError: It breaks the rule.
    """
    if type(name) is str and _NAME.fullmatch(name):
        return name
    rule = (
        "must have 1 to 200 of the characters A-Z, a-z, 0-9, '.', '_' and '-', the first a letter or a digit, since it "
        "becomes part of the names of objects: add folders to the target instead"
    )
    raise InvalidArgumentError("name", name, rule)


def target_of(given: object) -> Target:
    """
    Return the target that a caller has named.

    Args:
        given: A path, a URL, a store of obstore, or a target.

    Raises:
        InvalidArgumentError: It is none of these.
        MissingPackageError: It needs obstore, which is not installed.
        TargetError: obstore does not take the URL, or the path is relative and the working directory is gone.
    """
    failure: Exception | None = None
    try:
        found = _target_of(given)
    except StoreError as error:
        raise TargetError(error.path, error.problem) from error
    except MilepostError:
        raise
    except Exception as error:
        if type(given) is str and not isinstance(error, ValueError):
            raise
        found, failure = None, error  # a hostile value may raise anything when it is asked what it is
    if found is None:
        rule = "must be the path of a directory, a URL such as s3://bucket/folder, or a store of obstore"
        raise InvalidArgumentError("target", given, rule) from failure
    return found


def _target_of(given: object) -> Target | None:
    if isinstance(given, Target):
        return given
    if type(given) is str and _URL.fullmatch(given):
        parts = urlsplit(given)
        if parts.scheme.lower() == "file":
            if parts.netloc.lower() not in {"", "localhost"} or parts.path[:1] != "/" or parts.query or parts.fragment:
                rule = "must be file:/// and an absolute path, with # and ? as %23 and %3F: or give the path itself"
                raise InvalidArgumentError("target", given, rule)
            from urllib.request import url2pathname  # noqa: PLC0415 - takes 13 ms, and brings HTTP and TLS with it

            return DirectoryTarget(url2pathname(parts.path))
        return ObjectTarget(_store_of(given), given)
    if isinstance(given, str | os.PathLike):
        return DirectoryTarget(files.real(given))
    return _target_of_store(given) if is_of_obstore(given) else None


def _target_of_store(given: Any) -> Target:
    if type(given).__name__ != "LocalStore":
        return ObjectTarget(given, shown(given))
    # Its own puts are not synced to the disk, so a loss of power could take back what was acknowledged.
    prefix = given.prefix
    if prefix is None:
        raise InvalidArgumentError("target", given, "must have a prefix: give the path of the directory")
    return DirectoryTarget(files.real(prefix))


def is_of_obstore(given: object) -> bool:
    """Return whether a value is a store of obstore, without importing it."""
    return any(base.__module__.partition(".")[0] == "obstore" for base in type(given).__mro__)


def _obstore() -> Any:
    try:
        import obstore  # noqa: PLC0415 - an extra
        import obstore.store  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "obstore":
            raise
        raise MissingPackageError("obstore", '"milepost[ship]"') from None
    return obstore


def _store_of(url: str) -> Any:
    obstore = _obstore()
    if url.startswith("memory:"):
        return _MEMORY.setdefault(url, obstore.store.MemoryStore())
    retry = {"max_retries": 3, "retry_timeout": timedelta(seconds=15)}
    with _errors_of(url):
        return obstore.store.from_url(url, retry_config=retry)


class ObjectTarget(Target):
    """
    An object store.

    Args:
        store: A store of obstore.
        label: Names it in messages.
    """

    def __init__(self, store: Any, label: str) -> None:
        self._obstore = _obstore()
        self._store = store
        self.label = label

    def put_new(self, name: str, data: bytes) -> bool:
        """Put an object unless there is one."""
        with self._call():
            try:
                self._obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except self._obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def get(self, name: str) -> bytes | None:
        """Read an object; None if there is none."""
        with self._call():
            try:
                found = self._obstore.get(self._store, name)
            except FileNotFoundError:
                return None
            if found.meta["size"] > MOST_OBJECT_BYTES:
                return b""  # which is no segment
            return bytes(found.bytes())

    def objects(self, folder: str, after: str = "") -> list[tuple[str, int]]:
        """List a folder."""
        with self._call():
            pages = self._obstore.list(self._store, prefix=folder, offset=after or None)
            return sorted((each["path"], each["size"]) for page in pages for each in page)

    def remove(self, names: Sequence[str]) -> None:
        """Remove objects."""
        with self._call(), contextlib.suppress(FileNotFoundError):
            self._obstore.delete(self._store, list(names))

    @contextlib.contextmanager
    def _call(self) -> Iterator[None]:
        """Refuse a process that inherited obstore: its threads are not there, so a call would never end."""
        _users.add(os.getpid())
        if len(_users) > 1:
            raise TargetError(
                self.label,
                "obstore was used before this process was forked, and would wait for ever here: start the process with "
                "spawn, or use object stores in one of the two alone",
            )
        with _errors_of(self.label):
            yield


@contextlib.contextmanager
def _errors_of(label: str) -> Iterator[None]:
    try:
        yield
    except MilepostError:
        raise
    except Exception as error:  # obstore's, or one of a credential provider, which may be anything
        said, *_ = str(error).splitlines() or [kind(error)]
        raise TargetError(label, f"{said or kind(error)}: check the target, its credentials and the network") from error


class DirectoryTarget(Target):
    """
    A directory. Each object is a file that appears durably and as a whole, and never takes another one's place.

    If it is missing it is made, for its owner alone.

    Args:
        path: Its absolute name. Its parent must exist once something is put.
    """

    def __init__(self, path: str) -> None:
        self.label = path
        self._root = Path(path)
        self._made: set[Path] = set()

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a file under a temporary name, sync it, link it into place, and sync the directory."""
        final = self._path(name)
        with self._errors():
            self._make(final.parent)
            temporary = final.parent / f".new-{secrets.token_hex(8)}"
            process = os.getpid()
            try:
                # The child of a fork has its parent's position in the file, and would have a copy of a buffer, which it
                # would write behind the object as it ends. So there is no buffer, and each byte has its place.
                with temporary.open("xb", buffering=0) as stream:
                    files.write_at(stream.fileno(), data, 0)
                    os.fsync(stream.fileno())
                create.link(str(temporary), str(final))
            except FileExistsError:
                files.sync_directory(str(final))  # whoever put it may have been killed before its name was durable
                return False
            finally:
                if os.getpid() == process:  # else it is the parent's, who goes on with it
                    temporary.unlink(missing_ok=True)
            files.sync_directory(str(final))
        return True

    def get(self, name: str) -> bytes | None:
        """Read a file; None if there is none."""
        path = self._path(name)
        with self._errors():
            try:
                if path.stat().st_size > MOST_OBJECT_BYTES:
                    return b""  # which is no segment
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def objects(self, folder: str, after: str = "") -> list[tuple[str, int]]:
        """List a folder."""
        found: list[tuple[str, int]] = []
        with self._errors():
            try:
                with os.scandir(self._path(folder)) as scanned:
                    entries = list(scanned)
            except (FileNotFoundError, NotADirectoryError):
                return []
            for entry in entries:
                name = f"{folder}/{entry.name}"
                if name > after and not entry.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):  # it has just been merged
                        found.append((name, entry.stat().st_size))
        return sorted(found)

    def remove(self, names: Sequence[str]) -> None:
        """Remove files."""
        with self._errors():
            for name in names:
                self._path(name).unlink(missing_ok=True)

    def tidy(self, name: str) -> None:
        """Remove temporary files that are a day old."""
        for folder in (self._path(f"{name}/log"), self._path(f"{name}/merged")):
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(".new-") and time.time() - entry.stat().st_mtime > _ABANDONED_S:
                        Path(entry.path).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._root.joinpath(*name.split("/"))

    def _make(self, folder: Path) -> None:
        """Make a directory, and those above it down from the target's parent, durably."""
        if folder in self._made:
            return
        missing = [each for each in (folder, folder.parent, self._root) if not each.is_dir()]
        for each in reversed(missing):
            with contextlib.suppress(FileExistsError):
                each.mkdir(0o700 if each == self._root else 0o777)  # who shares it makes it first, as it is to be
        for each in (folder, folder.parent, self._root):  # also those that another process has made just now
            files.sync_directory(str(each))
        self._made.add(folder)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except MilepostError as error:
            raise TargetError(self.label, str(error)) from error
        except OSError as error:
            said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            raise TargetError(self.label, f"{said}: check the directory and its disk") from error
