"""The result of a verification: a verdict, and every fault."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from milepost import html
from milepost.errors import BrokenChainError, InvalidArgumentError
from milepost.readable import count, shorten, visible

if TYPE_CHECKING:
    from collections.abc import Sequence

FAULTS_SHOWN: Final = 20
"""How many faults a page shows. It counts the rest."""

FINDING_LENGTH: Final = 300
"""How many characters of what happened a page shows."""

_SIGNATURE: Final = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

UNCHECKED_SHOWN: Final = 20
"""How many names of unchecked tables a page shows. It counts the rest."""


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One difference between the file and a sound chain.

    Attributes:
        kind: `link`: a row does not follow from the row before it, so the row or its place was changed.
            `missing`: positions have no row. `unreadable`: the values of a row are no checkpoint.
            `run`: a row does not follow from the row before it in its own run.
            `lookup`: lookups rely on a milepost, a sequence or a run's list of stages that no append leaves like this.
            `cursor`: a cursor is gone, belongs to no checkpoint, or is not the one that was recorded with it.
            `head`: the chain does not contain the expected head.
            `archive`: what stayed of archived entries, the base of the chain, or an archive is not as it was recorded.
            `key`: the chain is keyed and you gave no key, so its links cannot be judged.
            `file`: SQLite itself found something wrong in the file (`PRAGMA integrity_check`).
        position: Where in the chain, 1, 2, 3 …; None if the fault has no single place.
        expected: The value that should be there.
        found: The value that is there.
        run_id: The run of the entry at that position, as it stands there now; None if no entry with a name does. Of a
            `head` of one run, that run.
        stage: The stage of that entry.
        sequence: The sequence of that entry.
        explanation: What happened, in words.
        file: The archive where it was found; None for the store's own file.
    """

    kind: str
    position: int | None
    expected: str
    found: str
    run_id: str | None = None
    stage: str | None = None
    sequence: int | None = None
    explanation: str = ""
    file: str | None = None

    def __str__(self) -> str:
        place = "" if self.file is None else f"{visible(self.file)}: "
        place += "" if self.position is None else f"position {self.position:,}: "
        return f"{place}{self.explanation or f'{self.kind}: {_difference(self)}'}"


@dataclass(frozen=True, slots=True)
class Verification:
    """
    The result of a verification.

    Attributes:
        ok: True if nothing is wrong.
        entries: How many entries the chain has.
        signature: The chain's signature, recomputed from the rows as they are now, 64 hex digits.
        faults: Every fault. The faults of rows come first, in chain order.
        unchecked: Tables of other programs that SQLite cannot check here. They need a collation, a function or a module
            that only their own program has. They are no fault, and the verdict is about the chain and milepost's own
            tables. The names come from the file.
        elsewhere: How many entries of the chain are in archives that were not read. That is a state, and no fault.
    """

    ok: bool
    entries: int
    signature: str
    faults: tuple[Fault, ...]
    unchecked: tuple[str, ...] = ()
    elsewhere: int = 0

    def __post_init__(self) -> None:
        if self.ok is bool(self.faults):
            raise InvalidArgumentError("ok", self.ok, f"does not go with {count(len(self.faults), 'fault')}")

    def raise_if_broken(self) -> None:
        """
        Raise an error if anything is wrong, or do nothing.

        Raises:
            BrokenChainError: Something is wrong; the error carries the `faults`.
        """
        if not self.ok:
            raise BrokenChainError(self.faults)

    def _repr_html_(self) -> str:
        parts = [
            html.paragraph(html.verdict(self.ok, f"{count(self.entries, 'entry')}: {verdict(self)}")),
            html.labelled("signature", self.signature),
        ]
        if self.faults:
            parts += [_table_of_faults(self.faults), html.rest(len(self.faults) - FAULTS_SHOWN, "more fault")]
        if self.unchecked:
            names = [[html.name(name)] for name in self.unchecked[:UNCHECKED_SHOWN]]
            parts.append(html.table("Not checked: tables of others", [html.Column("Table", "mp-name")], names))
            parts.append(html.rest(len(self.unchecked) - UNCHECKED_SHOWN, "more table"))
        return html.page(parts)


def shorten_signatures(text: str) -> str:
    """A text with the first 12 hex digits of each signature in it."""
    return _SIGNATURE.sub(r"\1…", text)


def _difference(fault: Fault) -> str:
    return f"expected {shorten_signatures(fault.expected)}, found {shorten_signatures(fault.found)}"


def key_is_missing(found: Verification) -> bool:
    """Return whether the missing key is the only fault, so that nothing is known to be wrong."""
    return {fault.kind for fault in found.faults} == {"key"}


def verdict(found: Verification) -> str:
    """Say whether the chain is intact, how many faults it has, and how many of its entries were not read."""
    said = "intact" if found.ok else f"BROKEN, {count(len(found.faults), 'fault')}"
    return f"{said}; {found.elsewhere:,} of them in archives that were not read" if found.elsewhere else said


def _table_of_faults(faults: Sequence[Fault]) -> html.Html:
    return html.table(
        "Faults",
        [
            html.Column("Position", "mp-number"),
            html.Column("Kind"),
            html.Column("Run", "mp-name"),
            html.Column("Stage", "mp-name"),
            html.Column("Sequence", "mp-number"),
            html.Column("What happened", "mp-long"),
        ],
        [
            [
                "–" if fault.position is None else f"{fault.position:,}",
                html.name(fault.kind),
                "–" if fault.run_id is None else html.name(fault.run_id),
                "–" if fault.stage is None else html.name(fault.stage),
                "–" if fault.sequence is None else f"{fault.sequence:,}",
                shorten(fault.explanation or _difference(fault), FINDING_LENGTH),
            ]
            for fault in faults[:FAULTS_SHOWN]
        ],
    )
