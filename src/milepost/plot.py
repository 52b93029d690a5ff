"""The pictures of a store: `store.plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import compare
from milepost.arguments import check_bool, check_optional_name
from milepost.history import checked_filter

if TYPE_CHECKING:
    from milepost.database import Database
    from milepost.forensics.picture import Picture
    from milepost.rows import Filter
    from milepost.times import Time


class Plot:
    """
    What happened, as pictures for a notebook; `milepost plot` writes the same pictures to files.

    Each method returns a `matplotlib.figure.Figure`, which a notebook shows by itself. Use `.savefig(…)` to write a file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def progress(
        self,
        run_id: str | None = None,
        stage: str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
        aligned: bool | None = None,
    ) -> Picture:
        """
        Plot the offset and the event time of each stage against the wall clock.

        A slope is a speed, and a flat line is a stall. A dotted line is a time in which nothing was recorded. A line that
        starts anew is a replay. A grey arrow is a clock that jumped back.

        Short runs with long pauses, as every night, are laid over each other: the axis is the time since the run began. The
        run that began last is bold.

        Of more than 20 runs, you see the 20 that were active last. Of more than 20 stages, you see those whose time differs
        most from that of the others in its run: the long ones, and one that stopped early. The picture counts the rest. It
        reads only the checkpoints that it can show, so ten million take as long as ten thousand.

        Args:
            run_id: Only this run.
            stage: Only this stage.
            since: Only what was recorded at this time or later. A time is ms since the epoch, an aware `datetime`, or ISO
                8601 text. If the clock jumped, the picture may begin or end at another moment with the same time.
            until: Only what was recorded at this time or earlier.
            aligned: True lays the runs over each other; False shows them on one clock. None chooses by the runs.

        Raises:
            NoCheckpointError: The run, or the stage, was never recorded.
            InvalidArgumentError: An argument is nothing that a run, a stage or a time can be.
            MissingPackageError: matplotlib is not installed; it is part of the extra `notebook`.
        """
        from milepost.forensics import plots  # noqa: PLC0415 - only where a picture is drawn

        return plots.progress(self._database.read_committed, _filter(run_id, stage, since, until), _checked(aligned))

    def lag(
        self,
        run_id: str | None = None,
        stage: str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
        aligned: bool | None = None,
    ) -> Picture:
        """
        Plot how far the event time of each stage was behind the wall clock, on a logarithmic scale if that varies much.

        In a stall the line rises, and in a recovery it falls. It is broken where nothing was recorded. Stages without event
        times have no line. Of more than 20 stages, you see those that are farthest behind at their last checkpoint.

        Args:
            run_id: As `progress`.
            stage: As `progress`.
            since: As `progress`.
            until: As `progress`.
            aligned: As `progress`.

        Raises:
            NoCheckpointError: As `progress`.
            InvalidArgumentError: As `progress`.
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import plots  # noqa: PLC0415

        return plots.lag(self._database.read_committed, _filter(run_id, stage, since, until), _checked(aligned))

    def runs(
        self,
        run_id: str | None = None,
        stage: str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
        aligned: bool | None = None,
    ) -> Picture:
        """
        Plot when each stage of each run was active.

        Each has a bar, which is broken where nothing was recorded. There is room for 60 bars, of 20 to 40 runs: those that
        were active last. In each run you see the same stages, those whose time differs most.

        Args:
            run_id: As `progress`.
            stage: As `progress`.
            since: As `progress`.
            until: As `progress`.
            aligned: True lets all bars begin when their run began; False and None as `progress`.

        Raises:
            NoCheckpointError: As `progress`.
            InvalidArgumentError: As `progress`.
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import plots  # noqa: PLC0415

        return plots.runs(self._database.read_committed, _filter(run_id, stage, since, until), _checked(aligned))

    def durations(
        self,
        run_id: str | None = None,
        stage: str | None = None,
        *,
        since: Time | None = None,
        until: Time | None = None,
    ) -> Picture:
        """
        Plot how long each run took, in order, and how it ended.

        Each attempt has a bar: finished, failed, killed, or open, up to the last thing that it recorded. If there are more
        than 50 bars, they stand side by side without names. Of more than 400 runs, you see the 400 that were active last; of
        each run, the last 8 attempts. If one took far longer than usual, the scale is logarithmic.

        Args:
            run_id: Only the attempts of this run.
            stage: The time from the first to the last checkpoint of this stage, in each run that has it.
            since: Only attempts that ended at this time or later.
            until: Only attempts that began at this time or earlier.

        Raises:
            NoCheckpointError: As `progress`.
            InvalidArgumentError: As `progress`.
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import durations  # noqa: PLC0415

        return durations.durations(self._database.read_committed, _filter(run_id, stage, since, until))

    def compare(self, run_id: str, other_run_id: str, stage: str | None = None) -> Picture:
        """
        Plot two runs over each other, stage by stage, and mark the first sequence at which they differ.

        Of more than 8 stages, you see those that part first. The picture counts the rest.

        Args:
            run_id: One run.
            other_run_id: The other run.
            stage: Only this stage.

        Raises:
            NoCheckpointError: One of the runs has no checkpoint, or neither has the stage.
            InvalidArgumentError: One of the names is a name that no run or stage can have.
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import plots  # noqa: PLC0415

        check_optional_name("stage", stage)
        found = compare.compare_runs(self._database, run_id, other_run_id)
        return plots.compare(self._database.read_committed, found, stage)


def _filter(run_id: str | None, stage: str | None, since: Time | None, until: Time | None) -> Filter:
    return checked_filter(run_id, stage, since, until, after=0, limit=None, newest_first=False)


def _checked(aligned: bool | None) -> bool | None:
    if aligned is not None:
        check_bool("aligned", aligned)
    return aligned
