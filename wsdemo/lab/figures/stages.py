"""F4, its companion: on which part of its way does a message spend the time?"""

from __future__ import annotations

from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes

from wsdemo.drawing.style import (
    BLACK,
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
TITLE_OF_LOCAL: Final = "A message takes {local_p50}, most of it {longest_stage}"


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
    ways = [way for way in (LOCAL, ACROSS) if (table["way"] == way).any()]
    # A median is that of a message, here and in the curves, and not a mean of two.
    halves = table.groupby("way")[[*STAGES, "latency_s"]].quantile(0.5, interpolation="lower")
    medians = halves.loc[ways]
    counts = table["way"].value_counts()
    facts = _facts(medians, len(table))
    fig = picture(height_in=1.55 + 0.5 * len(ways))
    ax = fig.add_subplot()
    claim(fig, title or (TITLE if ACROSS in ways else TITLE_OF_LOCAL), facts)
    _draw(ax, medians)
    ax.set_yticks(range(len(ways)), [f"{way}\nn = {counts[way]:,}" for way in ways])
    ax.set_xlabel("median time on each stage (µs)")
    fig.legend(loc="outside lower left", ncols=len(STAGES))
    fig.wsdemo_caption = (
        "Medians of each stage; what a gateway does belongs to the stage that it begins. The line "
        "is the median of the whole way. Nobody stands inside Redis with a clock: that moment is "
        "put half-way between what the two gateways saw. Measured in real time."
    )
    fig.wsdemo_alt = _alt(medians, counts)
    return fig


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


def _draw(ax: Axes, medians: pd.DataFrame) -> None:
    for y, (_, row) in enumerate(medians.iterrows()):
        left = 0.0
        for stage, role in ROLES.items():
            width = 1e6 * row[stage]
            if width != width:
                continue
            ax.barh(
                y,
                width,
                0.62,
                left,
                color=role.colour,
                hatch=role.hatch,
                edgecolor="white",
                lw=1,
            )
            left += width
        whole = 1e6 * row["latency_s"]
        ax.plot([whole, whole], [y - 0.4, y + 0.4], color=BLACK, lw=2)
        ax.annotate(
            duration(row["latency_s"]),
            (max(left, whole), y),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=NOTE_PT,
            color=INK,
        )
    for stage, role in ROLES.items():
        if medians[stage].notna().any():
            ax.barh(
                0, 0, color=role.colour, hatch=role.hatch, edgecolor="white", label=STAGES[stage]
            )
    ax.margins(x=0.1)
    ax.set_xlim(left=0)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _alt(medians: pd.DataFrame, counts: pd.Series[int]) -> str:
    parts = []
    for way, row in medians.iterrows():
        each = ", ".join(
            f"{words} {duration(row[stage])}" for stage, words in STAGES.items() if row[stage] > 0
        )
        whole = duration(row["latency_s"])
        parts.append(f"{way}, {counts[way]} messages: {each}; the whole way {whole}")
    return f"Stacked bars of the median time of each stage of a message. {'. '.join(parts)}."
