"""Label placement: where does a label go, so that it covers no other one?

A label has a list of places in which it would make sense, the best first, and sometimes shorter
wordings. The first place whose box (as the renderer measures it) touches no other label wins;
crossing a line is allowed but costs. A label without a place is left out and reported: the alt
text still has its words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from wsdemo.drawing.style import note

PAD_PX: Final = 2.0
CROSSING: Final = 4.0
"""Crossing one line is as bad as the fourth next place."""
SHORTER: Final = 2.5
"""A shorter wording is as bad as this many places further on."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A place for a label, in pixels, and which of its edges is there."""

    x: float
    y: float
    ha: str = "left"
    va: str = "center"

    def box(self, width: float, height: float) -> Bbox:
        """The box that a label of this size covers here."""
        left = self.x - {"left": 0.0, "center": width / 2, "right": width}[self.ha]
        low = self.y - {"bottom": 0.0, "center": height / 2, "top": height}[self.va]
        return Bbox.from_bounds(left, low, width, height)


class Placer:
    """Puts labels into axes whose layout is settled."""

    def __init__(self, ax: Axes, *, within: Bbox | None = None) -> None:
        self._ax = ax
        self._within = within or ax.bbox
        self._taken: list[Bbox] = []
        self._lines: list[Path] = []
        self.left_out: list[str] = []

    def keep_clear(self, box: Bbox, pad_px: float = PAD_PX) -> None:
        """No label may cover this box."""
        self._taken.append(box.padded(pad_px))

    def keep_clear_of(self, *texts: Text) -> None:
        """No label may cover these texts, which have a place already."""
        for text in texts:
            self.keep_clear(text.get_window_extent())

    def line(self, *points_px: tuple[float, float]) -> None:
        """A label should not cross this line."""
        self._lines.append(Path(list(points_px)))

    def put(
        self, wordings: str | Sequence[str], spots: Iterable[Spot], **style: Any
    ) -> Text | None:
        """Write the first wording that has a place, in its best place; None if there is none."""
        wordings = [wordings] if isinstance(wordings, str) else list(wordings)
        places = list(spots)
        best: tuple[float, str, Spot, Bbox] | None = None
        for penalty, words in enumerate(wordings):
            width, height = self._size(words, style)
            for rank, spot in enumerate(places):
                floor = rank + penalty * SHORTER
                if best is not None and floor >= best[0]:
                    break
                box = spot.box(width, height)
                if self._is_free(box):
                    cost = floor + CROSSING * self._crossings(box)
                    if best is None or cost < best[0]:
                        best = (cost, words, spot, box)
        if best is None:
            self.left_out.append(wordings[0])
            return None
        _, words, spot, box = best
        self._taken.append(box.padded(PAD_PX))
        return self._write(words, spot, style)

    def _size(self, words: str, style: dict[str, Any]) -> tuple[float, float]:
        probe = note(self._ax, 0, 0, words, **style)
        box = probe.get_window_extent()
        probe.remove()
        return box.width, box.height

    def _is_free(self, box: Bbox) -> bool:
        room = self._within
        inside = box.x0 >= room.x0 and box.x1 <= room.x1 and box.y0 >= room.y0 and box.y1 <= room.y1
        return inside and not any(box.overlaps(other) for other in self._taken)

    def _crossings(self, box: Bbox) -> int:
        return sum(bool(line.intersects_bbox(box, filled=False)) for line in self._lines)

    def _write(self, words: str, spot: Spot, style: dict[str, Any]) -> Text:
        # Stored in data coordinates, so that the figure may be saved in another resolution.
        x, y = self._ax.transData.inverted().transform((spot.x, spot.y))
        return note(self._ax, x, y, words, ha=spot.ha, va=spot.va, **style)


def thinned(boxes: Sequence[tuple[float, float]], gap_px: float = 8.0) -> list[int]:
    """Return which of these (centre, width) labels on one line to keep so that none touch.

    The first and the last are kept where possible, the others as they fit from the left.
    """
    kept: list[int] = []
    if not boxes:
        return kept
    last = len(boxes) - 1
    right_limit = boxes[last][0] - boxes[last][1] / 2 - gap_px
    edge = float("-inf")
    for i, (centre, width) in enumerate(boxes):
        is_last = i == last
        fits_left = centre - width / 2 - gap_px >= edge
        fits_right = is_last or not kept or centre + width / 2 <= right_limit
        if fits_left and fits_right:
            kept.append(i)
            edge = centre + width / 2
    return kept
