"""One page to send: a store's summary, its pictures and its verification, in one HTML file that fetches nothing."""

from __future__ import annotations

import io
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from milepost import html
from milepost.readable import iso, visible
from milepost.summary import summary_page

if TYPE_CHECKING:
    from milepost.forensics.plots import Picture
    from milepost.store import CheckpointStore
    from milepost.verification import Verification

# Whatever is in the page, a browser runs no script of it and fetches nothing for it.
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE: Final = """
:root { color-scheme: light dark; }
body { margin: 0 auto; padding: 24px 16px 48px; max-width: 1100px; font-family: system-ui, sans-serif;
  background: Canvas; color: CanvasText; }
h2 { font-size: 15px; margin: 28px 0 6px; }
figure { margin: 0; padding: 8px; background: #fff; border: 1px solid #8884; border-radius: 6px; overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; }
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
    found = store.summary()
    parts = [summary_page(found), _heading("Is the record intact?"), _verified(verification)]
    if found.runs:
        pictures = {
            "How far each stage had come": store.plot.progress(),
            "When each run was active": store.plot.runs(),
            "How long each attempt took": store.plot.durations(),
            "How far event time was behind the clock": store.plot.lag(),
        }
        for number, (title, picture) in enumerate(pictures.items()):
            parts += [_heading(title), f"<figure>{_svg(picture, number)}</figure>"]
    name = html.text(PurePath(found.path).name)
    footer = f"<footer>{html.text(f'milepost report of {visible(found.path)}, {iso(found.at_ms // 1000 * 1000)}')}</footer>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{name}</title><style>{_STYLE}</style>'
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
