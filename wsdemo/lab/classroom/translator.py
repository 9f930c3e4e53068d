"""Translation of events: what of all that is recorded does a board show?

Pure: events of the recorder in, events of the observer stream out (docs/observer.md). A board gets
neither a message's content, which no event has, nor what cannot be seen, such as heartbeats.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any, Final

from wsdemo.events import Event, Kind
from wsdemo.lab.trace.frames.columns import REDIS

BoardEvent = dict[str, Any]
"""`t` in seconds since the record began, `k` its kind, and the fields of this kind."""

CROWD: Final = re.compile(r"user\d{3,}")
"""Names of simulated users, as `connect_many` gives them."""
MESSAGES: Final = frozenset({"msg", "bounce"})
"""Kinds that a board draws as something that flies: of many at once, it is shown some."""
CLOSED_KEPT: Final = 1_024
"""Of so many closed connections the user is known for a while: an answer may come after the end."""


class Translator:
    """Turns recorded events into what a board shows.

    Args:
        started_at: when the record began, on the clock of its events.
        ttl_s: the lease that a register or a refresh asks for.
    """

    def __init__(self, started_at: float, ttl_s: float) -> None:
        self._started_at, self._ttl_s = started_at, ttl_s
        self._open: dict[str, tuple[str, str]] = {}
        """Connection -> its user and its gateway."""
        self._closed: OrderedDict[str, str] = OrderedDict()
        """Connection -> its user, of those that ended lately."""
        self._receiving: set[str] = set()
        """Gateways whose last event of a message is that it came from Redis."""
        self.messages = 0
        """How many messages there were, shown or not."""
        self.skipped = 0
        """How many were not shown, since somebody last set this to 0."""

    def seconds(self, t: float) -> float:
        """Return a time of the recorder's clock in seconds since the record began."""
        return round(t - self._started_at, 4)

    def translate(self, events: Iterable[Event], at_most: int | None = None) -> list[BoardEvent]:
        """Return the events of a board, in order.

        Args:
            at_most: show no more than so many messages. Those of people are preferred to those
                between simulated users.
        """
        shown: list[BoardEvent] = []
        for event in events:
            make = _SHOWN.get(event.kind)
            if make is not None:
                for row in make(self, event):
                    row["t"] = self.seconds(event.t)
                    shown.append(row)
        return shown if at_most is None else self._thinned(shown, at_most)

    def _thinned(self, shown: list[BoardEvent], at_most: int) -> list[BoardEvent]:
        messages = [i for i, row in enumerate(shown) if row["k"] in MESSAGES]
        if len(messages) <= at_most:
            return shown
        messages.sort(key=lambda i: _between_simulated(shown[i]))  # Stable: the first of each.
        left_out = set(messages[at_most:])
        self.skipped += len(left_out)
        return [row for i, row in enumerate(shown) if i not in left_out]

    # --- connections and their ends ----------------------------------------------------------

    def _registered(self, event: Event) -> Iterable[BoardEvent]:
        self._open[event.conn_id] = (event.user, event.gateway)
        row = {
            "k": "set",
            "u": event.user,
            "g": event.gateway,
            "c": event.conn_id,
            "x": round(event.t - self._started_at + self._ttl_s, 3),
        }
        yield {**row, "p": event.peer} if event.peer else row

    def _ended(self, event: Event) -> Iterable[BoardEvent]:
        # Clients report the end of a connection too; the gateway's word counts here.
        if event.lane == event.gateway and event.conn_id:
            self._forget(event.conn_id)
            yield _of_session("close", event)

    def _forget(self, conn_id: str) -> None:
        known = self._open.pop(conn_id, None)
        if known is not None:
            self._closed[conn_id] = known[0]
            if len(self._closed) > CLOSED_KEPT:
                self._closed.popitem(last=False)

    def _gateway_gone(self, gateway: str) -> None:
        for conn_id in [c for c, (_, at) in self._open.items() if at == gateway]:
            self._forget(conn_id)

    def _user_of(self, conn_id: str) -> str:
        known = self._open.get(conn_id)
        return known[0] if known is not None else self._closed.get(conn_id, "")

    # --- presence ----------------------------------------------------------------------------

    def _renewed(self, event: Event) -> Iterable[BoardEvent]:
        # A lease that was renewed is seen when Redis is asked for it.
        if event.reason == "reclaimed":
            yield _of_session("reclaim", event)

    def _rejected(self, event: Event) -> Iterable[BoardEvent]:
        # The reason is the product's word: "other owner" and "no entry" are two answers.
        yield {**_of_session("rej", event), "r": event.reason}

    def _released(self, event: Event) -> Iterable[BoardEvent]:
        yield _of_session("del", event)

    def _silent(self, event: Event) -> Iterable[BoardEvent]:
        yield _of_session("silent", event)

    def _kicked(self, event: Event) -> Iterable[BoardEvent]:
        yield {"k": "kick", "u": event.user, "g": event.lane}

    # --- messages ----------------------------------------------------------------------------

    def _received(self, event: Event) -> Iterable[BoardEvent]:
        # A gateway delivers or bounces what it receives in the same step, before anything else.
        self._receiving.add(event.lane)
        return ()

    def _delivered(self, event: Event) -> Iterable[BoardEvent]:
        if event.lane in self._receiving:
            self._receiving.discard(event.lane)  # Shown already, as the route that it took.
            return
        self.messages += 1
        way = {"g": event.lane, "h": event.lane, "s": "local"}
        yield {"k": "msg", "u": event.peer, "v": event.user, **way}

    def _routed(self, event: Event) -> Iterable[BoardEvent]:
        self.messages += 1
        sender = self._user_of(event.conn_id)
        row = {"k": "msg", "u": sender, "v": event.user, "g": event.lane, "s": event.reason}
        yield {**row, "h": event.peer} if event.peer else row

    def _bounced(self, event: Event) -> Iterable[BoardEvent]:
        self._receiving.discard(event.lane)
        yield {"k": "bounce", "u": event.user, "v": event.peer, "g": event.lane}

    # --- gateways and Redis ------------------------------------------------------------------

    def _stopped(self, event: Event) -> Iterable[BoardEvent]:
        self._gateway_gone(event.lane)
        yield {"k": "stopped", "g": event.lane}

    def _crashed(self, event: Event) -> Iterable[BoardEvent]:
        if event.lane != REDIS:
            self._gateway_gone(event.lane)
            yield {"k": "crash", "g": event.lane}
            return
        yield {"k": "redis_down"}
        if event.reason == "restarted":
            yield {"k": "redis_up"}

    def _fault(self, event: Event) -> Iterable[BoardEvent]:
        if event.lane == REDIS and event.reason in ("started", "restarted"):
            yield {"k": "redis_up"}
        else:
            yield {"k": "fault", "g": event.lane, "r": event.reason}


