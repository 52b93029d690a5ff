"""A writer in a process of its own that does what it is told, a line each, and answers with a line."""

from __future__ import annotations

import os
import sys

from milepost import CheckpointStore, MilepostError
from milepost.named_files import NamedFiles
from support.chains import entry
from support.doors import wal


def main(path: str, write_back_pages: str, *broken: str) -> None:
    """Answer `append` with the sequence, or with the name of what was raised."""
    if "trusting" in broken:
        NamedFiles.refuse_others = lambda self, now: None  # type: ignore[method-assign]
    with CheckpointStore(path, busy_timeout_ms=60_000) as store:
        wal(store).write_back_pages = int(write_back_pages)
        sequence = len(store)
        print("ready", flush=True)
        for line in sys.stdin:
            order = line.strip()
            try:
                if order == "append":
                    store.append(entry(sequence + 1))
                    sequence += 1
                    print(sequence, flush=True)
                while order == "append for ever":
                    store.append(entry(sequence + 1))
                    sequence += 1
                    os.write(1, f"{sequence}\n".encode())
            except MilepostError as error:
                print(type(error).__name__, flush=True)
            if order == "copy":
                with open(path, "rb") as file:  # noqa: PTH123 - closing it drops the locks that SQLite has on the file
                    file.read()
                print("copied", flush=True)
            elif order == "close":
                break
    print("closed", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
