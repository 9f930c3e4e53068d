"""Legibility: can every text of a figure be read? The renderer measures it, to the pixel."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from matplotlib.text import Text

from wsdemo.drawing.style import Picture

TOLERANCE_PX = 2.0


def texts(fig: Picture) -> list[Text]:
    """Return the texts that are drawn."""
    # Ticks beyond the ends of an axis exist, but are not drawn.
    undrawn = set()
    for ax in fig.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            undrawn |= {t.label1 for t in axis.get_major_ticks() if not low <= t.get_loc() <= high}
    shown = [t for t in fig.findobj(Text) if t.get_text().strip() and t.get_visible()]
    return [t for t in shown if t not in undrawn]


def words(fig: Picture) -> set[str]:
    """Return what is written in a figure."""
    return {text.get_text() for text in texts(fig)}


def assert_no_text_covers_another(figures: Mapping[str, Picture]) -> None:
    for name, fig in figures.items():
        fig.draw_without_rendering()
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts(fig)]
        for (a, one), (b, two) in itertools.combinations(boxes, 2):
            overlap_x = min(one.x1, two.x1) - max(one.x0, two.x0)
            overlap_y = min(one.y1, two.y1) - max(one.y0, two.y0)
            collide = overlap_x > TOLERANCE_PX and overlap_y > TOLERANCE_PX
            assert not collide, f"{name}: {a!r} covers {b!r}"


def assert_no_text_is_clipped(figures: Mapping[str, Picture]) -> None:
    for name, fig in figures.items():
        fig.draw_without_rendering()
        for text in texts(fig):
            box = text.get_window_extent()
            inside = box.x0 >= -1 and box.y0 >= -1
            inside = inside and box.x1 <= fig.bbox.x1 + 1 and box.y1 <= fig.bbox.y1 + 1
            assert inside, f"{name}: {text.get_text()!r} is clipped"
