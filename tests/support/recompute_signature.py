"""Recompute the signature of an export: JSON Lines on stdin, 64 hex digits on stdout. Needs no milepost."""

import hashlib
import json
import sys

signature = bytes(32)
for line in sys.stdin.buffer:
    entry = json.loads(line)
    mark = entry["watermark"]
    fields = [
        entry["run_id"],
        entry["stage"],
        entry["sequence"],
        [mark["offset"], mark["event_time_ms"]],
        entry["idempotency_key"],
        entry["at_ms"],
    ]
    canonical = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    signature = hashlib.sha256(signature + canonical).digest()
sys.stdout.write(signature.hex())
