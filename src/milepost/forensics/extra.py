"""Import packages that milepost can do without. An error names a missing one in one sentence."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from milepost.errors import MissingPackageError


def extra(module: str, install: str = '"milepost[notebook]"') -> Any:
    """
    Import a module of a package that may be missing.

    Args:
        module: Its full name.
        install: The argument for `pip install`.

    Raises:
        MissingPackageError: The package is not installed.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise  # the package is there, but lacks something itself
        raise MissingPackageError(package, install) from None
