"""F11: when is a move refused because of a clock? Measured moves over the rule that explains them.

A policy that compares timestamps refuses a register whose timestamp is older than the one that it
finds. The new gateway's clock is behind by the skew, the old one wrote a gap ago: so the move is
refused when the clock is behind by more than the gap.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.transforms import Bbox

from wsdemo.lab.plots import frames
from wsdemo.lab.plots.labels import Placer, Spot
from wsdemo.lab.plots.style import (
    BLUE,
    INK,
    VERMILLION,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    measured_at,
    picture,
)

CELLS: Final = 240
REFUSED: Final = "#F6D9C4"
ACCEPTED: Final = "#DCEAF5"


def moves(trace: pd.DataFrame, scale: float = 1.0) -> pd.DataFrame:
    """Return a row for each register that found an entry of another gateway.

    Columns: user, gap_s (production seconds since the last accepted write of the old gateway),
    skew_s (by how much the new gateway's clock was ahead of the old one's), rejected. Clocks are
    right until the trace says otherwise (`fault`, "clock -10 s").
    """
    clocks: dict[str, float] = {}
    last: dict[str, tuple[str, float]] = {}
    rows = []
    for row in frames.normal(trace).itertuples():
        if row.kind == "fault" and row.reason.startswith("clock "):
            clocks[row.lane] = float(row.reason.split()[1])
        elif row.kind in ("presence_set", "presence_refresh", "presence_reject"):
            register = row.kind == "presence_set" or row.reason == "stale register"
            before = last.get(row.user)
            if register and before is not None and before[0] != row.gateway:
                skew_s = clocks.get(row.gateway, 0.0) - clocks.get(before[0], 0.0)
                gap_s = (row.t - before[1]) * scale
                rows.append((row.user, gap_s, skew_s, not row.ok))
            if row.ok:
                last[row.user] = (row.gateway, row.t)
        elif row.kind == "presence_del" and row.ok:
            last.pop(row.user, None)
    return pd.DataFrame(rows, columns=["user", "gap_s", "skew_s", "rejected"])


@in_house_style
def skew(
    trace: pd.DataFrame,
    *,
    scale: float = 1.0,
    title: str = "{rejected} of {n} moves are refused: the clock is behind by more than the gap",
) -> Picture:
    """Draw measured moves, refused and accepted, over what the rule says.

    Args:
        scale: production seconds per second of the trace.
        title: a template; known facts: n, rejected, explained (as the rule says).

    Raises:
        ValueError: nobody moved.
    """
    points = moves(trace, scale)
    if points.empty:
        raise ValueError("nobody has moved from one gateway to another: there is nothing to draw")
    by_rule = points["gap_s"] < -points["skew_s"]
    facts = {
        "n": len(points),
        "rejected": int(points["rejected"].sum()),
        "explained": int((by_rule == points["rejected"]).sum()),
    }
    fig = picture(width_in=8.2, height_in=4.4)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    widest = 1.08 * float(points["gap_s"].max())
    low, high = float(points["skew_s"].min()) - 4, float(points["skew_s"].max()) + 4
    x, y = np.linspace(0, widest, CELLS), np.linspace(low, high, CELLS)
    ax.pcolormesh(
        x,
        y,
        (x[None, :] < -y[:, None]).astype(float),
        cmap=ListedColormap([ACCEPTED, REFUSED]),
        rasterized=True,
    )
    ax.plot([0, -low], [0, low], color=INK, ls="--", lw=1.6)
    for refused, marker, colour, words in (
        (False, "o", BLUE, "accepted"),
        (True, "X", VERMILLION, "refused"),
    ):
        chosen = points[points["rejected"] == refused]
        label = f"{words}, n = {len(chosen)}"
        ax.plot(
            chosen["gap_s"],
            chosen["skew_s"],
            marker,
            color=colour,
            ms=8,
            mec="white",
            mew=0.7,
            ls="none",
            label=label,
        )
    ax.set_xlim(0, widest)
    ax.set_ylim(low, high)
    ax.set_xlabel("gap since the last write of the old gateway (production seconds)")
    ax.set_ylabel("new clock ahead by (s)")
    fig.legend(loc="outside lower left", ncols=2)
    freeze_layout(fig)
    placer = Placer(ax)
    for x_px, y_px in ax.transData.transform(points[["gap_s", "skew_s"]].to_numpy()):
        placer.keep_clear(Bbox.from_bounds(x_px - 7, y_px - 7, 14, 14))
    heights = (0.04, 0.12, 0.2, 0.27, 0.34, 0.42, 0.5, 0.58, 0.66, 0.74)
    for wordings, share, ha in (
        (["refused: behind by more than the gap", "refused"], 0.012, "left"),
        (["accepted"], 0.985, "right"),
    ):
        places = [ax.transAxes.transform((share, height)) for height in heights]
        spots = [Spot(float(px), float(py), ha) for px, py in places]
        placer.put(wordings, spots if ha == "left" else spots[::-1], fontweight="bold")
    fig.wsdemo_caption = (
        "Each mark is a user who moved; the dashed line is where the gap equals the skew. "
        + measured_at(trace, scale)
    )
    fig.wsdemo_alt = _alt(points, facts)
    return fig


def _alt(points: pd.DataFrame, facts: dict[str, Any]) -> str:
    return (
        f"{facts['n']} moves by gap (0 to {points['gap_s'].max():.0f} production seconds) and "
        f"skew ({points['skew_s'].min():g} to {points['skew_s'].max():g} s): {facts['rejected']} "
        f"refused, and {facts['explained']} as the rule says, that a move is refused when the new "
        "clock is behind by more than the gap."
    )
