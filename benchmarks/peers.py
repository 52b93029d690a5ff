"""
Other stores for the same job, behind one interface. Only this module imports their dependencies.

`ByHand`, on the standard library, keeps milepost's promises. The others keep fewer: they have no chain and no rule of order,
and they overwrite or refuse a repeated key. Each is used in the fastest way that its documentation shows.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import sqlite3
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final

from milepost import Checkpoint, CheckpointStore, Watermark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


class Peer(ABC):
    """A store of checkpoints. A method that it does not support raises NotImplementedError."""

    name: ClassVar[str]
    needs: ClassVar[str | None] = None
    """The module that it needs."""

    @classmethod
    def installed(cls) -> bool:
        """Return whether it is installed."""
        try:
            importlib.import_module(cls.needs or "milepost")
        except ImportError:
            return False
        return True

    @abstractmethod
    def __init__(self, path: Path, durability: str) -> None:
        """Make it in a new file or directory. `durability` is "full" or "normal"."""

    @abstractmethod
    def append(self, entry: Checkpoint) -> None:
        """Record one checkpoint in a transaction of its own."""

    def append_many(self, entries: Iterable[Checkpoint]) -> None:
        """Record a batch in one transaction."""
        raise NotImplementedError

    @abstractmethod
    def latest_for_stage(self, stage: str, run_id: str) -> Checkpoint:
        """Return the last checkpoint of a stage of a run."""

    @abstractmethod
    def history(self) -> Iterator[Checkpoint]:
        """Iterate over all checkpoints, in its fastest order."""

    @abstractmethod
    def close(self) -> None:
        """Close it."""


class Milepost(Peer):
    """The store of this project."""

    name = "milepost"

    def __init__(self, path: Path, durability: Any) -> None:
        self._store = CheckpointStore(path, durability=durability)

    def append(self, entry: Checkpoint) -> None:
        """See `Peer.append`."""
        self._store.append(entry)

    def append_many(self, entries: Iterable[Checkpoint]) -> None:
        """See `Peer.append_many`."""
        self._store.append_many(entries)

    def latest_for_stage(self, stage: str, run_id: str) -> Checkpoint:
        """See `Peer.latest_for_stage`."""
        entry = self._store.latest_for_stage(stage, run_id=run_id)
        assert entry is not None
        return entry

    def history(self) -> Iterator[Checkpoint]:
        """See `Peer.history`."""
        return self._store.history()

    def close(self) -> None:
        """See `Peer.close`."""
        self._store.close()


class ByHand(Peer):
    """An afternoon's work: one table, a SHA-256 chain, a unique index for duplicates, and the rules of an append."""

    name = "by hand"

    TABLE: Final = (
        "CREATE TABLE checkpoint (position INTEGER PRIMARY KEY, run TEXT NOT NULL, stage TEXT NOT NULL, sequence INTEGER "
        "NOT NULL, offset INTEGER NOT NULL, event_time_ms INTEGER NOT NULL, key TEXT NOT NULL, at_ms INTEGER NOT NULL, "
        "signature BLOB NOT NULL) STRICT"
    )
    INDEXES: Final = (
        "CREATE UNIQUE INDEX by_key ON checkpoint (run, stage, key)",
        "CREATE UNIQUE INDEX by_sequence ON checkpoint (run, stage, sequence)",
    )
    FIELDS: Final = "run, stage, sequence, offset, event_time_ms, key, at_ms"

    def __init__(self, path: Path, durability: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {durability}")
        for statement in (self.TABLE, *self.INDEXES):
            self._connection.execute(statement)
        self._lock = threading.Lock()

    def append(self, entry: Checkpoint) -> None:
        """See `Peer.append`."""
        self.append_many((entry,))

    def append_many(self, entries: Iterable[Checkpoint]) -> None:
        """See `Peer.append_many`."""
        connection = self._connection
        with self._lock:
            connection.execute("BEGIN IMMEDIATE")
            try:
                tip = connection.execute(
                    "SELECT position, signature FROM checkpoint ORDER BY position DESC LIMIT 1"
                ).fetchone()
                position, signature = tip or (0, bytes(32))
                for entry in entries:
                    position, signature = self._append(entry, position, signature)
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _append(self, entry: Checkpoint, position: int, signature: bytes) -> tuple[int, bytes]:
        run, stage, sequence, (offset, event_time_ms), key, at_ms = entry
        last = self._connection.execute(
            "SELECT sequence, offset, event_time_ms FROM checkpoint WHERE run = ? AND stage = ? "
            "ORDER BY sequence DESC LIMIT 1",
            (run, stage),
        ).fetchone()
        if last is not None and (sequence <= last[0] or offset < last[1] or event_time_ms < last[2]):
            first = self._connection.execute(
                "SELECT sequence, offset, event_time_ms FROM checkpoint WHERE run = ? AND stage = ? AND key = ?",
                (run, stage, key),
            ).fetchone()
            if first == (sequence, offset, event_time_ms):
                return position, signature
            raise ValueError(f"{entry} does not go on from {last}")
        canonical = json.dumps(
            [run, stage, sequence, [offset, event_time_ms], key, at_ms], ensure_ascii=False, separators=(",", ":")
        )
        signature = hashlib.sha256(signature + canonical.encode()).digest()
        self._connection.execute(
            f"INSERT INTO checkpoint (position, {self.FIELDS}, signature) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (position + 1, run, stage, sequence, offset, event_time_ms, key, at_ms, signature),
        )
        return position + 1, signature

    def latest_for_stage(self, stage: str, run_id: str) -> Checkpoint:
        """See `Peer.latest_for_stage`."""
        row = self._connection.execute(
            f"SELECT {self.FIELDS} FROM checkpoint WHERE run = ? AND stage = ? ORDER BY sequence DESC LIMIT 1",
            (run_id, stage),
        ).fetchone()
        return _checkpoint(row)

    def history(self) -> Iterator[Checkpoint]:
        """See `Peer.history`."""
        return map(_checkpoint, self._connection.execute(f"SELECT {self.FIELDS} FROM checkpoint ORDER BY position"))

    def close(self) -> None:
        """See `Peer.close`."""
        self._connection.close()


class LangGraph(Peer):
    """LangGraph's SqliteSaver. A run is a thread, a stage a checkpoint_ns, and its channels have the other values."""

    name = "langgraph"
    needs = "langgraph.checkpoint.sqlite"

    def __init__(self, path: Path, durability: str) -> None:
        saver: Any = importlib.import_module("langgraph.checkpoint.sqlite")
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._saver = saver.SqliteSaver(self._connection)
        self._saver.setup()
        self._connection.execute(f"PRAGMA synchronous = {durability}")

    def append(self, entry: Checkpoint) -> None:
        """See `Peer.append`. There is no batch."""
        run_id, stage, sequence, (offset, event_time_ms), key, at_ms = entry
        config = {"configurable": {"thread_id": run_id, "checkpoint_ns": stage}}
        values = {"sequence": sequence, "offset": offset, "event_time_ms": event_time_ms, "key": key, "at_ms": at_ms}
        checkpoint = {"v": 1, "id": f"{sequence:020}", "ts": "", "channel_values": values, "channel_versions": {}}
        self._saver.put(config, {**checkpoint, "versions_seen": {}}, {}, {})

    def latest_for_stage(self, stage: str, run_id: str) -> Checkpoint:
        """See `Peer.latest_for_stage`."""
        return self._checkpoint(self._saver.get_tuple({"configurable": {"thread_id": run_id, "checkpoint_ns": stage}}))

    def history(self) -> Iterator[Checkpoint]:
        """See `Peer.history`. It gives the newest first."""
        return map(self._checkpoint, self._saver.list(None))

    @staticmethod
    def _checkpoint(found: Any) -> Checkpoint:
        place, values = found.config["configurable"], found.checkpoint["channel_values"]
        mark = Watermark(values["offset"], values["event_time_ms"])
        return Checkpoint(
            place["thread_id"], place["checkpoint_ns"], values["sequence"], mark, values["key"], values["at_ms"]
        )

    def close(self) -> None:
        """See `Peer.close`."""
        self._connection.close()


class EventSourcing(Peer):
    """The SQLite recorder of eventsourcing. A stage of a run is an originator, with the other values as a JSON array."""

    name = "eventsourcing"
    needs = "eventsourcing.sqlite"

    PAGE: Final = 1000

    def __init__(self, path: Path, durability: str) -> None:
        if durability != "full":
            raise NotImplementedError  # it has no such option
        sqlite: Any = importlib.import_module("eventsourcing.sqlite")
        self._event: Any = importlib.import_module("eventsourcing.persistence").StoredEvent
        self._datastore = sqlite.SQLiteDatastore(str(path), originator_id_type="text")
        self._recorder = sqlite.SQLiteApplicationRecorder(self._datastore)
        self._recorder.create_table()

    def append(self, entry: Checkpoint) -> None:
        """See `Peer.append`."""
        self._recorder.insert_events([self._stored(entry)])

    def append_many(self, entries: Iterable[Checkpoint]) -> None:
        """See `Peer.append_many`."""
        self._recorder.insert_events([self._stored(entry) for entry in entries])

    def _stored(self, entry: Checkpoint) -> Any:
        run_id, stage, sequence, mark, key, at_ms = entry
        return self._event(f"{run_id}/{stage}", sequence, "Checkpoint", json.dumps([*mark, key, at_ms]).encode())

    def latest_for_stage(self, stage: str, run_id: str) -> Checkpoint:
        """See `Peer.latest_for_stage`."""
        return self._checkpoint(self._recorder.select_events(f"{run_id}/{stage}", desc=True, limit=1)[0])

    def history(self) -> Iterator[Checkpoint]:
        """See `Peer.history`. It reads the notification log."""
        start = 1
        while page := self._recorder.select_notifications(start, self.PAGE):
            yield from map(self._checkpoint, page)
            start = page[-1].id + 1

    @staticmethod
    def _checkpoint(event: Any) -> Checkpoint:
        run_id, stage = event.originator_id.split("/")
        offset, event_time_ms, key, at_ms = json.loads(event.state)
        return Checkpoint(run_id, stage, event.originator_version, Watermark(offset, event_time_ms), key, at_ms)

    def close(self) -> None:
        """See `Peer.close`."""
        self._datastore.close()


class DiskCache(Peer):
    """diskcache's Cache. A stage of a run is a queue of tuples."""

    name = "diskcache"
    needs = "diskcache"

    SYNCHRONOUS: Final = {"full": 2, "normal": 1}

    def __init__(self, path: Path, durability: str) -> None:
        diskcache: Any = importlib.import_module("diskcache")
        self._cache = diskcache.Cache(
            str(path), eviction_policy="none", cull_limit=0, sqlite_synchronous=self.SYNCHRONOUS[durability]
        )

    def append(self, entry: Checkpoint) -> None:
        """See `Peer.append`."""
        run_id, stage, sequence, mark, key, at_ms = entry
        self._cache.push((sequence, *mark, key, at_ms), prefix=f"{run_id}/{stage}")

    def append_many(self, entries: Iterable[Checkpoint]) -> None:
        """See `Peer.append_many`."""
        with self._cache.transact():
            for entry in entries:
                self.append(entry)

    def latest_for_stage(self, stage: str, run_id: str) -> Checkpoint:
        """See `Peer.latest_for_stage`."""
        return self._checkpoint(*self._cache.peek(prefix=f"{run_id}/{stage}", side="back"))

    def history(self) -> Iterator[Checkpoint]:
        """See `Peer.history`."""
        cache = self._cache
        return (self._checkpoint(key, cache[key]) for key in cache)

    @staticmethod
    def _checkpoint(name: str, value: Any) -> Checkpoint:
        run_id, stage = name.rsplit("-", 1)[0].split("/")
        sequence, offset, event_time_ms, key, at_ms = value
        return Checkpoint(run_id, stage, sequence, Watermark(offset, event_time_ms), key, at_ms)

    def close(self) -> None:
        """See `Peer.close`."""
        self._cache.close()


def _checkpoint(row: tuple[Any, ...]) -> Checkpoint:
    run_id, stage, sequence, offset, event_time_ms, key, at_ms = row
    return Checkpoint(run_id, stage, sequence, Watermark(offset, event_time_ms), key, at_ms)


PEERS: Final[tuple[type[Peer], ...]] = (Milepost, ByHand, LangGraph, EventSourcing, DiskCache)
