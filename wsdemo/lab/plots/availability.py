"""F15: for how long was each user without service? A row a user, and the curve of their outages."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from wsdemo.lab.plots import frames
from wsdemo.lab.plots.faults import faults, mark_faults
from wsdemo.lab.plots.frames import Stay
from wsdemo.lab.plots.labels import Placer, Spot
from wsdemo.lab.plots.style import (
    BLUE,
    OFFLINE,
    ORANGE,
    SKY,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    measured_at,
    number,
    picture,
    plain,
)

ROLES: Final = {
    "served": Role(SKY),
    "no answer": Role(ORANGE, hatch="//"),
    "reconnecting": Role(OFFLINE, hatch=".."),
    "wrong in Redis": Role(VERMILLION, hatch="xx"),
}
NAMED: Final = 12
"""Up to so many rows have names; more would not be readable."""
LEAST_S: Final = 0.005


class _Span(NamedTuple):
    start: float
    end: float
    state: str


class _Row(NamedTuple):
    user: str
    spans: list[_Span]
    outage_s: float


@in_house_style
def availability(
    trace: pd.DataFrame,
    users: Collection[str] | None = None,
    *,
    scale: float = 1.0,
    ttl_s: float = 90.0,
    since: float | None = None,
    title: str = "{users} users are served {availability} of the time; the longest outage is "
    "{longest} s",
) -> Picture:
    """Draw when each user was served, sorted by outage, and the eCDF of the outages.

    Served: the socket is open, its gateway runs, and Redis knows where the user is.

    Args:
        users: whom to draw; by default all.
        scale: production seconds per second of the trace.
        ttl_s: the lease (production seconds), for users who are not watched.
        since: draw from here (production seconds); by default from shortly before the first fault.
        title: a template; known facts: users, availability, longest, median.

    Raises:
        ValueError: nobody was ever registered.
    """
    trace = frames.normal(trace)
    real = frames.truth(trace)
    said = frames.belief(trace, scale=scale, ttl_s=ttl_s)
    wanted = frames.users(trace) if users is None else list(users)
    known = [user for user in wanted if any(stay.user == user for stay in real)]
    if not known:
        raise ValueError("nobody of these was ever registered: there is no service to look at")
    first, last = _window(trace, since, scale)
    frozen = _frozen(trace, last)
    by_user: dict[str, tuple[list[Stay], list[Stay]]] = {user: ([], []) for user in known}
    for which, stays in enumerate((real, said)):
        for stay in stays:
            if stay.user in by_user:
                by_user[stay.user][which].append(stay)
    rows = [_row(user, *stays, frozen, (first, last)) for user, stays in by_user.items()]
    rows.sort(key=lambda row: row.outage_s)
    facts = _facts(rows, scale)
    fig = picture(height_in=min(5.2, 1.9 + 0.16 * max(len(rows), 6)))
    strip, curve = fig.subplots(1, 2, width_ratios=[3, 1.15])
    claim(fig, title, facts)
    _draw_rows(strip, rows, scale, (first * scale, last * scale))
    _draw_curve(curve, [row.outage_s * scale for row in rows])
    seen = {span.state for row in rows for span in row.spans}
    keys = [
        Patch(facecolor=role.colour, hatch=role.hatch, edgecolor="white", label=state)
        for state, role in ROLES.items()
        if state in seen
    ]
    fig.legend(handles=keys, loc="outside lower left", ncols=len(keys))
    freeze_layout(fig)
    mark_faults(strip, Placer(strip), trace, scale, (first * scale, last * scale))
    _label_curve(curve, facts)
    fig.wsdemo_caption = (
        "A user is served while her socket is open, its gateway runs, and Redis names that "
        f"gateway. {measured_at(trace, scale)}"
    )
    fig.wsdemo_alt = _alt(rows, facts, seen)
    return fig


def _window(trace: pd.DataFrame, since: float | None, scale: float) -> tuple[float, float]:
    first, last = frames.span(trace)
    if since is not None:
        first = since / scale
    elif accidents := faults(trace):
        began = min(t for t, _ in accidents)
        first = max(first, began - 0.15 * (last - began))
    if first >= last:
        raise ValueError(f"since ({since}) lies behind the end of the trace")
    return first, last


def _frozen(trace: pd.DataFrame, last: float) -> dict[str, list[tuple[float, float]]]:
    """Return when each gateway stood still."""
    since: dict[str, float] = {}
    out: dict[str, list[tuple[float, float]]] = {}
    for row in trace[trace["kind"].isin(["freeze", "thaw"])].itertuples():
        if row.kind == "freeze":
            since.setdefault(str(row.lane), float(row.t))
        elif row.lane in since:
            out.setdefault(str(row.lane), []).append((since.pop(str(row.lane)), float(row.t)))
    for lane, began in since.items():
        out.setdefault(lane, []).append((began, last))
    return out


def _row(
    user: str,
    real: Sequence[Stay],
    said: Sequence[Stay],
    frozen: dict[str, list[tuple[float, float]]],
    window: tuple[float, float],
) -> _Row:
    first, last = window
    # Before her first word, a user is not without service: she is not there.
    first = max(first, min(stay.start for stay in real))
    edges = {first, last}
    edges |= {edge for stay in (*real, *said) for edge in (stay.start, stay.end)}
    edges |= {edge for spells in frozen.values() for spell in spells for edge in spell}
    times = sorted(edge for edge in edges if first <= edge <= last)
    spans: list[_Span] = []
    for start, end in itertools.pairwise(times):
        state = _state(real, said, frozen, (start + end) / 2, end - start)
        if spans and spans[-1].state == state:
            spans[-1] = spans[-1]._replace(end=end)
        else:
            spans.append(_Span(start, end, state))
    outage_s = sum(span.end - span.start for span in spans if span.state != "served")
    return _Row(user, spans, outage_s)


def _state(
    real: Sequence[Stay],
    said: Sequence[Stay],
    frozen: dict[str, list[tuple[float, float]]],
    t: float,
    lasts_s: float,
) -> str:
    place = frames.where(real, t)
    if not place:
        return "reconnecting"
    if any(start <= t < end for start, end in frozen.get(place, [])):
        return "no answer"
    if frames.where(said, t) != place and lasts_s > LEAST_S:
        return "wrong in Redis"
    return "served"


def _facts(rows: Sequence[_Row], scale: float) -> dict[str, Any]:
    outages = [row.outage_s * scale for row in rows]
    wanted_s = sum(span.end - span.start for row in rows for span in row.spans) * scale
    share = 1 - sum(outages) / max(wanted_s, 1e-9)
    return {
        "users": len(rows),
        "availability": f"{share:.1%}",
        "longest": number(round(max(outages), 1)),
        "median": number(round(float(np.median(outages)), 1)),
    }


def _draw_rows(ax: Axes, rows: Sequence[_Row], scale: float, window: tuple[float, float]) -> None:
    for y, row in enumerate(rows):
        for state, role in ROLES.items():
            pieces = [
                (span.start * scale, (span.end - span.start) * scale)
                for span in row.spans
                if span.state == state
            ]
            ax.broken_barh(
                pieces,
                (y - 0.42, 0.84),
                facecolor=role.colour,
                hatch=role.hatch,
                edgecolor="white",
                lw=0,
            )
    room = max(1.2, 0.12 * len(rows))
    ax.set_ylim(len(rows) - 0.4, -0.6 - room)
    ax.set_xlim(*window)
    if len(rows) <= NAMED:
        ax.set_yticks(range(len(rows)), [plain(row.user, 14) for row in rows])
    else:
        ax.set_yticks([])
        ax.set_ylabel(f"{len(rows)} users, the longest outage below")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("production seconds since the lab began")


def _draw_curve(ax: Axes, outages_s: Sequence[float]) -> None:
    ax.ecdf(outages_s, color=BLUE, lw=2)
    ax.set_ylim(0, 1.02)
    ax.set_xlim(0, max(1.0, 1.15 * max(outages_s)))
    ax.set_yticks([0, 0.5, 0.9, 1])
    ax.set_xlabel("outage of a user (s)")
    ax.set_title("share of users back by then", fontsize=9.5, fontweight="normal")


def _label_curve(ax: Axes, facts: dict[str, Any]) -> None:
    x, y = ax.transAxes.transform((0.06, 0.62))
    Placer(ax).put(f"median {facts['median']} s", [Spot(x, y), Spot(x, y - 40), Spot(x, y + 30)])


def _alt(rows: Sequence[_Row], facts: dict[str, Any], seen: set[str]) -> str:
    states = ", ".join(state for state in ROLES if state in seen)
    return (
        f"Availability of {facts['users']} users, one row each, sorted by outage ({states}); "
        f"served {facts['availability']} of the time. The curve of their outages has its median "
        f"at {facts['median']} and its end at {facts['longest']} production seconds; "
        f"{plain(rows[-1].user)} was out longest."
    )
