"""
Mileposts: how rows are found by run and by stage, though only every so many of them are in an index.

The first row of a stage of a run is a milepost, and after each milepost the next row of the same stage and run that stands
`APART` or more positions behind it. Only mileposts are in the indexes by run, by stage and by sequence, so that most appends
change two B-trees and not five. Any other row stands at most `APART - 1` positions behind a milepost of its stage and run:
an index leads to that, and a few steps along the chain to the row.
"""

from __future__ import annotations

from typing import Final

APART: Final = 40
"""
Positions from one milepost of a stage of a run to the next, at least.

More would make `get` slower, which walks half as many rows; less would make the indexes larger and appends slower.
"""
