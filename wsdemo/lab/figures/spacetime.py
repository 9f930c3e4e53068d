"""Space-time diagram: who sent what to whom, and when? After Lamport.

Lanes from top to bottom, time from left to right. Hops within one machine take microseconds, and
their lengths differ by a factor of a hundred; with `even` each event is one step, and a note says
that the axis is not to scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    INK,
    LANE,
    PURPLE,
    SKY,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, duration, lane_name, listed, plain
from wsdemo.lab.trace import frames

MAX_ARROWS: Final = 25
MOST_IN: Final = 4.8
"""The height of a slide: more lanes than five stand closer together."""
CAPTION: Final = (
    "Measured on running gateways. Solid light: WebSocket; solid dark: Redis command; dashed: "
    "Pub/Sub. Times on the Redis lane lie half-way between what the gateways saw."
)
EVEN: Final = "each arrow takes one step here, whatever time it took"
ORDERED: Final = "the order of events, not to scale; an arrow ends when its command has ended"

SOCKET: Final = Role(SKY, dash="-")
COMMAND: Final = Role(BLUE, dash="-")
PUBLISHED: Final = Role(PURPLE, dash=(0, (4, 2)))
REJECTED: Final = Role(VERMILLION, dash="-")
HARM: Final = Role(VERMILLION, dash="-")
LOST: Final = Role(VERMILLION, marker="X", dash=(0, (1, 1.5)))

WORDS: Final = {
    "message": "send",
    "route": "look up + publish",
    "publish": "publish",
    "deliver": "deliver",
    "welcome": "registered",
    "presence_set": "register",
    "presence_refresh": "refresh",
    "presence_del": "release",
    "presence_reject": "rejected",
}


@in_house_style
def spacetime(
    trace: pd.DataFrame,
    *,
    title: str = "{hops} hops carry one message in {took}",
    even: bool = True,
    ordered: bool = False,
    msg_id: str = "",
    prediction: float | None = None,
    t0: float | None = None,
    t1: float | None = None,
    alarm_s: float | None = None,
) -> Picture:
    """Draw the arrows of a trace between its lanes.

    Args:
        title: a template; known facts: hops, lost, lanes, took.
        even: one step an event instead of a scale.
        ordered: the times of the trace are the numbers of its events, and say nothing else.
        msg_id: draw only the way of this message.
        prediction: what the reader said the number of hops would be; drawn beside the count.
        t0, t1: draw what began between these times (s).
        alarm_s: what arrived at this time (s) does harm: it has the colour of an alarm.

    Raises:
        ValueError: there is nothing to draw, or too much to be read.
    """
    trace = frames.window(frames.normal(trace), t0, t1)
    arrows = _chosen(frames.arrows(trace), msg_id)
    lanes = _lanes(arrows)
    facts = _facts(arrows, lanes, prediction)
    harm = [row.t_recv == alarm_s for row in arrows.itertuples()]
    fig = _draw(arrows, lanes, facts, title, harm, even=even and not ordered, ordered=ordered)
    took = "" if ordered else f" in {facts['took']}"
    return tell(fig, caption=CAPTION, alt=_alt(arrows, lanes, facts, took))


# --- compute -----------------------------------------------------------------------------------


def _chosen(arrows: pd.DataFrame, msg_id: str) -> pd.DataFrame:
    """Return the arrows that are drawn."""
    if msg_id:
        arrows = arrows[arrows["msg_id"] == msg_id]
    if arrows.empty:
        raise ValueError("no arrow in this part of the trace: nothing travelled")
    if len(arrows) > MAX_ARROWS:
        raise ValueError(
            f"{len(arrows)} arrows are too many to read; choose a part with t0 and t1 "
            f"(at most {MAX_ARROWS})"
        )
    return arrows


def _lanes(arrows: pd.DataFrame) -> list[str]:
    """Return the lanes from top to bottom in the order in which things pass them."""
    order: list[str] = []
    for row in arrows.sort_values("t").itertuples():
        order += [name for name in (row.lane, row.peer) if name not in order]
    if frames.REDIS in order and len(order) >= 4:
        # Redis between the gateways that send through it; clients outside.
        gateways = [name for name in order if name in set(arrows["gateway"])]
        others = [name for name in order if name not in gateways and name != frames.REDIS]
        ends = zip(arrows["lane"], arrows["peer"], strict=True)
        touching = {name for pair in ends if gateways[0] in pair for name in pair}
        first = [name for name in others if name in touching]
        last = [name for name in others if name not in first]
        return [*first, *gateways[:1], frames.REDIS, *gateways[1:], *last]
    return order


def _places(arrows: pd.DataFrame, even: bool) -> tuple[list[float], list[float]]:
    """Return where each arrow begins and ends on the time axis."""
    begins = [float(t) for t in arrows["t"]]
    ends = [float(r if r == r else t) for t, r in zip(arrows["t"], arrows["t_recv"], strict=True)]
    if not even:
        return begins, ends
    step = 0.0
    places: dict[int, tuple[float, float]] = {}
    for i in sorted(range(len(begins)), key=lambda i: (begins[i], ends[i])):
        places[i] = (step + 0.12, step + 0.88)
        step += 1.0
    return [places[i][0] for i in range(len(begins))], [places[i][1] for i in range(len(begins))]


def _facts(arrows: pd.DataFrame, lanes: list[str], prediction: float | None) -> dict[str, Any]:
    took = float(arrows[["t", "t_recv"]].max().max() - arrows["t"].min())
    return {
        "hops": len(arrows),
        "lost": int(arrows["lost"].sum()),
        "lanes": len(lanes),
        "took": duration(took),
        "predicted": prediction,
    }


# --- draw --------------------------------------------------------------------------------------


def _draw(
    arrows: pd.DataFrame,
    lanes: list[str],
    facts: Mapping[str, Any],
    title: str,
    harm: list[bool],
    *,
    even: bool,
    ordered: bool = False,
) -> Picture:
    begins, ends = _places(arrows, even)
    fig = picture(height_in=min(1.3 + 0.7 * len(lanes), MOST_IN))
    ax = fig.add_subplot()
    claim(fig, title, facts)
    _draw_lanes(ax, lanes, min(begins), max(*ends, *begins))
    for row, begin, end, harms in zip(arrows.itertuples(), begins, ends, harm, strict=True):
        _draw_arrow(ax, row, lanes, begin, end, harms)
    ax.set_xlabel(ORDERED if ordered else EVEN if even else "seconds since the lab began")
    if even or ordered:
        ax.set_xticks([])
    freeze_layout(fig)
    _label(ax, arrows, lanes, begins, ends, harm, timed=not ordered)
    if facts["predicted"] is not None:
        words = f"you said {facts['predicted']:g}, measured {facts['hops']}"
        ax.text(1.0, 1.0, words, transform=ax.transAxes, ha="right", va="bottom", color=INK)
    return fig


def _draw_lanes(ax: Axes, lanes: list[str], first: float, last: float) -> None:
    for y in range(len(lanes)):
        ax.axhline(y, color=LANE, lw=1, zorder=1)
    ax.set_yticks(range(len(lanes)), [lane_name(lane) for lane in lanes])
    ax.set_ylim(len(lanes) - 0.6, -0.5)
    margin = 0.03 * (last - first)
    ax.set_xlim(first - margin, last + margin)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _role(row: Any) -> Role:
    if row.lost:
        return LOST
    if row.kind == "presence_reject" or (row.kind == "route" and not row.ok):
        return REJECTED
    if row.kind == "publish":
        return PUBLISHED
    return COMMAND if frames.REDIS in (row.peer, row.lane) else SOCKET


def _draw_arrow(
    ax: Axes, row: Any, lanes: list[str], begin: float, end: float, harms: bool
) -> None:
    role = HARM if harms else _role(row)
    y0, y1 = float(lanes.index(row.lane)), float(lanes.index(row.peer))
    style: dict[str, Any] = {"color": role.colour, "linestyle": role.dash}
    style |= {"lw": 3.2 if harms else 1.8, "shrinkA": 0, "shrinkB": 2}
    if row.lost:
        end, y1 = begin + 0.55 * (end - begin), y0 + 0.55 * (y1 - y0)
        ax.annotate("", (end, y1), (begin, y0), arrowprops={"arrowstyle": "-", **style})
        ax.plot(end, y1, role.marker, color=role.colour, ms=10, zorder=5)
    else:
        head = "-|>,head_width=.28,head_length=.5"
        ax.annotate("", (end, y1), (begin, y0), arrowprops={"arrowstyle": head, **style})
    ax.plot(begin, y0, "o", color=role.colour, ms=5, zorder=4)


def _label(
    ax: Axes,
    arrows: pd.DataFrame,
    lanes: list[str],
    begins: list[float],
    ends: list[float],
    harm: list[bool],
    *,
    timed: bool = True,
) -> None:
    placer = Placer(ax)
    rows = list(arrows.itertuples())
    ways = []
    for row, begin, end in zip(rows, begins, ends, strict=True):
        points = ax.transData.transform(
            [(begin, lanes.index(row.lane)), (end, lanes.index(row.peer))]
        )
        ways.append(points)
        placer.line(*[(float(x), float(y)) for x, y in points])
    for row, points, harms in zip(rows, ways, harm, strict=True):
        (x0, y0), (x1, y1) = points
        spots = []
        for share in (0.45, 0.3, 0.6, 0.15, 0.75):
            x, y = x0 + share * (x1 - x0), y0 + share * (y1 - y0)
            # On the outer side of the slope, where the label leaves the arrow free.
            rises = y1 > y0
            spots += [
                Spot(x + 6, y - 4 if rises else y + 4, va="top" if rises else "bottom"),
                Spot(x - 6, y + 4 if rises else y - 4, "right", "bottom" if rises else "top"),
            ]
        word = WORDS.get(row.kind, row.kind)
        took = f"{word}, {duration(row.t_recv - row.t)}" if timed and row.t_recv > row.t else word
        full = f"{took} → {row.reason}" if row.reason not in ("", "routed") else took
        style = {"color": HARM.colour, "fontweight": "bold"} if harms else {}
        placer.put([full, word], spots, **style)


# --- words -------------------------------------------------------------------------------------


def _alt(arrows: pd.DataFrame, lanes: list[str], facts: Mapping[str, Any], took: str) -> str:
    way = "; ".join(
        f"{plain(row.lane)} to {plain(row.peer)}: {WORDS.get(row.kind, row.kind)}"
        + (" (lost)" if row.lost else f" ({row.reason})" if row.reason else "")
        for row in arrows.sort_values("t").itertuples()
    )
    said = f" You said {facts['predicted']:g}." if facts["predicted"] is not None else ""
    return (
        f"Space-time diagram with lanes {listed(lanes)}: {counted(facts['hops'], 'arrow')}{took}, "
        f"{facts['lost']} lost. {way}.{said}"
    )
