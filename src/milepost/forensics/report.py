"""One page to send: a store's summary, its pictures and its verification, in one HTML file that fetches nothing."""

from __future__ import annotations

import io
import re
import time
from itertools import count as count_from
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from milepost import html
from milepost.answers import heading, page_parts, table_parts
from milepost.fleet import open_many
from milepost.readable import count, iso, visible
from milepost.summary import summary_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from milepost.answers import Answers, Verifications
    from milepost.fleet import Fleet
    from milepost.forensics.picture import Picture
    from milepost.store import CheckpointStore
    from milepost.summary import StoreSummary
    from milepost.verification import Verification

DETAILED: Final = 10
"""How many files a report of several shows with their pictures. Those in which something is wrong come first."""

# Whatever is in the page, a browser runs no script of it and fetches nothing for it.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE: Final = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 24px 16px 48px; max-width: 1100px; font-family: system-ui, sans-serif;
  background: Canvas; color: CanvasText; }
h2 { font-size: 15px; margin: 28px 0 6px; }
figure { margin: 0; padding: 8px; background: #fff; border: 1px solid #8884; border-radius: 6px; overflow-x: auto; }
figure svg { display: block; min-width: 640px; max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { figure { background: #0d1117; } }
.milepost + .milepost, figure + .milepost { margin-top: 32px; }
footer { margin-top: 32px; font-size: 12px; opacity: .7; }
"""


def report(store: CheckpointStore, verification: Verification | None) -> str:
    """
    Return the page.

    Args:
        store: The store.
        verification: What `verify` found, or None if it was not asked.

    Raises:
        MissingPackageError: matplotlib is not installed; it is part of the extra `notebook`.
    """
    parts = _of_store(store, count_from(0), f"{_heading('Is the record intact?')}{_verified(verification)}")
    return _document(PurePath(store.path).name, store.path, time.time_ns() // 1_000_000, parts)


def report_of_files(fleet: Fleet, verifications: Verifications | None) -> str:
    """
    Return a page about several files: all of them in a table, and the most remarkable ones as `report` shows them.

    Args:
        fleet: The files.
        verifications: What `verify` found, or None if it was not asked.

    Raises:
        MissingPackageError: matplotlib is not installed; it is part of the extra `notebook`.
    """
    summaries = fleet.summary()
    verified = _verified(None) if verifications is None else html.page(table_parts(verifications))
    parts = [html.page(page_parts(summaries, verifications)), verified]
    order = _most_remarkable_first(summaries, verifications)
    if order:
        numbers = count_from(0)
        with open_many(order[:DETAILED]) as few:
            pages = few.ask(lambda store: "".join(_of_store(store, numbers)))
        # A file that cannot be read any more is left out here: the tables say how it was a moment ago.
        parts += [page.value for page in pages.values() if page.error is None]
    if len(order) > DETAILED:
        rest = f"and {count(len(order) - DETAILED, 'more file')}: make a report of each"
        parts.append(html.page([html.paragraph(rest, "mp-muted")]))
    title = heading(summaries if verifications is None else verifications)
    return _document(title, title, summaries.at_ms, parts)


def _most_remarkable_first(summaries: Answers[StoreSummary], verifications: Verifications | None) -> list[str]:
    """Return the files that can be read: those with faults first, and then those in which most stands out."""

    def rank(file: str) -> tuple[bool, int]:
        found = verifications[file] if verifications is not None else None
        return found is None or found.error is not None or found.value.ok, -len(summaries[file].value.stands_out)

    return sorted((file for file, answer in summaries.items() if answer.error is None), key=rank)


def _of_store(store: CheckpointStore, numbers: Iterator[int], verification: str = "") -> list[str]:
    """Return the parts of a page about one store. The numbers tell its pictures from others on the page."""
    found = store.summary()
    parts = [summary_page(found), verification]
    if found.runs:
        pictures = {
            "How far each stage had come": store.plot.progress(),
            "When each run was active": store.plot.runs(),
            "How long each attempt took": store.plot.durations(),
            "How far event time was behind the clock": store.plot.lag(),
        }
        for title, picture in pictures.items():
            parts += [_heading(title), f"<figure>{_svg(picture, next(numbers))}</figure>"]
    return parts


def _document(title: str, of: str, at_ms: int, parts: Iterable[str]) -> str:
    footer = f"<footer>{html.text(f'milepost report of {visible(of)}, {iso(at_ms // 1000 * 1000)}')}</footer>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.text(title)}</title><style>{_STYLE}</style>"
        f"</head><body>{''.join(parts)}{footer}</body></html>\n"
    )


def _heading(title: str) -> str:
    return html.element("h2", title)


def _verified(verification: Verification | None) -> str:
    if verification is None:
        return html.page(
            [html.paragraph("Not verified: make the report with --verify, or run `milepost verify`.", "mp-muted")]
        )
    return verification._repr_html_()


def _svg(picture: Picture, number: int) -> str:
    text = io.StringIO()
    picture.savefig(text, format="svg")
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]  # without the XML declaration, which HTML does not have
    # matplotlib numbers the parts of each picture anew, and a page has each id once.
    return _ID.sub(rf"\g<1>p{number}-", drawn)


_ID: Final = re.compile(r'(\bid="|url\(#|href="#)')
