"""What the files of a fleet answer to one question: a row for each file, also for one that cannot be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

from milepost import html
from milepost.checkpoint import ResumePoint
from milepost.errors import MilepostError, StoreError, shown
from milepost.readable import age, count, event_time, shorten_middle, visible
from milepost.receipt import Head
from milepost.summary import (
    NOTHING,
    RUN_COLUMNS,
    Columns,
    RunSummary,
    Section,
    StoreSummary,
    run_cells,
    run_state,
    section_lines,
    section_parts,
)
from milepost.verification import Verification, key_is_missing, verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

FILES_SHOWN: Final = 100
"""How many rows a page or a text has about the files of a fleet. It counts the rest."""

LINES_SHOWN: Final = 20
"""How many lines they have about what stands out, about faults, or about files that cannot be read."""

UNREADABLE: Final = "unreadable"
"""What stands in the row of a file that cannot be read."""

_FILE: Final[Columns] = (("file", "name", False),)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Answer(Generic[T]):
    """
    What one file answers, or why it cannot be read.

    Attributes:
        file: The file, as you named it.
        error: Why it cannot be read; None if it answered.
    """

    file: str
    error: MilepostError | None
    _value: T | None = None

    @property
    def value(self) -> T:
        """
        What the method of a store returns for this file.

        Raises:
            MilepostError: The file cannot be read: the `error`.
        """
        if self.error is not None:
            raise _again(self.error)
        return self._value  # type: ignore[return-value]  # None only if that is the answer

    def __eq__(self, other: object) -> bool:
        if type(other) is not Answer:
            return NotImplemented
        return (self.file, _facts(self.error), self._value) == (other.file, _facts(other.error), other._value)

    def __hash__(self) -> int:
        return hash((self.file, type(self.error)))  # a value may be a dict, which has no hash

    def __repr__(self) -> str:
        return f"<Answer of {shown(self.file)}: {shown(self._value) if self.error is None else repr(self.error)}>"


def _again(error: MilepostError) -> MilepostError:
    """Return an error anew, so that the kept one keeps no traceback; the same one if it is of a caller's own class."""
    try:
        return type(error)(*error.args)
    except Exception:  # noqa: BLE001 - a foreign class may take other arguments, and raise anything
        return error


def _facts(error: MilepostError | None) -> tuple[object, ...]:
    return (type(error), error.args if error else ())


class Answers(Mapping[str, Answer[T]], ABC):
    """
    What the files of a fleet answer to one question: an `Answer` for each file, in the order of the fleet.

    It is a mapping that cannot be changed: `answers["nodes/a.milepost"].value`. A file that cannot be read is in it too,
    with its `error`, so no file is missing unnoticed. `str()` of it is a table for a terminal, and a notebook shows one.

    Attributes:
        at_ms: When you asked, in ms since the epoch.
    """

    _title: ClassVar[str]
    _columns: ClassVar[Columns]

    def __init__(self, answers: Iterable[Answer[T]], at_ms: int) -> None:
        self._answers = {answer.file: answer for answer in answers}
        self.at_ms: int = at_ms

    def __getitem__(self, file: object) -> Answer[T]:
        return self._answers[str(file)]  # a path object too

    def __contains__(self, file: object) -> bool:
        return str(file) in self._answers

    def __iter__(self) -> Iterator[str]:
        return iter(self._answers)

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def errors(self) -> dict[str, MilepostError]:
        """Why files cannot be read, by file. It is empty if every file answered."""
        return {file: answer.error for file, answer in self._answers.items() if answer.error is not None}

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {heading(self)}>"

    def __str__(self) -> str:
        lines = [heading(self), "", *section_lines(_brief(section(self, FILES_SHOWN)))]
        if self.errors:
            lines += ["", *section_lines(_brief(unreadable(self, LINES_SHOWN)))]
        for title, said in self._remarks():
            lines += ["", title, *(f"  {visible(line)}" for line in first_lines(said))]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return html.page(page_parts(self))

    @abstractmethod
    def _rows(self, value: T) -> list[tuple[str, ...]]:
        """Return the cells of a file's rows, without that of the file. No rows: nothing is recorded there."""

    def _remarks(self) -> list[tuple[str, list[str]]]:
        """Return what is to be said below the table: a title and lines, more than once."""
        return []

    def _wrong(self) -> dict[str, int]:
        """Return how many files are wrong in which way, each in a word."""
        return {UNREADABLE: len(self.errors)}


