"""The pictures of a store: `store.plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from milepost import compare
from milepost.arguments import check_optional_name

if TYPE_CHECKING:
    from milepost.database import Database
    from milepost.forensics.plots import Picture


class Plot:
    """
    What happened, as pictures for a notebook; `milepost plot` writes the same pictures to files.

    Each method returns a `matplotlib.figure.Figure`, which a notebook shows by itself. Use `.savefig(…)` to write a file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def progress(self, run_id: str | None = None) -> Picture:
        """
        Plot the offset and the event time of each stage against the wall clock.

        A slope is a speed, and a flat line is a stall. A dotted line is a time in which nothing was recorded. A line that
        starts anew is a replay. If a file has more than 20 runs, you see the 20 that were active last. The picture reads
        only the checkpoints that it can show, so ten million take as long as ten thousand.

        Args:
            run_id: Only this run.

        Raises:
            InvalidArgumentError: `run_id` is a name that no run can have.
            MissingPackageError: matplotlib is not installed; it is part of the extra `notebook`.
        """
        from milepost.forensics import plots  # noqa: PLC0415 - only where a picture is drawn

        check_optional_name("run_id", run_id)
        return plots.progress(self._database.read_committed, run_id)

    def lag(self, run_id: str | None = None) -> Picture:
        """
        Plot how far the event time of each stage was behind the wall clock, on a logarithmic scale.

        In a stall the line rises, and in a recovery it falls. It is broken where nothing was recorded.

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
        Plot when each stage of each run was active.

        Each has a bar, which is broken where nothing was recorded.

        Raises:
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import plots  # noqa: PLC0415

        return plots.runs(self._database.read_committed)

    def compare(self, run_id: str, other_run_id: str) -> Picture:
        """
        Plot two runs over each other, stage by stage, and mark the first sequence at which they differ.

        Args:
            run_id: One run.
            other_run_id: The other run.

        Raises:
            NoCheckpointError: One of the runs has no checkpoint.
            InvalidArgumentError: One of the names is a name that no run can have.
            MissingPackageError: As `progress`.
        """
        from milepost.forensics import plots  # noqa: PLC0415

        return plots.compare(self._database.read_committed, compare.compare_runs(self._database, run_id, other_run_id))
