"""Compare-and-set: which writes did presence accept and reject, and which users did that keep or
lose?

Accepted writes go up, rejected ones down, in bins of production time. Above and below stand the
writes that mattered: a live user kept by a rejection, or lost by a release that was not checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wsdemo.drawing.style import (
    BLUE,
    GREEN,
    INK,
    LANE,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    YELLOW,
    Picture,
    Role,
    claim,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import measured_at, number
from wsdemo.lab.trace import frames

ACCEPTED: Final = {
    "register": Role(BLUE),
    "refresh": Role(SKY, hatch=".."),
    "release": Role(PURPLE, hatch="//"),
}
REJECTED: Final = {
    "not owner": Role(ORANGE, hatch="\\\\"),
    "superseded": Role(YELLOW, hatch="xx"),
    "closed": Role(YELLOW, hatch="--"),
    "stale register": Role(VERMILLION, hatch="++"),
    frames.NO_ENTRY: Role(LANE, hatch="||"),
}
EFFECTS: Final = {
    "saved": ("D", GREEN, "a live user was kept"),
    "lost": ("X", VERMILLION, "a live user was lost"),
    "refused": ("X", VERMILLION, "a user was refused"),
}
BINS: Final = 60
LEAST_BIN_S: Final = 0.5
ROOM: Final = 0.13
"""Above and below the bars, for markers, as a share of their height."""
LEAD: Final = 0.1
"""How much of the time before is drawn, as a share of the drawn time; but at least `LEAST_LEAD_S`.
"""
LEAST_LEAD_S: Final = 15.0
KEYS_A_ROW: Final = 5
TITLE: Final = (
    "{rejected} late writes rejected: live users were kept {saved} times, lost {lost} times"
)
CAPTION: Final = (
    "Accepted and rejected writes of presence, as the gateways were told. A marker: in this bin "
    "there was a write that mattered, known from where the users' sockets really were. "
)

Numbers = np.ndarray[Any, Any]


@in_house_style
def ledger(
    trace: pd.DataFrame,
    *,
    scale: float = 1.0,
    ttl_s: float = 90.0,
    bin_s: float | None = None,
    since: float | None = None,
    title: str = TITLE,
) -> Picture:
    """Draw the ledger of compare-and-set.

    Args:
        scale: production seconds per second of the trace.
        ttl_s: the lease (production seconds), for users who are not watched.
        bin_s: width of a bin (production seconds); by default a sixtieth of the time.
        since: draw and count from here (production seconds); by default from shortly before the
            first write that was rejected or cost a user: the arrival of a crowd would hide it.
        title: a template; known facts: accepted, rejected, no_entry (releases that found nothing
            to remove, which are not among the rejected), saved, lost, refused, kept_users and
            lost_users (how many different ones).

    Raises:
        ValueError: presence was never asked, or not since then.
    """
    trace = frames.normal(trace)
    book = frames.verdicts(trace, scale=scale, ttl_s=ttl_s)
    if book.empty:
        raise ValueError("presence was never asked: there is nothing to account for")
    book = book.assign(t=book["t"] * scale)
    book = book[book["t"] >= (_begin(book) if since is None else since)]
    if book.empty:
        raise ValueError(f"since ({since}) lies behind the last write")
    facts = _facts(book)
    fig = _draw(book, _bins(book, bin_s), facts, title)
    return tell(fig, caption=CAPTION + measured_at(trace, scale), alt=_alt(book, facts))


# --- compute -----------------------------------------------------------------------------------


def _bins(book: pd.DataFrame, bin_s: float | None) -> Numbers:
    """Return the edges of bins of this width, by default a sixtieth of the time."""
    first, last = float(book["t"].min()), float(book["t"].max())
    width = bin_s or max((last - first) / BINS, LEAST_BIN_S)
    return first + width * np.arange(int((last - first) / width) + 2)


def _begin(book: pd.DataFrame) -> float:
    """Return where the drawn time begins (production seconds)."""
    first, last = float(book["t"].min()), float(book["t"].max())
    told = book[~book["ok"] | (book["effect"] != "")]
    if told.empty:
        return first
    began = float(told["t"].min())
    return max(first, began - max(LEAD * (last - began), LEAST_LEAD_S))


def _facts(book: pd.DataFrame) -> dict[str, int]:
    rejected = book[~book["ok"]]
    no_entry = rejected["reason"] == frames.NO_ENTRY
    of = {effect: book[book["effect"] == effect] for effect in EFFECTS}
    return {
        "accepted": int(book["ok"].sum()),
        "rejected": int((~no_entry).sum()),
        "no_entry": int(no_entry.sum()),
        **{effect: len(rows) for effect, rows in of.items()},
        "kept_users": of["saved"]["user"].nunique(),
        "lost_users": of["lost"]["user"].nunique(),
    }


# --- draw --------------------------------------------------------------------------------------


def _draw(book: pd.DataFrame, edges: Numbers, facts: Mapping[str, int], title: str) -> Picture:
    fig = picture(height_in=3.9)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    up = _stack(ax, book[book["ok"]], "verb", ACCEPTED, edges, 1)
    down = _stack(ax, book[~book["ok"]], "reason", REJECTED, edges, -1)
    ax.axhline(0, color=INK, lw=1)
    seen = _mark(ax, book, edges, up, down)
    _dress(ax, edges, up, down)
    keys = _keys(book, seen)
    fig.legend(handles=keys, loc="outside lower left", ncols=min(len(keys), KEYS_A_ROW))
    return fig


def _dress(ax: Axes, edges: Numbers, up: Numbers, down: Numbers) -> None:
    room = ROOM * float(up.max() + down.max())
    ax.set_ylim(-down.max() - (room if down.any() else 0), up.max() + room)
    ax.set_ylabel("← rejected   accepted →" if down.any() else "accepted →")
    ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):.0f}"))
    width = number(float(edges[1] - edges[0]))
    ax.set_xlabel(f"production seconds since the lab began (bins of {width} s)")
    ax.set_xlim(edges[0], edges[-1])


def _stack(
    ax: Axes,
    book: pd.DataFrame,
    column: str,
    roles: dict[str, Role],
    edges: Numbers,
    sign: int,
) -> Numbers:
    """Draw one half; return its heights."""
    base = np.zeros(len(edges) - 1)
    for name, role in roles.items():
        heights, _ = np.histogram(book[book[column] == name]["t"], edges)
        if heights.any():
            ax.stairs(
                sign * (base + heights),
                edges,
                baseline=sign * base,
                fill=True,
                facecolor=role.colour,
                hatch=role.hatch,
                edgecolor="white",
                lw=0,
            )
        base += heights
    return base


def _mark(
    ax: Axes,
    book: pd.DataFrame,
    edges: Numbers,
    up: Numbers,
    down: Numbers,
) -> list[str]:
    """Put a marker on each bin in which a write mattered; return the effects that occur."""
    pad = ROOM / 2 * float(up.max() + down.max())
    seen = []
    for effect, (marker, colour, _) in EFFECTS.items():
        heights, _edges = np.histogram(book[book["effect"] == effect]["t"], edges)
        (where,) = np.nonzero(heights)
        if len(where):
            seen.append(effect)
            y = up[where] + pad if effect == "lost" else -down[where] - pad
            middle = (edges[where] + edges[where + 1]) / 2
            ax.plot(middle, y, marker, color=colour, ms=6, ls="none", mec="white", mew=0.6)
    return seen


def _keys(book: pd.DataFrame, seen: list[str]) -> list[Patch | Line2D]:
    keys: list[Patch | Line2D] = []
    for column, roles, what in (("verb", ACCEPTED, ""), ("reason", REJECTED, "rejected: ")):
        values = set(book[book["ok"] == (column == "verb")][column])
        keys += [
            Patch(
                facecolor=role.colour,
                hatch=role.hatch,
                edgecolor="white",
                label=name if name == frames.NO_ENTRY else f"{what}{name}",
            )
            for name, role in roles.items()
            if name in values
        ]
    for effect in seen:
        marker, colour, words = EFFECTS[effect]
        keys.append(Line2D([], [], marker=marker, color=colour, ls="none", label=words))
    return keys


# --- words -------------------------------------------------------------------------------------


def _alt(book: pd.DataFrame, facts: Mapping[str, int]) -> str:
    accepted = book[book["ok"]]["verb"].value_counts()
    rejected = book[~book["ok"]]["reason"].value_counts()
    ups = ", ".join(f"{count} {verb}" for verb, count in accepted.items()) or "none"
    downs = ", ".join(f"{count} {reason}" for reason, count in rejected.items()) or "none"
    return (
        f"Ledger of presence over time. Accepted, upwards: {ups}. Rejected, downwards: {downs}. "
        f"{facts['saved']} rejections kept a live user, {facts['lost']} accepted releases lost "
        f"one, {facts['refused']} registers were refused."
    )
