"""Latency by stage: on which part of its way does a message spend the time?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes

from wsdemo.drawing.style import (
    BLUE,
    INK,
    NOTE_PT,
    ORANGE,
    PURPLE,
    SKY,
    Picture,
    Role,
    claim,
    in_house_style,
    picture,
    tell,
)
from wsdemo.drawing.words import duration
from wsdemo.lab.trace.journeys import ACROSS, LOCAL, STAGES, latencies

ROLES: Final = {
    "to_gateway_s": Role(SKY),
    "to_redis_s": Role(BLUE, hatch="//"),
    "from_redis_s": Role(PURPLE, hatch=".."),
    "to_client_s": Role(ORANGE, hatch="\\\\"),
}

TITLE: Final = "Redis takes {redis_share} % of the time of a message across gateways"
LOCAL_TITLE: Final = "A message takes {local_p50}, most of it {longest_stage}"
CAPTION: Final = (
    "Medians of each stage; what a gateway does belongs to the stage that it begins. The line is "
    "the median of the whole way. Nobody can measure inside Redis: that moment is put half-way "
    "between what the two gateways saw. Measured in real time."
)


@in_house_style
def stages(trace: pd.DataFrame, *, title: str = "") -> Picture:
    """Draw the median time of each stage of a message, for both kinds of way.

    Args:
        title: a template; known facts: messages, longest_stage (of the longest way), and when
            both ways occur: local_p50, across_p50, redis_share (of the way across, in %).

    Raises:
        ValueError: no message arrived.
    """
    table = latencies(trace)
    if table.empty:
        raise ValueError("no message has arrived: send some before asking where the time went")
    medians, counts = medians_of(table), table["way"].value_counts()
    facts = _facts(medians, len(table))
    default = TITLE if ACROSS in medians.index else LOCAL_TITLE
    fig = _draw(medians, counts, facts, title or default)
    return tell(fig, caption=CAPTION, alt=_alt(medians, counts))


# --- compute -----------------------------------------------------------------------------------


def medians_of(table: pd.DataFrame) -> pd.DataFrame:
    """Return the median of each stage, a row for each kind of way that occurs.

    A median is that of a message, here and in the curves, and not a mean of two.
    """
    ways = [way for way in (LOCAL, ACROSS) if (table["way"] == way).any()]
    halves = table.groupby("way")[[*STAGES, "latency_s"]].quantile(0.5, interpolation="lower")
    return halves.loc[ways]


def _facts(medians: pd.DataFrame, messages: int) -> dict[str, Any]:
    last = medians.iloc[-1]
    facts = {
        "messages": messages,
        "longest_stage": STAGES[str(last[list(STAGES)].astype(float).idxmax())],
    }
    if LOCAL in medians.index:
        facts["local_p50"] = duration(medians.loc[LOCAL, "latency_s"])
    if ACROSS in medians.index:
        across = medians.loc[ACROSS]
        share = across[["to_redis_s", "from_redis_s"]].sum() / across[list(STAGES)].sum()
        facts["across_p50"] = duration(across["latency_s"])
        facts["redis_share"] = round(100 * float(share))
    return facts


# --- draw --------------------------------------------------------------------------------------


def _draw(
    medians: pd.DataFrame, counts: pd.Series[int], facts: Mapping[str, Any], title: str
) -> Picture:
    fig = picture(height_in=1.55 + 0.5 * len(medians))
    ax = fig.add_subplot()
    claim(fig, title, facts)
    for y, (_, row) in enumerate(medians.iterrows()):
        _draw_bar(ax, y, row)
    for stage, role in ROLES.items():
        if medians[stage].notna().any():
            ax.barh(0, 0, label=STAGES[stage], **_filled(role))
    ways = [f"{way}\nn = {counts[way]:,}" for way in medians.index]
    ax.set_yticks(range(len(medians)), ways)
    ax.set_xlabel("median time on each stage (µs)")
    ax.margins(x=0.1)
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    fig.legend(loc="outside lower left", ncols=len(STAGES))
    return fig


def _draw_bar(ax: Axes, y: int, row: pd.Series[float]) -> None:
    """Draw the stages of one kind of way, and the median of the whole."""
    left = 0.0
    for stage, role in ROLES.items():
        width = 1e6 * row[stage]
        if not math.isnan(width):
            ax.barh(y, width, 0.62, left, lw=1, **_filled(role))
            left += width
    whole = 1e6 * row["latency_s"]
    ax.plot([whole, whole], [y - 0.4, y + 0.4], color=INK, lw=2)
    ax.annotate(
        duration(row["latency_s"]),
        (max(left, whole), y),
        (6, 0),
        textcoords="offset points",
        va="center",
        fontsize=NOTE_PT,
        color=INK,
    )


def _filled(role: Role) -> dict[str, Any]:
    return {"color": role.colour, "hatch": role.hatch, "edgecolor": "white"}


# --- words -------------------------------------------------------------------------------------


def _alt(medians: pd.DataFrame, counts: pd.Series[int]) -> str:
    parts = []
    for way, row in medians.iterrows():
        each = ", ".join(
            f"{words} {duration(row[stage])}" for stage, words in STAGES.items() if row[stage] > 0
        )
        whole = duration(row["latency_s"])
        parts.append(f"{way}, {counts[way]} messages: {each}; the whole way {whole}")
    return f"Stacked bars of the median time of each stage of a message. {'. '.join(parts)}."
