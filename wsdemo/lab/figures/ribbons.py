"""F3: where was each user really, and where did Redis say that she was?

Two bars a user: above, where her socket was; below, what Redis said. A frame marks when the two
differed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    OFFLINE,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    roles_of,
)
from wsdemo.drawing.words import counted, listed, measured_at, number, plain
from wsdemo.lab.figures.fault_lines import mark_faults
from wsdemo.lab.trace import frames
from wsdemo.lab.trace.frames import Mismatch, Stay

HEIGHT: Final = 0.28
GAP: Final = 0.06
LEAST_S: Final = 0.005
"""Wall seconds: what is shorter is the time that a measurement takes, not a lie."""


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
    """Draw truth above belief for some users, those first about whom Redis was wrong longest.

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
    real = frames.truth(trace)
    said = frames.belief(trace, scale=scale, ttl_s=ttl_s)
    wanted = list(users) if users is not None else frames.users(trace)
    known = {stay.user for stay in (*real, *said)}
    shown = [user for user in wanted if user in known]
    if not shown:
        raise ValueError("nobody of these was ever registered: there is nothing to compare")
    first, last = _window(trace, t0, t1, scale)
    gaps = [
        seen
        for gap in frames.wrong_beliefs(trace, real, said, LEAST_S)
        if gap.user in shown and (seen := _within(gap, first / scale, last / scale)) is not None
    ]
    wrong = {user: sum(g.end - g.start for g in gaps if g.user == user) for user in shown}
    rows = sorted(shown, key=lambda user: -wrong[user])[:limit]
    facts = _facts(shown, wrong, scale)
    fig = picture(height_in=1.35 + 0.72 * len(rows))
    ax = fig.add_subplot()
    claim(fig, title, facts)
    roles = roles_of(frames.gateways(trace))
    for y, user in enumerate(rows):
        _bars(ax, real, user, y - HEIGHT / 2 - GAP / 2, roles, scale, (first, last))
        _bars(ax, said, user, y + HEIGHT / 2 + GAP / 2, roles, scale, (first, last))
    labels = [name for user in rows for name in (f"{plain(user, 14)}: truth", "Redis says")]
    places = [y + side * (HEIGHT + GAP) / 2 for y in range(len(rows)) for side in (-1, 1)]
    ax.set_yticks(places, labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(rows) - 0.5, -1.05)
    ax.set_xlim(first, last)
    ax.set_xlabel("production seconds since the lab began")
    used = sorted({s.gateway for s in (*real, *said) if s.user in rows})
    keys = [_key(roles[name], name) for name in used] + [Patch(facecolor=OFFLINE, label="nowhere")]
    fig.legend(handles=keys, loc="outside lower right", ncols=len(keys))
    freeze_layout(fig)
    placer = Placer(ax)
    mark_faults(ax, placer, trace, scale, (first, last))
    _frames(ax, placer, [g for g in gaps if g.user in rows], rows, scale)
    fig.wsdemo_caption = (
        "Truth: what the clients saw, and crashes. Redis says: accepted writes, sampled entries "
        f"and leases that ran out. {measured_at(trace, scale)}"
    )
    fig.wsdemo_alt = _alt(rows, real, said, gaps, facts, scale)
    return fig


def _within(gap: Mismatch, first: float, last: float) -> Mismatch | None:
    """Return the part of a gap that is drawn: the title claims no more than can be seen."""
    part = gap._replace(start=max(gap.start, first), end=min(gap.end, last))
    return part if part.end > part.start else None


def _facts(shown: list[str], wrong: dict[str, float], scale: float) -> dict[str, Any]:
    seconds = [wrong[user] * scale for user in shown]
    return {
        "users": len(shown),
        "wrong_users": sum(s > 0 for s in seconds),
        "wrong_s": _rounded(sum(seconds)),
        "longest_s": _rounded(max(seconds)),
    }


def _rounded(seconds: float) -> float | int:
    return round(seconds) if seconds >= 10 else round(seconds, 1)


def _window(
    trace: pd.DataFrame, t0: float | None, t1: float | None, scale: float
) -> tuple[float, float]:
    first, last = (t * scale for t in frames.span(trace))
    begin = first if t0 is None else t0
    end = last if t1 is None else t1
    if begin >= end:
        raise ValueError(f"t0 ({begin:g}) must lie before t1 ({end:g})")
    return begin, end


def _key(role: Role, name: str) -> Patch:
    return Patch(facecolor=role.colour, hatch=role.hatch, edgecolor="white", label=plain(name))


def _bars(
    ax: Axes,
    stays: Sequence[Stay],
    user: str,
    y: float,
    roles: dict[str, Role],
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


def _frames(ax: Axes, placer: Placer, gaps: list[Mismatch], rows: list[str], scale: float) -> None:
    """Frame the lies, then label them, the longest first, where there is room."""
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
        words = f"wrong {_rounded((gap.end - gap.start) * scale)} s"
        # Always above its frame: further away it would seem to be another's.
        spots = [Spot(x, y + 1, ha, "bottom") for ha in ("center", "left", "right")]
        placer.put(words, spots, color=VERMILLION, fontweight="bold")


def _alt(
    rows: list[str],
    real: Sequence[Stay],
    said: Sequence[Stay],
    gaps: list[Mismatch],
    facts: dict[str, Any],
    scale: float,
) -> str:
    parts = []
    for user in rows:
        true = [s.gateway for s in real if s.user == user]
        told = [s.gateway for s in said if s.user == user]
        wrong = sum(g.end - g.start for g in gaps if g.user == user) * scale
        parts.append(
            f"{plain(user)} was at {listed(true) or 'no gateway'}; Redis said "
            f"{listed(told) or 'nothing'}; wrong for {number(wrong)} s"
        )
    return (
        f"Two ribbons for each of {counted(len(rows), 'user')}, truth above what Redis says, "
        f"differing for {facts['wrong_s']} production seconds in all. {'. '.join(parts)}."
    )
