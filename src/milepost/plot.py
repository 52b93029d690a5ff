"""The pictures of a store, as `store.plot` has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import compare
from milepost.arguments import check_optional_name

if TYPE_CHECKING:
    from milepost.database import Database
    from milepost.forensics.plots import Picture


class Plot:
    """
    What happened, as pictures for a notebook; `milepost plot` writes the same into files.

    Each is a `matplotlib.figure.Figure` that a notebook shows by itself; `.savefig(…)` writes it to a file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def progress(self, run_id: str | None = None) -> Picture:
        """
        Draw how far each stage had come at what time: its offset, and its event time, against the wall clock.

        A slope is a speed, flat is a stall, a gap is a time in which nothing was recorded, and a line that starts anew is
        a replay. Of a file with more than 20 runs the last 20 are drawn. Only some checkpoints are read, those that
        a picture can show: it takes as long for ten million as for ten thousand.

        Args:
            run_id: Only this run.

        Raises:
            InvalidArgumentError: A name that no checkpoint can have.
            MissingPackageError: matplotlib is not installed: it is part of the extra `notebook`.
        """
        from milepost.forensics import plots  # noqa: PLC0415 - only where a picture is drawn

        check_optional_name("run_id", run_id)
        return plots.progress(self._database.read_committed, run_id)

    def lag(self, run_id: str | None = None) -> Picture:
        """
        Draw how far the event time of each stage was behind the wall clock, on a logarithmic scale.

        A stall is a line that rises by itself, a recovery one that falls; the line is broken where nothing was recorded.

        Args:
            run_id: As `progress`.

        Raises:
            InvalidArgumentError: As `progress`.
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import plots  # noqa: PLC0415

        check_optional_name("run_id", run_id)
        return plots.lag(self._database.read_committed, run_id)

    def runs(self) -> Picture:
        """
        Draw when each stage of each run was active: a bar for each, broken where nothing was recorded.

        Raises:
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import plots  # noqa: PLC0415

        return plots.runs(self._database.read_committed)

    def compare(self, run_id: str, other_run_id: str) -> Picture:
        """
        Draw two runs over each other, stage by stage, and mark the first sequence at which they differ.

        Args:
            run_id: One run.
            other_run_id: The other run.

        Raises:
            NoCheckpointError: Nothing is recorded of one of them.
            InvalidArgumentError: A name that no run can have.
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import plots  # noqa: PLC0415

        return plots.compare(self._database.read_committed, compare.compare_runs(self._database, run_id, other_run_id))
