"""The command `restore`: the shipped chain in a new file, or the object that is wrong and no file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import milepost
from milepost import CheckpointStore
from support.chains import chain
from support.command import answer, run
from support.shipping import NAME

if TYPE_CHECKING:
    from pathlib import Path


def test_restore_prints_the_head_of_the_new_file(store: CheckpointStore, tmp_path: Path) -> None:
    """As one line, or as JSON."""
    store.append_many(chain(5))
    milepost.ship(store, tmp_path / "target", NAME).ship()
    arguments = ("restore", tmp_path / "target")
    assert answer(*arguments, tmp_path / "new", "--name", NAME) == f"{store.head()}\n"
    found = json.loads(answer(*arguments, tmp_path / "newer", "--name", NAME, "--json"))
    assert found == {"entries": 5, "signature": store.head().signature}
    assert answer("verify", tmp_path / "new", "--expected", str(store.head())).startswith("intact")


def test_a_keyed_chain_is_restored_with_its_key_file(tmp_path: Path) -> None:
    """Without it: exit code 4."""
    key = tmp_path / "key"
    key.write_bytes(b"secret")
    with CheckpointStore(tmp_path / "keyed", hmac_key=b"secret") as store:
        store.append_many(chain(2))
        milepost.ship(store, tmp_path / "target", NAME).ship()
        head = store.head()
    arguments = ("restore", tmp_path / "target", tmp_path / "new", "--name", NAME)
    refused = run(*arguments)
    assert refused.exit_code == 4
    assert "give --key-file" not in refused.stdout
    assert answer(*arguments, "--key-file", key) == f"{head}\n"


def test_what_is_damaged_is_exit_code_1_and_nothing_there_3(store: CheckpointStore, tmp_path: Path) -> None:
    """The object is named, and no file appears."""
    milepost.ship(store, tmp_path / "target", NAME)
    (only,) = (tmp_path / "target/orders/log").iterdir()
    only.write_bytes(b"")
    damaged = run("restore", tmp_path / "target", tmp_path / "new", "--name", NAME)
    assert damaged.exit_code == 1
    assert f"object orders/log/{only.name}, position 1" in damaged.stderr
    assert run("restore", tmp_path / "target", tmp_path / "new", "--name", "other").exit_code == 3
    assert not (tmp_path / "new").exists()


def test_restore_never_overwrites(store: CheckpointStore, tmp_path: Path) -> None:
    """Exit code 3, and the file stays."""
    milepost.ship(store, tmp_path / "target", NAME)
    (tmp_path / "new").write_text("kept")
    assert run("restore", tmp_path / "target", tmp_path / "new", "--name", NAME).exit_code == 3
    assert (tmp_path / "new").read_text() == "kept"
