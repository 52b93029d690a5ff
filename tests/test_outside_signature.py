"""Anyone can recompute the signature: a program of twenty lines, with JSON and SHA-256 alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from support.chains import MAX, entry, mixed
from support.programs import PROGRAMS

if TYPE_CHECKING:
    from milepost import CheckpointStore

PROGRAM = PROGRAMS / "recompute_signature.py"


def test_a_program_without_milepost_recomputes_the_signature_of_an_export(store: CheckpointStore) -> None:
    """Every kind of character and number included."""
    store.append_many(mixed(50))
    for name in ('quote " and \\', "\x01\b\t\n\f\r\x1f\x7f", "\u65e5\u672c \u05d8\u05e2", "\U0001f680\U0010ffff", "\u2028/"):
        store.append(entry(MAX, run_id=name, stage=name, offset=MAX, event_time_ms=MAX, key=name, at_ms=MAX))
    lines = [json.dumps({**e._asdict(), "watermark": e.watermark._asdict()}) for e in store.history()]
    found = subprocess.run([sys.executable, PROGRAM], input="\n".join(lines), capture_output=True, text=True, check=True)
    assert found.stdout == store.chain_signature()