def remarks(answers: Answers[Any]) -> list[tuple[str, list[str]]]:
    """Return what is to be said below the table: titles, each with its lines."""
    return answers._remarks()  # noqa: SLF001 - one of the functions that show answers


def page_parts(answers: Answers[Any], verdict: Answers[Any] | None = None) -> list[html.Html]:
    """
    Return what a page shows of answers, without its style sheet: how many, the table, those that cannot be read.

    Args:
        answers: The answers.
        verdict: Other answers of the same files, which say better what is wrong with them.
    """
    judged = answers if verdict is None else verdict
    said = heading(judged)
    wrong = any(judged._wrong().values())  # noqa: SLF001
    return [
        html.paragraph(html.verdict(False, said) if wrong else said, "mp-title"),
        *section_parts(_brief(section(answers, FILES_SHOWN))),
        *(section_parts(_brief(unreadable(answers, LINES_SHOWN))) if answers.errors else []),
        *_remark_parts(answers),
    ]


def table_parts(answers: Answers[Any]) -> list[html.Html]:
    """Return the same without what other answers of the same files say too."""
    return [*section_parts(_brief(section(answers, FILES_SHOWN))), *_remark_parts(answers)]


def _remark_parts(answers: Answers[Any]) -> list[html.Html]:
    """Return what is to be said below the table, as the parts of a page."""
    return [html.listing(title, first_lines(lines)) for title, lines in remarks(answers)]


def section(answers: Answers[T], most: int | None = None) -> Section:
    """Return the table of all files, or of the first ones that have `most` rows, for a terminal, a notebook and a page."""
    rows: list[tuple[str, ...]] = []
    files = left_out = 0
    for answer in answers.values():
        if most is not None and len(rows) >= most:
            left_out += 1
            continue
        files += 1
        if answer.error is not None:
            cells = [_saying(UNREADABLE, answers)]
        else:
            cells = answers._rows(answer.value) or [_saying(NOTHING, answers)]  # noqa: SLF001
        rows += [(answer.file, *row) for row in cells]
    cut = len(rows) - most if most is not None and len(rows) > most else 0
    rest = [count(cut, "more row")] if cut else []
    rest += [count(left_out, "more file")] if left_out else []
    return Section(answers._title, _FILE + answers._columns, rows[:most], f"and {' and '.join(rest)}" if rest else "")  # noqa: SLF001


def _saying(word: str, answers: Answers[Any]) -> tuple[str, ...]:
    """Return the cells of a file with no answer to show: a word in a column that no terminal leaves out."""
    spares = [spare for _, _, spare in answers._columns]  # noqa: SLF001
    place = spares.index(False)
    return tuple(word if index == place else "–" for index in range(len(spares)))


def unreadable(answers: Answers[Any], most: int | None = None) -> Section:
    """Return a table of the files that cannot be read, or of the first `most` of them, and why."""
    errors = answers.errors
    rows: list[tuple[str, ...]] = [(file, why(errors[file])) for file in list(errors)[:most]]
    more = len(errors) - len(rows)
    columns: Columns = (*_FILE, ("reason", "name", False))
    return Section("Cannot be read", columns, rows, f"and {count(more, 'more file')}" if more else "")


def why(error: MilepostError) -> str:
    """Say why a file cannot be read. The sentence leaves out the path if it begins with it."""
    return error.problem if isinstance(error, StoreError) else str(error)


def first_lines(lines: Sequence[str]) -> list[str]:
    """Return the first lines, and count the rest."""
    more = len(lines) - LINES_SHOWN
    return [*lines[:LINES_SHOWN], *([f"and {more:,} more"] if more > 0 else [])]


def heading(answers: Answers[Any]) -> str:
    """Say how many files there are, and how many of them cannot be read, or are broken."""
    wrong = [f"{number:,} {{}}{how}" for how, number in answers._wrong().items() if number]  # noqa: SLF001
    said = [each.format("" if place else "of them ") for place, each in enumerate(wrong)]
    return ", ".join([count(len(answers), "file"), *said])


