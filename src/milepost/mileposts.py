"""
Mileposts, a sparse index: how rows are found by run and by stage, though only every so many of them are in an index.

The first row of a stage of a run is a milepost, and after each milepost the next row of the same stage and run that stands
`INTERVAL` or more positions behind it. Only mileposts are in the indexes by run, by stage and by sequence, so that most
appends change two B-trees and not five. Any other row stands less than `INTERVAL` positions behind a milepost of its stage
and run: an index leads to that, and a few steps along the chain to the row. `Scope` writes this as SQL, once for all that
look.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from milepost.checkpoint import MAX_INTEGER

INTERVAL: Final = 40
"""
Positions from one milepost of a stage of a run to the next, at least.

More would make `get` slower, which walks half as many rows; less would make the indexes larger and appends slower.
"""

BOUND: Final = {"run_number": "?1", "stage_number": "?2"}
"""The row `of` in the methods of a `Scope`, where a statement is given the numbers themselves."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """
    Whose rows are looked for, and the SQL that finds them through their mileposts.

    In each method `of` says whose: the name of a table in the statement, or the columns' expressions by name.

    Attributes:
        columns: What the rows have in common.
        index: The index of their mileposts.
        order: What that has them in order of. Within one stage of one run the sequence rises along the chain.
        given: The numbers of the names that a query is given, as a table of one row, with which it begins. A name that was
            never recorded has none, and nothing equals NULL. The run is bound first.
    """

    columns: tuple[str, ...]
    index: str
    order: str
    given: str

    def equal(self, row: str, of: str | dict[str, str]) -> str:
        """The condition that a row is one of them."""
        return " AND ".join(
            f"{row}.{column} = {f'{of}.{column}' if isinstance(of, str) else of[column]}" for column in self.columns
        )

    def milepost(self, of: str | dict[str, str], condition: str = "", *, column: str = "position", last: bool = True) -> str:
        """A column of their last milepost, or of the first, for which a condition on `post` holds too."""
        return (
            f"(SELECT post.{column} FROM entry AS post INDEXED BY {self.index} WHERE {self.equal('post', of)} "
            f"AND post.entries_so_far IS NOT NULL {condition} "
            f"ORDER BY post.{self.order} {'DESC' if last else 'ASC'} LIMIT 1)"
        )

    def last(self, of: str | dict[str, str], columns: str) -> str:
        """Something of `last`, the last of them: their last milepost, or a row close behind it."""
        return (
            f"(SELECT {columns} FROM entry AS last WHERE last.position <= {self.milepost(of)} + {INTERVAL - 1} "
            f"AND {self.equal('last', of)} ORDER BY last.position DESC LIMIT 1)"
        )

    def last_given(self) -> str:
        """What follows FROM where the last one is wanted, as `entry`."""
        return (
            f"{self.given} CROSS JOIN entry ON entry.position <= {self.milepost('given')} + {INTERVAL - 1} "
            f"AND {self.equal('entry', 'given')} ORDER BY entry.position DESC LIMIT 1"
        )

    def entries(self, of: str | dict[str, str], least: str = "0", most: str = str(MAX_INTEGER)) -> str:
        """What follows FROM where all between two positions are wanted, each once: `entry`, behind its milepost `post`."""
        end = f"post.position + {INTERVAL - 1}"
        if self.order == "position":  # the mileposts of other stages or runs may stand closer
            following = (
                f"SELECT next.position FROM entry AS next INDEXED BY {self.index} WHERE {self.equal('next', 'post')} "
                "AND next.entries_so_far IS NOT NULL AND next.position > post.position ORDER BY next.position LIMIT 1"
            )
            end = f"ifnull(min({end}, ({following}) - 1), {end})"
        return (
            f"entry AS post INDEXED BY {self.index} CROSS JOIN entry ON {self.equal('post', of)} "
            "AND post.entries_so_far IS NOT NULL "
            f"AND entry.position BETWEEN max(post.position, {least}) AND min({end}, {most}) "
            f"AND {self.equal('entry', 'post')}"
        )


RUN_NUMBER: Final = "(SELECT run_number FROM run WHERE run_id = ?)"
STAGE_NUMBER: Final = "(SELECT stage_number FROM stage WHERE stage = ?)"

RUN: Final = Scope(("run_number",), "entry_by_run", "position", f"{RUN_NUMBER} AS given")
STAGE: Final = Scope(("stage_number",), "entry_by_stage", "position", f"{STAGE_NUMBER} AS given")
RUN_STAGE: Final = Scope(
    ("run_number", "stage_number"),
    "entry_by_sequence",
    "sequence",
    "(SELECT run_number, stage_number FROM run CROSS JOIN stage WHERE run_id = ? AND stage = ?) AS given",
)
SCOPES: Final = (RUN, STAGE, RUN_STAGE)


def scope_of(run_id: str | None, stage: str | None) -> Scope | None:
    """That of a question with these names; None where it is about the whole chain."""
    if run_id is None:
        return None if stage is None else STAGE
    return RUN if stage is None else RUN_STAGE


def entries_so_far(of: str | dict[str, str]) -> str:
    """How many entries a stage of a run has: what its last milepost says, and the rows behind that."""
    return (
        "(SELECT post.entries_so_far + (SELECT count(*) FROM entry AS behind "
        "WHERE behind.position BETWEEN post.position + 1 "
        f"AND post.position + {INTERVAL - 1} AND {RUN_STAGE.equal('behind', 'post')}) "
        f"FROM entry AS post INDEXED BY entry_by_sequence WHERE {RUN_STAGE.equal('post', of)} "
        "AND post.entries_so_far IS NOT NULL ORDER BY post.sequence DESC LIMIT 1)"
    )
