"""Clock skew: whose registration does a slow clock reject?

The rule as a map, with the measured moves on it. Under a policy that compares timestamps, a user
who changes gateways is refused when the new gateway's clock is slower than the old one's by more
than the time that the change took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from wsdemo.drawing.style import (
    BLACK,
    GREY,
    HALO,
    HIGHEST_IN,
    VERMILLION,
    Picture,
    claim,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import number

CELLS: Final = (12, 8)
"""Of the map, across and upwards."""
SHADES: Final = colormaps["cividis"].resampled(20)
"""A picture of few colours stays small."""
OUTLINE: Final = [withStroke(linewidth=4, foreground=GREY)]
"""Of a white line on white ground."""
FINE: Final = 8
"""A cell's share is the mean of so many by so many points in it."""
CAPTION: Final = (
    "Background: the share of registrations that the rule rejects, cell by cell. Marks: "
    "registrations that were measured."
)
TITLE: Final = (
    "Rejected when the new clock is slower by more than the gap: "
    "true of {agree} of {attempts} registrations"
)

Numbers = np.ndarray[Any, Any]
Share = Callable[[Numbers, Numbers], Numbers]


def rejected_share(gap_s: Numbers, skew_s: Numbers) -> Numbers:
    """Return the share of registrations that the timestamp policy rejects: all of them, or none."""
    return np.asarray(skew_s > gap_s, dtype=float)


@in_house_style
def skew_map(
    points: pd.DataFrame,
    *,
    share: Share = rejected_share,
    slow_s: float | None = None,
    title: str = TITLE,
) -> Picture:
    """Draw which registrations are rejected, by the gap before them and the skew of the clocks.

    Args:
        points: measured registrations: gap_s (since the old gateway's last write), skew_s (by how
            much the new gateway's clock is slower; negative when it is faster), rejected. All in
            production seconds.
        share: the rule: gaps and skews to the share that it rejects.
        slow_s: a skew to mark on the map, with the gaps at which the rule rejects.
        title: a template; known facts: attempts, rejected, accepted, agree (with the rule),
            differ, share (of rejected ones, in %).

    Raises:
        ValueError: nothing was measured.
    """
    if points.empty:
        raise ValueError("no registration was measured: there is nothing to put on the map")
    points = points.assign(rejected=points["rejected"].astype(bool))
    facts = _facts(points, share)
    fig = _draw(points, share, facts, title, slow_s)
    marked = "" if slow_s is None else f" Marked: clocks slower by {number(slow_s)} s."
    return tell(fig, caption=CAPTION, alt=_alt(points, facts) + marked)


# --- compute -----------------------------------------------------------------------------------


def _facts(points: pd.DataFrame, share: Share) -> dict[str, int]:
    foretold = share(points["gap_s"].to_numpy(float), points["skew_s"].to_numpy(float)) >= 0.5
    agree = int((foretold == points["rejected"]).sum())
    rejected = int(points["rejected"].sum())
    return {
        "attempts": len(points),
        "rejected": rejected,
        "accepted": len(points) - rejected,
        "agree": agree,
        "differ": len(points) - agree,
        "share": round(100 * rejected / len(points)),
    }


def _grid(points: pd.DataFrame) -> tuple[Numbers, Numbers]:
    """Return the edges of the cells, across and upwards; all points lie inside."""
    gap, skew = points["gap_s"].to_numpy(float), points["skew_s"].to_numpy(float)
    x = np.linspace(0.0, 1.06 * max(1.0, gap.max()), CELLS[0] + 1)
    low, high = min(0.0, skew.min()), max(1.0, skew.max())
    room = 0.06 * (high - low)
    return x, np.linspace(low - room, high + room, CELLS[1] + 1)


# --- draw --------------------------------------------------------------------------------------


