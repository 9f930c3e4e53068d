"""Consistency: where was each user really, and where did Redis say that she was?

Two bars for each user: above, where her socket was; below, what Redis said. A third one between
them shows whether a gateway's table listed her. A frame marks when a bar differed from the truth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    FONT_PT,
    OFFLINE,
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

SHARE: Final = 0.62
"""Of the height of a row, for its bars and the gaps between them."""
GAP: Final = 0.06
INCHES: Final = {2: 0.8, 3: 1.07}
"""The height of a row with so many bars."""
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
    tables: bool = False,
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
        tables: draw a third bar, between the two: whether a gateway's table listed the user.
        title: a template; known facts: users, wrong_users, wrong_s, longest_s, mean_s (of those
            about whom Redis was wrong), and with `tables`: table_s, table_mean_s (for how long a
            table listed a user who was not there: in all, and on average).
        t0, t1: draw what happened between these times (production seconds).

    Raises:
        ValueError: nobody of these was ever registered.
    """
    trace = frames.normal(trace)
    compared = compare(trace, users, scale=scale, ttl_s=ttl_s, t0=t0, t1=t1, tables=tables)
    facts = _facts(compared, scale)
    rows = compared.most_wrong(limit)
    fig = _draw(compared, rows, trace, scale, facts, title)
    caption = _caption(trace, scale, tables=tables)
    return tell(fig, caption=caption, alt=_alt(compared, rows, facts, scale))


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
    listed: list[Stay] | None = None
    """By a gateway's table; None when that is not drawn."""
    ghosts: tuple[Mismatch, ...] = ()
    """When a table listed a user who was not there."""

    @property
    def bars(self) -> list[tuple[str, list[Stay], Sequence[Mismatch]]]:
        """The bars of each user, from top to bottom: name, stays, and what is wrong in them."""
        table = [] if self.listed is None else [("the gateway", self.listed, self.ghosts)]
        return [("truth", self.real, ()), *table, ("Redis says", self.said, self.wrong)]

    def wrong_s(self, user: str) -> float:
        """For how long Redis was wrong about a user."""
        return _length(self.wrong, user)

    def most_wrong(self, limit: int) -> list[str]:
        """The users about whom Redis was wrong longest."""
        return sorted(self.users, key=lambda user: -self.wrong_s(user))[:limit]


def _length(gaps: Iterable[Mismatch], user: str) -> float:
    return sum(gap.end - gap.start for gap in gaps if gap.user == user)


