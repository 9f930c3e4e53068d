"""Fault injection: when did the laboratory break something? Labelled lines across a time axis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd
from matplotlib.axes import Axes

from wsdemo.drawing.labels import Placer, Spot
from wsdemo.drawing.style import FONT_PT, INK
from wsdemo.drawing.words import lane_name, plain
from wsdemo.lab.trace.frames import REDIS, gateways

WORDS: Final = {
    "crash": "crashes",
    "freeze": "freezes",
    "thaw": "thaws",
    "drain": "drains",
    "ws_close": "vanishes",
}
MAX_LINES: Final = 6
"""More would hide what they are to explain."""
TOGETHER_S: Final = 0.05
"""The same fault of several lanes within so many wall seconds counts as one."""
ROWS: Final = 2
ROW_PX: Final = 19.0
"""Between two rows of labels."""


@dataclass(slots=True)
class FaultMark:
    """A fault at a moment (s of the trace), of one lane or several."""

    t: float
    what: str
    lanes: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """As in "gateway-01 crashes" or "gateway-01 and 2 more: crashes"."""
        name = lane_name(self.lanes[0])
        if len(self.lanes) > 1:
            return f"{name} and {len(self.lanes) - 1} more: {self.what}"
        return f"{name} {self.what}" if self.what in WORDS.values() else f"{name}: {self.what}"


def faults(trace: pd.DataFrame) -> list[FaultMark]:
    """Return the faults of a trace, in the order of time."""
    vanished = trace[(trace["kind"] == "ws_close") & (trace["reason"] == "vanished")]
    lids = {(row.lane, row.t) for row in vanished.itertuples()}
    done = trace["kind"].isin(["crash", "freeze", "thaw", "drain", "fault"])
    out: list[FaultMark] = []
    for row in trace[done | trace.index.isin(vanished.index)].itertuples():
        if row.kind == "fault" and _part_of_a_lid(row, lids):
            continue
        what = plain(row.reason, 32) if row.kind == "fault" else WORDS[row.kind]
        same = [one for one in out if one.what == what and row.t - one.t < TOGETHER_S]
        if not same:
            out.append(FaultMark(float(row.t), what))
        (same or out)[-1].lanes.append(str(row.lane))
    return out


def _part_of_a_lid(row: Any, lids: set[tuple[str, float]]) -> bool:
    """Say whether a wire drops because its user vanished: that is one fault, not two."""
    return any(row.lane == lane and abs(row.t - t) < TOGETHER_S for lane, t in lids)


def mark_faults(
    ax: Axes,
    placer: Placer,
    trace: pd.DataFrame,
    scale: float,
    window: tuple[float, float],
    *,
    low: bool = False,
) -> None:
    """Draw a dotted line for each fault, with its name where there is room.

    When they are many, those of gateways and of Redis come before those of users.

    Args:
        low: put the names at the bottom instead of the top.
    """
    first, last = window
    inside = [fault for fault in faults(trace) if first <= fault.t * scale <= last]
    servers = {REDIS, *gateways(trace)}
    shown = sorted(inside, key=lambda fault: servers.isdisjoint(fault.lanes))[:MAX_LINES]
    edge = ax.bbox.y0 + 3 if low else ax.bbox.y1 - 2
    up, va = (1, "bottom") if low else (-1, "top")
    places = []
    for fault in shown:
        ax.axvline(fault.t * scale, color=INK, ls=":", lw=1.4, zorder=4)
        x, _ = ax.transData.transform((fault.t * scale, 0))
        # Only where names stand: further down, other labels may cross the line.
        placer.line((x, edge), (x, edge + ROWS * up * ROW_PX))
        places.append(x)
    for fault, x in zip(shown, places, strict=True):
        rows = [edge + k * up * ROW_PX for k in range(ROWS)]
        beside = [(x + 4, "left"), (x - 4, "right")]
        placer.put(
            fault.words, [Spot(px, y, ha, va) for y in rows for px, ha in beside], fontsize=FONT_PT
        )
