"""
What a notebook shows of a store, a comparison and a verification: plain HTML with a style sheet, no script, no address.

Every text from data goes through `_text`, and nothing else makes it into the page. However much there is, a page shows so
much of it that it can be read, and says how much it leaves out.
"""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, NamedTuple

from milepost.readable import count, duration, iso, shorten, size, visible
from milepost.summary import STAGES_SHOWN, contents, how_opened, verified

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from milepost.checkpoint import Checkpoint
    from milepost.comparison import Comparison, StageComparison
    from milepost.errors import MilepostError
    from milepost.summary import StageState, StoreSummary
    from milepost.verification import Verification

LONGEST: Final = 80
"""How many characters of a name are shown."""

LONGEST_FINDING: Final = 300
"""How many characters are shown of what a fault has found, or expected."""

FAULTS_SHOWN: Final = 20
"""How many faults are shown, the first ones; the rest are counted."""

UNCHECKED_SHOWN: Final = 20
"""How many names of tables that could not be checked are shown."""


class _Column(NamedTuple):
    title: str
    style: str = ""  # a class of style.css


def summary(found: StoreSummary) -> str:
    """A store on one page."""
    intact = found.verification.ok if found.verification else None
    parts = [
        _paragraph(_name(PurePath(found.path).name), "mp-title"),
        _paragraph(_Html(f"{_text(found.path)} · {_text(f'{size(found.size_bytes)} · {how_opened(found)}')}"), "mp-muted"),
        _paragraph(contents(found)),
        _paragraph(verified(found), "mp-muted") if intact is None else _paragraph(_mark(intact, verified(found))),
        _labelled("head", str(found.head)),
    ]
    if found.stages:
        parts += [_stages(_active(found)), _rest(len(found.stages) - STAGES_SHOWN, "more stage")]
        parts += [_runs(found), _rest(found.runs - len(found.last_runs), "earlier run")]
    if found.silences:
        parts.append(_silences(found))
    return _page(parts)


def _active(found: StoreSummary) -> Sequence[StageState]:
    """The stages there is room for: of more, those that come last by run, and then by event time."""
    if len(found.stages) <= STAGES_SHOWN:
        return found.stages
    age = {run.run_id: age for age, run in enumerate(found.last_runs, 1)}
    if found.latest_run_id is not None:
        age[found.latest_run_id] = 0  # though it may have begun before others

    def staleness(stage: StageState) -> tuple[int, int]:
        return age.get(stage.point.run_id, len(age)), -stage.point.watermark.event_time_ms

    return sorted(found.stages, key=staleness)[:STAGES_SHOWN]


def _stages(stages: Iterable[StageState]) -> _Html:
    return _table(
        "Where each stage starts again",
        [
            _Column("Stage", "mp-name"),
            _Column("Run", "mp-name"),
            _Column("After sequence", "mp-number"),
            _Column("Offset", "mp-number"),
            _Column("Event time"),
            _Column("Missing", "mp-number"),
            _Column("Behind the first stage", "mp-number"),
        ],
        [
            [
                _name(stage.point.stage),
                _name(stage.point.run_id),
                f"{stage.point.sequence:,}",
                f"{stage.point.watermark.offset:,}",
                iso(stage.point.watermark.event_time_ms),
                f"{stage.missing:,}" if stage.missing else "–",
                _lag(stage),
            ]
            for stage in stages
        ],
    )


def _lag(stage: StageState) -> str:
    if stage.lag_offset is None or stage.lag_ms is None:
        return "in another run"
    return f"{stage.lag_offset:,} · {duration(stage.lag_ms)}" if stage.lag_offset or stage.lag_ms else "–"


def _runs(found: StoreSummary) -> _Html:
    return _table(
        "The last runs",
        [
            _Column("Run", "mp-name"),
            _Column("Entries", "mp-number"),
            _Column("Stages", "mp-number"),
            _Column("First entry"),
            _Column("Last entry"),
        ],
        [
            [_name(run.run_id), f"{run.entries:,}", f"{len(run.stages):,}", iso(run.first_at_ms), iso(run.last_at_ms)]
            for run in found.last_runs
        ],
    )


def _silences(found: StoreSummary) -> _Html:
    return _table(
        "The longest silences between runs",
        [_Column("Lasted", "mp-number"), _Column("From"), _Column("After run", "mp-name"), _Column("Before run", "mp-name")],
        [[duration(each.lasted_ms), iso(each.since_ms), _name(each.after), _name(each.before)] for each in found.silences],
    )


def comparison(found: Comparison) -> str:
    """Two runs side by side."""
    one, other = _name(found.run_id), _name(found.other_run_id)
    stages, rest = found.excerpt(STAGES_SHOWN)
    return _page(
        [
            _paragraph(_Html(f"{_text(one)} and {_text(other)}"), "mp-title"),
            _paragraph(_mark(found.identical, "identical" if found.identical else "they differ")),
            _table(
                "Stage by stage, without run_id and at_ms",
                [
                    _Column("Stage", "mp-name"),
                    _Column("Verdict"),
                    _Column("In common", "mp-number"),
                    _Column("Of these differ", "mp-number"),
                    _Column(f"Only in {one}", "mp-name"),
                    _Column(f"Only in {other}", "mp-name"),
                ],
                [
                    [
                        _name(stage.stage),
                        _mark(stage.identical, "identical" if stage.divergence is None else _parting(stage)),
                        f"{stage.common:,}",
                        f"{stage.different:,}" if stage.different else "–",
                        _only(stage.only, stage.first_only),
                        _only(stage.other_only, stage.other_first_only),
                    ]
                    for stage in stages
                ],
            ),
            _paragraph(rest, "mp-muted") if rest else _Html(),
            _divergences(stages, one, other),
        ]
    )


