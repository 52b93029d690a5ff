"""
Mileposts, a sparse index: find rows by run and by stage, although only a few of them are in an index.

The first row of a stage of a run is a milepost. The next milepost is the first row of the same stage and run that stands
`INTERVAL` or more positions after it. Only mileposts are in the indexes by run, by stage and by sequence, so most appends
change two B-trees instead of five. An archive makes the first row that it keeps of a stage of a run a milepost too.

Every other row stands less than `INTERVAL` positions after a milepost of its stage and run. An index leads to the milepost,
and a few steps along the chain lead to the row. `Scope` writes this as SQL, once for all queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from milepost.checkpoint import MAX_INTEGER

INTERVAL: Final = 40
"""
The least number of positions from one milepost of a stage of a run to the next.

A larger number makes `get` slower, which walks half as many rows. A smaller one makes the indexes larger and appends slower.
"""

BOUND: Final = {"run_number": "?1", "stage_number": "?2"}
"""The argument `of` in the methods of a `Scope`, for a statement that takes the numbers as parameters."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """
    A group of rows, and the SQL that finds them through their mileposts.

    In each method, `of` chooses the group: the name of a table in the statement, or the columns' expressions by name.

    Attributes:
        columns: The columns that the rows have in common.
        index: The index of their mileposts.
        order: The column that sorts this index. Within one stage of one run, the sequence rises along the chain.
        given: A table of one row with the numbers of the given names; a query begins with it. The run is bound first. A
            name that was never recorded has no number, and nothing equals NULL.
    """

    columns: tuple[str, ...]
    index: str
    order: str
    given: str

    def equal(self, row: str, of: str | dict[str, str]) -> str:
        """Return the condition that a row is one of them."""
        return " AND ".join(
            f"{row}.{column} = {f'{of}.{column}' if isinstance(of, str) else of[column]}" for column in self.columns
        )

    def milepost(self, of: str | dict[str, str], condition: str = "", *, column: str = "position", last: bool = True) -> str:
        """Return a column of their last milepost, or of the first, for which a condition on `post` also holds."""
        return (
            f"(SELECT post.{column} FROM entry AS post INDEXED BY {self.index} WHERE {self.equal('post', of)} "
            f"AND post.entries_so_far IS NOT NULL {condition} "
            f"ORDER BY post.{self.order} {'DESC' if last else 'ASC'} LIMIT 1)"
        )

    def last(self, of: str | dict[str, str], columns: str, through: str | None = None) -> str:
        """
        Return columns of `last`, the last of them, up to a position if one is given.

        It is their last milepost, or a row close after it. Up to a position, the search passes the later mileposts, unless
        positions sort the index.
        """
        most = f"{self.milepost(of, f'AND post.position <= {through}' if through else '')} + {INTERVAL - 1}"
        if through:
            most = f"min({through}, {most})"
        return (
            f"(SELECT {columns} FROM entry AS last WHERE last.position <= {most} "
            f"AND {self.equal('last', of)} ORDER BY last.position DESC LIMIT 1)"
        )

    def last_given(self) -> str:
        """Return the text after FROM that finds the last one, as `entry`."""
        return (
            f"{self.given} CROSS JOIN entry ON entry.position <= {self.milepost('given')} + {INTERVAL - 1} "
            f"AND {self.equal('entry', 'given')} ORDER BY entry.position DESC LIMIT 1"
        )

    def entries(self, of: str | dict[str, str], least: str = "0", most: str = str(MAX_INTEGER)) -> str:
        """Return the text after FROM that finds all between two positions once, as `entry` with its milepost `post`."""
        # The next one may be closer than `INTERVAL`: one of another stage, or the first behind archived entries.
        end = f"post.position + {INTERVAL - 1}"
        following = (
            f"SELECT next.position FROM entry AS next INDEXED BY {self.index} WHERE {self.equal('next', 'post')} "
            f"AND next.entries_so_far IS NOT NULL AND next.{self.order} > post.{self.order} "
            f"ORDER BY next.{self.order} LIMIT 1"
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
    """Return the scope of a query with these names, or None for the whole chain."""
    if run_id is None:
        return None if stage is None else STAGE
    return RUN if stage is None else RUN_STAGE


def entries_so_far(of: str | dict[str, str]) -> str:
    """Return how many entries a stage of a run has, as SQL: the count in its last milepost, and the rows after it."""
    return (
        "(SELECT post.entries_so_far + (SELECT count(*) FROM entry AS behind "
        "WHERE behind.position BETWEEN post.position + 1 "
        f"AND post.position + {INTERVAL - 1} AND {RUN_STAGE.equal('behind', 'post')}) "
        f"FROM entry AS post INDEXED BY entry_by_sequence WHERE {RUN_STAGE.equal('post', of)} "
        "AND post.entries_so_far IS NOT NULL ORDER BY post.sequence DESC LIMIT 1)"
    )
