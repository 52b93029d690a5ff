"""What the commands about several files share: their table, their records, and their exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from milepost.answers import heading, remarks, section, unreadable
from milepost.cli import output
from milepost.cli.exit_code import ExitCode, exit_code_of, in_words_of_the_command_line
from milepost.cli.output import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from milepost.answers import Answers
    from milepost.cli.values import Record
    from milepost.summary import Section

T = TypeVar("T")


def show(answers: Answers[Any]) -> None:
    """Print the answers of several files: how many, a table, those that cannot be read, and what else is to be said."""
    output.text(heading(answers))
    show_section(section(answers))
    show_unreadable(answers)
    for title, lines in remarks(answers):
        output.text(f"\n{title}")
        for line in lines:
            output.sentence(in_words_of_the_command_line(line))


def show_unreadable(answers: Answers[Any]) -> None:
    """Print which files cannot be read, and why."""
    if answers.errors:
        found = unreadable(answers)
        show_section(found._replace(rows=[(file, in_words_of_the_command_line(why)) for file, why in found.rows]))


def show_section(found: Section) -> None:
    """Print a table below its title."""
    output.text(f"\n{found.title}")
    columns = [Column(title, holds, spare) for title, holds, spare in found.columns]
    output.Table(*columns, tells_what_is_left_out=False).print(found.rows)


def records(answers: Answers[T], form: Callable[[T], Record], of_unreadable: Record) -> list[Record]:
    """
    Return an object for each file, for JSON.

    Args:
        answers: The answers.
        form: Turns the answer of a file into its values.
        of_unreadable: The values of a file that cannot be read.
    """
    return [
        {"file": answer.file, "error": None, **form(answer.value)}
        if answer.error is None
        else {"file": answer.file, "error": in_words_of_the_command_line(answer.error), **of_unreadable}
        for answer in answers.values()
    ]


def exit_codes(answers: Answers[T], code: Callable[[T], ExitCode] = lambda _: ExitCode.SUCCESS) -> Iterator[ExitCode]:
    """Return the exit code of each file: that of its error, or the one that its answer has."""
    for answer in answers.values():
        yield code(answer.value) if answer.error is None else exit_code_of(answer.error)
