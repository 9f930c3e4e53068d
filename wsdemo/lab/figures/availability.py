"""F15: for how long was each user without service? A row a user, and the curve of their outages."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from statistics import median_low
from typing import Any, Final, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Patch
from matplotlib.transforms import Bbox

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    picture,
)
from wsdemo.drawing.words import counted, measured_at, number, plain
from wsdemo.lab.figures.fault_lines import faults, mark_faults
from wsdemo.lab.trace import frames
from wsdemo.lab.trace.frames import Stay

ROLES: Final = {
    "served": Role(SKY),
    "no answer": Role(ORANGE, hatch="//"),
    "reconnecting": Role(GREY, hatch=".."),
    "wrong in Redis": Role(VERMILLION, hatch="xx"),
}
GAPS_BETWEEN: Final = 30
"""Between more rows than this no gap is drawn: it would be thinner than a pixel."""
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
    title: str = "{whom}: served {availability} of the time, the longest outage is {longest} s",
) -> Picture:
    """Draw when each user was served, sorted by outage, and the eCDF of the outages.

    Served: the socket is open, its gateway runs, and Redis knows where the user is. Nobody is
    out of service before she came, or after she left by herself; that time does not count.

    Args:
        users: whom to draw; by default all.
        scale: production seconds per second of the trace.
        ttl_s: the lease (production seconds), for users who are not watched.
        since: draw from here (production seconds); by default from shortly before the first fault.
        title: a template; known facts: users, whom ("8 users"), availability, longest, median.

    Raises:
        ValueError: nobody was ever registered, or was there in this time.
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
    left = frames.departures(trace)
    rows = []
    for user, (true, told) in by_user.items():
        wants = max(first, true[0].start), min(last, left.get(user, last))
        if wants[1] > wants[0]:
            rows.append(_row(user, true, told, frozen, wants))
    if not rows:
        raise ValueError("nobody was there in this time: choose an earlier since")
    rows.sort(key=lambda row: row.outage_s)
    facts = _facts(rows, scale)
    fig = picture(height_in=min(5.2, 2.0 + 0.16 * max(len(rows), 6)))
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
    _label_curve(curve, [row.outage_s * scale for row in rows], facts)
    fig.wsdemo_caption = (
        "A user is served while her socket is open, its gateway runs, and Redis names that "
        "gateway. Blank: she had not come yet, or had left by herself; that does not count. "
        f"{measured_at(trace, scale)}"
    )
    fig.wsdemo_alt = _alt(rows, facts, seen)
    return fig


def _window(trace: pd.DataFrame, since: float | None, scale: float) -> tuple[float, float]:
    first, last = frames.span(trace)
    if since is not None:
        first = since / scale
    elif accidents := faults(trace):
        began = accidents[0].t
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
    return {
        "users": len(rows),
        "whom": counted(len(rows), "user"),
        "availability": f"{1 - sum(outages) / wanted_s:.1%}",
        "longest": number(round(max(outages), 1)),
        "median": number(round(median_low(outages), 1)),
    }


def _draw_rows(ax: Axes, rows: Sequence[_Row], scale: float, window: tuple[float, float]) -> None:
    height = 0.84 if len(rows) <= GAPS_BETWEEN else 1.0
    for state, role in ROLES.items():
        pieces = [
            _box(span.start * scale, span.end * scale, y - height / 2, y + height / 2)
            for y, row in enumerate(rows)
            for span in row.spans
            if span.state == state
        ]
        # One artist for all: a hundred rows are drawn as fast as eight.
        ax.add_collection(
            PolyCollection(
                pieces, facecolor=role.colour, hatch=role.hatch, edgecolor="white", lw=0
            ),
            autolim=False,
        )
    room = max(2.0, 0.16 * len(rows))
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


def _box(x0: float, x1: float, y0: float, y1: float) -> list[tuple[float, float]]:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _draw_curve(ax: Axes, outages_s: Sequence[float]) -> None:
    ax.ecdf(outages_s, color=BLUE, lw=2)
    ax.set_ylim(0, 1.03)
    ax.set_xlim(0, max(1.0, 1.15 * max(outages_s)))
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ax.set_xlabel("outage of a user (s)")
    ax.set_title("share of users back by then", fontsize=9.5, fontweight="normal")


def _label_curve(ax: Axes, outages_s: Sequence[float], facts: dict[str, Any]) -> None:
    placer = Placer(ax)
    steps = [(t, n / len(outages_s)) for k, t in enumerate(outages_s) for n in (k, k + 1)]
    placer.line(*[(float(x), float(y)) for x, y in ax.transData.transform([(0, 0), *steps])])
    middle = median_low(outages_s)
    for words, t, share, marker in (
        (f"median {facts['median']} s", middle, 0.5, "o"),
        (f"longest {facts['longest']} s", outages_s[-1], 1.0, "D"),
    ):
        ax.plot(t, share, marker, color=BLUE, mec="white", ms=7, clip_on=False, zorder=5)
        x, y = ax.transData.transform((t, share))
        placer.keep_clear(Bbox.from_bounds(x - 5, y - 5, 10, 10))
        spots = [Spot(x + 8, y + dy) for dy in (0, -12, 12)]
        spots += [Spot(x - 8, y + dy, "right") for dy in (0, -12, 12)]
        placer.put(words, spots)


def _alt(rows: Sequence[_Row], facts: dict[str, Any], seen: set[str]) -> str:
    states = ", ".join(state for state in ROLES if state in seen)
    who = f"; {plain(rows[-1].user)} was out longest" if rows[-1].outage_s else ""
    return (
        f"Availability of {facts['whom']}, one row each, sorted by outage ({states}); "
        f"served {facts['availability']} of the time. The curve of their outages has its median "
        f"at {facts['median']} and its end at {facts['longest']} production seconds{who}."
    )
