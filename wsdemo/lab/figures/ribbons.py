"""Consistency: where was each user really, and where did Redis say that she was?

Two bars for each user: above, where her socket was; below, what Redis said. A frame marks when the
two differed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    OFFLINE,
    SHOWN_PT,
    SHOWN_WIDTH_IN,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    roles_of,
    tell,
)
from wsdemo.drawing.words import counted, listed, measured_at, number, plain, whole_or_tenths
from wsdemo.lab.figures.fault_lines import mark_faults
from wsdemo.lab.trace import frames
from wsdemo.lab.trace.frames import Mismatch, Stay

HEIGHT: Final = 0.28
GAP: Final = 0.06
LEAST_S: Final = 0.005
"""Wall seconds: a shorter difference comes from the measurement, and is not a wrong entry."""


@in_house_style
def ribbons(
    trace: pd.DataFrame,
    users: Collection[str] | None = None,
    *,
    scale: float = 1.0,
    ttl_s: float = 90.0,
    limit: int = 8,
    title: str = "Redis was wrong about {wrong_users} of {users} users for {wrong_s} s in all",
    t0: float | None = None,
    t1: float | None = None,
) -> Picture:
    """Draw real connections above entries for some users; first those whose entry was wrong
    longest.

    Args:
        users: whom to draw; by default those who occur, the most wrong first.
        scale: production seconds per second of the trace.
        ttl_s: the lease (production seconds), for users who are not watched.
        limit: draw no more users than this.
        title: a template; known facts: users, wrong_users, wrong_s, longest_s.
        t0, t1: draw what happened between these times (production seconds).

    Raises:
        ValueError: nobody of these was ever registered.
    """
    trace = frames.normal(trace)
    compared = compare(trace, users, scale=scale, ttl_s=ttl_s, t0=t0, t1=t1)
    facts = _facts(compared, scale)
    rows = compared.most_wrong(limit)
    fig = _draw(compared, rows, trace, scale, facts, title)
    return tell(fig, caption=_caption(trace, scale), alt=_alt(compared, rows, facts, scale))


# --- compute -----------------------------------------------------------------------------------


class Compared(NamedTuple):
    """Connections and entries of some users, and where they differed. Times in s of the trace."""

    users: list[str]
    real: list[Stay]
    said: list[Stay]
    wrong: list[Mismatch]
    """Only the differences that are drawn: the title counts no others."""
    first: float
    last: float

    def wrong_s(self, user: str) -> float:
        """For how long Redis was wrong about a user."""
        return sum(gap.end - gap.start for gap in self.wrong if gap.user == user)

    def most_wrong(self, limit: int) -> list[str]:
        """The users about whom Redis was wrong longest."""
        return sorted(self.users, key=lambda user: -self.wrong_s(user))[:limit]


def compare(
    trace: pd.DataFrame,
    users: Collection[str] | None = None,
    *,
    scale: float = 1.0,
    ttl_s: float = 90.0,
    t0: float | None = None,
    t1: float | None = None,
) -> Compared:
    """Return what is drawn; the arguments are those of `ribbons`."""
    real = frames.truth(trace)
    said = frames.belief(trace, scale=scale, ttl_s=ttl_s)
    wanted = list(users) if users is not None else frames.users(trace)
    known = {stay.user for stay in (*real, *said)}
    shown = [user for user in wanted if user in known]
    if not shown:
        raise ValueError("nobody of these was ever registered: there is nothing to compare")
    first, last = _window(trace, t0, t1, scale)
    wrong = [
        seen
        for gap in frames.wrong_beliefs(trace, real, said, LEAST_S)
        if gap.user in shown and (seen := _within(gap, first, last)) is not None
    ]
    return Compared(shown, real, said, wrong, first, last)


def _within(gap: Mismatch, first: float, last: float) -> Mismatch | None:
    """Return the part of a mismatch that is drawn."""
    part = gap._replace(start=max(gap.start, first), end=min(gap.end, last))
    return part if part.end > part.start else None


def _facts(compared: Compared, scale: float) -> dict[str, Any]:
    seconds = [compared.wrong_s(user) * scale for user in compared.users]
    return {
        "users": len(compared.users),
        "wrong_users": sum(s > 0 for s in seconds),
        "wrong_s": whole_or_tenths(sum(seconds)),
        "longest_s": whole_or_tenths(max(seconds)),
    }


def _window(
    trace: pd.DataFrame, t0: float | None, t1: float | None, scale: float
) -> tuple[float, float]:
    first, last = frames.span(trace)
    begin = first if t0 is None else t0 / scale
    end = last if t1 is None else t1 / scale
    if begin >= end:
        raise ValueError(f"t0 ({begin * scale:g}) must lie before t1 ({end * scale:g})")
    return begin, end


# --- draw --------------------------------------------------------------------------------------


def _draw(
    compared: Compared,
    rows: Sequence[str],
    trace: pd.DataFrame,
    scale: float,
    facts: Mapping[str, Any],
    title: str,
) -> Picture:
    window = (compared.first * scale, compared.last * scale)
    roles = roles_of(frames.gateways(trace))
    fig = picture(SHOWN_WIDTH_IN, 1.35 + 0.72 * len(rows))
    ax = fig.add_subplot()
    claim(fig, title, facts)
    for y, user in enumerate(rows):
        _bars(ax, compared.real, user, y - (HEIGHT + GAP) / 2, roles, scale, window)
        _bars(ax, compared.said, user, y + (HEIGHT + GAP) / 2, roles, scale, window)
    _dress(ax, rows, window)
    _draw_legend(fig, compared, rows, roles)
    freeze_layout(fig)
    placer = Placer(ax)
    mark_faults(ax, placer, trace, scale, window)
    _frames(ax, placer, [gap for gap in compared.wrong if gap.user in rows], rows, scale)
    return fig


def _dress(ax: Axes, rows: Sequence[str], window: tuple[float, float]) -> None:
    labels = [name for user in rows for name in (f"{plain(user, 14)}: truth", "Redis says")]
    places = [y + side * (HEIGHT + GAP) / 2 for y in range(len(rows)) for side in (-1, 1)]
    ax.set_yticks(places, labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(rows) - 0.5, -1.05)
    ax.set_xlim(*window)
    ax.set_xlabel("production seconds since the lab began")


def _draw_legend(
    fig: Picture, compared: Compared, rows: Sequence[str], roles: Mapping[str, Role]
) -> None:
    used = sorted({s.gateway for s in (*compared.real, *compared.said) if s.user in rows})
    keys = [_key(roles[name], name) for name in used] + [Patch(facecolor=OFFLINE, label="nowhere")]
    fig.legend(handles=keys, loc="outside lower right", ncols=len(keys), fontsize=SHOWN_PT)


def _key(role: Role, name: str) -> Patch:
    return Patch(facecolor=role.colour, hatch=role.hatch, edgecolor="white", label=plain(name))


def _bars(
    ax: Axes,
    stays: Sequence[Stay],
    user: str,
    y: float,
    roles: Mapping[str, Role],
    scale: float,
    window: tuple[float, float],
) -> None:
    first, last = window
    ax.add_patch(Rectangle((first, y - HEIGHT / 2), last - first, HEIGHT, color=OFFLINE, lw=0))
    for stay in stays:
        begin, end = max(first, stay.start * scale), min(last, stay.end * scale)
        if stay.user == user and end > begin:
            role = roles[stay.gateway]
            ax.add_patch(
                Rectangle(
                    (begin, y - HEIGHT / 2),
                    end - begin,
                    HEIGHT,
                    facecolor=role.colour,
                    hatch=role.hatch,
                    edgecolor="white",
                    lw=0,
                )
            )


def _frames(
    ax: Axes, placer: Placer, gaps: list[Mismatch], rows: Sequence[str], scale: float
) -> None:
    """Frame the mismatches, then label them, the longest first, where there is room."""
    low, high = ax.get_xlim()
    for gap in gaps:
        begin, end = max(low, gap.start * scale), min(high, gap.end * scale)
        y, height = rows.index(gap.user), 2 * HEIGHT + GAP + 0.08
        if end > begin:
            ax.add_patch(
                Rectangle(
                    (begin, y - height / 2),
                    end - begin,
                    height,
                    fill=False,
                    edgecolor=VERMILLION,
                    lw=2.2,
                    zorder=5,
                )
            )
    for gap in sorted(gaps, key=lambda g: g.start - g.end):
        begin, end = max(low, gap.start * scale), min(high, gap.end * scale)
        top = rows.index(gap.user) - HEIGHT - GAP - 0.02
        x, y = ax.transData.transform(((begin + end) / 2, top))
        words = f"wrong {whole_or_tenths((gap.end - gap.start) * scale)} s"
        # Always above its frame: further away it would seem to belong to another one.
        spots = [Spot(x, y + 1, ha, "bottom") for ha in ("center", "left", "right")]
        placer.put(words, spots, color=VERMILLION, fontweight="bold", fontsize=SHOWN_PT)


# --- words -------------------------------------------------------------------------------------


def _caption(trace: pd.DataFrame, scale: float) -> str:
    return (
        "Truth: what the clients saw, and crashes. Redis says: accepted writes, sampled entries "
        f"and leases that ran out. {measured_at(trace, scale)}"
    )


def _alt(compared: Compared, rows: Sequence[str], facts: Mapping[str, Any], scale: float) -> str:
    parts = []
    for user in rows:
        true = [stay.gateway for stay in compared.real if stay.user == user]
        told = [stay.gateway for stay in compared.said if stay.user == user]
        parts.append(
            f"{plain(user)} was at {listed(true) or 'no gateway'}; Redis said "
            f"{listed(told) or 'nothing'}; wrong for {number(compared.wrong_s(user) * scale)} s"
        )
    return (
        f"Two ribbons for each of {counted(len(rows), 'user')}, truth above what Redis says, "
        f"differing for {facts['wrong_s']} production seconds in all. {'. '.join(parts)}."
    )
