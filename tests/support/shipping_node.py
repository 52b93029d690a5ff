"""
A node that ships, run as a program: `shipping_node.py FILE TARGET NAME [restore]`.

It restores the file first if it is told to. Then it appends and ships, a few entries at a time, and prints the head of
each ship that returned, until it is killed or fenced; it prints `fenced` then.
"""

from __future__ import annotations

import sys

import milepost
from milepost import CheckpointStore, FencedError, Watermark, segment


def main() -> None:
    """Run until the end."""
    segment.MERGED_TOGETHER = 4  # type: ignore[misc] # so that few ships merge objects on several levels
    path, target, name, *more = sys.argv[1:]
    restored = more == ["restore"]
    options = {"durability": "normal"}
    store = CheckpointStore.restore(path, target, name, **options) if restored else CheckpointStore(path, **options)  # type: ignore[arg-type]
    try:
        shipper = milepost.ship(store, target, name)
        print("ready", flush=True)
        while True:
            done = len(store)
            for number in range(done % 3 + 1):
                key = f"{path}:{done + number}"
                store.advance("run", "load", Watermark(done + number, 0), idempotency_key=key, cursor=key)
            print(shipper.ship(), flush=True)
    except FencedError:
        print("fenced", flush=True)


if __name__ == "__main__":
    main()
