"""Notional machine: what did each table hold, step by step, on the way of a message?

Panels from left to right, each with the same boxes: a table for every gateway, and the record in
Redis. What has changed since the panel before is framed.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import Final, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

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

LINE_CHARS: Final = 22
MAX_LINES: Final = 3
CAPTION: Final = (
    "Each column is one moment, derived from the recorded events; a framed box has changed since "
    "the column to its left."
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
    title: str = "Of {boxes} tables, a message changes {changed}: it is nowhere at rest",
) -> Picture:
    """Draw what the gateways' tables, Redis and the recipient held along the way of one message.

    Args:
        title: a template; known facts: panels, boxes, changed.

    Raises:
        ValueError: the trace does not know the message.
    """
    trace = frames.normal(trace)
    panels = panels_of(trace, msg_id)
    changes = [_changed(a, b) for a, b in itertools.pairwise(panels)]
    tables = [name for name in panels[0].boxes if name not in ("on its way", "recipient read")]
    touched = {name for change in changes for name in change if name in tables}
    facts = {
        "panels": len(panels),
        "boxes": len(tables),
        "changed": len(touched) if touched else "none",
    }
    fig = picture(height_in=1.05 + 0.86 * len(panels[0].boxes))
    claim(fig, title, facts)
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    for k, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        _draw(ax, k + 1, panel, changes[k - 1] if k else set())
    return tell(fig, caption=CAPTION, alt=in_words(panels))


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
    boxes["on its way"] = (moment.place,) if moment.place else ()
    boxes["recipient read"] = (f"{moment.reader}: 1 message",) if moment.reader else ()
    return boxes


def in_words(panels: list[Panel]) -> str:
    """Return the panels as text, for readers who cannot see them."""
    out = [f"{counted(len(panels), 'moment')} of one message."]
    for n, panel in enumerate(panels, 1):
        held = "; ".join(f"{name}: {', '.join(v) or 'empty'}" for name, v in panel.boxes.items())
        out.append(f"{n}. {panel.headline}. {held}.")
    return " ".join(out)


def _changed(before: Panel, after: Panel) -> set[str]:
    return {name for name in after.boxes if after.boxes[name] != before.boxes.get(name)}


def _draw(ax: Axes, number: int, panel: Panel, changed: set[str]) -> None:
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(len(panel.boxes), -0.35)
    headline = textwrap.fill(f"{number} {panel.headline}", LINE_CHARS, break_on_hyphens=False)
    ax.text(0.02, -0.1, headline, fontsize=8.5, fontweight="bold", va="bottom", color=INK)
    for row, (name, lines) in enumerate(panel.boxes.items()):
        new = name in changed
        ax.add_patch(
            FancyBboxPatch(
                (0.03, row + 0.06),
                0.94,
                0.84,
                boxstyle="round,pad=0,rounding_size=0.03",
                facecolor=CREAM if new else "white",
                edgecolor=ORANGE if new else LANE,
                linewidth=2.2 if new else 1.0,
            )
        )
        ax.text(0.08, row + 0.13, name, fontsize=8, color=INK, va="top", fontweight="bold")
        shown = [plain(line, LINE_CHARS) for line in lines[:MAX_LINES]] or ["–"]
        if len(lines) > MAX_LINES:
            shown[-1] = f"… {len(lines) - MAX_LINES + 1} more"
        text = "\n".join(shown)
        ax.text(0.08, row + 0.36, text, fontsize=7.5, family="monospace", va="top", color=INK)
