"""
What the site has from elsewhere in the repository: README.md, CHANGELOG.md, schema.sql, and the commands' own help.

`mkdocs build` calls `on_page_markdown` for each page. A line `<!-- name -->` gives way to what `PARTS` makes for that name.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from milepost import errors
from milepost.cli import commands
from milepost.cli.exit_code import EXIT_CODES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TOP: Final = Path(__file__).parents[1]
SHOWN_ON: Final = {"CHANGELOG.md": "changes.md", "schema.sql": "file-format.md#schema"}
LINK: Final = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """The text of a page, its parts filled in; the name and the arguments are those that mkdocs gives a hook."""
    return filled(markdown, page.file.src_uri)


def filled(markdown: str, uri: str) -> str:
    """
    The text of the page at `uri` with its parts filled in.

    A link to a file of the repository that is no part of the site becomes the file's name.
    """

    def part(match: re.Match[str]) -> str:
        return PARTS[match[1]]()

    def within_site(link: re.Match[str]) -> str:
        picture, text, target, _ = link.groups()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(uri), target))
        return text if place.startswith("..") and "://" not in target and not picture else link[0]

    return LINK.sub(within_site, re.sub(r"^<!-- (\w+) -->$", part, markdown, flags=re.MULTILINE))


def readme() -> str:
    """The README, with its links as they are from `docs`."""

    def from_docs(link: re.Match[str]) -> str:
        picture, text, target, anchor = link.groups()
        if "://" in target or not target:
            return link[0]
        moved = SHOWN_ON.get(target, posixpath.relpath(target, "docs"))
        return f"{picture}[{text}]({moved}{anchor or ''})"

    return LINK.sub(from_docs, (TOP / "README.md").read_text(encoding="utf-8"))


def changelog() -> str:
    """The changelog."""
    return (TOP / "CHANGELOG.md").read_text(encoding="utf-8")


def schema() -> str:
    """The tables, as they are made."""
    return f"```sql\n{(TOP / 'schema.sql').read_text(encoding='utf-8')}```"


def command_line() -> str:
    """Every command with its arguments and options, and the exit codes: what `--help` says."""
    return "\n\n".join([*_command(commands, "milepost", 2), _exit_codes()])


def _command(command: click.Command, path: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=path)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"{'#' * level} `{path}`"
    yield f"```text\n{path} {usage}\n```"
    yield _text(command.help or "")
    options = [each.get_help_record(context) for each in command.params if isinstance(each, click.Option)]
    if options:
        rows = [f"| `{names}` | {_cell(meaning)} |" for names, meaning in filter(None, options)]
        yield "\n".join(["| option | meaning |", "|---|---|", *rows])
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if (inner := command.get_command(context, name)) is not None:
                yield from _command(inner, f"{path} {name}", 3)


def _exit_codes() -> str:
    found = re.findall(r"^ +(\d+) +(.*)$", EXIT_CODES, re.MULTILINE)
    rows = [f"| {number} | {_cell(meaning)} |" for number, meaning in found]
    return "\n".join(["## Exit codes", "", "| exit code | meaning |", "|---|---|", *rows])


def _text(help_: str) -> str:
    """A command's help as Markdown: its paragraphs, in one line each."""
    paragraphs = re.split(r"\n\s*\n", help_.replace("\b", "").strip())
    return "\n\n".join(" ".join(paragraph.split()).replace("<", "&lt;").replace("\\", "\\\\") for paragraph in paragraphs)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def error_tree() -> str:
    """Which error is a kind of which, as the module of the errors draws it."""
    tree = re.search(r"^MilepostError .*?(?=\n\n)", errors.__doc__ or "", re.MULTILINE | re.DOTALL)
    return f"```text\n{tree[0] if tree else ''}\n```"


PARTS: Final[dict[str, Callable[[], str]]] = {
    "readme": readme,
    "changelog": changelog,
    "schema": schema,
    "commands": command_line,
    "errors": error_tree,
}