def _draw(
    points: pd.DataFrame,
    share: Share,
    facts: Mapping[str, int],
    title: str,
    slow_s: float | None,
) -> Picture:
    x, y = _grid(points)
    fig = picture(height_in=HIGHEST_IN)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    _draw_rule(fig, ax, share, x, y)
    _draw_points(ax, points)
    keys = _keys(facts)
    if slow_s is not None:
        _draw_skew(ax, share, x, slow_s)
        keys.append(Line2D([], [], **_MARKED, label="rejected at the marked skew"))
    ax.set_xlabel("gap before the registration (production seconds)")
    ax.set_ylabel("new clock slower by (s)")
    fig.legend(handles=keys, loc="outside lower left", ncols=2)
    return fig


def _draw_rule(fig: Picture, ax: Axes, share: Share, x: Numbers, y: Numbers) -> None:
    gaps, skews = _inside(x), _inside(y)
    fine = share(*np.meshgrid(gaps, skews))
    cells = fine.reshape(len(y) - 1, FINE, len(x) - 1, FINE).mean(axis=(1, 3))
    mesh = ax.pcolormesh(
        x, y, cells, cmap=SHADES, vmin=0, vmax=1, edgecolors=(1, 1, 1, 0.3), linewidth=0.3
    )
    fig.colorbar(mesh, ax=ax, ticks=[0, 0.5, 1], label="share rejected by the rule", pad=0.02)
    if fine.min() < 0.5 < fine.max():
        ax.contour(gaps, skews, fine, levels=[0.5], colors="white", linewidths=2)
    ends = np.array([max(x[0], y[0]), min(x[-1], y[-1])])
    ax.plot(ends, ends, color=BLACK, ls="--", lw=1.6, path_effects=HALO)
    ax.set_xlim(x[0], x[-1])
    ax.set_ylim(y[0], y[-1])


def _draw_skew(ax: Axes, share: Share, x: Numbers, slow_s: float) -> None:
    """Mark a skew: a thin line all across, and a thick one over the gaps that are rejected."""
    gaps = np.linspace(x[0], x[-1], 400)
    rejected = share(gaps, np.full_like(gaps, slow_s)) >= 0.5
    ax.axhline(slow_s, **{**_MARKED, "lw": 1.5})
    ax.plot(np.where(rejected, gaps, np.nan), np.full_like(gaps, slow_s), **_MARKED)


_MARKED: Final[dict[str, Any]] = {
    "color": VERMILLION,
    "lw": 5,
    "solid_capstyle": "butt",
    "path_effects": HALO,
    "zorder": 4,
}


def _inside(edges: Numbers) -> Numbers:
    """Return places in the cells between edges, evenly spread."""
    steps = (np.arange(FINE) + 0.5) / FINE
    return np.asarray((edges[:-1, None] + np.diff(edges)[:, None] * steps).ravel())


def _draw_points(ax: Axes, points: pd.DataFrame) -> None:
    for rejected, style in _MARKS.items():
        some = points[points["rejected"] == rejected]
        ax.plot(some["gap_s"], some["skew_s"], **style)


_MARKS: Final[dict[bool, dict[str, Any]]] = {
    False: {"marker": "o", "ls": "", "color": "white", "mec": BLACK, "ms": 6, "zorder": 5},
    True: {"marker": "X", "ls": "", "color": BLACK, "mec": "white", "ms": 8, "zorder": 5},
}


def _keys(facts: Mapping[str, int]) -> list[Line2D]:
    return [
        Line2D([], [], **_MARKS[False], label=f"accepted ({facts['accepted']})"),
        Line2D([], [], **_MARKS[True], label=f"rejected ({facts['rejected']})"),
        Line2D(
            [], [], color=BLACK, ls="--", lw=1.6, path_effects=HALO, label="slower by just the gap"
        ),
        Line2D([], [], color="white", lw=2, path_effects=OUTLINE, label="half of them rejected"),
    ]


# --- words -------------------------------------------------------------------------------------


def _alt(points: pd.DataFrame, facts: Mapping[str, int]) -> str:
    gap, skew = points["gap_s"], points["skew_s"]
    return (
        f"Map of rejected registrations: gaps from {number(gap.min())} to {number(gap.max())} "
        f"production seconds, new clocks slower by {number(skew.min())} to {number(skew.max())}. "
        f"Of {facts['attempts']} measured ones {facts['rejected']} were rejected; "
        f"{facts['agree']} ended as the rule says, {facts['differ']} otherwise."
    )
