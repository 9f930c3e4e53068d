"""Thundering herd: when many users come back at once, how often does each try, and who waits?

A row for each policy: attempts behind, accepted ones before them. Below the capacity the axis is
linear, above it logarithmic: the peak is many times higher than the capacity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    FONT_PT,
    INK,
    ORANGE,
    VERMILLION,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, number, plain
from wsdemo.lab.figures.fault_lines import faults
from wsdemo.lab.trace import frames

MAX_ROWS: Final = 6
OUTLIER: Final = 4.0
"""A policy that takes so many times as long as the best one does not stretch the axis of all."""
ROOM: Final = 1.45
"""How much longer than the last return the axis is, for the words beside it."""
AMBER: Final = "#9A6A00"
"""The colour of the hatching of attempts; white would break up the narrow peaks."""
STEP_PX: Final = 80
STEPS: Final = 5
"""How far to the left, and how often, a label goes to find a place without bars."""
TITLE: Final = "The last user is back {best_end} with “{best}”, {worst_end} with “{worst}”"
TITLE_OF_ONE: Final = "The last user is back {best_end}, with {attempts} a user"


class HerdRow(NamedTuple):
    """The attempts of one policy."""

    name: str
    attempts: np.ndarray[Any, Any]
    """When (s)."""
    accepted: np.ndarray[Any, Any]
    users: int
    back: int
    """Users who were accepted at last."""
    stopped_s: float = math.inf
    """When the run was stopped: who was not back then may have come back later."""

    @property
    def last_s(self) -> float:
        """When the last user was back; infinite when a user never was."""
        return float(self.accepted.max()) if self.back == self.users else math.inf

    @property
    def each(self) -> float:
        """Attempts a user."""
        return len(self.attempts) / self.users

    @property
    def end(self) -> str:
        if self.last_s < math.inf:
            return f"after {number(self.last_s)} s"
        return "never" if self.stopped_s == math.inf else f"not within {number(self.stopped_s)} s"

    @property
    def effort(self) -> str:
        each = number(self.each)
        return f"{each} attempt{'' if each == '1' else 's'}"

    @property
    def _stop(self) -> str:
        return f"after {number(self.stopped_s)} s"

    def words(self) -> str:
        """The numbers of the row."""
        away = self.users - self.back
        end = f"last user back {self.end}"
        if away:
            still = "never back" if self.stopped_s == math.inf else f"not back {self._stop}"
            end = f"{counted(away, 'user')} {still}"
        return f"{end}\n{self.effort} a user"


def attempts(
    trace: pd.DataFrame, *, scale: float = 1.0, since: float | None = None
) -> pd.DataFrame:
    """Return the attempts to connect of a trace: t, user, accepted.

    An attempt is a socket that a gateway was asked for. It was accepted when its user was
    registered on it; its user is unknown (empty) when no client went on with it.

    Args:
        scale: production seconds per second of the trace.
        since: count time and attempts from here (production seconds since the lab began); by
            default from the first fault, or from the beginning when there was none.
    """
    trace = frames.normal(trace)
    if since is None:
        since = min((fault.t for fault in faults(trace)), default=0.0) * scale
    gateways = set(frames.gateways(trace))
    rows: list[dict[str, Any]] = []
    unnamed: list[dict[str, Any]] = []
    latest: dict[str, dict[str, Any]] = {}
    for row in trace[trace["t"] * scale >= since].itertuples():
        match row.kind:
            case "ws_open" if row.lane in gateways:
                rows.append({"t": row.t * scale - since, "user": "", "accepted": False})
                unnamed.append(rows[-1])
            # The client's event comes a moment later, and belongs to the last socket that was
            # opened.
            case "ws_open" if unnamed:
                latest[row.lane] = unnamed.pop()
                latest[row.lane]["user"] = row.lane
            case "registered" if row.lane in latest:
                latest.pop(row.lane)["accepted"] = True
    return pd.DataFrame(rows, columns=["t", "user", "accepted"])


@in_house_style
def herd(
    runs: Mapping[str, pd.DataFrame],
    capacity: float,
    *,
    bin_s: float = 0.1,
    until_s: float | None = None,
    stopped_s: float | Mapping[str, float] = math.inf,
    title: str = "",
) -> Picture:
    """Draw the attempts of many users to come back, a row for each policy.

    Args:
        runs: policy -> its attempts, real or modelled: t (s since the users were cut off), user,
            accepted.
        capacity: how many attempts a second can be accepted.
        bin_s: width of a bin.
        until_s: where the axis of time ends; by default behind the last user of the policies that
            are not many times slower than the best.
        stopped_s: when the runs were stopped, or policy -> when: who was not back then is called
            "not back after 17 s" instead of "never back".
        title: a template; known facts: policies, users, best, worst (names), best_s,
            worst_s, best_end, worst_end ("after 18 s", "never"), attempts,
            worst_attempts ("3.0 attempts", a user), peak, worst_peak (attempts/s).

    Raises:
        ValueError: a run has no attempts, there are too many, or a number is not positive.
    """
    if not 0 < capacity < math.inf or not 0 < bin_s < math.inf:
        raise ValueError("capacity and bin_s are positive numbers")
    if not 0 < len(runs) <= MAX_ROWS:
        raise ValueError(f"a herd has 1 to {MAX_ROWS} rows that can be read, not {len(runs)}")
    rows = [_row(name, run, _stop_of(name, stopped_s)) for name, run in runs.items()]
    ends_s = until_s or _end(rows)
    edges = np.arange(0.0, ends_s + bin_s, bin_s)
    facts = _facts(rows, bin_s)
    fig = picture(height_in=1.15 + 1.2 * len(rows))
    axes = fig.subplots(len(rows), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    claim(fig, title or (TITLE if len(rows) > 1 else TITLE_OF_ONE), facts)
    highest = max(_draw(ax, row, edges, capacity) for ax, row in zip(axes, rows, strict=True))
    _dress(list(axes), capacity, highest, ends_s)
    fig.supylabel("per second", fontsize=FONT_PT)
    freeze_layout(fig)
    for ax, row in zip(axes, rows, strict=True):
        _label(ax, row, edges)
    caption = (
        f"Attempts to connect and those that were accepted, in bins of {bin_s:g} s, since the "
        f"users were cut off. Capacity: {number(capacity)} accepted a second; above it the axis is "
        "logarithmic."
    )
    return tell(fig, caption=caption, alt=_alt(rows, capacity, bin_s))


def _stop_of(name: str, stopped_s: float | Mapping[str, float]) -> float:
    return stopped_s.get(name, math.inf) if isinstance(stopped_s, Mapping) else stopped_s


def _row(name: str, run: pd.DataFrame, stopped_s: float) -> HerdRow:
    if run.empty:
        raise ValueError(f"nobody tried to come back under {name!r}: there is no herd to draw")
    accepted = run[run["accepted"].astype(bool)]
    known = run[run["user"] != ""]
    return HerdRow(
        plain(name, 40),
        run["t"].to_numpy(float),
        accepted["t"].to_numpy(float),
        max(1, known["user"].nunique()),
        accepted["user"].nunique(),
        stopped_s,
    )


def _end(rows: Sequence[HerdRow]) -> float:
    """Return where the axis ends: an outlier must not make the others too small to see."""
    lasts = [row.last_s if row.last_s < math.inf else row.attempts.max() for row in rows]
    return ROOM * max(last for last in lasts if last <= OUTLIER * min(lasts))


def _peak(row: HerdRow, bin_s: float) -> float:
    """Return attempts a second in the busiest bin."""
    return float(np.bincount((row.attempts / bin_s).astype(int).clip(0)).max()) / bin_s


def _facts(rows: Sequence[HerdRow], bin_s: float) -> dict[str, Any]:
    ranked = sorted(rows, key=lambda row: (row.last_s, row.each))
    best, worst = ranked[0], ranked[-1]
    return {
        "policies": len(rows),
        "users": max(row.users for row in rows),
        "best": best.name,
        "worst": worst.name,
        "best_s": best.last_s,
        "worst_s": worst.last_s,
        "best_end": best.end,
        "worst_end": worst.end,
        "attempts": best.effort,
        "worst_attempts": worst.effort,
        "peak": number(_peak(best, bin_s)),
        "worst_peak": number(_peak(worst, bin_s)),
    }


def _draw(ax: Axes, row: HerdRow, edges: np.ndarray[Any, Any], capacity: float) -> float:
    """Draw one row; return how high it goes."""
    width = edges[1] - edges[0]
    tried = np.histogram(row.attempts, edges)[0] / width
    let_in = np.histogram(row.accepted, edges)[0] / width
    ax.stairs(tried, edges, fill=True, fc=ORANGE, ec=AMBER, hatch="////", lw=0, label="attempts")
    ax.stairs(let_in, edges, fill=True, color=BLUE, lw=0, label="accepted")
    ax.axhline(capacity, color=INK, ls="--", lw=1.3, label=f"capacity {number(capacity)}/s")
    ax.set_title(row.name, pad=4)
    return float(tried.max())


def _dress(axes: Sequence[Axes], capacity: float, highest: float, ends_s: float) -> None:
    ax = axes[0]
    ax.set_yscale("symlog", linthresh=capacity)
    top = max(1.4 * capacity, 1.3 * highest)
    steps = (1, 10, 100, 1000, 10_000) if top > 10 * capacity else (1, 2, 5)
    ticks = [0.0, *(capacity * step for step in steps)]
    ax.set_ylim(0, top)
    ax.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick <= top]))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    ax.set_xlim(0, ends_s)
    # Above the axes, beside the first row's name: inside it would cover the attempts.
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3, borderaxespad=0.0)
    axes[-1].set_xlabel("production seconds since the users were cut off")


def _label(ax: Axes, row: HerdRow, edges: np.ndarray[Any, Any]) -> None:
    placer, ends_s = Placer(ax), edges[-1]
    top = ax.bbox.y1 - 3
    tried = np.histogram(row.attempts, edges)[0] / (edges[1] - edges[0])
    for at, height in zip((edges[:-1] + edges[1:]) / 2, tried, strict=True):
        if height:
            placer.line(*ax.transData.transform([(at, 0), (at, height)]))
    shown = row.last_s <= ends_s
    if shown:
        ax.axvline(row.last_s, color=VERMILLION, lw=1.8)
    elif row.back < row.users and row.stopped_s < ends_s:
        # Nobody was watched from here on: an empty axis would say that nobody tried.
        ax.axvspan(row.stopped_s, ends_s, color=INK, alpha=0.1, lw=0)
    x = ax.transData.transform((row.last_s if shown else ends_s, 0))[0]
    spots = [Spot(x + 5, top, "left", "top")]
    spots += [Spot(x - 5 - STEP_PX * step, top, "right", "top") for step in range(STEPS)]
    words = row.words() + (" →" if ends_s < row.last_s < math.inf else "")
    placer.put(words, spots, color=VERMILLION, fontweight="bold", linespacing=1.3)


def _alt(rows: Sequence[HerdRow], capacity: float, bin_s: float) -> str:
    each = "; ".join(
        f"{row.name}: {len(row.attempts):,} attempts of {counted(row.users, 'user')}, at most "
        f"{number(_peak(row, bin_s))} a second, {row.words()}".replace("\n", ", ")
        for row in rows
    )
    return (
        f"Attempts to reconnect and accepted ones over time, {counted(len(rows), 'row')}, one a "
        f"policy, beside a capacity of {number(capacity)} a second. {each}."
    )
