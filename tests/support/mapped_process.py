"""A pipeline that is killed: `mapped_process.py PATH KIND EVERY WORKERS IN_FLIGHT`, a loop with workers and a sink."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from milepost import CheckpointStore

LENGTH = 1_000_000


def work(record: int) -> int:
    """As a request that takes a while."""
    time.sleep(0.0005 * (record % 3))
    return -record


async def work_async(record: int) -> int:
    """As `work`."""
    await asyncio.sleep(0.0005 * (record % 3))
    return -record


def main(path: str, kind: str, every: str, workers: str, in_flight: str) -> None:
    """Run it from where it stands."""
    transaction = "transaction" in kind
    with CheckpointStore(path, durability="normal") as store:
        loop: Any = store.checkpointed(
            range(LENGTH),
            run_id="run-7",
            stage="load",
            every=int(every),
            every_s=None if transaction else 0.005,
            transaction=transaction,
        )
        loop = loop.map(work_async if "async" in kind else work, workers=int(workers), in_flight=int(in_flight))

        def process(record: int) -> None:
            if transaction:
                loop.connection.execute("INSERT INTO sink VALUES (?)", (record,))
            else:
                with store.transaction() as connection:
                    connection.execute("INSERT INTO sink VALUES (?)", (record,))

        async def run() -> None:
            async with loop:
                async for record, _ in loop:
                    process(record)

        print("begun", flush=True)
        if "async" in kind:
            asyncio.run(run())
        else:
            for record, _ in loop:
                process(record)


if __name__ == "__main__":
    main(*sys.argv[1:])
