"""An outside suite, agent-memory-integrity, edits the file behind the store's back in nine ways: all are rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agmi import check

from support.agent_memory_adapter import MilepostAdapter

if TYPE_CHECKING:
    from milepost import CheckpointStore


def _verdicts(adapter: MilepostAdapter) -> dict[str, str]:
    rows = check.run(adapter)
    print(check.render(adapter.name, rows), *(f"{row['attack']}: {row['detail']}" for row in rows), sep="\n")
    return {row["attack"]: row["verdict"] for row in rows}


def test_all_nine_edits_are_rejected() -> None:
    """By a pipeline that verifies against the head it kept elsewhere before it resumes."""
    verdicts = _verdicts(MilepostAdapter())
    assert list(verdicts.values()) == ["REJECTED"] * 9


class WithoutHead(MilepostAdapter):
    """Trusts the chain alone."""

    def check(self, store: CheckpointStore) -> None:
        """Verify what is there, whatever was there before."""
        store.verify().raise_if_broken()


def test_without_a_kept_head_a_cut_or_forged_tail_and_an_older_copy_are_accepted() -> None:
    """What a chain cannot show by itself; so the suite can tell."""
    verdicts = _verdicts(WithoutHead())
    accepted = {attack for attack, verdict in verdicts.items() if verdict == "ACCEPTED"}
    assert accepted == {"truncate", "forge", "snapshot_rollback"}
    assert set(verdicts.values()) == {"REJECTED", "ACCEPTED"}


class WithoutVerification(MilepostAdapter):
    """Trusts its disk."""

    def check(self, store: CheckpointStore) -> None:
        """Look at nothing."""


def test_without_verification_every_edit_is_accepted() -> None:
    """Opening alone is no check of the content."""
    assert list(_verdicts(WithoutVerification()).values()) == ["ACCEPTED"] * 9
