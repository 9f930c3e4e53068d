"""Vector clocks: which events happened before which? The trace as a log for ShiViz.

ShiViz (https://bestchai.bitbucket.io/shiviz/) draws a space-time diagram that one can search, fold
and compare with another. It ignores times: every event has a vector clock, which counts the events
of each lane that happened before it, and one event happened before another if its clock is smaller.
The clocks come from the arrows of the trace and from nothing else. The answers that Redis gives to
a gateway are not arrows there, so what follows from an answer counts as concurrent with what was
asked.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsdemo.lab.trace.frames import arrows, normal

if TYPE_CHECKING:
    import pandas as pd

PARSER: Final = r"(?<host>\S+) (?<clock>{.*?}) (?<event>.*)"
"""How ShiViz parses a line; it is the first line of the file."""

NOT_EVENTS: Final = frozenset({"pttl"})
"""Rows of observations by the laboratory; they are not events."""


class Stamp(NamedTuple):
    """An event of one lane, with its vector clock."""

    seq: int
    """Of the row of the trace."""
    arrives: bool
    """The end of an arrow; False for its beginning, and for what did not travel."""
    host: str
    clock: dict[str, int]
    text: str


def happened_before(one: Stamp, other: Stamp) -> bool:
    """Say whether the first event can have influenced the second: its clock is smaller.

    Two events neither of which happened before the other are concurrent.
    """
    return one.clock != other.clock and all(
        count <= other.clock.get(host, 0) for host, count in one.clock.items()
    )


class _Event(NamedTuple):
    """One end of an arrow, or a moment. Events are sorted by the first three fields."""

    t: float
    seq: int
    arrives: bool
    host: str
    text: str


def to_shiviz(trace: pd.DataFrame) -> str:
    """Return a log that ShiViz opens as a file.

    The first line is the regular expression of `PARSER`, the second would separate several
    executions and is empty, and each further line is an event.
    """
    lines = [
        f"{stamp.host} {json.dumps(stamp.clock, separators=(',', ':'))} {stamp.text}"
        for stamp in stamps(trace)
    ]
    return "\n".join([PARSER, "", *lines, ""])


def stamps(trace: pd.DataFrame) -> list[Stamp]:
    """Return the events of all lanes in the order of time, each with its vector clock."""
    clocks: dict[str, dict[str, int]] = defaultdict(dict)
    sent: dict[int, dict[str, int]] = {}
    out: list[Stamp] = []
    for event in sorted(_events(trace)):
        clock = clocks[event.host]
        if event.arrives:
            for host, count in sent[event.seq].items():
                clock[host] = max(clock.get(host, 0), count)
        clock[event.host] = clock.get(event.host, 0) + 1
        if not event.arrives:
            sent[event.seq] = dict(clock)
        out.append(Stamp(event.seq, event.arrives, event.host, dict(clock), event.text))
    return out


def _events(trace: pd.DataFrame) -> list[_Event]:
    """Return both ends of each arrow, the beginning of each lost one, and every moment.

    Numbered again by time, so that of two events at one instant the one recorded first comes first:
    a route arrives in Redis at the same instant at which its publication leaves.
    """
    rows = normal(trace)
    rows["seq"] = range(len(rows))
    travelling = {row.seq: row.lost for row in arrows(rows).itertuples()}
    out: list[_Event] = []
    for row in rows.itertuples():
        if not row.lane or row.kind in NOT_EVENTS:
            continue
        seq, host = int(row.seq), _host(row.lane)
        if seq not in travelling:
            out.append(_Event(row.t, seq, False, host, _text(row)))
            continue
        out.append(_Event(row.t, seq, False, host, _text(row, f"to {row.peer}")))
        if not travelling[seq]:
            arrived = max(row.t, row.t_recv)
            out.append(_Event(arrived, seq, True, _host(row.peer), _text(row, f"from {row.lane}")))
    return out


def _host(lane: str) -> str:
    """Return a lane as one word."""
    return "_".join(lane.split())


def _text(row: Any, way: str = "") -> str:
    about = [part for part in (row.user, row.reason) if part and part not in (row.lane, row.peer)]
    words = f"{row.kind} {way}" + (f" ({', '.join(about)})" if about else "")
    return " ".join(words.split())
