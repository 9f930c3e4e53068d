"""Latency: how long does a message take?

The cumulative distribution (eCDF) for each kind of way, with its tail marked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    PURPLE,
    VERMILLION,
    Picture,
    Role,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import duration, number, plain
from wsdemo.lab.trace.journeys import ACROSS, LOCAL, latencies

ROLES: Final = (
    Role(BLUE, dash="-"),
    Role(VERMILLION, dash=(0, (5, 2))),
    Role(GREEN, dash=(0, (1, 1.2))),
    Role(PURPLE, dash=(0, (5, 1.5, 1, 1.5))),
)
"""Colours and styles of the curves, in their order."""
TICKS: Final = (0, 0.25, 0.5, 0.75, 0.9, 0.99)
ENOUGH: Final = 100
"""With fewer messages, the 99th percentile would just be the slowest message."""
TITLE: Final = "A message takes {ratio} times as long {slow}: {slow_p50} instead of {fast_p50}"
TITLE_OF_ONE: Final = "Half of {messages} messages arrive within {fast_p50}"


class _Curve(NamedTuple):
    name: str
    latency_s: np.ndarray[Any, Any]
    """Sorted."""

    def quantile(self, share: float) -> float:
        """Return a percentile that is the latency of a real message, not a value between two."""
        return float(np.quantile(self.latency_s, share, method="inverted_cdf"))

    @property
    def marks(self) -> tuple[float, ...]:
        return (0.5, 0.99) if len(self.latency_s) >= ENOUGH else (0.5,)


@in_house_style
def latency(
    trace: pd.DataFrame,
    groups: Mapping[str, Collection[str]] | None = None,
    *,
    prediction: float | None = None,
    title: str = "",
) -> Picture:
    """Draw the eCDF of the time from a user's sending a message to the other's having it.

    Args:
        groups: name -> ids of its messages, a curve each, at most four; by default "same gateway"
            and "across gateways", as the trace has them.
        prediction: how many times the fastest median the slowest one was said to be.
        title: a template; known facts: messages, series, fast, slow (names, by median), fast_p50,
            slow_p50, fast_p99, slow_p99, ratio (of the medians).

    Raises:
        ValueError: no message arrived, a group is empty, or the groups are too many.
    """
    curves = _curves(latencies(trace), groups)
    facts = _facts(curves)
    fig = picture(height_in=4.2)
    ax = fig.add_subplot()
    claim(fig, title or (TITLE if len(curves) > 1 else TITLE_OF_ONE), facts)
    for curve, role in zip(curves, ROLES, strict=False):
        label = f"{plain(curve.name)}, n = {len(curve.latency_s):,}"
        ax.ecdf(curve.latency_s, color=role.colour, ls=role.dash, lw=2.2, label=label)
    said_s = None if prediction is None else prediction * _by_median(curves)[0].quantile(0.5)
    _dress(ax, curves, said_s)
    fig.legend(loc="outside lower left", ncols=2)
    freeze_layout(fig)
    placer = _mark(ax, curves)
    if said_s is not None:
        ax.axvline(said_s, color=GREY, ls="--", lw=1.6, zorder=2)
        _label_prediction(ax, placer, said_s, f"you said {prediction:g} ×")
    caption = (
        "From the moment a user's client sends until the other user's client has it; circle: "
        "half of the messages, diamond: 99 of 100. Measured in real time, on one machine: no "
        "network in between."
    )
    return tell(fig, caption=caption, alt=_alt(curves, facts, prediction))


def _curves(table: pd.DataFrame, groups: Mapping[str, Collection[str]] | None) -> list[_Curve]:
    if table.empty:
        raise ValueError("no message has arrived: send some before drawing how long they took")
    if groups is None:
        of_way = {way: table[table["way"] == way]["latency_s"] for way in (LOCAL, ACROSS)}
        chosen = {way: values for way, values in of_way.items() if len(values)}
    else:
        chosen = {
            name: table[table["msg_id"].isin(list(ids))]["latency_s"]
            for name, ids in groups.items()
        }
    if not 0 < len(chosen) <= len(ROLES):
        raise ValueError(f"{len(chosen)} curves cannot be told apart; choose 1 to {len(ROLES)}")
    for name, values in chosen.items():
        if values.empty:
            raise ValueError(f"no message of the group {name!r} has arrived: leave it out")
    return [_Curve(name, np.sort(values.to_numpy())) for name, values in chosen.items()]


def _by_median(curves: Sequence[_Curve]) -> list[_Curve]:
    return sorted(curves, key=lambda curve: curve.quantile(0.5))


def _facts(curves: Sequence[_Curve]) -> dict[str, Any]:
    by_median = _by_median(curves)
    fast, slow = by_median[0], by_median[-1]
    return {
        "messages": sum(len(curve.latency_s) for curve in curves),
        "series": len(curves),
        "fast": plain(fast.name),
        "slow": plain(slow.name),
        "fast_p50": duration(fast.quantile(0.5)),
        "slow_p50": duration(slow.quantile(0.5)),
        "fast_p99": duration(fast.quantile(0.99)),
        "slow_p99": duration(slow.quantile(0.99)),
        "ratio": number(slow.quantile(0.5) / fast.quantile(0.5)),
    }


def _dress(ax: Axes, curves: Sequence[_Curve], said_s: float | None) -> None:
    shown = [value for c in curves for value in (c.latency_s[0], c.latency_s[-1])]
    shown += [] if said_s is None else [said_s]
    ax.set_xscale("log")
    # Room on both sides, for the words beside the outer curves.
    ax.set_xlim(min(shown) / 1.6, max(shown) * 1.6)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: duration(value)))
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_ylim(0, 1.02)
    ax.set_yticks(TICKS, [f"{tick:g}" for tick in TICKS])
    ax.grid(alpha=0.25)
    ax.set_xlabel("time on the way (log)")
    ax.set_ylabel("share of messages arrived")


def _mark(ax: Axes, curves: Sequence[_Curve]) -> Placer:
    """Mark medians and tails: words of the fastest curve to its left, others to their right."""
    placer = Placer(ax)
    pixels = ax.transData.transform
    fastest = _by_median(curves)[0] if len(curves) > 1 else None
    for curve in curves:
        shares = np.arange(1, len(curve.latency_s) + 1) / len(curve.latency_s)
        placer.line(*[(float(x), float(y)) for x, y in pixels(np.c_[curve.latency_s, shares])])
        for share in curve.marks:
            x, y = pixels((curve.quantile(share), share))
            placer.keep_clear(Bbox.from_bounds(x - MARK_PX / 2, y - MARK_PX / 2, MARK_PX, MARK_PX))
    for curve, role in zip(curves, ROLES, strict=False):
        for share in curve.marks:
            value = curve.quantile(share)
            marker = "o" if share == 0.5 else "D"
            ax.plot(value, share, marker, color=role.colour, mec="black", ms=7, zorder=6)
            x, y = pixels((value, share))
            words = f"p{100 * share:.0f} {duration(value)}"
            spots = _beside(x, y, to_left=curve is fastest)
            placer.put(words, spots, color=role.colour, fontweight="bold")
    return placer


MARK_PX: Final = 13.0
"""The size of a mark, about which no label is written."""
NEARBY: Final = (0, -12, 12, -24, 24, -36, 36, *range(-48, -145, -12))
"""How far above its mark (pixels) a label may stand, best first: curves may lie on each other."""


def _beside(x: float, y: float, *, to_left: bool) -> list[Spot]:
    sides = [("right", -10), ("left", 10)] if to_left else [("left", 10), ("right", -10)]
    return [Spot(x + dx, y + dy, ha) for ha, dx in sides for dy in NEARBY]


def _label_prediction(ax: Axes, placer: Placer, said_s: float, words: str) -> None:
    spots = []
    for height in (0.08, 0.2, 0.32, 0.65, 0.82):
        x, y = ax.transData.transform((said_s, height))
        spots += [Spot(x + 5, y), Spot(x - 5, y, "right")]
    placer.put(words, spots, color=INK)


def _alt(curves: Sequence[_Curve], facts: dict[str, Any], prediction: float | None) -> str:
    each = "; ".join(
        f"{plain(curve.name)}: {len(curve.latency_s)} messages, "
        + ", ".join(f"p{100 * q:.0f} {duration(curve.quantile(q))}" for q in curve.marks)
        for curve in curves
    )
    said = "" if prediction is None else f" You said {prediction:g} times."
    ratio = f" The medians differ by {facts['ratio']} times." if len(curves) > 1 else ""
    return f"Cumulative distribution of the latency of messages. {each}.{ratio}{said}"