def compare(
    trace: pd.DataFrame,
    users: Collection[str] | None = None,
    *,
    scale: float = 1.0,
    ttl_s: float = 90.0,
    t0: float | None = None,
    t1: float | None = None,
    tables: bool = False,
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
    if not tables:
        return Compared(shown, real, said, wrong, first, last)
    listed = frames.tables(trace)
    ghosts = tuple(
        seen
        for gap in _ghosts(real, listed)
        if gap.user in shown and (seen := _within(gap, first, last)) is not None
    )
    return Compared(shown, real, said, wrong, first, last, listed, ghosts)


def _ghosts(real: Sequence[Stay], listed: Sequence[Stay]) -> Iterator[Mismatch]:
    """Iterate over the times in which a table listed a connection that had ended already."""
    ends = {(stay.user, stay.conn_id): stay.end for stay in real}
    for stay in listed:
        gone = ends.get((stay.user, stay.conn_id), stay.end)
        if stay.end - gone > LEAST_S:
            yield Mismatch(stay.user, gone, stay.end, "", stay.gateway)


def _within(gap: Mismatch, first: float, last: float) -> Mismatch | None:
    """Return the part of a mismatch that is drawn."""
    part = gap._replace(start=max(gap.start, first), end=min(gap.end, last))
    return part if part.end > part.start else None


def _facts(compared: Compared, scale: float) -> dict[str, Any]:
    seconds = [compared.wrong_s(user) * scale for user in compared.users]
    facts: dict[str, Any] = {
        "users": len(compared.users),
        "wrong_users": sum(s > 0 for s in seconds),
        "wrong_s": whole_or_tenths(sum(seconds)),
        "longest_s": whole_or_tenths(max(seconds)),
        "mean_s": _mean(seconds),
    }
    if compared.listed is not None:
        seconds = [_length(compared.ghosts, user) * scale for user in compared.users]
        facts |= {"table_s": whole_or_tenths(sum(seconds)), "table_mean_s": _mean(seconds)}
    return facts


def _mean(seconds: Sequence[float]) -> float | int:
    """Return the mean of those that are not zero."""
    some = [s for s in seconds if s > 0]
    return whole_or_tenths(sum(some) / len(some)) if some else 0


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
    bars = compared.bars
    fig = picture(height_in=1.6 + INCHES[len(bars)] * len(rows))
    ax = fig.add_subplot()
    claim(fig, title, facts)
    for row, user in enumerate(rows):
        for k, (_, stays, _) in enumerate(bars):
            hers = [stay for stay in stays if stay.user == user]
            _draw_bar(
                ax, hers, _middle(row, k, len(bars)), _height(len(bars)), roles, scale, window
            )
    _dress(ax, rows, [name for name, _, _ in bars], window)
    _draw_legend(fig, compared, rows, roles)
    freeze_layout(fig)
    placer = Placer(ax)
    others = set(compared.users) - set(rows)
    mark_faults(ax, placer, trace[~trace["lane"].isin(others)], scale, window)
    if compared.listed is None:
        _frame_both(ax, placer, [gap for gap in compared.wrong if gap.user in rows], rows, scale)
    else:
        for k, (_, _, gaps) in enumerate(bars):
            places = {user: _middle(row, k, len(bars)) for row, user in enumerate(rows)}
            _frame_each(ax, placer, [gap for gap in gaps if gap.user in rows], places, scale)
    return fig


def _height(bars: int) -> float:
    """Return the height of one of several bars of a row."""
    return (SHARE - (bars - 1) * GAP) / bars


def _middle(row: int, bar: int, bars: int) -> float:
    """Return where the middle of a bar is."""
    return row + (bar - (bars - 1) / 2) * (_height(bars) + GAP)


def _dress(
    ax: Axes, rows: Sequence[str], names: Sequence[str], window: tuple[float, float]
) -> None:
    first = {user: f"{plain(user, 14)}: {names[0]}" for user in rows}
    labels = [name for user in rows for name in (first[user], *names[1:])]
    places = [_middle(row, k, len(names)) for row in range(len(rows)) for k in range(len(names))]
    ax.set_yticks(places, labels)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set_ylim(len(rows) - 0.5, -1.05)
    begin, end = window
    # Room for the words beside a frame that ends last.
    ax.set_xlim(begin, end if len(names) == 2 else end + 0.22 * (end - begin))
    ax.set_xlabel("production seconds since the lab began")


def _draw_legend(
    fig: Picture, compared: Compared, rows: Sequence[str], roles: Mapping[str, Role]
) -> None:
    used = sorted({s.gateway for s in (*compared.real, *compared.said) if s.user in rows})
    keys = [_key(roles[name], name) for name in used] + [Patch(facecolor=OFFLINE, label="nowhere")]
    fig.legend(handles=keys, loc="outside lower right", ncols=len(keys), fontsize=FONT_PT)


def _key(role: Role, name: str) -> Patch:
    return Patch(facecolor=role.colour, hatch=role.hatch, edgecolor="white", label=plain(name))


def _draw_bar(
    ax: Axes,
    stays: Sequence[Stay],
    y: float,
    height: float,
    roles: Mapping[str, Role],
    scale: float,
    window: tuple[float, float],
) -> None:
    first, last = window
    low = y - height / 2
    ax.add_patch(Rectangle((first, low), last - first, height, color=OFFLINE, lw=0))
    for stay in stays:
        begin, end = max(first, stay.start * scale), min(last, stay.end * scale)
        role = roles[stay.gateway]
        style: dict[str, Any] = {"facecolor": role.colour, "hatch": role.hatch}
        if end > begin:
            ax.add_patch(
                Rectangle((begin, low), end - begin, height, edgecolor="white", lw=0, **style)
            )


def _frame(ax: Axes, gap: Mismatch, y: float, height: float, scale: float) -> tuple[float, float]:
    """Draw a red frame around a mismatch, and return where it begins and ends."""
    low, high = ax.get_xlim()
    begin, end = max(low, gap.start * scale), min(high, gap.end * scale)
    style: dict[str, Any] = {"fill": False, "edgecolor": VERMILLION, "lw": 2.2, "zorder": 5}
    ax.add_patch(Rectangle((begin, y - height / 2), end - begin, height, **style))
    return begin, end


def _words(gap: Mismatch, scale: float) -> str:
    return f"wrong {whole_or_tenths((gap.end - gap.start) * scale)} s"


def _frame_both(
    ax: Axes, placer: Placer, gaps: list[Mismatch], rows: Sequence[str], scale: float
) -> None:
    """Frame the mismatches, then label them, the longest first, where there is room."""
    height = SHARE + 0.08
    ends = [_frame(ax, gap, rows.index(gap.user), height, scale) for gap in gaps]
    by_length = sorted(zip(gaps, ends, strict=True), key=lambda each: each[0].start - each[0].end)
    for gap, (begin, end) in by_length:
        x, y = ax.transData.transform(((begin + end) / 2, rows.index(gap.user) - height / 2 - 0.02))
        # Always above its frame: further away it would seem to belong to another one.
        spots = [Spot(x, y + 1, ha, "bottom") for ha in ("center", "left", "right")]
        placer.put(_words(gap, scale), spots, color=VERMILLION, fontweight="bold")


def _frame_each(
    ax: Axes, placer: Placer, gaps: list[Mismatch], places: Mapping[str, float], scale: float
) -> None:
    """Frame what is wrong in one of three bars, and write beside the frame for how long."""
    drawn = [(gap, *_frame(ax, gap, places[gap.user], _height(3), scale)) for gap in gaps]
    for gap, begin, end in drawn:
        y = places[gap.user]
        # Beside the last frame of this bar: a short one may follow at once.
        last = max(other_end for other, _, other_end in drawn if other.user == gap.user)
        left, middle = ax.transData.transform((begin, y))
        right, _ = ax.transData.transform((end, y))
        beside, _ = ax.transData.transform((last, y))
        spots = [Spot(beside + 6, middle), Spot((left + right) / 2, middle, "center")]
        placer.put(_words(gap, scale), spots, color=VERMILLION, fontweight="bold")


# --- words -------------------------------------------------------------------------------------


def _caption(trace: pd.DataFrame, scale: float, *, tables: bool) -> str:
    table = "Her gateway: from its answer 'registered' to its clean-up. " if tables else ""
    return (
        f"Truth: what the clients saw, and crashes. {table}Redis says: accepted writes, sampled "
        f"entries and leases that ran out. {measured_at(trace, scale)}"
    )


def _alt(compared: Compared, rows: Sequence[str], facts: Mapping[str, Any], scale: float) -> str:
    parts = []
    for user in rows:
        true = [stay.gateway for stay in compared.real if stay.user == user]
        told = [stay.gateway for stay in compared.said if stay.user == user]
        table_s = _length(compared.ghosts, user) * scale
        parts.append(
            f"{plain(user)} was at {listed(true) or 'no gateway'}; Redis said "
            f"{listed(told) or 'nothing'}; wrong for {number(compared.wrong_s(user) * scale)} s"
            + (f"; a gateway's table for {number(table_s)} s" if table_s else "")
        )
    ribbons = "Two ribbons" if compared.listed is None else "Three ribbons"
    return (
        f"{ribbons} for each of {counted(len(rows), 'user')}, truth above what Redis says, "
        f"differing for {facts['wrong_s']} production seconds in all. {'. '.join(parts)}."
    )
