"""Packages that milepost does without: imported when they are used, and missed in one sentence."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from milepost.errors import MissingPackageError


def extra(module: str, install: str = '"milepost[notebook]"') -> Any:
    """
    Import a module of a package that may be missing.

    Args:
        module: Its full name.
        install: What pip has to be given.

    Raises:
        MissingPackageError: It is not installed.
    """
    package = module.partition(".")[0]
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != package:
            raise  # it is there, and lacks something itself
        raise MissingPackageError(package, install) from None
