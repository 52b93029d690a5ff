"""
What a browser shows of an SVG under the mouse: a `<title>` in each bar and at each point, and no script.

matplotlib writes no titles. It does write a name, the `gid`, of what it draws: here each name gives way to a title.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

POINTS: Final = 1000
"""How many points of a picture have a title, at most: each is 170 bytes."""

_BAR: Final = re.compile(r'<g id="milepost-bar-([0-9]+)">')
_POINTS: Final = re.compile(r'<g id="milepost-points-([0-9]+)">(.*?)</g>', re.DOTALL)
_POINT: Final = re.compile(r'<use (xlink:href="[^"]*") x="([^"]*)" y="([^"]*)"[^>]*/>')


@dataclass(slots=True)
class Titles:
    """The titles of a picture."""

    _bars: list[str] = field(default_factory=list)
    _points: list[tuple[Axes, Sequence[float], Sequence[float], Sequence[str]]] = field(default_factory=list)

    def bar(self, artist: Artist, title: str) -> None:
        """Give something that is drawn a title. The title may hold anything that is visible."""
        artist.set_gid(f"milepost-bar-{len(self._bars)}")
        self._bars.append(title)

    def points(self, axes: Axes, xs: Sequence[float], ys: Sequence[float], titles: Sequence[str]) -> None:
        """Give points titles; the mouse need not hit them exactly."""
        self._points.append((axes, xs, ys, titles))

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw a spot that nobody sees at each point with a title, over all else, where the mouse finds it."""
        spots = []
        for number, (axes, xs, ys, _) in enumerate(self._points):
            look: dict[str, Any] = {
                "linestyle": "none",
                "marker": "o",
                "markersize": 8,
                "alpha": 0,
                "scalex": False,
                "zorder": 9,
            }
            (spot,) = axes.plot(xs, ys, scaley=False, gid=f"milepost-points-{number}", **look)
            spots.append(spot)
        try:
            yield
        finally:
            for spot in spots:
                spot.remove()

    def put_into(self, svg: str) -> str:
        """Put the titles into a picture that was drawn with the spots."""

        def titled(group: re.Match[str]) -> str:
            titles = iter(self._points[int(group[1])][3])

            def spot(use: re.Match[str]) -> str:
                return f'<use {use[1]} x="{float(use[2]):.1f}" y="{float(use[3]):.1f}">{_title(next(titles))}</use>'

            # The group hides them all: what is transparent still feels the mouse.
            return f'<g opacity="0">{_POINT.sub(spot, group[2])}</g>'

        return _POINTS.sub(titled, _BAR.sub(lambda bar: f"<g>{_title(self._bars[int(bar[1])])}", svg))


def _title(text: str) -> str:
    return f"<title>{escape(text)}</title>"
