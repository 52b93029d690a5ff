"""
A picture: its frame, its colours, its notes, and the names in it.

Pictures are read on a white and on a dark page: they have no background, and their text is grey. They use the colours of
Okabe and Ito, which colour-blind people can tell apart; red is for faults alone. Names are hostile data: matplotlib never
reads them as formulas. An SVG tells in titles what is under the mouse.
"""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from functools import lru_cache
from io import BytesIO, TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from milepost import rows
from milepost.checkpoint import MAX_INTEGER
from milepost.errors import NoCheckpointError
from milepost.forensics import hover
from milepost.forensics.extra import extra
from milepost.readable import shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib import font_manager as fonts
    from matplotlib import textpath
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from milepost.database import Read
    from milepost.rows import Filter
else:
    fonts, textpath = extra("matplotlib.font_manager"), extra("matplotlib.textpath")
    Figure = extra("matplotlib.figure").Figure

COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9")
FAULT: Final = "#D55E00"
GREY: Final = "#808080"  # 4 to 1 on white, 5 to 1 on black
PLAIN: Final[dict[str, Any]] = {"parse_math": False, "usetex": False}  # a name is no formula
LONGEST: Final = 32  # characters of a name
TITLE: Final = 200  # likewise, in a title
_WIDEST: Final = 20  # times the size of the font, which is about as wide as so many letters
_TALLEST: Final = 1.35  # times the size of the font: a letter with two accents and a tail


class Picture(Figure):
    """A matplotlib Figure without pyplot and its state; a notebook shows it as the last line of a cell."""

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.titles: hover.Titles = hover.Titles()

    def savefig(self, fname: Any, **options: Any) -> None:
        """Save it as matplotlib does, without a background. A character that the font lacks is drawn as a box."""
        with _any_characters():
            ours: dict[str, Any] = {"transparent": True, "bbox_inches": "tight", "dpi": 120}
            options = ours | options
            if str(options.get("format") or _ending(fname)).lower() != "svg":
                super().savefig(fname, **options)
                return
            image = BytesIO()
            with self.titles.drawn():
                super().savefig(image, **options | {"format": "svg"})
        svg = self.titles.put_into(image.getvalue().decode())
        if not hasattr(fname, "write"):
            Path(fname).write_text(svg, encoding="utf-8")
        elif isinstance(fname, TextIOBase):
            fname.write(svg)
        else:
            fname.write(svg.encode())

    def _repr_png_(self) -> bytes:
        image = BytesIO()
        self.savefig(image, format="png")
        return image.getvalue()


def _ending(fname: Any) -> str:
    return "" if hasattr(fname, "write") else Path(fname).suffix.removeprefix(".")


def refuse_unknown(read: Read, chosen: Filter) -> None:
    """
    Draw nothing of a name that was never recorded.

    Raises:
        NoCheckpointError: The run, or the stage, was never recorded.
    """
    named = chosen.run_id is not None or chosen.stage is not None
    if named and read(rows.latest, chosen.run_id, chosen.stage) is None:
        raise NoCheckpointError(chosen.run_id, chosen.stage)


def new_picture(title: str, height: float, panels: int, *, share: bool = True) -> tuple[Picture, Sequence[Axes]]:
    """Return an empty picture of a height in inches, and its panels, one below the other."""
    figure = Picture(figsize=(9, height), layout="constrained")
    figure.patch.set_alpha(0)
    all_axes = figure.subplots(panels, 1, sharex=share, squeeze=False)[:, 0]
    figure.suptitle(title, x=0.01, ha="left", color=GREY, fontsize=11, **PLAIN)
    for axes in all_axes:
        axes.patch.set_alpha(0)
        axes.tick_params(colors=GREY, which="both", labelsize=8)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set(color=GREY, size=9)
            axis.offsetText.set(color=GREY, size=8)
        for side, spine in axes.spines.items():
            spine.set_color(GREY)
            spine.set_visible(side in {"left", "bottom"})
        axes.grid(color=GREY, alpha=0.2, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, list(all_axes)


def add_note(figure: Picture, *sentences: str) -> None:
    """Write below a picture what one has to know of it, a line each."""
    figure.supxlabel("\n".join(filter(None, sentences)), x=0.01, ha="left", color=GREY, fontsize=8, **PLAIN)


def nothing(figure: Picture, chosen: Filter) -> Picture:
    """Return a picture that says that nothing is recorded of what was asked for."""
    if chosen.since_ms or chosen.until_ms < MAX_INTEGER:
        return empty(figure, f"nothing is recorded in {whose(chosen)} in this time")
    of_all = chosen.run_id is None and chosen.stage is None
    return empty(figure, "nothing is recorded yet" if of_all else f"nothing is recorded in {whose(chosen)} yet")


def empty(figure: Picture, text: str) -> Picture:
    """Return a picture that has a sentence in place of axes."""
    for axes in figure.axes:
        axes.set_axis_off()
    figure.axes[0].annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", color=GREY, **PLAIN)
    return figure


def whose(chosen: Filter) -> str:
    """Name what was asked for, in a title."""
    stage = "" if chosen.stage is None else f"{short(chosen.stage)} in "
    return f"{stage}{'all runs' if chosen.run_id is None else short(chosen.run_id)}"


@lru_cache(maxsize=1000)
def short(name: str) -> str:
    """
    Shorten a name to one line that a picture has room for.

    It is measured, since a letter of some scripts is as wide as eight of others, and accents pile up to any height.
    """
    text = shorten(name, LONGEST)
    while not _has_room(text):
        text = f"{text.removesuffix('…')[:-1]}…"
    if not text.strip():  # blanks alone would not be seen
        return f"'{text}'"
    return shorten(ascii(name)[1:-1], LONGEST) if text == "…" != name else text


def _has_room(text: str) -> bool:
    one_point = fonts.FontProperties(size=1)
    with _any_characters():
        width, height, _ = textpath.text_to_path.get_text_width_height_descent(text, one_point, ismath=False)
    return bool(width <= _WIDEST and height <= _TALLEST)


@contextmanager
def _any_characters() -> Iterator[None]:
    """Draw without a warning of characters that the font lacks, or of scripts whose letters matplotlib does not join."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from|.* does not support .* natively")
        yield
