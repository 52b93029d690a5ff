"""What `milepost demo` prints into a pipe, read once: tests assert on values, and this module alone knows the page."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final, NamedTuple

KILLED, ON_DISK, RESUMED, PROOF, FIGURES = 2, 3, 4, 6, 7
_HEADING: Final = re.compile(r"^(\d)\. .*$|^(What to try next)$", re.MULTILINE)
_PROGRESS: Final = re.compile(r"^  (\w+) +(\d+) % +([\d,]+) of ([\d,]+)  (.+)$", re.MULTILINE)
_CLAIM: Final = re.compile(r"^  (ok  |FAIL)  (.+(?:\n        .+)*)$", re.MULTILINE)
_KILL: Final = re.compile(
    r"Process \d+ is dead: (\w+) at record ([\d,]+) of (\w+), number ([\d,]+) of a batch of ([\d,]+)\."
)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _cells(line: str) -> tuple[str, ...]:
    return tuple(re.split(r" {2,}", line.strip()))


class Progress(NamedTuple):
    """How far a stage had come; `when` is "done before", or how long it took."""

    stage: str
    percent: int
    done: int
    records: int
    when: str


class Kill(NamedTuple):
    """Where the first process was killed."""

    signal: str
    record: int
    stage: str
    of_batch: int
    batch: int


class Claim(NamedTuple):
    """A line of the proof."""

    holds: bool
    text: str


class Report:
    """
    The page.

    Args:
        page: All that it printed.
    """

    def __init__(self, page: str) -> None:
        self.page = page
        ends = [*_HEADING.finditer(page)]
        starts = [heading.end() + 1 for heading in ends]
        stops = [*(heading.start() for heading in ends[1:]), len(page)]
        self._sections = {
            heading[1] or heading[2]: page[start:stop] for heading, start, stop in zip(ends, starts, stops, strict=True)
        }

    @property
    def title(self) -> str:
        """Its first line."""
        return self.page.partition("\n")[0]

    @property
    def verdict(self) -> str:
        """Its last line."""
        return self.page.splitlines()[-1]

    @property
    def longest_line(self) -> int:
        """In cells of a terminal: those of Chinese, Japanese and Korean are two wide."""
        return max(sum(1 + (ord(character) > 0x2FFF) for character in line) for line in self.page.splitlines())

    def section(self, number: int) -> str:
        """The text below a heading."""
        return self._sections[str(number)]

    @cached_property
    def claims(self) -> list[Claim]:
        """The proof."""
        return [Claim(word == "ok  ", re.sub(r"\s+", " ", text)) for word, text in _CLAIM.findall(self.section(PROOF))]

    @property
    def failed(self) -> list[str]:
        """The claims that do not hold, by their first two words."""
        return [" ".join(claim.text.split()[:2]) for claim in self.claims if not claim.holds]

    @cached_property
    def kill(self) -> Kill:
        """Where the first process was killed."""
        found = _KILL.search(re.sub(r"\s+", " ", self.section(KILLED)))
        assert found is not None
        signal, record, stage, of_batch, batch = found.groups()
        return Kill(signal, _number(record), stage, _number(of_batch), _number(batch))

    @cached_property
    def on_disk(self) -> dict[str, tuple[int, int]]:
        """The checkpoints and the records of each stage, as a reader has found them after the kill."""
        rows = [_cells(line) for line in self.section(ON_DISK).splitlines()[2:] if line.strip()]
        return {stage: (_number(checkpoints), _number(records)) for stage, checkpoints, records, _ in rows}

    def progress(self, number: int) -> list[Progress]:
        """The steps below a heading."""
        return [
            Progress(stage, int(percent), _number(done), _number(records), when)
            for stage, percent, done, records, when in _PROGRESS.findall(self.section(number))
        ]

    @cached_property
    def totals(self) -> list[tuple[str, ...]]:
        """The table of totals, its header first."""
        table = self.section(FIGURES).split("\n\n")[1].splitlines()
        return [_cells(line) for line in (table[0], *table[2:])]

    @cached_property
    def facts(self) -> dict[str, str]:
        """What is said of the file at the end."""
        return dict(_cells(line) for line in self.section(FIGURES).split("\n\n")[2].splitlines())  # type: ignore[misc]

    @cached_property
    def python_to_try(self) -> str:
        """The program that it proposes."""
        lines = self._sections["What to try next"].split("\n\n")[0].splitlines()
        return "\n".join(line.removeprefix("    ") for line in lines)

    @cached_property
    def commands_to_try(self) -> list[str]:
        """The commands that it proposes."""
        return [line.strip() for line in self._sections["What to try next"].split("\n\n")[1].splitlines()]
