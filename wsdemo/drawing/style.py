"""Style: how does every figure of the kit look?

The roles are fixed: a gateway, a lost message or a late cleanup has the same colour in every
figure, and never the colour alone, because one reader in twelve cannot tell them apart and a
projector can be worse: each role has a hatch, a marker or a dash beside its colour. The colours
are those of Okabe and Ito.

The ground is transparent, and a reader's page is white or nearly black. So text and lines are of a
grey that stands out from both, and no text is smaller than 11 points at the width of a notebook.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec

from matplotlib import rcParamsDefault
from matplotlib import style as mpl_style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import AbstractPathEffect, withStroke
from matplotlib.text import Text

BLACK: Final = "#000000"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
YELLOW: Final = "#F0E442"
BLUE: Final = "#0072B2"
VERMILLION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
GREY: Final = "#8C8C8C"
OFFLINE: Final = "#8080803C"
"""The last two digits are its opacity: the page shines through."""
LANE: Final = "#9A9A9A"
CREAM: Final = "#E69F0030"
"""A tint of orange, for what has changed."""
INK: Final = "#797979"
"""The grey with the same contrast to a white page and to a dark one (4.3 to 1)."""

WIDTH_IN: Final = 8.6
"""As wide as the output of a cell in JupyterLab, 826 px: a point of text is shown as a point."""
PAGE_DPI: Final = 96
"""Pixels of a page to an inch."""
DPI: Final = 128
"""Pixels of a picture to an inch: more than the page has, for sharper screens."""
HIGHEST_IN: Final = 4.83
"""The most that a figure of a lesson may have: then it fits on a slide, and is not made smaller."""
FONT_PT: Final = 11.75
"""More than 11 pt on a page, and 18 pt on a slide, which is 13.3 inches wide."""
NOTE_PT: Final = FONT_PT
TITLE_PT: Final = 13.0

HOUSE: Final[dict[str, Any]] = {
    "figure.dpi": DPI,
    "savefig.dpi": DPI,
    "font.family": ["DejaVu Sans"],  # matplotlib brings it along: the same picture everywhere
    "font.size": FONT_PT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": LANE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": FONT_PT,
    "axes.titleweight": "bold",
    "axes.labelsize": FONT_PT,
    "legend.frameon": False,
    "legend.fontsize": NOTE_PT,
    "hatch.linewidth": 0.8,
    # Names come from users. A dollar sign in one of them is a dollar sign, not a formula.
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
    "text.usetex": False,
}


@dataclass(frozen=True, slots=True)
class Role:
    """What a thing looks like: a colour, and what tells it apart without the colour."""

    colour: str
    hatch: str = ""
    marker: str = "o"
    dash: str | tuple[int, tuple[float, ...]] = "-"


GATEWAYS: Final[dict[str, Role]] = {
    "gateway-01": Role(BLUE, "", "o", "-"),
    "gateway-02": Role(GREEN, "//", "s", (0, (5, 2))),
    "gateway-03": Role(PURPLE, "..", "^", (0, (1, 1.2))),
}
_MORE_GATEWAYS: Final = (
    Role(YELLOW, "xx", "v", (0, (5, 1, 1, 1))),
    Role(SKY, "--", "P", (0, (8, 2))),
    Role(ORANGE, "\\\\", "p", (0, (3, 1, 1, 1, 1, 1))),
    Role(GREY, "++", "h", (0, (2, 2))),
)
NOBODY: Final = Role(OFFLINE)

GLUE: Final = "\N{NO-BREAK SPACE}"

HALO: Final[list[AbstractPathEffect]] = [withStroke(linewidth=3, foreground="white")]
ON_COLOUR: Final[dict[str, Any]] = {
    "color": "white",
    "path_effects": [withStroke(linewidth=2.5, foreground="black")],
}
"""For texts on a coloured area, which is the same on every page."""
NOTE: Final = "note"
"""Marks the texts in a plot: around them the picture is cut out, so that the page is their halo."""


def roles_of(gateways: Iterable[str]) -> dict[str, Role]:
    """Return a role for every gateway: the three of the kit keep theirs, others follow."""
    names = sorted({name for name in gateways if name} - GATEWAYS.keys())
    more = {name: _MORE_GATEWAYS[i % len(_MORE_GATEWAYS)] for i, name in enumerate(names)}
    return {**GATEWAYS, **more, "": NOBODY}


class Picture(Figure):
    """A figure with texts about what it shows. `wsdemo_alt` replaces the picture for readers who
    cannot see it, `wsdemo_caption` stands under it, `wsdemo_facts` are the numbers that the title
    took from the data.
    """

    wsdemo_alt: str = ""
    wsdemo_caption: str = ""
    wsdemo_facts: Mapping[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.wsdemo_facts = {}

    def _ipython_display_(self) -> None:
        """A cell that ends in a figure shows it with caption and alt text."""
        from wsdemo.drawing.show import show

        show(self)


def house() -> AbstractContextManager[None]:
    """The house style for the time of a `with`, whatever the reader has set."""
    base: dict[str, Any] = {
        key: rcParamsDefault[key] for key in rcParamsDefault if key not in _NOT_STYLE
    }
    return mpl_style.context([base, HOUSE])


_NOT_STYLE: Final = {
    "backend",
    "backend_fallback",
    "interactive",
    "toolbar",
    "timezone",
    "webagg.port",
    "webagg.address",
    "webagg.port_retries",
    "webagg.open_in_browser",
    "tk.window_focus",
    "savefig.directory",
    "docstring.hardcopy",
    "date.epoch",
    "figure.max_open_warning",
    "figure.raise_window",
}

P = ParamSpec("P")


def in_house_style(draw: Callable[P, Picture]) -> Callable[P, Picture]:
    """Make a drawing function independent of the reader's own matplotlib settings."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Picture:
        with house():
            fig = draw(*args, **kwargs)
            # Ticks are made at the first drawing, out of the settings of that moment.
            fig.draw_without_rendering()
            return fig

    return drawn


