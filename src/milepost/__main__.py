"""The command `milepost`, also `python -m milepost`."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command line, or say which packages to install for it."""
    missing = [name for name in ("click", "rich") if find_spec(name) is None]
    if missing:
        extra = "demo" if sys.argv[1:2] == ["demo"] else "cli"
        sys.stderr.write(f'milepost: the command line needs {" and ".join(missing)}: run  pip install "milepost[{extra}]"\n')
        sys.exit(2)
    from milepost.cli import commands  # noqa: PLC0415 - the import needs the packages checked above

    commands(prog_name="milepost")


if __name__ == "__main__":
    main()
