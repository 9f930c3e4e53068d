"""Lease: how much of each user's lease was left, moment by moment?

Sampled from Redis, not computed. One strip for each user, with a shared time axis. A triangle
marks each write that began the lease anew, a red x a heartbeat that was lost; where Redis lists a
user who is gone, the strip is shaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    FONT_PT,
    GREEN,
    GREY,
    INK,
    LANE,
    VERMILLION,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, listed, measured_at, plain
from wsdemo.lab.figures.fault_lines import mark_faults
from wsdemo.lab.trace import frames

MAX_USERS: Final = 6
SAME_S: Final = 5.0
"""Two signs of a lost lease within so many production seconds are of the same loss."""
LEAST_LIE_S: Final = 2.0
"""Production seconds: a shorter time lies between two samples."""
ABOUT_GHOSTS: Final = "A user who is gone stays listed for {ghost_s} s"
ABOUT_LAPSES: Final = "The leases of {lapsed} of {users} live users ended: {who}"
TICKS: Final = 3
"""Steps of the lease axis: a third of the lease each, which is one heartbeat."""


class _Ghost(NamedTuple):
    """A user was listed who was gone, from `start` until her entry was removed, or she came
    back."""

    start: float
    end: float
    went: bool
    """Whether the entry was removed."""


class _Strip(NamedTuple):
    """What is drawn of one user. Times in production seconds, leases too."""

    user: str
    t: np.ndarray[Any, Any]
    left_s: np.ndarray[Any, Any]
    renewed: list[float]
    lapses: list[float]
    """When the lease ended although its user was there."""
    ghosts: list[_Ghost]
    lost: list[float]
    """When a heartbeat of hers got lost."""


@in_house_style
def sawtooth(
    trace: pd.DataFrame,
    users: Sequence[str],
    *,
    scale: float = 1.0,
    ttl_s: float = 90.0,
    title: str = "",
    prediction: float | None = None,
) -> Picture:
    """Draw what was left of the leases of watched users.

    Args:
        users: whom to draw, from top to bottom; at most six.
        scale: production seconds per second of the trace.
        ttl_s: the lease (production seconds).
        title: a template; known facts: users, lapsed, who, ghost_s (the longest wrong entry, s),
        predicted. By default it is about the wrong entry if there is one, and otherwise about the
        lapses.
        prediction: the `ghost_s` that the reader predicted; drawn from where the longest wrong
        entry began.

    Raises:
        ValueError: nobody of these was watched, or they are too many.
    """
    if len(users) > MAX_USERS:
        raise ValueError(f"{len(users)} strips are too many to read; choose up to {MAX_USERS}")
    trace = frames.normal(trace)
    strips = strips_of(trace, users, scale)
    facts = _facts(strips, prediction)
    fig = _draw(strips, trace, scale, ttl_s, facts, title)
    return tell(fig, caption=_caption(trace, scale), alt=_alt(strips, facts))


# --- compute -----------------------------------------------------------------------------------


def strips_of(trace: pd.DataFrame, users: Sequence[str], scale: float = 1.0) -> list[_Strip]:
    """Return what is drawn of each user who was watched.

    Raises:
        ValueError: nobody was.
    """
    real = frames.truth(trace)
    strips = [_strip(trace, user, [s for s in real if s.user == user], scale) for user in users]
    strips = [strip for strip in strips if len(strip.t)]
    if not strips:
        raise ValueError("nobody of these was watched: call lab.watch(user) before")
    return strips


def _facts(strips: Sequence[_Strip], prediction: float | None) -> dict[str, Any]:
    lapsed = [strip.user for strip in strips if strip.lapses]
    lengths = [ghost.end - ghost.start for strip in strips for ghost in strip.ghosts]
    return {
        "users": len(strips),
        "lapsed": len(lapsed),
        "who": listed(lapsed) or "nobody",
        "ghost_s": round(max(lengths, default=0.0)),
        "predicted": prediction,
    }


def _strip(trace: pd.DataFrame, user: str, real: Sequence[frames.Stay], scale: float) -> _Strip:
    samples = trace[(trace["kind"] == "pttl") & (trace["user"] == user)]
    seen = samples[samples["ts_current"].cumsum() > 0]
    t = seen["t"].to_numpy() * scale
    left_s = seen["ts_current"].to_numpy() / 1000
    about = trace[(trace["user"] == user) & trace["ok"]]
    writes = about[about["kind"].isin(["presence_set", "presence_refresh"])]
    # An entry that was lost for a moment may be there again before it is looked at.
    reclaimed = about[about["reason"] == "reclaimed"]["t"] * scale
    zeros = (left_s[1:] == 0) & (left_s[:-1] > 0)
    live = [float(end) for end in t[1:][zeros] if frames.where(real, end / scale)]
    lapses = _apart(sorted([*live, *(float(moment) for moment in reclaimed)]))
    return _Strip(
        user,
        t,
        left_s,
        [float(moment) * scale for moment in writes["t_recv"].fillna(writes["t"])],
        lapses,
        _ghosts(real, t, left_s, scale),
        _lost_heartbeats(trace, user, scale),
    )


def _lost_heartbeats(trace: pd.DataFrame, user: str, scale: float) -> list[float]:
    drops = trace[(trace["kind"] == "drop") & (trace["reason"] == "heartbeat")]
    return [float(t) * scale for t in drops[drops["user"] == user]["t"]]


def _apart(moments: Sequence[float]) -> list[float]:
    """Leave out lapses that were seen twice: as an empty sample, and as a reclaimed entry."""
    out: list[float] = []
    for moment in moments:
        if not out or moment - out[-1] > SAME_S:
            out.append(moment)
    return out


def _ghosts(
    real: Sequence[frames.Stay],
    t: np.ndarray[Any, Any],
    left_s: np.ndarray[Any, Any],
    scale: float,
) -> list[_Ghost]:
    """Return when a user was listed who was not connected: between two stays, or after the last."""
    if not len(t):
        return []
    back = [*(stay.start * scale for stay in real[1:]), float(t[-1])]
    out = []
    for stay, again in zip(real, back, strict=True):
        gone = stay.end * scale
        empty = t[(t >= gone) & (t <= again) & (left_s == 0)]
        end = float(empty[0]) if len(empty) else again
        if end - gone > LEAST_LIE_S:
            out.append(_Ghost(gone, end, bool(len(empty))))
    return out


# --- draw --------------------------------------------------------------------------------------


def _draw(
    strips: Sequence[_Strip],
    trace: pd.DataFrame,
    scale: float,
    ttl_s: float,
    facts: Mapping[str, Any],
    title: str,
) -> Picture:
    fig = picture(height_in=1.2 + (2.0 if len(strips) == 1 else max(3.4, 0.9 * len(strips))))
    axes = list(fig.subplots(len(strips), 1, sharex=True, squeeze=False)[:, 0])
    ghosts = any(strip.ghosts for strip in strips)
    claim(fig, title or (ABOUT_GHOSTS if ghosts else ABOUT_LAPSES), facts)
    window = _window(strips)
    for ax, strip in zip(axes, strips, strict=True):
        _draw_strip(ax, strip, ttl_s, window)
    axes[-1].set_xlabel("production seconds since the lab began")
    fig.supylabel("seconds left of the lease", fontsize=FONT_PT, color=INK)
    freeze_layout(fig)
    real = frames.truth(trace)
    for ax, strip in zip(axes, strips, strict=True):
        placer = Placer(ax)
        _keep_clear(ax, placer, strip, ttl_s)
        _label(ax, placer, strip, ttl_s)
        mark_faults(ax, placer, _about(trace, strip.user, real), scale, window, low=True)
    if facts["predicted"] is not None:
        _draw_prediction(axes, strips, facts["predicted"], facts["ghost_s"])
    return fig


def _window(strips: Sequence[_Strip]) -> tuple[float, float]:
    begins = min(min([s.t[0], *s.renewed]) for s in strips)
    ends = max(s.t[-1] for s in strips)
    return begins - 0.015 * (ends - begins), ends


def _about(trace: pd.DataFrame, user: str, real: Sequence[frames.Stay]) -> pd.DataFrame:
    """Return the faults of a user, and of the gateways where she was."""
    places = {stay.gateway for stay in real if stay.user == user}
    return trace[trace["lane"].isin({user, frames.REDIS, *places})]


def _draw_strip(ax: Axes, strip: _Strip, ttl_s: float, window: tuple[float, float]) -> None:
    ax.axhline(ttl_s * (1 - 1 / TICKS), color=LANE, ls=":", lw=1.2, zorder=1)
    ax.plot(strip.t, strip.left_s, color=BLUE, lw=1.8, zorder=3)
    renewed = [moment for moment in strip.renewed if moment <= window[1]]
    ax.plot(
        renewed,
        [ttl_s] * len(renewed),
        "^",
        color=GREEN,
        ms=7,
        clip_on=False,
        zorder=4,
        ls="none",
    )
    lost = [moment for moment in strip.lost if moment <= window[1]]
    if lost:  # An empty line that is not clipped would push the axes together.
        style: dict[str, Any] = {"color": VERMILLION, "ms": 8, "mew": 2.2, "clip_on": False}
        ax.plot(lost, [ttl_s] * len(lost), "x", zorder=4, ls="none", **style)
    for ghost in strip.ghosts:
        ax.axvspan(ghost.start, ghost.end, color=VERMILLION, alpha=0.13, lw=0)
    for x in (*strip.lapses, *(ghost.end for ghost in strip.ghosts if ghost.went)):
        ax.plot(x, 0, "X", color=VERMILLION, ms=10, clip_on=False, zorder=5)
    ax.set_yticks([round(ttl_s * k / TICKS) for k in range(TICKS + 1)])
    ax.set_ylim(-0.06 * ttl_s, 1.12 * ttl_s)
    ax.set_xlim(*window)
    ax.set_title(plain(strip.user), pad=3)


def _keep_clear(ax: Axes, placer: Placer, strip: _Strip, ttl_s: float) -> None:
    points = ax.transData.transform(np.column_stack([strip.t, strip.left_s]))
    if len(points) > 1:
        placer.line(*[(float(x), float(y)) for x, y in points])
    for renewal in (*strip.renewed, *strip.lost):
        x, y = ax.transData.transform((renewal, ttl_s))
        placer.keep_clear(Bbox.from_bounds(x - 5, y - 5, 10, 10))


def _label(ax: Axes, placer: Placer, strip: _Strip, ttl_s: float) -> None:
    for ghost in strip.ghosts:
        lies_s = f"{ghost.end - ghost.start:.0f} s"
        x, y = ax.transData.transform(((ghost.start + ghost.end) / 2, 0.72 * ttl_s))
        beside, _ = ax.transData.transform((ghost.end, 0))
        spots = [Spot(x, y + dy, "center") for dy in (0, 14, -14)]
        spots += [Spot(beside + 6, y), Spot(beside + 6, y - 14)]
        placer.put([f"still listed for {lies_s}", lies_s], spots, fontweight="bold")
    for lapse in strip.lapses:
        x, y = ax.transData.transform((lapse, 0.16 * ttl_s))
        spots = [Spot(x + 10, y), Spot(x - 10, y, "right"), Spot(x + 10, y + 14)]
        placer.put("gone, although she is there", spots, color=VERMILLION, fontweight="bold")


def _draw_prediction(
    axes: Sequence[Axes], strips: Sequence[_Strip], said_s: float, measured_s: int
) -> None:
    """Draw the reader's prediction beside the longest wrong entry: a dashed line where it would
    have ended.
    """
    words = f"you said {said_s:g} s, measured {measured_s} s"
    top = axes[0]
    top.text(1.0, 1.0, words, transform=top.transAxes, ha="right", va="bottom", color=INK)
    lies = [
        (g.end - g.start, g.start, ax) for ax, s in zip(axes, strips, strict=True) for g in s.ghosts
    ]
    if lies:
        _, start, ax = max(lies, key=lambda lie: lie[0])
        if start + said_s <= ax.get_xlim()[1]:
            ax.axvline(start + said_s, color=GREY, ls="--", lw=1.6, zorder=4)


# --- words -------------------------------------------------------------------------------------


def _caption(trace: pd.DataFrame, scale: float) -> str:
    return (
        "Line: what Redis answered to PTTL. Triangle: a write that began the lease anew. Red x: a "
        "heartbeat that was lost. Shaded: listed, and gone. Cross below: no entry any more. "
        f"{measured_at(trace, scale)}"
    )


def _alt(strips: Sequence[_Strip], facts: Mapping[str, Any]) -> str:
    parts = []
    for strip in strips:
        lowest = float(np.min(strip.left_s))
        words = f"{plain(strip.user)}: {counted(len(strip.renewed), 'renewal')}, "
        words += f"lowest {lowest:.0f} s"
        if strip.lost:
            words += f", {counted(len(strip.lost), 'heartbeat')} lost"
        if strip.lapses:
            words += f", lost {counted(len(strip.lapses), 'time')} while she was there"
        for ghost in strip.ghosts:
            words += f", listed for {ghost.end - ghost.start:.0f} s while gone"
        parts.append(words)
    said = f" You said {facts['predicted']:g} s." if facts["predicted"] is not None else ""
    return (
        f"Sawtooth of the leases of {counted(len(strips), 'user')} in production seconds; "
        f"{facts['lapsed']} of them lost it while live. {'; '.join(parts)}.{said}"
    )
