"""False positives: how often does a live user seem to be offline, for each TTL and loss?

The formula, as a map. Between two whole numbers of heartbeats nothing changes: the formula depends
on how many heartbeats in a row may be lost, which is a whole number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLACK,
    HIGHEST_IN,
    ON_COLOUR,
    VERMILLION,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import counted, number, percent
from wsdemo.lab.leases import false_offline_rate, fatal_losses, plausible_counts

RATIOS: Final = (1, 5)
"""TTL in heartbeats: from, to."""
LOSSES: Final = (0.001, 0.5)
LEVELS: Final = (10.0, 1.0, 0.1, 0.01, 0.001)
"""Rates (per user-hour) at which a line is drawn."""
LEAST: Final = 1e-5
"""Rates below have the colour of this one."""
SHADES: Final = colormaps["cividis"].resampled(24)
"""A picture with few colours is a small file; those of the marks are kept."""
RING_PX, DOT_PX = 21.0, 11.0
"""From the middle of a mark to its edge."""
STEPS: Final = 120
"""Cells from the least loss to the greatest."""
TITLE: Final = (
    "At {loss} % loss, a lease of {ratio} heartbeats takes a live user offline {rate} times an hour"
)


class _Measured(NamedTuple):
    ratio: float
    loss: float
    events: int
    user_hours: float

    @property
    def rate(self) -> float:
        """Times offline per user-hour."""
        return self.events / self.user_hours

    @property
    def words(self) -> str:
        """The rate, and between which two the true one lies with a certainty of 95 %."""
        low, high = (count / self.user_hours for count in plausible_counts(self.events))
        return f"{number(self.rate)} ({number(low)} to {number(high)})"


@in_house_style
def false_offline(
    measured: pd.DataFrame | None = None,
    *,
    heartbeat_s: float = 30.0,
    ttl_s: float = 90.0,
    loss: float = 0.05,
    title: str = TITLE,
) -> Picture:
    """Draw how often per hour a live user is taken offline, over TTL / heartbeat and loss.

    Args:
        measured: what real users suffered: heartbeat_s, ttl_s, loss, events, user_hours (all in
            production time), a dot each.
        heartbeat_s: of the rule.
        ttl_s, loss: what is ringed; the demo's by default.
        title: a template; known facts: ratio, loss (%), rate (per user-hour, at the ring), losses
            (in a row that are fatal there), longer_rate (with a lease one heartbeat longer), and
            with `measured`: events, user_hours, measured_rate (of the first dot).

    Raises:
        ValueError: something lies beyond the map, or nothing was measured.
    """
    dots = _dots(measured)
    _require_on_map([(ttl_s / heartbeat_s, loss), *((dot.ratio, dot.loss) for dot in dots)])
    facts = _facts(heartbeat_s, ttl_s, loss, dots, measured)
    fig = _draw(heartbeat_s, (ttl_s / heartbeat_s, loss), dots, facts, title)
    return tell(fig, caption=_caption(heartbeat_s), alt=_alt(heartbeat_s, loss, facts, dots))


# --- compute -----------------------------------------------------------------------------------


def _dots(measured: pd.DataFrame | None) -> list[_Measured]:
    if measured is None:
        return []
    if measured.empty or not (measured["user_hours"] > 0).all():
        raise ValueError(
            "nothing was measured: leave `measured` out, or let users live for a while"
        )
    return [
        _Measured(row.ttl_s / row.heartbeat_s, row.loss, int(row.events), row.user_hours)
        for row in measured.itertuples()
    ]


def _require_on_map(points: Sequence[tuple[float, float]]) -> None:
    for ratio, loss in points:
        inside = RATIOS[0] <= ratio <= RATIOS[1] and LOSSES[0] <= loss <= LOSSES[1]
        if not inside:
            raise ValueError(
                f"a TTL of {ratio:g} heartbeats at a loss of {loss:g} is not on the map: it shows "
                f"{RATIOS[0]} to {RATIOS[1]} heartbeats and losses of {LOSSES[0]} to {LOSSES[1]}"
            )


def _facts(
    heartbeat_s: float,
    ttl_s: float,
    loss: float,
    dots: Sequence[_Measured],
    measured: pd.DataFrame | None,
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "ratio": f"{ttl_s / heartbeat_s:g}",
        "loss": f"{100 * loss:g}",
        "rate": number(false_offline_rate(heartbeat_s, ttl_s, loss)),
        "losses": fatal_losses(heartbeat_s, ttl_s),
        "longer_rate": number(false_offline_rate(heartbeat_s, ttl_s + heartbeat_s, loss)),
    }
    if dots and measured is not None:
        facts["events"] = int(measured["events"].sum())
        facts["user_hours"] = number(float(measured["user_hours"].sum()))
        facts["measured_rate"] = number(dots[0].rate)
    return facts


# --- draw --------------------------------------------------------------------------------------


def _draw(
    heartbeat_s: float,
    ringed: tuple[float, float],
    dots: Sequence[_Measured],
    facts: Mapping[str, Any],
    title: str,
) -> Picture:
    """Draw the map; ring one point of it, (TTL in heartbeats, loss)."""
    fig = picture(height_in=HIGHEST_IN)
    ax = fig.add_subplot()
    claim(fig, title, facts)
    norm = LogNorm(LEAST, 3600 / heartbeat_s)
    _draw_rule(fig, ax, heartbeat_s, norm)
    _dress(ax)
    for style in (_AROUND, _RING):
        ax.plot(*ringed, **style, zorder=6, clip_on=False)
    for dot in dots:
        colour = SHADES(norm(max(dot.rate, LEAST)))
        ax.plot(dot.ratio, dot.loss, **_DOT, mfc=colour, zorder=7, clip_on=False)
    ttl_s = ringed[0] * heartbeat_s
    words = f"heartbeat {heartbeat_s:g} s, TTL {ttl_s:g} s, {percent(ringed[1])} lost"
    keys = [Line2D([], [], **{**_RING, "ms": 11, "mew": 2}, label=words)]
    if dots:
        keys.append(Line2D([], [], **_DOT, mfc="white", label="measured, with its 95 % interval"))
    fig.legend(handles=keys, loc="outside lower left", ncols=2)
    freeze_layout(fig)
    _label(ax, heartbeat_s, ringed, facts, dots)
    return fig


_RING: Final[dict[str, Any]] = {
    "marker": "o",
    "ms": 17,
    "mfc": "none",
    "mec": VERMILLION,
    "mew": 3,
    "ls": "",
}
_AROUND: Final = {**_RING, "mec": "white", "mew": 6}
"""Under the ring, so that it can be seen on every colour."""
_DOT: Final[dict[str, Any]] = {"marker": "D", "ms": 9, "mec": BLACK, "mew": 1.4, "ls": ""}


def _draw_rule(fig: Picture, ax: Axes, heartbeat_s: float, norm: LogNorm) -> None:
    columns = np.arange(RATIOS[0], RATIOS[1] + 1)
    edges = np.geomspace(*LOSSES, STEPS + 1)
    middles = np.sqrt(edges[:-1] * edges[1:])
    rates = [[_rate(heartbeat_s, ratio, loss) for ratio in columns[1:]] for loss in middles]
    mesh = ax.pcolormesh(columns, edges, np.array(rates).clip(LEAST), norm=norm, cmap=SHADES)
    bar = fig.colorbar(mesh, ax=ax, label="times offline per user-hour", pad=0.02, extend="min")
    bar.set_ticks([10.0**k for k in range(-5, 4) if LEAST <= 10.0**k <= 3600 / heartbeat_s])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{Decimal(f'{value:g}'):f}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    ax.vlines(columns[1:-1], *LOSSES, color="white", lw=1)


def _rate(heartbeat_s: float, ratio: float, loss: float) -> float:
    return false_offline_rate(heartbeat_s, ratio * heartbeat_s, loss)


def _dress(ax: Axes) -> None:
    ax.set_yscale("log")
    ax.set_ylim(*LOSSES)
    ax.set_xlim(*RATIOS)
    ax.set_xticks(range(RATIOS[0], RATIOS[1] + 1))
    ticks = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    ax.yaxis.set_major_locator(FixedLocator(ticks))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: percent(value)))
    ax.set_xlabel("TTL in heartbeats")
    ax.set_ylabel("heartbeats lost (log)")


def _label(
    ax: Axes,
    heartbeat_s: float,
    ring: tuple[float, float],
    facts: Mapping[str, Any],
    dots: Sequence[_Measured],
) -> None:
    placer = Placer(ax)
    pixels = ax.transData.transform
    for x, y, away in ((*ring, RING_PX), *((dot.ratio, dot.loss, DOT_PX) for dot in dots)):
        middle_x, middle_y = pixels((x, y))
        box = Bbox.from_bounds(middle_x - away, middle_y - away, 2 * away, 2 * away)
        placer.keep_clear(box, pad_px=0)
    left, right = ((-RING_PX - 4, "right"), (RING_PX + 4, "left"))
    # On the other side than the dots, whose own labels stand beside them.
    is_right_of_dots = any(dot.ratio < ring[0] for dot in dots)
    sides = (right, left) if is_right_of_dots else (left, right)
    spots = _beside(*pixels(ring), *sides)
    placer.put(f"{facts['rate']} an hour", spots, fontweight="bold", **ON_COLOUR)
    for dot in dots:
        spots = _beside(*pixels((dot.ratio, dot.loss)), *reversed(sides))
        placer.put(f"measured {dot.words}", spots, fontweight="bold", **ON_COLOUR)
    for ratio in range(RATIOS[0] + 1, RATIOS[1] + 1):
        for level in LEVELS:
            loss = _loss_at(heartbeat_s, ratio, level)
            if loss is None:
                continue
            ax.hlines(loss, ratio - 1, ratio, color="white", ls="--", lw=1)
            across = [pixels((ratio - 1 + share, loss)) for share in (0.18, 0.35, 0.5, 0.7)]
            placer.put(f"{level:g}", [Spot(x, y, "center") for x, y in across], **ON_COLOUR)


def _beside(x: float, y: float, *sides: tuple[float, str]) -> list[Spot]:
    return [Spot(x + dx, y + dy, ha) for dy in (0, -18, 18, -34, 34) for dx, ha in sides]


def _loss_at(heartbeat_s: float, ratio: float, level: float) -> float | None:
    """Return the loss at which the rate is `level`, while more loss still means a higher rate."""
    losses = np.geomspace(*LOSSES, 4 * STEPS)
    rates = np.array([_rate(heartbeat_s, ratio, loss) for loss in losses])
    rising = slice(0, int(rates.argmax()) + 1)
    if not rates[0] < level < rates[rising][-1]:
        return None
    return math.exp(np.interp(math.log(level), np.log(rates[rising]), np.log(losses[rising])))


# --- words -------------------------------------------------------------------------------------


def _caption(heartbeat_s: float) -> str:
    return (
        f"The rule, for a heartbeat of {heartbeat_s:g} production seconds of which each gets lost "
        "by chance: how often per hour a live user is offline; dashed: lines of equal rate. In a "
        "lease of exactly 3 heartbeats, the third comes too late."
    )


def _alt(
    heartbeat_s: float, loss: float, facts: Mapping[str, Any], dots: Sequence[_Measured]
) -> str:
    columns = "; ".join(
        f"above {right - 1} and up to {right} heartbeats: {number(_rate(heartbeat_s, right, loss))}"
        for right in range(RATIOS[0] + 1, RATIOS[1] + 1)
    )
    seen = "".join(
        f" Measured at {dot.ratio:g} heartbeats and {dot.loss:.1%} loss: {dot.words} an "
        f"hour in {counted(round(dot.user_hours), 'user-hour')}."
        for dot in dots
    )
    return (
        "Heat map of how often a live user seems offline, over the TTL in heartbeats and the "
        f"share of lost ones. At {loss:.1%} loss, times per user-hour: {columns}. Ringed: "
        f"{facts['ratio']} heartbeats, {facts['rate']} an hour.{seen}"
    )
