"""A writer to be killed: appends in every way until the end, and says what was acknowledged, a line each, on stdout."""

import random
import sys
from typing import Any

from milepost import CheckpointStore, Watermark
from support.chains import entry


def say(*keys: str) -> None:
    """Acknowledge, in one write."""
    sys.stdout.write("".join(f"{key}\n" for key in keys))
    sys.stdout.flush()


def append(path: str, name: str, seed: str, limit: str, durability: Any = "full") -> None:
    """Append to a run until its sequence comes to a limit."""
    chance = random.Random(int(seed))
    with CheckpointStore(path, durability=durability, busy_timeout_ms=60_000) as store:
        with store.transaction() as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS sink (key TEXT NOT NULL) STRICT")
        last = store.latest(name)
        sequence = last.sequence if last else 0
        say("ready")
        while sequence < int(limit):
            way = chance.randrange(4)
            keys = [f"{name}:{sequence + 1 + i}" for i in range(3 if way == 1 else 1)]
            entries = [entry(sequence + 1 + i, run_id=name, key=key) for i, key in enumerate(keys)]
            if way == 0:
                store.append(entries[0])
            elif way == 1:
                store.append_many(entries)
            elif way == 2:
                store.advance(name, "load", Watermark(*entries[0].watermark), idempotency_key=keys[0])
            else:
                with store.transaction() as connection:
                    connection.execute("INSERT INTO sink VALUES (?)", (keys[0],))
                    store.append(entries[0])
            sequence += len(keys)
            say(*(f"sink {key}" if way == 3 else key for key in keys))


if __name__ == "__main__":
    append(*sys.argv[1:])
