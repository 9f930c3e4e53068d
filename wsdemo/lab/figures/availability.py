"""Availability: for how long was each user without service?

A row for each user, and the cumulative distribution of their outages.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
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
    tell,
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
"""With more rows than this, no gap is drawn between them: it would be thinner than a pixel."""
NAMED: Final = 12
"""Up to so many rows have names; more would not be readable."""
LEAST_S: Final = 0.005


class ServiceSpan(NamedTuple):
    """A user was in this state from `start` to `end`."""

    start: float
    end: float
    state: str


class ServiceRow(NamedTuple):
    """The states of one user, one after the other."""

    user: str
    spans: list[ServiceSpan]

    @property
    def outage_s(self) -> float:
        """For how long she was not served."""
        return sum(span.end - span.start for span in self.spans if span.state != "served")


class Service(NamedTuple):
    """What is drawn: rows sorted by outage, between two times (s of the trace)."""

    rows: list[ServiceRow]
    first: float
    last: float

    @property
    def states(self) -> list[str]:
        """The states that occur, in the order of `ROLES`."""
        seen = {span.state for row in self.rows for span in row.spans}
        return [state for state in ROLES if state in seen]


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

    Served: the socket is open, its gateway runs, and Redis knows where the user is. The time before
    a user arrived, and after she left by herself, does not count.

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
    service = service_of(trace, users, scale=scale, ttl_s=ttl_s, since=since)
    facts = _facts(service.rows, scale)
    fig = _draw(service, trace, scale, facts, title)
    return tell(fig, caption=_caption(trace, scale), alt=_alt(service, facts))


# --- compute -----------------------------------------------------------------------------------


def service_of(
    trace: pd.DataFrame,
    users: Collection[str] | None = None,
    *,
    scale: float = 1.0,
    ttl_s: float = 90.0,
    since: float | None = None,
) -> Service:
    """Return when each user was in which state; the arguments are those of `availability`."""
    real = _by_user(_until_released(trace, frames.truth(trace)))
    said = _by_user(frames.belief(trace, scale=scale, ttl_s=ttl_s))
    known = [user for user in (frames.users(trace) if users is None else users) if user in real]
    if not known:
        raise ValueError("nobody of these was ever registered: there is no service to look at")
    first, last = _window(trace, since, scale)
    frozen, left = _frozen(trace, last), frames.departures(trace)
    rows = []
    for user in known:
        # Before she comes and after she leaves by herself, a user is not without service.
        begin, end = max(first, real[user][0].start), min(last, left.get(user, last))
        if end > begin:
            rows.append(_row(user, real[user], said.get(user, []), frozen, (begin, end)))
    if not rows:
        raise ValueError("nobody was there in this time: choose an earlier since")
    return Service(sorted(rows, key=lambda row: row.outage_s), first, last)


def _until_released(trace: pd.DataFrame, real: Sequence[Stay]) -> list[Stay]:
    """Return the stays, each until its own gateway released it: in a drain that comes some
    milliseconds before the close, and from then on the gateway does not serve her.
    """
    gone = trace[(trace["kind"] == "presence_del") & trace["ok"]]
    times = {str(row.conn_id): float(row.t) for row in gone.itertuples()}
    cut = [stay._replace(end=min(stay.end, times.get(stay.conn_id, stay.end))) for stay in real]
    return [stay for stay in cut if stay.end > stay.start]


def _by_user(stays: Sequence[Stay]) -> dict[str, list[Stay]]:
    out: dict[str, list[Stay]] = {}
    for stay in stays:
        out.setdefault(stay.user, []).append(stay)
    return out


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
    """Return when each gateway was frozen."""
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
) -> ServiceRow:
    first, last = window
    edges = {first, last}
    edges |= {edge for stay in (*real, *said) for edge in (stay.start, stay.end)}
    edges |= {edge for spells in frozen.values() for spell in spells for edge in spell}
    times = sorted(edge for edge in edges if first <= edge <= last)
    spans: list[ServiceSpan] = []
    for start, end in itertools.pairwise(times):
        state = _state(real, said, frozen, (start + end) / 2, end - start)
        if spans and spans[-1].state == state:
            spans[-1] = spans[-1]._replace(end=end)
        else:
            spans.append(ServiceSpan(start, end, state))
    return ServiceRow(user, spans)


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


def _facts(rows: Sequence[ServiceRow], scale: float) -> dict[str, Any]:
    outages = [row.outage_s * scale for row in rows]
    wanted_s = sum(span.end - span.start for row in rows for span in row.spans) * scale
    return {
        "users": len(rows),
        "whom": counted(len(rows), "user"),
        "availability": f"{1 - sum(outages) / wanted_s:.1%}",
        "longest": number(round(max(outages), 1)),
        "median": number(round(median_low(outages), 1)),
    }


# --- draw --------------------------------------------------------------------------------------


def _draw(
    service: Service, trace: pd.DataFrame, scale: float, facts: Mapping[str, Any], title: str
) -> Picture:
    rows, window = service.rows, (service.first * scale, service.last * scale)
    outages_s = [row.outage_s * scale for row in rows]
    fig = picture(height_in=min(5.2, 2.0 + 0.16 * max(len(rows), 6)))
    strip, curve = fig.subplots(1, 2, width_ratios=[3, 1.15])
    claim(fig, title, facts)
    _draw_rows(strip, rows, scale)
    _dress_rows(strip, rows, window)
    _draw_curve(curve, outages_s)
    _draw_legend(fig, service.states)
    freeze_layout(fig)
    mark_faults(strip, Placer(strip), trace, scale, window)
    _label_curve(curve, outages_s, facts)
    return fig


def _draw_legend(fig: Picture, states: Sequence[str]) -> None:
    keys = [
        Patch(
            facecolor=ROLES[state].colour,
            hatch=ROLES[state].hatch,
            edgecolor="white",
            label=state,
        )
        for state in states
    ]
    fig.legend(handles=keys, loc="outside lower left", ncols=len(keys))


def _draw_rows(ax: Axes, rows: Sequence[ServiceRow], scale: float) -> None:
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


def _dress_rows(ax: Axes, rows: Sequence[ServiceRow], window: tuple[float, float]) -> None:
    # Above the rows there is room for the names of the faults.
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
    ax.set_title("share of users back", fontweight="normal")


def _label_curve(ax: Axes, outages_s: Sequence[float], facts: Mapping[str, Any]) -> None:
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


# --- words -------------------------------------------------------------------------------------


def _caption(trace: pd.DataFrame, scale: float) -> str:
    return (
        "A user is served while her socket is open, its gateway runs, and Redis names that "
        "gateway. Blank: she had not come yet, or had left by herself; that does not count. "
        f"{measured_at(trace, scale)}"
    )


def _alt(service: Service, facts: Mapping[str, Any]) -> str:
    worst = service.rows[-1]
    who = f"; {plain(worst.user)} was out longest" if worst.outage_s else ""
    return (
        f"Availability of {facts['whom']}, one row each, sorted by outage "
        f"({', '.join(service.states)}); served {facts['availability']} of the time. The curve of "
        f"their outages has its median at {facts['median']} and its end at {facts['longest']} "
        f"production seconds{who}."
    )
