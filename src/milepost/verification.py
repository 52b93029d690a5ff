"""What a verification finds: a verdict, and each fault."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from milepost import html
from milepost.errors import BrokenChainError, InvalidArgumentError
from milepost.readable import count, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

FAULTS_SHOWN: Final = 20
"""How many faults a page shows, the first ones; it counts the rest."""

FINDING_LENGTH: Final = 300
"""How many characters a page shows of what a fault expected or found."""

UNCHECKED_SHOWN: Final = 20
"""How many names of unchecked tables a page shows; it counts the rest."""


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One thing that is not as it was recorded.

    Attributes:
        kind: `link`, a row that does not follow from the row before it: it, or its place, was changed;
            `missing`, positions without a row; `unreadable`, a row whose values are no checkpoint;
            `run`, a row that does not follow from the row before it in its own run;
            `lookup`, what rows are found by is not as an append leaves it: a milepost, a sequence, the stages of a run;
            `head`, the chain does not contain the head it was expected to contain;
            `key`, the chain is keyed and was opened without its key, so that its links cannot be judged;
            `file`, what SQLite itself found wrong in the file (`PRAGMA integrity_check`).
        position: Where in the chain, 1, 2, 3 …; None where a fault has no single place.
        expected: What should be there.
        found: What is there.
    """

    kind: str
    position: int | None
    expected: str
    found: str

    def __str__(self) -> str:
        place = "" if self.position is None else f"position {self.position}: "
        return f"{place}{self.kind}: expected {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Verification:
    """
    What a verification found.

    Attributes:
        ok: Nothing is wrong.
        entries: How many entries the chain has.
        signature: The chain's signature, recomputed from the rows as they are now, 64 hex digits.
        faults: Every fault, those of the rows first, in chain order.
        unchecked: Tables of others in the file that SQLite cannot check here, since they need a collation, a function or a
            module that only their own program knows. They are no fault: the chain and the tables of milepost are judged
            without them. The names come from the file.
    """

    ok: bool
    entries: int
    signature: str
    faults: tuple[Fault, ...]
    unchecked: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ok is bool(self.faults):
            raise InvalidArgumentError("ok", self.ok, f"does not go with {count(len(self.faults), 'fault')}")

    def raise_if_broken(self) -> None:
        """
        Do nothing if all is well.

        Raises:
            BrokenChainError: Something is wrong; it carries the `faults`.
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


def verdict(found: Verification) -> str:
    """Whether the chain is intact, and how many faults it has."""
    return "intact" if found.ok else f"BROKEN, {count(len(found.faults), 'fault')}"


def _table_of_faults(faults: Sequence[Fault]) -> html.Html:
    return html.table(
        "Faults",
        [
            html.Column("Position", "mp-number"),
            html.Column("Kind"),
            html.Column("Expected", "mp-long"),
            html.Column("Found", "mp-long"),
        ],
        [
            [
                "–" if fault.position is None else f"{fault.position:,}",
                html.name(fault.kind),
                html.element("code", shorten(fault.expected, FINDING_LENGTH)),
                html.element("code", shorten(fault.found, FINDING_LENGTH)),
            ]
            for fault in faults[:FAULTS_SHOWN]
        ],
    )
