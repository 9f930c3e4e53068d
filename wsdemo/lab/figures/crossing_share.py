"""Cross-gateway share: how many messages have to cross gateways, when there are more of them?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from matplotlib.ticker import PercentFormatter

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import (
    BLUE,
    INK,
    Picture,
    claim,
    freeze_layout,
    in_house_style,
    picture,
    tell,
)

CAPTION: Final = (
    "The line is 1 - 1/N: the chance that two users are at different gateways when N gateways have "
    "equally many. The points are counted by the gateways themselves."
)


class CrossingCount(Protocol):
    """Of so many messages between users of so many gateways, so many crossed."""

    @property
    def gateways(self) -> int: ...

    @property
    def messages(self) -> int: ...

    @property
    def share(self) -> float: ...


@in_house_style
def crossing_share(
    counts: Sequence[CrossingCount],
    *,
    title: str = "With {most} gateways, {share} of the messages cross; with {few}, {few_share}",
) -> Picture:
    """Draw the measured shares, and the rule 1 - 1/N.

    Args:
        counts: one for each number of gateways.
        title: a template; known facts: few, few_share (of the smallest number of gateways), most,
            share (of the largest), error (the largest distance from the rule, in points).

    Raises:
        ValueError: nothing was counted.
    """
    if not counts:
        raise ValueError("nothing was counted: there is nothing to draw")
    points = sorted(counts, key=lambda one: one.gateways)
    fig = picture(height_in=3.4)
    ax = fig.subplots()
    claim(fig, title, _facts(points))
    largest = points[-1].gateways
    n = np.linspace(1, largest + 1, 200)
    ax.plot(n, 1 - 1 / n, color=INK, lw=1.6, ls=(0, (4, 2)))
    ax.plot([p.gateways for p in points], [p.share for p in points], "o", color=BLUE, ms=10)
    ax.set_xlim(0.7, largest + 1)
    ax.set_ylim(-0.06, 1.05)
    ax.set_xticks(range(1, largest + 1))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.set_xlabel("gateways with users")
    ax.set_ylabel("messages that cross")
    freeze_layout(fig)
    placer = Placer(ax)
    for point in points:
        x, y = ax.transData.transform((point.gateways, point.share))
        placer.put(f"{point.share:.0%}", [Spot(x + 9, y - 14), Spot(x + 9, y + 12)], color=BLUE)
    x, y = ax.transData.transform((1.6, 1 - 1 / 1.6))
    placer.put("1 - 1/N", [Spot(x - 10, y + 8, "right"), Spot(x - 10, y + 24, "right")])
    return tell(fig, caption=CAPTION, alt=_alt(points))


def _facts(points: Sequence[CrossingCount]) -> dict[str, Any]:
    errors = [abs(one.share - (1 - 1 / one.gateways)) for one in points]
    return {
        "few": points[0].gateways,
        "few_share": f"{points[0].share:.0%}",
        "most": points[-1].gateways,
        "share": f"{points[-1].share:.0%}",
        "error": f"{100 * max(errors):.0f}",
    }


def _alt(points: Sequence[CrossingCount]) -> str:
    parts = [f"{one.gateways}: {one.share:.0%} of {one.messages}" for one in points]
    return (
        "The share of messages that cross gateways, by the number of gateways, beside the rule "
        f"1 - 1/N. {'; '.join(parts)}."
    )
