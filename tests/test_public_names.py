"""The top level exports what users need, and importing it costs no extra."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import TYPE_CHECKING

import milepost
import milepost.checkpoint
from milepost import errors
from support.methods import ABOUT, ASYNC, READING, SHOWING, WRITING, method, public

if TYPE_CHECKING:
    from pathlib import Path

CONTRACT = ["watermark", "checkpoint", "valid_watermark", "valid", "watermark_label", "checkpoint_label",
            "resume_point_label", "latest", "latest_for_stage", "resume_point_for_stage", "chain_signature"]  # fmt: skip


def test_the_contract_module_has_its_three_classes_and_eleven_functions() -> None:
    """Name for name, and nothing at the top level shadows the module."""
    for name in ("Watermark", "Checkpoint", "ResumePoint"):
        assert getattr(milepost, name) is getattr(milepost.checkpoint, name)
    for name in CONTRACT:
        assert inspect.isfunction(getattr(milepost.checkpoint, name))
    assert inspect.ismodule(milepost.checkpoint)


def test_every_public_name_is_exported_once_in_order() -> None:
    """All errors, all answers."""
    assert sorted(set(milepost.__all__)) == milepost.__all__
    for name, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, milepost.MilepostError):
            assert name in milepost.__all__
    for name in milepost.__all__:
        assert getattr(milepost, name).__doc__


def test_importing_milepost_and_using_a_store_needs_apsw_alone(tmp_path: Path) -> None:
    """No extra is imported, and none has to be installed; nor is what is large and most programs do without."""
    program = (
        "import sys, milepost\n"
        "with milepost.CheckpointStore('orders.milepost') as store: len(store)\n"
        "extra = {'click', 'rich', 'pandas', 'numpy', 'matplotlib', 'arro3', 'pyarrow', 'polars', 'duckdb', 'sqlite3'}\n"
        "extra |= {'asyncio', 'urllib.request'}\n"
        "print(sorted(extra & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout == "[]\n"


def test_every_method_of_a_store_is_in_the_lists_that_tests_go_through() -> None:
    """A new one is added to tests/support/methods.py, once."""
    assert {method(call) for call in (*READING, *SHOWING, *WRITING, *ASYNC)} & public() == public() - set(ABOUT)
