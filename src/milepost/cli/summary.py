"""The command `summary`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from milepost.cli import argument, output, several, values
from milepost.cli.exit_code import end_with_worst
from milepost.cli.output import Column
from milepost.fleet import open_many
from milepost.html import NAME_LENGTH
from milepost.readable import shorten
from milepost.store import CheckpointStore
from milepost.summary import heading, sections

if TYPE_CHECKING:
    from milepost.cli.values import Record
    from milepost.summary import StoreSummary


@click.command()
@argument.files
@argument.as_json
def summary(files: tuple[str, ...], as_json: bool) -> None:
    """Show the file on one page: stages, last runs, silences. Show several files in a line each."""
    if len(files) > 1:
        _summarize(files, as_json=as_json)
        return
    (file,) = files
    with CheckpointStore.open_readonly(file) as store:
        found = store.summary()
    if as_json:
        output.document(_record(found))
    else:
        _show(found)


def _summarize(files: tuple[str, ...], *, as_json: bool) -> None:
    with open_many(files) as fleet:
        answers = fleet.summary()
    if as_json:
        output.document({"files": several.records(answers, _record, {})})
    else:
        several.show(answers)
    end_with_worst(several.exit_codes(answers))


def _show(found: StoreSummary) -> None:
    for line in heading(found):
        output.text(line)
    for section in sections(found):
        output.text(f"\n{section.title}")
        columns = [Column(title, holds, spare) for title, holds, spare in section.columns]
        rows = [tuple(shorten(cell, NAME_LENGTH) for cell in row) for row in section.rows]
        output.Table(*columns, tells_what_is_left_out=False).print(rows)
        if section.rest:
            output.text(section.rest)
    if found.stands_out:
        output.text("\nWhat stands out")
        for line in found.stands_out:
            output.sentence(line)


def _record(found: StoreSummary) -> Record:
    return {
        "path": found.path,
        "size_bytes": found.size_bytes,
        "head": values.head(found.head),
        **values.time("first_at", found.first_at_ms),
        **values.time("last_at", found.last_at_ms),
        "latest_run_id": found.latest_run_id,
        "runs": found.runs,
        "last_runs": [values.run(run) for run in found.last_runs],
        "stages": [
            {
                **values.resume_point(stage.point),
                "entries": stage.entries,
                "missing": stage.missing,
                "lag_offset": stage.lag_offset,
                "lag_ms": stage.lag_ms,
                **values.time("last_at", stage.last_at_ms),
                "pace_ms": stage.pace_ms,
                "rate": stage.rate,
            }
            for stage in found.stages
        ],
        "silences": [
            {
                "after": silence.after,
                "before": silence.before,
                **values.time("since", silence.since_ms),
                **values.time("until", silence.until_ms),
            }
            for silence in found.silences
        ],
        "stands_out": list(found.stands_out),
    }