def _brief(found: Section) -> Section:
    """Shorten the name of each file, but keep its end, which tells it from others in its directory."""
    return found._replace(rows=[(shorten_middle(file, html.NAME_LENGTH), *cells) for file, *cells in found.rows])


def _of_each_file(answers: Answers[T], said: Callable[[T], Iterable[object]]) -> list[str]:
    """Return remarks about each file that answered, with its name before them."""
    return [
        f"{shorten_middle(answer.file, html.NAME_LENGTH)}: {remark}"
        for answer in answers.values()
        if answer.error is None
        for remark in said(answer.value)
    ]


# The answers to each question, and their tables


class ResumePointsOfFiles(Answers[dict[str, ResumePoint]]):
    """Where the stages of each file start again."""

    _title = "Where each stage starts again"
    _columns = (
        ("stage", "name", False), ("run", "name", True), ("sequence", "number", True), ("offset", "number", False),
        ("event time", "time", True),
    )  # fmt: skip

    def _rows(self, value: dict[str, ResumePoint]) -> list[tuple[str, ...]]:
        return [
            (
                point.stage,
                point.run_id,
                f"{point.sequence:,}",
                f"{point.watermark.offset:,}",
                event_time(point.watermark.event_time_ms),
            )
            for point in value.values()
        ]


class RunsOfFiles(Answers[list[RunSummary]]):
    """The runs of each file."""

    _title = "Runs"
    _columns = RUN_COLUMNS

    def _rows(self, value: list[RunSummary]) -> list[tuple[str, ...]]:
        return [run_cells(run, self.at_ms) for run in value]


class Summaries(Answers[StoreSummary]):
    """A line for each file: its last run, its size, its age, and what stands out."""

    _title = "Files"
    _columns = (
        ("last run", "name", True), ("state", "name", False), ("runs", "number", True), ("stages", "number", True),
        ("entries", "number", False), ("last entry", "number", False), ("stands out", "number", False),
    )  # fmt: skip

    def _rows(self, value: StoreSummary) -> list[tuple[str, ...]]:
        if value.last_at_ms is None:
            return [("–", NOTHING, "0", "0", "0", "–", "–")]
        state = run_state(value.last_runs[0], value.at_ms) if value.last_runs else ""
        return [
            (
                value.last_runs[0].run_id if value.last_runs else "–",
                state or "–",
                f"{value.runs:,}",
                f"{len(value.stages):,}",
                f"{value.head.entries:,}",
                age((value.at_ms - value.last_at_ms) // 1000 * 1000),
                f"{len(value.stands_out):,}" if value.stands_out else "–",
            )
        ]

    def _remarks(self) -> list[tuple[str, list[str]]]:
        lines = _of_each_file(self, lambda found: found.stands_out)
        return [("What stands out", lines)] if lines else []


class Verifications(Answers[Verification]):
    """The answers of `Fleet.verify`: a `Verification` of each file that can be read."""

    _title = "Is the record intact?"
    _columns = (("verdict", "name", False), ("entries", "number", False), ("head", "name", True))

    @property
    def ok(self) -> bool:
        """True if every file can be read, and nothing is wrong in any of them."""
        return all(answer.error is None and answer.value.ok for answer in self.values())

    def _rows(self, value: Verification) -> list[tuple[str, ...]]:
        head = str(Head(value.entries, value.signature)) if value.ok else "–"
        return [(_NOT_VERIFIED if key_is_missing(value) else verdict(value), f"{value.entries:,}", head)]

    def _remarks(self) -> list[tuple[str, list[str]]]:
        lines = _of_each_file(self, lambda found: found.faults)
        return [("Faults", lines)] if lines else []

    def _wrong(self) -> dict[str, int]:
        found = [answer.value for answer in self.values() if answer.error is None and not answer.value.ok]
        not_verified = sum(map(key_is_missing, found))
        return {**super()._wrong(), "broken": len(found) - not_verified, _NOT_VERIFIED: not_verified}


_NOT_VERIFIED: Final = "not verified"


class AnyAnswers(Answers[T]):
    """What each file answers to a question of your own."""

    _title = "Answers"
    _columns = (("answer", "name", False),)

    def _rows(self, value: T) -> list[tuple[str, ...]]:
        return [(shown(value),)]
