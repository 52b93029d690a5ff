"""
Make the files of this directory: a store as this version of the format has it, plain and keyed, and what it holds as JSON.

Run once for each version of the format, by the last commit before the version rises; what is here is never made anew:
`PYTHONPATH=src python tests/old_files/make.py tests/old_files/version-2`
"""

from __future__ import annotations

import contextlib
import json
import sys
from itertools import count
from pathlib import Path
from typing import Any, Final

from milepost import CheckpointStore, Watermark

KEY: Final = bytes(range(32))
RUNS: Final = ("nightly-1", "2026-ü-日本-🚀", "'; DROP TABLE entry; --")
STAGES: Final = ("extract", "Umsätze <b>")
OTHERS: Final = [(run, stage) for run in RUNS for stage in STAGES][1:]
SINK: Final = """
CREATE TABLE sink (number INTEGER PRIMARY KEY, name TEXT NOT NULL, CHECK (length(name) > 0)); -- the caller's own
CREATE INDEX sink_by_name ON sink (name);
CREATE TRIGGER sink_is_counted AFTER INSERT ON sink BEGIN INSERT INTO counted VALUES (new.number); END;
CREATE TABLE counted (number INTEGER);
CREATE VIEW named AS SELECT name FROM sink;
"""


def make(path: Path, key: bytes | None) -> None:
    """Make `path`.milepost and `path`.json."""
    file = path.parent / f"{path.name}.milepost"
    clock = count(1767225600000, 1000)
    with CheckpointStore(file, hmac_key=key, clock=lambda: next(clock)) as store:
        with store.transaction() as connection:
            connection.execute(SINK)
        for number in range(1, 66):  # one stage of one run goes past 40 entries, and the others stand between
            store.advance(RUNS[0], STAGES[0], Watermark(number * 500, number), idempotency_key=f"load:{number}")
            if number % 5 == 0:
                run, stage = OTHERS[number // 5 % len(OTHERS)]
                with store.transaction() as connection:
                    connection.execute("INSERT INTO sink VALUES (?, ?)", (number, f"{stage} {number}"))
                    store.advance(run, stage, Watermark(10**6 + number, 2**63 - 1), idempotency_key=f"ü {number}\n")
        with contextlib.suppress(ValueError), store.run("a run"):
            raise ValueError
        with store.run("a run") as again:
            for page, cursor in enumerate((b"\xff\x00", {"token": "ü 日本 🚀 \u2028"}, ["a", 1.5, None]), 1):
                again.advance("pages", Watermark(page, 0), idempotency_key=f"page {page}", cursor=cursor)
        store.branch("a run", "a branch")
        with store.transaction() as connection:
            sink = list(connection.execute("SELECT number, name FROM sink ORDER BY number"))
        holds: dict[str, Any] = {
            "key": key.hex() if key else None,
            "head": str(store.head()),
            "runs": {run.run_id: store.chain_signature(run.run_id) for run in store.runs()},
            "sink": sink,
            "entries": [[*each[:3], *each.watermark, *each[4:]] for each in store.history()],
            "details": [detail for *_, detail in store.receipts()],
            "cursor": store.cursor("pages", run_id="a branch"),
        }
    text = json.dumps(holds, ensure_ascii=False, separators=(",", ":"))
    (path.parent / f"{path.name}.json").write_text(text.replace("],[", "],\n[") + "\n", encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]), None)
    make(Path(f"{sys.argv[1]}-keyed"), KEY)
