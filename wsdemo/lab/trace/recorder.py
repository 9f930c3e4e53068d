"""Tracing: what happened, in which order, and who saw it?

Gateways and clients of one process report events on one monotonic clock. The recorder keeps
them, and turns them into a trace: a table with one row for each arrow between two lanes and for
each moment on one lane (columns: `wsdemo.lab.trace.frames.COLUMNS`).

The time inside Redis is not measured. A gateway knows when it sent a command and when the reply
came, so the moment on the Redis lane is put half-way between these two; the other times are
measured.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from wsdemo.events import Event, Kind
from wsdemo.lab.trace.frames import REDIS, normal

if TYPE_CHECKING:
    import pandas as pd

LIMIT: Final = 1_000_000
"""So many events are kept; the oldest are removed first, so that a long run stays small."""
SLACK: Final = 10_000
"""So many more may be kept for a while: to remove many at once costs little for each."""

_TO_REDIS: Final = frozenset(
    {Kind.PRESENCE_SET, Kind.PRESENCE_REFRESH, Kind.PRESENCE_REJECT, Kind.PRESENCE_DEL}
)
_BETWEEN_LANES: Final = frozenset(
    {Kind.SEND, Kind.MESSAGE, Kind.ROUTE, Kind.RECEIVE, Kind.DELIVER, Kind.ARRIVE}
)


class NewEvents(NamedTuple):
    """What was recorded after a mark."""

    events: list[Event]
    mark: int
    """To be given to the next `since`."""
    lost: int
    """So many events after the mark were removed before they could be read."""


class Recorder:
    """Keeps events; `recorder.emit` is what gateways and clients are given.

    Args:
        clock: monotonic seconds.
        limit: at least so many of the newest events are kept.
        slack: at most so many more.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        limit: int = LIMIT,
        slack: int = SLACK,
    ) -> None:
        self._clock = clock
        self._limit, self._slack = limit, slack
        self._events: list[Event] = []
        self._removed = 0
        """How many events were removed, all of them older than those in `_events`."""
        self._trimming = threading.Lock()
        """Held while `_removed` and the beginning of `_events` have to fit together. Whoever
        only appends does not need it."""
        self._own_rows: deque[dict[str, Any]] = deque(maxlen=LIMIT)
        """Rows of the trace with columns that no event has."""
        self.started_at = clock()

    def emit(self, event: Event) -> None:
        """Record an event. Any thread may call it; it never waits for another one."""
        self._events.append(event)
        if len(self._events) > self._limit + self._slack:
            self._trim()

    def _trim(self) -> None:
        # Who holds the lock reads or trims, for a moment; the next event is early enough.
        if self._trimming.acquire(blocking=False):
            try:
                too_many = max(0, len(self._events) - self._limit)
                del self._events[:too_many]
                self._removed += too_many
            finally:
                self._trimming.release()

    def since(self, mark: int = 0, at_most: int | None = None) -> NewEvents:
        """Return what was recorded after a mark. It costs as much as there is new, however long
        the record is.

        Args:
            mark: that of an earlier answer; 0 for the beginning.
            at_most: return no more than so many, the oldest of them.
        """
        with self._trimming:
            start = max(mark, self._removed)
            first = start - self._removed
            # One slice: other threads append meanwhile.
            events = self._events[first : None if at_most is None else first + at_most]
        return NewEvents(events, start + len(events), start - mark)

    def note(self, kind: Kind, lane: str, **fields: Any) -> None:
        """Record something that the laboratory itself did."""
        self.emit(Event(kind, self._clock(), lane, **fields))

    def sample(self, user: str, gateway: str, conn_id: str, left_ms: float) -> None:
        """Record the entry of a user; `left_ms` is what is left of its lease, 0 without an
        entry."""
        self._own_rows.append(
            {
                "t": self._clock(),
                "lane": REDIS,
                "kind": "pttl",
                "user": user,
                "gateway": gateway,
                "conn_id": conn_id,
                "ts_current": left_ms,
            }
        )

    def set_clock(self, gateway: str, error_s: float) -> None:
        """Record that a gateway's wall clock is wrong by so many production seconds from now on."""
        self._own_rows.append(
            {
                "t": self._clock(),
                "lane": gateway,
                "kind": Kind.FAULT.value,
                "gateway": gateway,
                "reason": f"clock {error_s:+g} s",
                "clock_error_s": error_s,
            }
        )

    @property
    def events(self) -> list[Event]:
        """Everything recorded so far, as it was reported."""
        return self._events[:]

    def trace(self, until: float = math.inf) -> pd.DataFrame:
        """Return what happened so far as a table; times in seconds since the recorder began.

        Args:
            until: leave out what happened later than this (on the recorder's clock).
        """

        import pandas as pd

        own_rows = [dict(row) for row in list(self._own_rows)]
        rows = [row for row in _rows(self.events) + own_rows if row["t"] <= until]
        rows.sort(key=lambda row: row["t"])
        for seq, row in enumerate(rows, 1):
            row["seq"] = seq
            row["t"] -= self.started_at
            row["t_recv"] = row.get("t_recv", math.nan) - self.started_at
        return normal(pd.DataFrame(rows))


