"""Counterexample: what happened last, before a fault stopped a learner's gateway?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import pandas as pd

from wsdemo.drawing.style import Picture
from wsdemo.lab.figures.spacetime import spacetime

ROWS: Final = 12
"""So many arrows can be read; the last ones are drawn."""
CAPTION: Final = (
    "The last that happened, with three running gateways of this class and a real Redis. Light: "
    "WebSocket; dark: a call of one of the five methods, from its begin to its end; red: a "
    "message that was not routed."
)


def counterexample(
    level: int | str, seen: str, rows: Sequence[dict[str, Any]], title: str
) -> Picture:
    """Draw the last arrows before something was seen, in the order in which they happened.

    Args:
        level: which one was stopped, or the name of a gateway.
        title: a template; known facts: level, seen.
    """
    words = title.format(level=level, seen=seen).replace("{", "{{").replace("}", "}}")
    fig = spacetime(pd.DataFrame(ranked(rows)), ordered=True, title=words)
    fig.wsdemo_caption = CAPTION
    told = f"{level}. {seen}"
    fig.wsdemo_alt = f"{told} {fig.wsdemo_alt}"
    return fig


def ranked(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose what is drawn, and count its events: each one takes a step."""
    chosen = [row for row in rows if "t_recv" in row and row["kind"] != "presence_refresh"][-ROWS:]
    ends = sorted(at for row in chosen for at in (row["t"], row["t_recv"]))
    rank = {at: float(n) for n, at in enumerate(ends)}
    return [row | {"t": rank[row["t"]], "t_recv": rank[row["t_recv"]]} for row in chosen]
