"""Check the arguments of appends and advances, and convert them for the writer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from milepost import cursors
from milepost.append import NOT_ASKED, Step
from milepost.arguments import with_plain_integers
from milepost.checkpoint import Checkpoint, valid_watermark
from milepost.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from milepost.append import NotAsked
    from milepost.checkpoint import Watermark

_NEEDED: Final = ("run_id", "stage", "watermark", "idempotency_key")
_NAMES: Final = (*_NEEDED, "after", "cursor")


def checked_entries(entries: Iterable[Checkpoint]) -> list[Checkpoint]:
    """
    Return the entries of a batch, up to and including the first that is no Checkpoint.

    Raises:
        InvalidArgumentError: They are not iterable.
    """
    try:
        iterator = iter(entries)
    except TypeError as error:
        raise InvalidArgumentError("entries", entries, "must be an iterable of milepost.Checkpoint") from error
    batch: list[Checkpoint] = []
    for entry in iterator:
        batch.append(entry)
        if type(entry) is not Checkpoint:  # the batch fails here in any case, so do not read the rest
            break
    return batch


def checked_step(
    run_id: str,
    stage: str,
    watermark: Watermark,
    idempotency_key: str,
    after: Watermark | NotAsked | None = NOT_ASKED,
    cursor: Any = None,
) -> Step:
    """
    Return a step with these arguments, and its cursor in the stored form. The writer checks the checkpoint.

    Raises:
        InvalidArgumentError: `after` or `cursor` breaks a rule.
    """
    after = with_plain_integers(after)
    if after is not NOT_ASKED and after is not None and not valid_watermark(after):
        raise InvalidArgumentError("after", after, "must be a milepost.Watermark, or None for no checkpoint yet")
    return Step(run_id, stage, with_plain_integers(watermark), idempotency_key, after, cursors.encode(cursor))


def checked_steps(steps: Iterable[Mapping[str, Any] | Sequence[Any]]) -> list[Step]:
    """
    Return a step for each of them.

    Raises:
        InvalidArgumentError: They are not iterable, or one is neither a mapping nor a tuple of `advance`'s arguments.
    """
    given: object = steps
    if type(given) is dict or type(given) is str or type(given) is bytes:
        raise InvalidArgumentError("steps", steps, "must be an iterable of steps: put a single one into a list")
    try:
        iterator = iter(steps)
    except TypeError as error:
        raise InvalidArgumentError("steps", steps, "must be an iterable of steps") from error
    return [_checked(f"steps[{index}]", step) for index, step in enumerate(iterator)]


def _checked(argument: str, step: Any) -> Step:
    failure: Exception | None = None
    try:
        named = dict(step) if isinstance(step, Mapping) else dict(zip(_NAMES, step, strict=False))
        fits = not isinstance(step, str | bytes | Checkpoint) and len(step) == len(named)
    except Exception as error:
        if type(step) is tuple or type(step) is dict or type(step) is list:
            raise  # they raise nothing: it comes of a signal handler
        failure, fits, named = error, False, {}  # an object of the caller's may raise anything
    if not fits or not set(_NEEDED) <= named.keys() <= set(_NAMES):
        rule = f"must be a mapping or a tuple of {', '.join(_NEEDED)}, and optionally after and cursor"
        raise InvalidArgumentError(argument, step, rule) from failure
    try:
        return checked_step(**named)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{argument}.{error.argument}", error.value, error.rule) from error.__cause__