def _parting(stage: StageComparison) -> str:
    if not stage.common:
        return "only in one run" if not stage.entries or not stage.other_entries else "nothing in common"
    return f"parts at sequence {stage.divergence.sequence:,}" if stage.divergence else ""


def _only(number: int, first: int | None) -> str:
    return "–" if first is None else f"{number:,}, from sequence {first:,} on"


def _divergences(stages: Iterable[StageComparison], one: str, other: str) -> _Html:
    lines = [
        [_name(stage.stage), f"{stage.divergence.sequence:,}", run, *_content(entry)]
        for stage in stages
        if stage.divergence
        for run, entry in ((one, stage.divergence.one), (other, stage.divergence.other))
    ]
    columns = [
        _Column("Stage", "mp-name"),
        _Column("Sequence", "mp-number"),
        _Column("Run", "mp-name"),
        _Column("Offset", "mp-number"),
        _Column("Event time"),
        _Column("Idempotency key", "mp-name"),
    ]
    return _table("Where they part first", columns, lines) if lines else _Html()


def _content(entry: Checkpoint | None) -> list[str]:
    if entry is None:
        return ["nothing", "", ""]
    return [f"{entry.watermark.offset:,}", iso(entry.watermark.event_time_ms), _name(entry.idempotency_key)]


def verification(found: Verification) -> str:
    """What a verification found."""
    said = "intact" if found.ok else f"BROKEN, {count(len(found.faults), 'fault')}"
    parts = [
        _paragraph(_mark(found.ok, f"{count(found.entries, 'entry')}: {said}")),
        _labelled("signature", found.signature),
    ]
    if found.faults:
        columns = [
            _Column("Position", "mp-number"),
            _Column("Kind"),
            _Column("Expected", "mp-long"),
            _Column("Found", "mp-long"),
        ]
        lines = [
            [
                "–" if fault.position is None else f"{fault.position:,}",
                _name(fault.kind),
                _element("code", shorten(fault.expected, LONGEST_FINDING)),
                _element("code", shorten(fault.found, LONGEST_FINDING)),
            ]
            for fault in found.faults[:FAULTS_SHOWN]
        ]
        parts += [_table("Faults", columns, lines), _rest(len(found.faults) - FAULTS_SHOWN, "more fault")]
    if found.unchecked:
        names = [[_name(name)] for name in found.unchecked[:UNCHECKED_SHOWN]]
        parts.append(_table("Not checked: tables of others", [_Column("Table", "mp-name")], names))
        parts.append(_rest(len(found.unchecked) - UNCHECKED_SHOWN, "more table"))
    return _page(parts)


def unreadable(shown: str, error: MilepostError) -> str:
    """A store that cannot be read, and why."""
    return _page([_paragraph(shown, "mp-title"), _paragraph(_mark(False, str(error)))])


# The pieces


class _Html(str):
    """Text that is HTML already; any other text is escaped where it goes into an element."""

    __slots__ = ()


def _page(parts: Iterable[_Html]) -> str:
    return f'<div class="milepost"><style>{_style()}</style>{"".join(parts)}</div>'


@cache
def _style() -> str:
    return (files("milepost.forensics") / "style.css").read_text(encoding="utf-8")


def _element(tag: str, text: str, attributes: str = "") -> _Html:
    return _Html(f"<{tag}{attributes}>{text if type(text) is _Html else _text(text)}</{tag}>")


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _paragraph(text: str, style: str = "") -> _Html:
    return _element("p", text, _class(style))


def _labelled(label: str, code: str) -> _Html:
    return _paragraph(_Html(f"{_element('span', f'{label} ', _class('mp-muted'))}{_element('code', code)}"))


def _rest(number: int, noun: str) -> _Html:
    return _paragraph(f"and {count(number, noun)}", "mp-muted") if number > 0 else _Html()


def _mark(good: bool, text: str) -> _Html:
    """A verdict, as a sign, a word and a colour."""
    return _element("span", f"{'✓' if good else '✗'} {text}", _class("mp-good" if good else "mp-bad"))


def _table(caption: str, columns: Sequence[_Column], lines: Iterable[Sequence[str]]) -> _Html:
    head = "".join(_element("th", column.title, f' scope="col"{_class(column.style)}') for column in columns)
    body = "".join(
        _element(
            "tr",
            _Html("".join(_element("td", cell, _class(column.style)) for column, cell in zip(columns, line, strict=True))),
        )
        for line in lines
    )
    return _Html(f"<table>{_element('caption', caption)}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _text(text: str) -> str:
    """
    Text as text: without markup, and without characters that hide themselves or turn round what stands beside them.

    `<bdi>` keeps a name that is written from right to left from reordering its neighbours.
    """
    shown = escape(visible(text))
    return shown if shown.isascii() else f"<bdi>{shown}</bdi>"


def _name(text: str) -> str:
    """A name from data, cut if it is a long one."""
    return shorten(text, LONGEST)