def _rows(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Turn events into arrows and moments."""
    messages: dict[tuple[str, str], list[Event]] = defaultdict(list)
    rows: list[dict[str, Any]] = []
    accepted: dict[str, Event] = {}
    unnamed = itertools.count()
    for event in _of_devices(list(events)):
        if event.kind in _BETWEEN_LANES:
            # A message without an id cannot be followed from lane to lane.
            key = event.msg_id or f"?{next(unnamed)}"
            messages[key, ""].append(event)
        elif event.kind in _TO_REDIS:
            rows.append(_row(event, peer=REDIS, t_recv=event.t))
            if event.kind is Kind.PRESENCE_SET:
                accepted[event.conn_id] = event
        else:
            rows.append(_row(event))
            if event.kind is Kind.REGISTERED and event.conn_id in accepted:
                told = accepted[event.conn_id]
                rows.append(_row(told, "welcome", peer=event.lane, t_recv=event.t))
    for (_, _), hops in messages.items():
        rows += _follow(hops)
    return rows


def _of_devices(events: list[Event]) -> list[Event]:
    """Return the events with the label of a device, such as `alice/phone`, as the user of all that
    concerns its connection: in a trace, each device is a user of its own.
    """
    labels = {
        event.conn_id: event.lane
        for event in events
        if event.kind is Kind.REGISTERED and "/" in event.lane
    }
    if not labels:
        return events
    return [
        dataclasses.replace(event, user=labels[event.conn_id])
        if event.conn_id in labels and event.kind is not Kind.ROUTE
        else event
        for event in events
    ]


def _follow(hops: list[Event]) -> list[dict[str, Any]]:
    """Return the arrows of one message, from what was seen of it at each lane."""
    seen: dict[Kind, Event] = {event.kind: event for event in hops}
    rows: list[dict[str, Any]] = []
    sent, taken = seen.get(Kind.SEND), seen.get(Kind.MESSAGE)
    if sent is not None:
        if taken is not None:
            rows.append(_row(sent, "message", peer=taken.lane, t_recv=taken.t))
        else:
            rows.append(_row(sent, "message", peer=sent.gateway, ok=False, reason="lost"))
    route = seen.get(Kind.ROUTE)
    receives = {event.lane: event for event in hops if event.kind is Kind.RECEIVE}
    if route is not None:
        ends = min((event.t for event in receives.values()), default=route.t)
        middle = (route.t_start + min(ends, max(route.t, route.t_start))) / 2
        # The script ran even when nobody was found: the arrow arrives, its answer is in `reason`.
        rows.append(_row(route, peer=REDIS, t=route.t_start, t_recv=middle))
        for lane, received in receives.items():
            rows.append(
                _row(received, "publish", lane=REDIS, peer=lane, t=middle, t_recv=received.t)
            )
        if route.ok and not receives:
            lost = {"ok": False, "reason": "lost"}
            rows.append(_row(route, "publish", lane=REDIS, peer=route.peer, t=middle, **lost))
    return rows + _deliveries(hops)


def _deliveries(hops: list[Event]) -> list[dict[str, Any]]:
    """Return the last arrows of one message: to its recipient, or to each of her devices."""
    delivered = {event.lane: event for event in hops if event.kind is Kind.DELIVER}
    arrived = {event.lane: event for event in hops if event.kind is Kind.ARRIVE}
    if not delivered:
        return []
    rows, last = [], list(delivered)[-1]
    lost = dict(delivered)
    for lane, arrival in arrived.items():
        at = arrival.gateway if arrival.gateway in delivered else last
        rows.append(_row(delivered[at], peer=lane, t_recv=arrival.t))
        lost.pop(at, None)
    return rows + [_row(one, peer=one.user, ok=False, reason="lost") for one in lost.values()]


def _row(event: Event, kind: str = "", **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "t": event.t,
        "lane": event.lane,
        "kind": kind or event.kind.value,
        "msg_id": event.msg_id,
        "user": event.user,
        "gateway": event.gateway,
        # The peer of a moment is not a lane that anything travels to.
        "peer": "",
        "ok": event.ok,
        "reason": event.reason,
        "conn_id": event.conn_id,
        "token": event.token,
    }
    return {**row, **changes}
