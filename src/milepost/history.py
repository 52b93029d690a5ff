"""Walk along the chain, a page at a time, for `history`, `receipts` and `frame` of a store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from milepost import rows
from milepost.arguments import check_bool, check_integer, check_optional_name
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import EntriesArchivedError
from milepost.times import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import apsw

    from milepost.database import Read
    from milepost.rows import Filter
    from milepost.times import Time

    Rows = list[tuple[Any, ...]]

T = TypeVar("T")


def checked_filter(
    run_id: str | None,
    stage: str | None,
    since: Time | None,
    until: Time | None,
    after: int,
    limit: int | None,
    newest_first: bool,
) -> Filter:
    """
    Return a filter with a caller's arguments.

    Raises:
        InvalidArgumentError: A value is one that no entry can have.
    """
    check_optional_name("run_id", run_id)
    check_optional_name("stage", stage)
    since_ms = 0 if since is None else to_ms("since", since, round_up=True)
    until_ms = MAX_INTEGER if until is None else to_ms("until", until)
    check_bool("newest_first", newest_first)
    check_integer("after", after)
    if limit is not None:
        check_integer("limit", limit)
    return rows.Filter(
        run_id,
        stage,
        since_ms,
        until_ms,
        after,
        limit=MAX_INTEGER if limit is None else limit,
        newest_first=newest_first,
    )


def pages(
    read: Read,
    chosen: Filter,
    query: Callable[[apsw.Connection, Filter], Rows],
    decode: Callable[[apsw.Connection, Rows], T],
    size: int = rows.PAGE,
) -> Iterator[T]:
    """
    Read the entries that a filter chooses from the chain as it is now, in pages.

    Args:
        read: Runs a query.
        chosen: Which entries.
        query: Returns the rows of a page, position first.
        decode: Converts a page of rows for the caller. It sees the file as it was when they were read.
        size: How many rows a page has at most.

    Raises:
        EntriesArchivedError: From the iterator: an archive has overtaken it.
    """
    # Look here, not in the generator: the chain counts as it is at the call, not at the first page.
    base, last = read(rows.extent)
    return _iterate_pages(read, base, replace(chosen, before=min(chosen.before, last + 1)), query, decode, size)


def _iterate_pages(
    read: Read,
    base: int,
    left: Filter,
    query: Callable[[apsw.Connection, Filter], Rows],
    decode: Callable[[apsw.Connection, Rows], T],
    size: int,
) -> Iterator[T]:
    def page(connection: apsw.Connection, chosen: Filter) -> tuple[Rows, T]:
        found = query(connection, chosen)
        _refuse_archived(connection, base, chosen)
        return found, decode(connection, found)

    while left.limit > 0:
        chosen = replace(left, limit=min(size, left.limit))
        found, decoded = read(page, chosen)
        yield decoded
        if len(found) < chosen.limit:
            return
        position, *_ = found[-1]
        left = replace(left, limit=left.limit - chosen.limit, **{"before" if left.newest_first else "after": position})


def _refuse_archived(connection: apsw.Connection, base: int, chosen: Filter) -> None:
    """Refuse a page if an archive may have moved rows of it away since the walk began."""
    moved_to, _ = rows.extent(connection)
    if moved_to != base and chosen.after < moved_to and base + 1 < chosen.before:
        raise EntriesArchivedError(
            connection.filename,
            f"the entries up to position {moved_to:,} were archived while they were read: begin again, or read the archive",
        )
