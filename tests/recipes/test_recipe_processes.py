"""Processes that share a bag do each item, and store it once, whichever of them is killed."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest

from support.recipes import CHANCE, DOSES, Recipe, ask, check_store, directories, killed_and_resumed

if TYPE_CHECKING:
    from pathlib import Path


def _photos(directory: Path, number: int) -> list[tuple[str, str]]:
    (directory / "photos").mkdir()
    photos = []
    for each in range(number):
        content = f"photo {each}".encode()
        (directory / f"photos/{each:05}.jpg").write_bytes(content)
        photos.append((f"photos/{each:05}.jpg", hashlib.sha256(content).hexdigest()))
    return photos


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_bag_that_processes_share_is_done_once(tmp_path: Path, rounds: int, kills: int) -> None:
    """All of them are killed at once."""
    for directory in directories(tmp_path, rounds):
        photos = _photos(directory, 2000)
        recipe = Recipe("Share a bag of files among processes", directory)
        killed_and_resumed(recipe, kills, within_s=0.15)
        assert ask(directory / "photos.milepost", "SELECT path, checksum FROM photo ORDER BY path") == photos
        check_store(directory / "photos.milepost", "checksum", len(photos))


@pytest.mark.parametrize(("rounds", "kills"), DOSES)
def test_a_program_that_is_killed_leaves_its_items_to_the_other(tmp_path: Path, rounds: int, kills: int) -> None:
    """Two of them share the bag, with four processes each; the one that is left does all of it."""
    for directory in directories(tmp_path, rounds):
        photos = _photos(directory, 1000)
        recipe = Recipe("Share a bag of files among processes", directory)
        with recipe.started() as one, recipe.started() as other:
            for _ in range(kills):
                time.sleep(CHANCE.random() * 0.3)
            one.kill()
            other.end_well()
        assert ask(directory / "photos.milepost", "SELECT path, checksum FROM photo ORDER BY path") == photos
        check_store(directory / "photos.milepost", "checksum", len(photos))
