"""The command `ship`: what is committed goes to the target, once or again and again."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

import pytest

import milepost
from milepost import CheckpointStore, Head
from support.chains import chain, entry
from support.command import ENVIRONMENT, answer, run
from support.shipping import NAME
from support.tampering import tamper
from support.warm import WarmTalk, warm_commands

if TYPE_CHECKING:
    from pathlib import Path


def test_ship_prints_the_head_that_is_shipped(store: CheckpointStore, tmp_path: Path) -> None:
    """As one line, or as JSON; a second time without a new entry as well."""
    store.append(entry(1))
    target = tmp_path / "target"
    assert answer("ship", store.path, target, "--name", NAME) == f"{store.head()}\n"
    found = json.loads(answer("ship", store.path, target, "--name", NAME, "--json"))
    assert found == {"entries": 1, "signature": store.head().signature}


def test_ship_changes_no_byte_beside_the_file(path: Path, tmp_path: Path) -> None:
    """It only reads the file."""
    with CheckpointStore(path) as store:
        store.append(entry(1))
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    (tmp_path / "elsewhere").mkdir()
    answer("ship", path, tmp_path / "elsewhere/target", "--name", NAME)
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir() if each.is_file()} == before


def test_a_changed_entry_of_a_keyed_chain_is_refused_with_its_key_file(tmp_path: Path) -> None:
    """Without the key nobody can see that it was changed."""
    path, target, key = tmp_path / "keyed.milepost", tmp_path / "target", tmp_path / "key"
    key.write_bytes(b"secret")
    with CheckpointStore(path, hmac_key=b"secret") as store:
        store.append_many(chain(3))
    tamper(path, "UPDATE entry SET at_ms = at_ms + 1 WHERE position = 2")
    refused = run("ship", path, target, "--name", NAME, "--key-file", key)
    assert (refused.exit_code, refused.stdout) == (3, "")
    assert "the entry at position 2 was changed" in refused.stderr
    assert run("ship", path, target, "--name", NAME).exit_code == 0


def test_a_zombie_ends_with_exit_code_6(store: CheckpointStore, tmp_path: Path) -> None:
    """And one sentence, in the words of the command line."""
    target = tmp_path / "target"
    store.append(entry(1))
    answer("ship", store.path, target, "--name", NAME)
    with CheckpointStore.restore(tmp_path / "other", target, NAME, durability="normal") as other:
        other.append(entry(2))
        milepost.ship(other, target, NAME).ship()
    result = run("ship", store.path, target, "--name", NAME)
    assert (result.exit_code, result.stdout) == (6, "")
    assert "another shipper has taken over orders at 2 entries" in result.stderr
    assert "go on from `milepost restore` into a new file" in result.stderr


def _following(store: CheckpointStore, target: Path) -> WarmTalk[str]:
    """Begin to ship a store as it grows."""
    command = ("-m", "milepost", "ship", store.path, target, "--name", NAME, "--every", "0.05s")
    return warm_commands(warnings=None).talk_text(*command, env=ENVIRONMENT)


def test_ship_every_follows_a_writer_until_it_is_ended(store: CheckpointStore, tmp_path: Path) -> None:
    """One line for each new head; Ctrl-C ships the rest."""
    target = tmp_path / "target"
    child = _following(store, target)
    assert child.stdout.readline().strip() == str(Head(0, "0" * 64))
    for sequence in (1, 2):
        store.append(entry(sequence))
        assert child.stdout.readline().strip() == str(store.head())
    child.send_signal(signal.SIGINT)
    out, errors = child.communicate()
    assert (child.returncode, out, errors) == (0, "", "")


@pytest.mark.parametrize("idle", [False, pytest.param(True, marks=pytest.mark.long)])  # it asks every 5 s
def test_ship_every_is_told_when_another_takes_over(store: CheckpointStore, tmp_path: Path, idle: bool) -> None:
    """It ends with exit code 6, within seconds also if there is nothing to ship."""
    target = tmp_path / "target"
    child = _following(store, target)
    child.stdout.readline()
    milepost.ship(store, target, NAME)
    if not idle:
        store.append(entry(1))
    _, errors = child.communicate()
    assert child.returncode == 6
    assert "another shipper has taken over" in errors


def test_wrong_arguments_are_exit_code_2(store: CheckpointStore, tmp_path: Path) -> None:
    """A span of 0, a name with a slash, no name."""
    for wrong in (["--name", NAME, "--every", "0s"], ["--name", "a/b"], []):
        assert run("ship", store.path, tmp_path / "target", *wrong).exit_code == 2
    assert not (tmp_path / "target").exists()


def test_a_target_that_cannot_be_used_is_exit_code_3(store: CheckpointStore, tmp_path: Path) -> None:
    """One sentence that names it."""
    result = run("ship", store.path, tmp_path / "missing/target", "--name", NAME)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith(f"Error: {tmp_path}/missing/target: ")
