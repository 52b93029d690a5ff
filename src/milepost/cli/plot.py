"""The command `plot`, with a command for each picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from milepost.cli import argument
from milepost.cli.new_file import new_file
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from milepost.cli.argument import Command
    from milepost.forensics.picture import Picture


def _picture(value: str) -> str:
    if Path(value).suffix.lower() not in {".png", ".svg"}:
        raise click.BadParameter(f"{value!a} must end in .png or .svg")
    return value


_target = click.argument("picture", metavar="PICTURE", type=_picture)
_aligned = click.option(
    "--aligned/--by-clock",
    default=None,
    help="Lay the runs over each other, or show them on one clock.  [default: by the runs]",
)


def _filtered(command: Command) -> Command:
    """Give a command the arguments of a picture of what is asked for."""
    for each in reversed(
        (
            argument.file,
            _target,
            argument.run,
            argument.stage,
            argument.since,
            argument.until,
            argument.time_zone_taken,
            argument.overwrite,
        )
    ):
        command = each(command)
    return command


@click.group(short_help="Draw progress, runs, durations, lag or a comparison.")
def plot() -> None:
    """
    Draw a picture into a new file, PICTURE, as PNG or SVG by its ending.

    This needs the extra `notebook`. A picture has room for some 20 runs and stages, and for 400 durations. It shows the runs
    that were active last, and the stages that differ most, and counts the others. In an SVG, a browser shows what is under
    the mouse.
    """
    # matplotlib warns of its cache and of this machine's fonts, but draws the picture anyway.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


@plot.command()
@_filtered
@_aligned
def progress(file: str, picture: str, overwrite: bool, **chosen: Any) -> None:
    """Plot how far each stage had come at each time."""
    _draw(file, picture, overwrite, lambda store: store.plot.progress(**chosen))


@plot.command()
@_filtered
@_aligned
def runs(file: str, picture: str, overwrite: bool, **chosen: Any) -> None:
    """Plot when each stage of each run was active."""
    _draw(file, picture, overwrite, lambda store: store.plot.runs(**chosen))


@plot.command()
@_filtered
def durations(file: str, picture: str, overwrite: bool, **chosen: Any) -> None:
    """Plot how long each run took, and how it ended."""
    _draw(file, picture, overwrite, lambda store: store.plot.durations(**chosen))


@plot.command()
@_filtered
@_aligned
def lag(file: str, picture: str, overwrite: bool, **chosen: Any) -> None:
    """Plot how far event time was behind the clock."""
    _draw(file, picture, overwrite, lambda store: store.plot.lag(**chosen))


@plot.command()
@argument.file
@click.argument("run_id", metavar="RUN")
@click.argument("other_run_id", metavar="OTHER")
@_target
@argument.stage
@argument.overwrite
def compare(file: str, run_id: str, other_run_id: str, picture: str, stage: str | None, overwrite: bool) -> None:
    """Plot two runs over each other, and where they diverge."""
    _draw(file, picture, overwrite, lambda store: store.plot.compare(run_id, other_run_id, stage))


def _draw(file: str, path: str, overwrite: bool, draw: Callable[[CheckpointStore], Picture]) -> None:
    with CheckpointStore.open_readonly(file) as store:
        drawn = draw(store)
    with new_file(path, overwrite=overwrite) as stream:
        drawn.savefig(stream, format=Path(path).suffix.lower().removeprefix("."))
