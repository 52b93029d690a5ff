"""
milepost as a target of `agent-memory-integrity` (agmi), an outside suite that edits a store behind its back.

    agmi-check --adapter support.agent_memory_adapter:MilepostAdapter

What agmi calls a context is a run here; a record's slot is its position, run, stage, sequence and key, its content is the
watermark with the signatures, and its metadata is the wall clock. Reading is the recipe of docs/recipes.md: open
the file, verify it against the head that the pipeline kept elsewhere, and only then resume. Opening alone verifies nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import apsw
from agmi.adapters.base import MemoryAdapter, Record

from milepost import CheckpointStore, Head, MilepostError, StoreError, rows
from milepost.checkpoint import signed
from support.chains import entry
from support.tampering import NO_TRIGGERS

if TYPE_CHECKING:
    from collections.abc import Sequence

COLUMNS: Final = rows.EntryRow._fields
LINKS: Final = ("signature", "run_signature")
CONTENT: Final = ("offset", "event_time_ms", "signature", "run_signature")

_ROWS: Final = (
    f"SELECT {', '.join(COLUMNS)} FROM entry WHERE run_number = (SELECT run_number FROM run WHERE run_id = ?) "
    "ORDER BY position"
)
_PUT_CONTENT: Final = f"UPDATE entry SET {' = ?, '.join(CONTENT)} = ? WHERE position = ?"
_FORGE: Final = f"INSERT INTO entry ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"


class MilepostAdapter(MemoryAdapter):
    """The recipe: verify against the kept head, then resume."""

    name = "milepost"
    detection_point = "read"
    supports_replay = supports_metadata = supports_snapshot = True

    def setup(self) -> None:
        """Make an empty store."""
        self.directory = Path(tempfile.mkdtemp(prefix="milepost-agmi-"))
        self.path = self.directory / "orders.milepost"
        self.kept = Head(0, "0" * 64)  # in the memory of the pipeline: an attacker on the file does not reach it

    def teardown(self) -> None:
        """Remove it."""
        shutil.rmtree(self.directory)

    # Through the store's own verbs

    def seed(self, n: int) -> None:
        """Append to the first run."""
        self._append("run-a", range(1, n + 1))

    def seed_other(self, n: int) -> None:
        """Append to the second one."""
        self._append("run-b", range(1, n + 1))

    def append_genuine(self) -> None:
        """Append one more."""
        self._append("run-a", [len(self.read_all_raw()) + 1])

    def _append(self, run_id: str, sequences: Sequence[int]) -> None:
        ahead = 7 if run_id == "run-b" else 0
        with CheckpointStore(self.path) as store:
            for n in sequences:
                store.append(entry(n, run_id=run_id, offset=n * 500 + ahead, key=f"{run_id}:{n}"))
            self.kept = store.head()

    def reload(self) -> None:
        """Nothing is open between two calls."""

    def verify(self) -> bool:
        """Resume, as a pipeline that does not trust its disk."""
        self.verify_detail = None
        try:
            with CheckpointStore.open_readonly(self.path) as store:
                self.check(store)
                store.resume_points()
        except MilepostError as error:
            self.verify_detail = str(error)
            return False
        return True

    def check(self, store: CheckpointStore) -> None:
        """The chain contains the kept head, and, since nobody else writes here, nothing came after it."""
        store.verify(expected=self.kept).raise_if_broken()
        if store.head() != self.kept:
            raise StoreError(store.path, f"its head is {store.head()}, not {self.kept}")

    # Behind its back

    def read_all_raw(self) -> list[Record]:
        """The rows of the first run."""
        return self._read("run-a")

    def read_other_raw(self) -> list[Record]:
        """The rows of the second run."""
        return self._read("run-b")

    def _read(self, run_id: str) -> list[Record]:
        return [Record(seq, dict(zip(COLUMNS, row, strict=True))) for seq, row in enumerate(self._sql(_ROWS, run_id))]

    def _sql(self, statement: str, *bindings: Any) -> list[tuple[Any, ...]]:
        connection = apsw.Connection(str(self.path))
        try:
            connection.execute(NO_TRIGGERS)
            return connection.execute(statement, bindings).fetchall()
        finally:
            connection.close()

    def write_raw(self, record: Record) -> None:
        """Change the content of the record in a slot, or put one into a new slot."""
        slots = self.read_all_raw()
        if record.seq < len(slots):
            position = slots[record.seq].fields["position"]
            self._sql(_PUT_CONTENT, *(record.fields[name] for name in CONTENT), position)
        else:
            self._sql(_FORGE, *(record.fields[name] for name in COLUMNS))

    def delete_raw(self, seq: int) -> None:
        """Delete a record."""
        self._sql("DELETE FROM entry WHERE position = ?", self.read_all_raw()[seq].fields["position"])

    def replay_onto(self, victim_seq: int, donor: Record) -> None:
        """Put the content of a genuine record into another slot."""
        self.write_raw(Record(victim_seq, donor.fields))

    def read_meta(self, seq: int) -> dict[str, Any]:
        """The wall clock of a record."""
        return {"at_ms": self.read_all_raw()[seq].fields["at_ms"]}

    def write_meta(self, seq: int, meta: dict[str, Any]) -> None:
        """Set it back by an hour."""
        position = self.read_all_raw()[seq].fields["position"]
        self._sql("UPDATE entry SET at_ms = ? WHERE position = ?", meta["at_ms"] - 3_600_000, position)

    def mutate_payload(self, record: Record) -> Record:
        """A record that claims to have come further."""
        record.fields["offset"] += 250
        return record

    def forge_record(self, template: Record) -> Record:
        """The next record, as the store would write it: anyone can compute the links, the chain's and the run's."""
        fields = template.fields
        n = fields["sequence"] + 1
        forged = entry(n, run_id="run-a", offset=n * 500, key=f"run-a:{n}")
        links = {name: fields[name] and hashlib.sha256(fields[name] + signed(forged)).digest() for name in LINKS}
        return Record(template.seq + 1, {**fields, "position": fields["position"] + 1, "sequence": n, "offset": n * 500,
                                         "event_time_ms": forged.watermark.event_time_ms,
                                         "idempotency_key": forged.idempotency_key, **links, "milepost": None})  # fmt: skip

    def snapshot_store(self) -> bytes:
        """The file, closed and whole."""
        return self.path.read_bytes()

    def restore_store(self, token: object) -> None:
        """Put an older copy back."""
        assert isinstance(token, bytes)
        self.path.write_bytes(token)

    # What agmi compares to see that its edit has landed

    def identity_of(self, record: Record) -> str:
        """The slot."""
        return str([record.fields[name] for name in COLUMNS if name not in {*CONTENT, "at_ms"}])

    def payload_of(self, record: Record) -> str:
        """The content."""
        return str([record.fields[name] for name in CONTENT])

    def owner_of(self, record: Record) -> str:
        """The run."""
        return str(record.fields["run_number"])
