"""One of several processes on one file, which notes what it asked, when, and what it was told: a JSON line each."""

from __future__ import annotations

import json
import random
import sys
import time

from milepost import CheckpointStore, Watermark
from support.chains import entry

path, name, operations, seed = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(f"{seed} {name}")
with CheckpointStore(path, durability="normal", busy_timeout_ms=10_000) as store:
    print("ready", flush=True)
    sys.stdin.readline()  # all begin at once
    sequence, told = 0, []
    for _ in range(operations):
        way = chance.random()
        begun = time.monotonic_ns()  # one clock for all processes of a machine
        if way < 0.3:
            head = store.head()
            said: dict[str, object] = {"entries": head.entries, "signature": head.signature}
        else:
            again = sequence > 0 and way < 0.4
            sequence += not again
            key = f"{name}:{sequence}"
            if way < 0.7:
                receipt = store.append(entry(sequence, run_id=name, key=key))
            else:
                mark = Watermark(*entry(sequence).watermark)
                receipt = store.advance(name, "load", mark, idempotency_key=key)
            said = {"key": key, "position": receipt.position, "signature": receipt.signature, "duplicate": receipt.duplicate}
        ended = time.monotonic_ns()
        told.append({"process": name, "begun": begun, "ended": ended, **said})
for operation in told:
    print(json.dumps(operation))
