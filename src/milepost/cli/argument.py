"""The arguments that several commands share."""

from __future__ import annotations

import re
import time as clock
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from zoneinfo import ZoneInfo

import click

from milepost.cli import output
from milepost.cli.exit_code import ExitCode
from milepost.errors import InvalidArgumentError
from milepost.receipt import Head
from milepost.store import CheckpointStore
from milepost.times import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.shell_completion import CompletionItem

Command = TypeVar("Command", bound="Callable[..., Any]")

_UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_SPAN: Final = re.compile(
    r"([0-9]{1,9}(?:\.[0-9]{1,3})?) ?(ms|[smhdw]|(?:sec|second|min|minute|hour|day|week)s?)", re.IGNORECASE
)
_WORDS: Final = {"now", "today", "yesterday"}
_SECONDS: Final = range(10**8, 10**11)  # 1973 to 5138 in seconds; in ms the first three years after 1970
_MOST_MS: Final = 10**14  # the year 5138
_COMPLETIONS: Final = 200  # names that a shell is given


class WrongTime(click.ClickException):
    """A time or a length of time that cannot be read, in one sentence."""

    exit_code: ClassVar[int] = ExitCode.WRONG_INPUT


def time(text: str) -> str | int:
    """
    Parse a time for the store: ISO 8601, a word such as `yesterday`, an age such as `2h ago`, or ms since the epoch.

    Raises:
        WrongTime: It is none of these, or a number that must be seconds.
    """
    word = text.strip()
    if word in _WORDS:
        return _of_word(word)
    if word.endswith(" ago"):
        ms = clock.time_ns() // 1_000_000 - span_ms(word.removesuffix(" ago"))
        if ms < 0:
            raise WrongTime(f"{text!a} is before 1970, where no checkpoint can be: give a later time")
        return ms
    if not (word.isascii() and word.isdigit()):
        return _of_iso(word)
    if len(word) in {4, 8}:  # a year, or a date
        return _of_iso(word)
    number = int(word)
    if number in _SECONDS:
        raise WrongTime(f"{word} looks like seconds: give ms since 1970, {number * 1000}, or a date")
    if number >= _MOST_MS:
        raise WrongTime(f"{word} looks like microseconds or nanoseconds: give ms since 1970, or a date")
    return number


def is_relative(text: str) -> bool:
    """Return whether a time means another one each time that it is given."""
    word = text.strip()
    return word in _WORDS or word.endswith(" ago")


def _of_word(word: str) -> int:
    now = datetime.now(output.zone())
    if word == "now":
        return to_ms("time", now)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return to_ms("time", midnight if word == "today" else midnight - timedelta(days=1))


def _of_iso(text: str) -> int:
    try:
        ms = to_ms("time", text)
        # Text without a zone is in UTC to the store, and in the zone of --tz here.
        named = re.search(r"(Z|[+-][0-9]{2}:?[0-9]{2})$", text[10:])
        if named or output.zone() is UTC:
            return ms
        return to_ms("time", datetime.fromtimestamp(ms / 1000, UTC).replace(tzinfo=output.zone()))
    except InvalidArgumentError as error:
        if error.rule.startswith("is before"):
            raise WrongTime(f"{text!a} {error.rule}") from None
        raise WrongTime(
            f"{text!a} is no time: give a date or time such as 2026-01-31T03:12, 2026-01, yesterday or '2h ago'"
        ) from None


def span_ms(text: str) -> int:
    """
    Parse a length of time, such as `90s`, `10m`, `2h` or `3 days`, as ms.

    Raises:
        WrongTime: It is none.
    """
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise WrongTime(f"{text!a} is no length of time: give one such as 90s, 10m, 2h or 3d")
    unit = found[2].lower()
    return int(float(found[1]) * _UNITS_MS["ms" if unit == "ms" else unit[0]])


def head(text: str) -> Head:
    """Parse a head from the line that `milepost head` prints."""
    try:
        return Head.parse(text)
    except InvalidArgumentError:
        raise click.BadParameter(
            f"{text!a} is no head: give the line that `milepost head` prints, such as 12:<64 hex digits>"
        ) from None


def expected(text: str) -> tuple[str | None, Head]:
    """Parse a head, with the file before it whose head it is, as in `nodes/a.milepost=12:…`."""
    file, named, line = text.rpartition("=")
    return (file if named else None), head(line)


def key(path: str | None) -> bytes | None:
    """Read a key from all bytes of a file, so that no process list and no shell history shows it."""
    return None if path is None else Path(path).read_bytes()


def refuse_unrecorded(store: CheckpointStore, run_id: str | None, stage: str | None) -> None:
    """
    Refuse a run or a stage of which nothing was ever recorded: a name with a typo has no checkpoints either.

    Raises:
        click.ClickException: Nothing was recorded there.
    """
    if run_id is not None and store.latest(run_id) is None:
        raise click.ClickException(f"nothing is recorded of run {run_id!a}: look for it in `milepost runs`")
    if stage is not None and store.latest_for_stage(stage, run_id=run_id) is None:
        where = "" if run_id is None else f" of run {run_id!a}"
        raise click.ClickException(f"nothing is recorded of stage {stage!a}{where}: look for it in `milepost stages`")


