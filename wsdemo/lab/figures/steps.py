"""Notional machine: what did each table hold, step by step, on the way of a message?

A row for the table of each gateway, one for Redis, and one for the message; a column for each
moment. A table that never changes is one wide box. What has changed since the column before is
framed.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from wsdemo.drawing.style import (
    CREAM,
    INK,
    LANE,
    ORANGE,
    Picture,
    claim,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, lane_name, plain
from wsdemo.lab.trace import frames
from wsdemo.lab.trace.frames import Stay

HEADLINE_CHARS: Final = 13
LINE_CHARS: Final = 16
WIDE_CHARS: Final = 84
"""In a box over all columns."""
MAX_LINES: Final = 3
LINE_IN: Final = 0.2
"""The height of a line of text, in inches."""
MESSAGE: Final = "the message"
ON_ITS_WAY: Final = "on its way"
READ: Final = "recipient read"
CAPTION: Final = (
    "Each column is one moment, derived from the recorded events. A wide box is the same at every "
    "moment; a framed one has changed since the column to its left."
)


class Panel(NamedTuple):
    """One moment: its headline, and the lines of each box."""

    headline: str
    boxes: dict[str, tuple[str, ...]]


@in_house_style
def steps(
    trace: pd.DataFrame,
    msg_id: str,
    *,
    title: str = "A message changes {changed} of the {boxes} tables: it passes through",
) -> Picture:
    """Draw what the gateways' tables, Redis and the recipient held along the way of one message.

    Args:
        title: a template; known facts: panels, boxes, changed.

    Raises:
        ValueError: the trace does not know the message.
    """
    trace = frames.normal(trace)
    panels = panels_of(trace, msg_id)
    tables = [name for name in panels[0].boxes if name not in (ON_ITS_WAY, READ)]
    touched = {name for name in tables if len({panel.boxes[name] for panel in panels}) > 1}
    facts = {
        "panels": len(panels),
        "boxes": len(tables),
        "changed": len(touched) if touched else "none",
    }
    fig = _draw(_rows(panels, tables), [panel.headline for panel in panels], facts, title)
    return tell(fig, caption=CAPTION, alt=in_words(panels))


def _rows(panels: list[Panel], tables: list[str]) -> dict[str, list[tuple[str, ...]]]:
    """Return what each row shows: one content when it never changes, or one a column."""
    rows = {}
    for name in tables:
        contents = [panel.boxes[name] for panel in panels]
        rows[name] = contents if len(set(contents)) > 1 else contents[:1]
    rows[MESSAGE] = [_whereabouts(panel) for panel in panels]
    return rows


def _whereabouts(panel: Panel) -> tuple[str, ...]:
    """Return where the message is: one of the two boxes of a panel says it."""
    return panel.boxes[ON_ITS_WAY] or panel.boxes[READ] or ("not sent yet",)


def panels_of(trace: pd.DataFrame, msg_id: str) -> list[Panel]:
    """Return the moments of a message: before, at its gateway, past Redis, and read."""
    way = trace[(trace["msg_id"] == msg_id) & (trace["peer"] != "")]
    if way.empty:
        raise ValueError(f"the trace knows no message {msg_id!r}")
    real, said = frames.truth(trace), frames.belief(trace)
    gateways = frames.gateways(trace)
    return [
        Panel(moment.headline, _boxes(moment, gateways, real, said)) for moment in _moments(way)
    ]


class _Moment(NamedTuple):
    """When a panel is, and where the message is then."""

    headline: str
    t: float
    place: str = ""
    """On its way: where it is."""
    reader: str = ""
    """Read: by whom."""


def _moments(way: pd.DataFrame) -> list[_Moment]:
    moments = [_Moment("before", float(way.iloc[0]["t"]))]
    for row in way.itertuples():
        arrived = not math.isnan(row.t_recv)
        headline = f"{lane_name(row.lane)} → {lane_name(row.peer)}"
        if arrived and row.kind == "deliver":
            moments.append(_Moment(headline, float(row.t_recv), reader=row.peer))
        elif arrived:
            moments.append(_Moment(headline, float(row.t_recv), f"at {lane_name(row.peer)}"))
        else:
            moments.append(_Moment(headline, float(row.t), "lost"))
    return moments


def _boxes(
    moment: _Moment, gateways: list[str], real: list[Stay], said: list[Stay]
) -> dict[str, tuple[str, ...]]:
    """Return what each table holds at a moment, and where the message is."""
    here = [stay for stay in real if stay.start <= moment.t < stay.end]
    told = [stay for stay in said if stay.start <= moment.t < stay.end]
    boxes = {
        name: tuple(sorted(stay.user for stay in here if stay.gateway == name)) for name in gateways
    }
    boxes["Redis"] = tuple(sorted(f"{stay.user}: {stay.gateway}" for stay in told))
    boxes[ON_ITS_WAY] = (moment.place,) if moment.place else ()
    boxes[READ] = (f"read by {moment.reader}",) if moment.reader else ()
    return boxes


def in_words(panels: list[Panel]) -> str:
    """Return the panels as text, for readers who cannot see them."""
    out = [f"{counted(len(panels), 'moment')} of one message."]
    for n, panel in enumerate(panels, 1):
        held = "; ".join(f"{name}: {', '.join(v) or 'empty'}" for name, v in panel.boxes.items())
        out.append(f"{n}. {panel.headline}. {held}.")
    return " ".join(out)


def _draw(
    rows: Mapping[str, list[tuple[str, ...]]],
    headlines: list[str],
    facts: Mapping[str, Any],
    title: str,
) -> Picture:
    """Draw the rows from top to bottom. The unit of the vertical axis is an inch."""
    shown = {name: [_lines(lines, len(row)) for lines in row] for name, row in rows.items()}
    heights = [LINE_IN * max(len(lines) for lines in row) + 0.16 for row in shown.values()]
    fig = picture(height_in=1.15 + sum(heights) + 0.14 * len(heights))
    claim(fig, title, facts)
    ax = fig.add_subplot()
    ax.set_xlim(0, len(headlines))
    ax.set_ylim(sum(heights) + 0.14 * len(heights), -0.5)
    middles, top = [], 0.0
    for row, height in zip(shown.values(), heights, strict=True):
        width = len(headlines) / len(row)
        for k, lines in enumerate(row):
            new = k > 0 and lines != row[k - 1]
            _draw_box(ax, (k * width, top), (width, height), lines, new=new)
        middles.append(top + height / 2)
        top += height + 0.14
    for k, headline in enumerate(headlines):
        words = textwrap.fill(f"{k + 1} {headline}", HEADLINE_CHARS, break_on_hyphens=False)
        ax.text(k + 0.06, -0.08, words, fontweight="bold", va="bottom")
    ax.set_yticks(middles, [plain(name) for name in shown])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return fig


def _lines(lines: tuple[str, ...], columns: int) -> list[str]:
    """Return the text of a box: over all columns in one line where possible."""
    if not lines:
        return ["–"]
    if columns == 1:
        rows = textwrap.wrap(",  ".join(map(plain, lines)), WIDE_CHARS)
        return rows if len(rows) <= MAX_LINES else [*rows[: MAX_LINES - 1], f"{rows[2][:-1]}…"]
    shown = [plain(line, LINE_CHARS) for line in lines[:MAX_LINES]]
    if len(lines) > MAX_LINES:
        shown[-1] = f"… {len(lines) - MAX_LINES + 1} more"
    return shown


def _draw_box(
    ax: Axes,
    corner: tuple[float, float],
    size: tuple[float, float],
    lines: list[str],
    *,
    new: bool,
) -> None:
    (left, top), (width, height) = corner, size
    ax.add_patch(
        Rectangle(
            (left + 0.03, top),
            width - 0.06,
            height,
            facecolor=CREAM if new else "none",
            edgecolor=ORANGE if new else LANE,
            linewidth=2.2 if new else 1.0,
        )
    )
    words = "\n".join(lines)
    ax.text(left + 0.09, top + height / 2, words, va="center", color=INK)
