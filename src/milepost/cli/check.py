"""The command `check`, for cron, Nagios and Kubernetes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import click

from milepost.arguments import check_optional_name
from milepost.cli import argument, output, several, values
from milepost.cli.exit_code import ExitCode, end_with_worst
from milepost.cli.output import Column
from milepost.errors import shown
from milepost.fleet import open_many
from milepost.readable import age, count, duration
from milepost.store import CheckpointStore
from milepost.summary import NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from milepost.answers import Answers
    from milepost.checkpoint import Checkpoint

Status = Literal["ok", "stalled", "behind", "nothing yet", "unreadable"]

_NAMED: Final = 3  # stages in the first line; more are counted


class _Found(NamedTuple):
    """What is found of one stage."""

    stage: str
    status: Status
    last: Checkpoint | None
    age_ms: int | None
    lag_ms: int | None


_NOTHING: Final = _Found("", "nothing yet", None, None, None)
"""What is found of a file in which nothing is recorded."""


@click.command(short_help="Check that the pipeline moves, for cron or Kubernetes.")
@argument.files
@argument.run
@click.option(
    "--stage", "stages", metavar="STAGE", multiple=True, shell_complete=argument.complete_stage,
    help="Check this stage; may be given several times.  [default: every stage]",
)  # fmt: skip
@click.option(
    "--within",
    type=argument.span_ms,
    metavar="SPAN",
    help="A stage is stalled without a checkpoint for longer, such as 10m.",
)
@click.option(
    "--lag", type=argument.span_ms, metavar="SPAN", help="A stage is behind if its event time is older, such as 1h."
)
@argument.time_zone
@argument.as_json
def check(
    files: tuple[str, ...], run_id: str | None, stages: tuple[str, ...], within: int | None, lag: int | None, as_json: bool
) -> None:
    """
    Check that the pipeline moves: for cron, Nagios or a Kubernetes probe.

    Say what to check: --within, --lag, or both. The first line says it all, and the exit code too: 0 if every stage is ok, 1
    if one is stalled or behind, 5 if nothing is recorded yet. A file that does not exist is 3. Of several files, every stage
    of each is checked.

    A stage is stalled too if its last checkpoint is further in the future than --within, by a clock that was wrong.
    """
    if within is None and lag is None:
        raise click.UsageError("say what to check: --within 10m, --lag 1h, or both")

    def ask(store: CheckpointStore) -> dict[str, Checkpoint | None]:
        names = stages or tuple(store.resume_points(run_id))
        return {name: store.latest_for_stage(name, run_id=run_id) for name in names}

    if len(files) > 1:
        for argument_, name in (("run_id", run_id), *(("stage", stage) for stage in stages)):
            check_optional_name(argument_, name)  # once, and not in the row of each file
        with open_many(files) as fleet:
            _check_files(fleet.ask(ask), within, lag, as_json=as_json)
        return
    (file,) = files
    with CheckpointStore.open_readonly(file) as store:
        last = ask(store)
    now_ms = time.time_ns() // 1_000_000
    found = [_judged(name, entry, now_ms, within, lag) for name, entry in last.items()]
    verdict, code = _verdict(found)
    if as_json:
        output.document({"status": verdict, "stages": [_record(each) for each in found]})
    else:
        output.sentence(_sentence(verdict, found), indent="")
        if found:
            _print(found, now_ms, lag=lag is not None)
    if code is not ExitCode.SUCCESS:
        raise click.exceptions.Exit(code)


def _check_files(
    answers: Answers[dict[str, Checkpoint | None]], within: int | None, lag: int | None, *, as_json: bool
) -> None:
    now_ms = time.time_ns() // 1_000_000
    judged = {
        file: [_judged(name, last, now_ms, within, lag) for name, last in answer.value.items()]
        for file, answer in answers.items()
        if answer.error is None
    }
    verdict: Status = "unreadable"
    if judged:
        verdict, _ = _verdict([each for found in judged.values() for each in found or [_NOTHING]])
    if answers.errors and verdict in {"ok", "nothing yet"}:
        verdict = "unreadable"
    if as_json:
        files = several.records(answers, lambda _: {}, {"status": "unreadable", "stages": []})
        for record in files:
            if (found := judged.get(record["file"])) is not None:
                record |= {"status": _verdict(found)[0], "stages": [_record(each) for each in found]}
        output.document({"status": verdict, "files": files})
    else:
        output.text(_sentence_of_files(verdict, judged, list(answers.errors)))
        _print_files({file: judged.get(file) for file in answers}, now_ms)
        several.show_unreadable(answers)
    end_with_worst([*several.exit_codes(answers), *(_verdict(found)[1] for found in judged.values())])


def _sentence_of_files(verdict: Status, judged: Mapping[str, Sequence[_Found]], broken: Sequence[str]) -> str:
    if verdict == "unreadable":
        return f"unreadable: {_first(list(map(shown, broken)), 'more file')}"
    if verdict == "ok":
        return f"ok: {count(sum(map(len, judged.values())), 'stage')} in {count(len(judged), 'file')}"
    details = [
        f"{shown(each.stage)} of {shown(file)} {_detail(each)}".rstrip() if each.stage else shown(file)
        for file, found in judged.items()
        for each in found or [_NOTHING]
        if each.status == verdict
    ]
    more = f"; {count(len(broken), 'file')} unreadable" if broken else ""
    return f"{verdict}: {_first(details, 'more stage')}{more}"


def _first(details: Sequence[str], rest: str) -> str:
    """Return the first of some details in a sentence, and count the rest."""
    more = len(details) - _NAMED
    return ", ".join(details[:_NAMED]) + (f" and {count(more, rest)}" if more > 0 else "")


def _print_files(judged: Mapping[str, Sequence[_Found] | None], now_ms: int) -> None:
    output.Table(
        Column("file"),
        Column("stage"),
        Column("status"),
        Column("run", spare=True),
        Column("offset", "number", spare=True),
        Column("last checkpoint", "time", spare=True),
        Column("ago", "number"),
        Column("lag", "number", spare=True),
    ).print(
        [
            (file, *cells)
            for file, found in judged.items()
            for cells in (
                [("–", "unreadable", *("–",) * 5)]
                if found is None
                else [_cells(each, now_ms) for each in found] or [("–", "nothing yet", *("–",) * 5)]
            )
        ]
    )


def _judged(name: str, last: Checkpoint | None, now_ms: int, within: int | None, lag: int | None) -> _Found:
    if last is None:
        return _Found(name, "nothing yet", None, None, None)
    age_ms = now_ms - last.at_ms
    event_time_ms = last.watermark.event_time_ms
    lag_ms = now_ms - event_time_ms if event_time_ms else None
    # A clock that was ahead does not tell when it was recorded. The checkpoint would pass for fresh until that time comes.
    if within is not None and abs(age_ms) > within:
        return _Found(name, "stalled", last, age_ms, lag_ms)
    if lag is not None and (lag_ms is None or lag_ms > lag):
        return _Found(name, "behind", last, age_ms, lag_ms)
    return _Found(name, "ok", last, age_ms, lag_ms)


def _verdict(found: Sequence[_Found]) -> tuple[Status, ExitCode]:
    """Return the worst status, and its exit code."""
    statuses = {each.status for each in found} or {"nothing yet"}
    for status, code in _WORST_FIRST.items():
        if status in statuses:
            return status, code
    return "ok", ExitCode.SUCCESS


_WORST_FIRST: Final[dict[Status, ExitCode]] = {
    "stalled": ExitCode.CHECK_FAILED,
    "behind": ExitCode.CHECK_FAILED,
    "nothing yet": ExitCode.NOTHING_YET,
}


def _sentence(verdict: Status, found: Sequence[_Found]) -> str:
    if not found:
        return f"nothing yet: {NOTHING}"
    bad = [each for each in found if each.status == verdict] if verdict != "ok" else []
    if not bad:
        return f"ok: {count(len(found), 'stage')}"
    details = [f"{shown(each.stage)} {_detail(each)}".rstrip() for each in bad]
    return f"{verdict}: {_first(details, 'more stage')}"


def _detail(each: _Found) -> str:
    if each.status == "stalled":
        age_ms = each.age_ms or 0
        return f"for {duration(age_ms)}" if age_ms > 0 else f"has its last checkpoint {age(age_ms)}"
    if each.status == "behind":
        return "has no event times" if each.lag_ms is None else f"by {duration(each.lag_ms)}"
    return ""


def _print(found: Sequence[_Found], now_ms: int, *, lag: bool) -> None:
    output.Table(
        Column("stage"),
        Column("status"),
        Column("run", spare=True),
        Column("offset", "number", spare=True),
        Column("last checkpoint", "time", spare=True),
        Column("ago", "number"),
        Column("lag", "number", spare=not lag),
    ).print([_cells(each, now_ms) for each in found])


def _cells(each: _Found, now_ms: int) -> tuple[str, ...]:
    return (
        each.stage,
        each.status,
        each.last.run_id if each.last else "–",
        f"{each.last.watermark.offset:,}" if each.last else "–",
        output.time(each.last.at_ms, precise=False) if each.last else "–",
        age((now_ms - each.last.at_ms) // 1000 * 1000) if each.last else "–",
        duration(each.lag_ms // 1000 * 1000) if each.lag_ms is not None else "–",
    )


def _record(each: _Found) -> values.Record:
    return {
        "stage": each.stage,
        "status": each.status,
        "age_ms": each.age_ms,
        "lag_ms": each.lag_ms,
        "last": values.checkpoint(each.last) if each.last else None,
    }