class _LocalZone(tzinfo):
    """
    The zone of this machine, with the offset of each moment.

    `datetime.astimezone` gives a zone with the offset of one moment alone, which in summer and in winter is another one.
    """

    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        """Return the offset at a moment of this zone."""
        return None if moment is None else moment.replace(tzinfo=None).astimezone().utcoffset()

    def fromutc(self, moment: datetime) -> datetime:
        """Return a moment of UTC in this zone."""
        local = moment.replace(tzinfo=UTC).astimezone()
        first = local.replace(tzinfo=None).astimezone()  # of an hour that the end of summer time repeats
        return local.replace(tzinfo=self, fold=first.utcoffset() != local.utcoffset())

    def dst(self, _moment: datetime | None) -> timedelta | None:
        """Return None: nobody asks which part of the offset is that of the summer."""
        return None

    def tzname(self, _moment: datetime | None) -> str:
        """Return the name that `--tz` takes."""
        return "local"


def _zone(_context: click.Context, _option: click.Parameter, name: str | None) -> None:
    zone: tzinfo = UTC
    if name == "local":
        zone = _LocalZone()
    elif name is not None:
        try:
            zone = ZoneInfo(name)
        except (ValueError, OSError, KeyError):
            raise click.BadParameter(f"{name!a} is no time zone: give one such as Europe/Berlin, or local") from None
    output.set_zone(zone)


def _complete(names: Callable[[CheckpointStore], list[str]]) -> Callable[..., list[CompletionItem]]:
    """Complete names that a file has. FILE stands before them on the line."""

    def complete(context: click.Context, _option: click.Parameter, begun: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - only for a shell that asks

        try:
            # Click takes no argument for FILE while the option before the cursor lacks its value.
            file = context.params.get("file") or (context.params.get("files") or context.args)[0]
            with CheckpointStore.open_readonly(file) as store:
                found = names(store)
        except Exception:  # noqa: BLE001 - a shell shows what is printed here in the middle of its prompt
            return []
        return [CompletionItem(name) for name in found if name.startswith(begun) and name.isprintable()][:_COMPLETIONS]

    return complete


def run_ids(store: CheckpointStore) -> list[str]:
    """Return the runs, newest first."""
    return [run.run_id for run in reversed(store.runs())]


def stages(store: CheckpointStore) -> list[str]:
    """Return the stages."""
    return [each.stage for each in store.stages()]


complete_run: Callable[..., list[CompletionItem[Any]]] = _complete(run_ids)
complete_stage: Callable[..., list[CompletionItem[Any]]] = _complete(stages)

PATH: Final = click.Path(readable=False)
"""A file. Click does not look whether it can be read: the command does, and has an exit code for it."""

file: Callable[[Command], Command] = click.argument("file", type=PATH)
files: Callable[[Command], Command] = click.argument("files", metavar="FILE...", nargs=-1, required=True, type=PATH)
target: Callable[[Command], Command] = click.argument("target", metavar="TARGET")
target_name: Callable[[Command], Command] = click.option(
    "--name",
    metavar="NAME",
    required=True,
    help="The store's name in TARGET: 1 to 200 ASCII letters, digits, '.', '_' and '-', the first a letter or a digit.",
)
run: Callable[[Command], Command] = click.option(
    "--run", "run_id", metavar="RUN", shell_complete=complete_run, help="Restrict to this run."
)
stage: Callable[[Command], Command] = click.option(
    "--stage", metavar="STAGE", shell_complete=complete_stage, help="Restrict to this stage."
)
key_file: Callable[[Command], Command] = click.option(
    "--key-file", metavar="FILE", help="Read the key of a keyed chain from FILE, all its bytes."
)
as_of: Callable[[Command], Command] = click.option(
    "--as-of", type=time, metavar="TIME", help="Answer as of this time, such as 2026-01-31T03:12, yesterday or '2h ago'."
)
since: Callable[[Command], Command] = click.option(
    "--since", type=time, metavar="TIME", help="Start at this time of the clock, such as 2026-01 or '2h ago'."
)
until: Callable[[Command], Command] = click.option(
    "--until", type=time, metavar="TIME", help="End at this time of the clock, included."
)
as_json: Callable[[Command], Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON in ASCII, for programs."
)


def _in_zone(does: str) -> Callable[[Command], Command]:
    return click.option(
        "--tz",
        metavar="ZONE",
        callback=_zone,
        expose_value=False,
        is_eager=True,  # the times on the command line are in it too
        help=f"{does} times in this zone, such as Europe/Berlin, or local.  [default: UTC]",
    )


time_zone: Callable[[Command], Command] = _in_zone("Show and take")
time_zone_taken: Callable[[Command], Command] = _in_zone("Take")
overwrite: Callable[[Command], Command] = click.option(
    "--overwrite", is_flag=True, help="Replace the file if it exists, as a whole."
)