def _of_session(kind: str, event: Event) -> BoardEvent:
    return {"k": kind, "u": event.user, "g": event.gateway, "c": event.conn_id}


def _between_simulated(row: BoardEvent) -> bool:
    return bool(CROWD.fullmatch(row["u"]) and CROWD.fullmatch(row["v"]))


Make = Callable[[Translator, Event], Iterable[BoardEvent]]


def _gateway(kind: str) -> Make:
    return lambda _, event: ({"k": kind, "g": event.lane},)


_SHOWN: Final[dict[Kind, Make]] = {
    Kind.READY: _gateway("ready"),
    Kind.UNREADY: _gateway("unready"),
    Kind.DRAIN: _gateway("drain"),
    Kind.FREEZE: _gateway("freeze"),
    Kind.THAW: _gateway("thaw"),
    Kind.STALL: _gateway("stall"),
    Kind.STOPPED: Translator._stopped,
    Kind.CRASH: Translator._crashed,
    Kind.FAULT: Translator._fault,
    Kind.PRESENCE_SET: Translator._registered,
    Kind.PRESENCE_REFRESH: Translator._renewed,
    Kind.PRESENCE_REJECT: Translator._rejected,
    Kind.PRESENCE_DEL: Translator._released,
    Kind.WS_CLOSE: Translator._ended,
    Kind.RECEIVE: Translator._received,
    Kind.DELIVER: Translator._delivered,
    Kind.ROUTE: Translator._routed,
    Kind.BOUNCE: Translator._bounced,
    Kind.CLEANUP: Translator._silent,
    Kind.KICK: Translator._kicked,
}
