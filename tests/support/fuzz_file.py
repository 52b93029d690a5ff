"""Atheris makes files; the library opens, answers and verifies them: python fuzz_file.py CORPUS [libFuzzer's options]."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["milepost"]):
    from milepost import CheckpointStore, MilepostError

from support.fault_workload import NAME, fast_directory
from support.tampering import answers


def main() -> None:
    """Anything but an error of ours ends it, and leaves the file that did it."""
    with fast_directory() as directory:
        path = directory / NAME

        def one_file(data: bytes) -> None:
            path.write_bytes(data)
            try:
                with CheckpointStore.open_readonly(path) as store:
                    store.verify()
                    answers(store)
            except MilepostError:
                pass

        atheris.Setup(sys.argv, one_file)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
