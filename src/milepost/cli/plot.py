"""The command `plot`, with a command for each picture."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import click

from milepost.cli import argument
from milepost.cli.new_file import new_file
from milepost.store import CheckpointStore

if TYPE_CHECKING:
    from milepost.forensics.plots import Picture


def _picture(value: str) -> str:
    if Path(value).suffix.lower() not in {".png", ".svg"}:
        raise click.BadParameter(f"{value!a} must end in .png or .svg")
    return value


_target = click.argument("picture", metavar="PICTURE", type=_picture)


@click.group(short_help="Draw progress, runs, lag or a comparison, as PNG or SVG.")
def plot() -> None:
    """
    Draw a picture into a new file, PICTURE, as PNG or SVG by its ending.

    This needs the extra `notebook`. A picture has room for some 20 runs and stages. It shows those that were active last, or
    those that differ first, and counts the others.
    """
    # matplotlib warns of its cache and of this machine's fonts, but draws the picture anyway.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


@plot.command()
@argument.file
@_target
@argument.run
def progress(file: str, picture: str, run_id: str | None) -> None:
    """Plot how far each stage had come at each time."""
    with CheckpointStore.open_readonly(file) as store:
        _save(store.plot.progress(run_id), picture)


@plot.command()
@argument.file
@_target
def runs(file: str, picture: str) -> None:
    """Plot when each stage of each run was active."""
    with CheckpointStore.open_readonly(file) as store:
        _save(store.plot.runs(), picture)


@plot.command()
@argument.file
@_target
@argument.run
def lag(file: str, picture: str, run_id: str | None) -> None:
    """Plot how far event time was behind the clock."""
    with CheckpointStore.open_readonly(file) as store:
        _save(store.plot.lag(run_id), picture)


@plot.command()
@argument.file
@click.argument("run_id", metavar="RUN")
@click.argument("other_run_id", metavar="OTHER")
@_target
def compare(file: str, run_id: str, other_run_id: str, picture: str) -> None:
    """Plot two runs over each other, and where they diverge."""
    with CheckpointStore.open_readonly(file) as store:
        _save(store.plot.compare(run_id, other_run_id), picture)


def _save(drawn: Picture, path: str) -> None:
    with new_file(path) as stream:
        drawn.savefig(stream, format=Path(path).suffix.lower().removeprefix("."))
