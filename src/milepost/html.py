"""
The pieces of the pages that a notebook shows: plain HTML with a style sheet, without scripts and without addresses.

Each value builds its own page from these, beside its `__str__`. Text is escaped as it enters an element, so no data becomes
markup. A page shows as much as a reader can take in, and counts the rest.
"""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

from milepost.readable import count, shorten, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

NAME_LENGTH: Final = 80
"""How many characters of a name a page shows."""

_WHOLE: Final = 32  # characters of a name that is not broken


class Html(str):
    """Text that is already HTML. Any other text is escaped when it enters an element."""

    __slots__ = ()


class Column(NamedTuple):
    """
    A column of a table.

    Attributes:
        title: Its heading.
        style: A class of style.css for its cells, or nothing.
    """

    title: str
    style: str = ""


def page(parts: Iterable[Html]) -> str:
    """Return a whole page, with its style sheet."""
    return f'<div class="milepost"><style>{_style()}</style>{"".join(parts)}</div>'


@cache
def _style() -> str:
    return (files("milepost") / "style.css").read_text(encoding="utf-8")


def error_page(title: str, error: Exception) -> str:
    """Return a page that says why another page cannot be made."""
    return page([paragraph(title, "mp-title"), paragraph(verdict(False, str(error)))])


def element(tag: str, content: str, attributes: str = "") -> Html:
    """Return an element. Its content is escaped unless it is `Html`."""
    return Html(f"<{tag}{attributes}>{content if type(content) is Html else text(content)}</{tag}>")


def paragraph(content: str, style: str = "") -> Html:
    """Return a paragraph, in a class of style.css."""
    return element("p", content, _class(style))


def labelled(label: str, code: str) -> Html:
    """Return a paragraph with a label and, in a font for code, a value."""
    return paragraph(Html(f"{element('span', f'{label} ', _class('mp-muted'))}{element('code', code)}"))


def facts(named: Mapping[str, str]) -> str:
    """Make a page of values with their names before them."""
    rows = [[label, name(value)] for label, value in named.items()]
    return page([table("Checkpoint", [Column(""), Column("", "mp-name")], rows)])


def rest(number: int, noun: str) -> Html:
    """Return a paragraph that counts the rest, or nothing if there is no rest."""
    return paragraph(f"and {count(number, noun)}", "mp-muted") if number > 0 else Html()


def verdict(good: bool, sentence: str) -> Html:
    """Return a verdict as a sign, words and a colour."""
    return element("span", f"{'✓' if good else '✗'} {sentence}", _class("mp-good" if good else "mp-bad"))


def table(caption: str, columns: Sequence[Column], lines: Iterable[Sequence[str]]) -> Html:
    """Return a table. Each line has a cell for each column."""
    head = "".join(element("th", column.title, f' scope="col"{_class(column.style)}') for column in columns)
    body = "".join(
        element(
            "tr",
            Html(
                "".join(
                    element("td", cell, _class(_style_of(column, cell))) for column, cell in zip(columns, line, strict=True)
                )
            ),
        )
        for line in lines
    )
    head = f"<thead><tr>{head}</tr></thead>" if any(column.title for column in columns) else ""
    return Html(f"<table>{element('caption', caption)}{head}<tbody>{body}</tbody></table>")


def _style_of(column: Column, cell: str) -> str:
    """A name that is not long is never broken in two."""
    return "mp-whole" if column.style == "mp-name" and len(cell) <= _WHOLE else column.style


def listing(title: str, lines: Iterable[str]) -> Html:
    """Make a list under a title."""
    items = "".join(element("li", line) for line in lines)
    return Html(f"{paragraph(title, 'mp-caption')}<ul>{items}</ul>")


def text(content: str) -> str:
    """
    Return text without markup, and without characters that hide themselves or turn the writing direction.

    `<bdi>` keeps a name that is written from right to left from reordering its neighbours.
    """
    shown = escape(visible(content))
    return shown if shown.isascii() else f"<bdi>{shown}</bdi>"


def name(content: str) -> str:
    """Shorten a name from data to the room on a page, and quote one of blanks. It is not escaped yet."""
    return shorten(f"'{content}'" if content and not content.strip() else content, NAME_LENGTH)


def _class(style: str) -> str:
    return f' class="{style}"' if style else ""