def picture(width_in: float = WIDTH_IN, height_in: float = 3.4) -> Picture:
    """Return an empty figure that is not registered with pyplot."""
    fig = Picture(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
    FigureCanvasAgg(fig)
    return fig


def freeze_layout(fig: Figure) -> None:
    """Settle where the axes are. From here on places in them can be measured in pixels."""
    fig.draw_without_rendering()
    fig.set_layout_engine("none")


def claim(fig: Picture, template: str, facts: Mapping[str, Any]) -> None:
    """Write the title: bold, left, at most two lines, its numbers taken from `facts`."""
    fig.wsdemo_facts = dict(facts)
    title = fill(template, facts)
    text = fig.suptitle(title, x=0.008, ha="left", fontweight="bold", fontsize=TITLE_PT)
    fit(text, fig.bbox.width * 0.984, lines=2)


def tell(fig: Picture, *, caption: str, alt: str) -> Picture:
    """Give a figure its caption and its alt text, and return it."""
    fig.wsdemo_caption, fig.wsdemo_alt = caption, alt
    return fig


def fill(template: str, facts: Mapping[str, Any]) -> str:
    """Put facts into a title such as "{lost} of {sent} lost"."""
    try:
        return template.format(**facts)
    except (KeyError, IndexError, ValueError, AttributeError) as problem:
        known = ", ".join(sorted(facts))
        raise ValueError(f"title {template!r}: {problem}; known facts: {known}") from None


def fit(text: Text, width_px: float, *, lines: int) -> None:
    """Break a text into lines no wider than `width_px`; what is more than `lines` is cut."""
    # A number and its unit stay on one line.
    glued = re.sub(r"(?<=\d) (?=(?:s|ms|µs|%)(?:\W|$))", GLUE, " ".join(text.get_text().split()))
    words = glued.split(" ")
    rows: list[str] = []
    for word in words:
        attempt = f"{rows[-1]} {word}" if rows else word
        if rows and _width_px(text, attempt) <= width_px:
            rows[-1] = attempt
        else:
            rows.append(word)
    if len(rows) > lines:
        rows = [*rows[: lines - 1], " ".join(rows[lines - 1 :])]
    rows = [_cut(text, row, width_px) for row in rows]
    text.set_text("\n".join(rows).replace(GLUE, " "))


def _cut(text: Text, row: str, width_px: float) -> str:
    if _width_px(text, row) <= width_px:
        return row
    while row and _width_px(text, row + "…") > width_px:
        row = row[:-1]
    return row.rstrip() + "…"


def _width_px(text: Text, words: str) -> float:
    before = text.get_text()
    text.set_text(words)
    width = float(text.get_window_extent().width)
    text.set_text(before)
    return width


def note(ax: Axes, x: float, y: float, words: str, **kwargs: Any) -> Text:
    """Write into the plot: with a halo, ignored by the layout."""
    style: dict[str, Any] = {"fontsize": NOTE_PT, "color": INK, "zorder": 9, "path_effects": HALO}
    style |= kwargs
    text = ax.text(x, y, words, **style)
    text.set_in_layout(False)
    if style["path_effects"] is HALO:
        text.set_gid(NOTE)
    return text
