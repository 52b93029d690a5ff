"""Where the programs are that tests start, and how these find what the tests find."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

PROGRAMS: Final = Path(__file__).parent


def environment() -> dict[str, str]:
    """Of a process that imports what this one can, the modules of `support` among it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
