"""When did the laboratory do something to somebody? Labelled lines across a time axis."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes

from wsdemo.lab.plots.frames import REDIS
from wsdemo.lab.plots.labels import Placer, Spot
from wsdemo.lab.plots.style import INK, plain

WORDS: Final = {
    "crash": "{lane} crashes",
    "freeze": "{lane} freezes",
    "thaw": "{lane} thaws",
    "drain": "{lane} drains",
    "ws_close": "{lane} vanishes",
}
MAX_LINES: Final = 6
"""More would hide what they are to explain."""


def faults(trace: pd.DataFrame) -> list[tuple[float, str]]:
    """Return the accidents of a trace: when (s of the trace), and in words."""
    vanished = (trace["kind"] == "ws_close") & (trace["reason"] == "vanished")
    done = trace["kind"].isin(["crash", "freeze", "thaw", "drain"])
    return [(float(row.t), _words(row)) for row in trace[vanished | done].itertuples()]


def _words(row: Any) -> str:
    lane = "Redis" if row.lane == REDIS else plain(row.lane)
    return WORDS[row.kind].format(lane=lane)


def mark_faults(
    ax: Axes, placer: Placer, trace: pd.DataFrame, scale: float, window: tuple[float, float]
) -> None:
    """Draw a dotted line for each accident, with its name at the top where there is room."""
    first, last = window
    inside = [(t * scale, words) for t, words in faults(trace) if first <= t * scale <= last]
    for t, words in inside[:MAX_LINES]:
        ax.axvline(t, color=INK, ls=":", lw=1.4, zorder=4)
        x, _ = ax.transData.transform((t, 0))
        top = ax.bbox.y1 - 2
        placer.put(words, [Spot(x + 4, top, "left", "top"), Spot(x - 4, top, "right", "top")])
