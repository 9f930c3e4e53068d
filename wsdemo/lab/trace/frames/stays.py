"""Consistency: where was each user's socket, and where did Redis say that it was?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from wsdemo.lab.trace.frames.columns import REDIS, seen_at, span

if TYPE_CHECKING:
    import pandas as pd


class Stay(NamedTuple):
    """A user was at a gateway (truth), or listed there (belief), from `start` to `end`."""

    user: str
    start: float
    end: float
    gateway: str
    """Empty: at none."""
    conn_id: str = ""


def truth(trace: pd.DataFrame, until: float | None = None) -> list[Stay]:
    """Return where each user's socket really was: what the clients saw, and crashes.

    A stay begins with `registered` on the user's lane. It ends with `ws_close` of that connection
    at either of its ends (a client that closes does not report it), with the next `registered`, or
    with the `crash` of the gateway: a socket does not outlive its process. Between stays the user
    is nowhere, which is no row.
    """
    end = span(trace)[1] if until is None else until
    open_: dict[str, Stay] = {}
    out: list[Stay] = []

    def close(user: str, t: float) -> None:
        stay = open_.pop(user, None)
        if stay is not None and t > stay.start:
            out.append(stay._replace(end=t))

    for row in trace.itertuples():
        if row.kind == "crash":
            for user in [u for u, stay in open_.items() if stay.gateway == row.lane]:
                close(user, row.t)
        elif row.kind == "registered" and row.lane == row.user and row.ok:
            t = seen_at(row)
            close(row.user, t)
            open_[row.user] = Stay(row.user, t, end, row.gateway or row.peer, row.conn_id)
        elif row.kind == "ws_close":
            stay = open_.get(row.user)
            unnamed = row.conn_id == "" and row.lane == row.user
            if stay is not None and (unnamed or row.conn_id == stay.conn_id):
                close(row.user, row.t)
    for user in list(open_):
        close(user, end)
    return sorted(out, key=lambda stay: (stay.user, stay.start))


def departures(trace: pd.DataFrame) -> dict[str, float]:
    """Return when each user left for good: by a close, or by shutting the lid. A user who was
    dropped, or is moving to another gateway, is not among them.
    """
    dropped = set(trace[trace["kind"] == "cleanup"]["conn_id"])
    closed = trace[trace["kind"] == "ws_close"]
    reasons = {
        str(row.conn_id): str(row.reason)
        for row in closed[closed["lane"] == closed["user"]].itertuples()
    }
    goodbyes = set(closed["conn_id"]) - dropped - reasons.keys()
    last = {stay.user: stay for stay in truth(trace)}
    return {
        user: stay.end
        for user, stay in last.items()
        if stay.conn_id in goodbyes or reasons.get(stay.conn_id) == "vanished"
    }


def tables(trace: pd.DataFrame, until: float | None = None) -> list[Stay]:
    """Return where a gateway's table listed each user. Two gateways may list her at one time.

    A stay begins when the gateway has registered a connection. It ends when that gateway cleans
    the connection up, or sees it end, or crashes.
    """
    end = span(trace)[1] if until is None else until
    open_: dict[tuple[str, str], Stay] = {}
    out: list[Stay] = []
    for row in trace.itertuples():
        key = (row.lane, row.conn_id)
        if row.kind == "welcome" and row.ok and row.lane == row.gateway:
            open_.setdefault(key, Stay(row.user, row.t, end, row.lane, row.conn_id))
        elif row.kind in ("cleanup", "ws_close") and key in open_:
            out.append(open_.pop(key)._replace(end=row.t))
        elif row.kind == "crash":
            ended = [key for key in open_ if key[0] == row.lane]
            out += [open_.pop(key)._replace(end=row.t) for key in ended]
    return sorted([*out, *open_.values()], key=lambda stay: (stay.user, stay.start))


def belief(
    trace: pd.DataFrame,
    *,
    scale: float = 1.0,
    ttl_s: float | None = None,
    until: float | None = None,
) -> list[Stay]:
    """Return where Redis said each user was.

    A stay begins with an accepted `presence_set` (or a refresh that reclaimed the entry, or a
    sampled lease) and ends with an accepted `presence_del`, with the next gateway's set, when
    Redis crashes, or when the lease runs out. Any other refresh renews what is there: without a
    token it has compared nothing, and does not know whose entry it is; if there is none, it makes
    half an entry, which names no gateway.

    Commands are recorded when they are answered, and two concurrent ones may be answered in the
    other order. So a release of an older connection that is answered before the newer one is told
    was executed before it; and one with a token never removes another's entry.

    The lease is known from sampled `pttl` rows
    (production milliseconds in `ts_current`) and, when `ttl_s` (production seconds) is given,
    from each renewal.
    """
    end = span(trace)[1] if until is None else until
    book, told = _Book(scale, end), _told_at(trace)
    for row in trace.itertuples():
        t = seen_at(row)
        book.expire(row.user, t)
        match row.kind:
            case "presence_set" | "presence_refresh" if row.ok and row.user:
                if row.kind == "presence_refresh" and not book.knows(row):
                    continue  # It renewed an entry that names no gateway.
                lease = math.inf if ttl_s is None else t + ttl_s / scale
                if row.kind == "presence_set" or row.reason == "reclaimed" or row.token:
                    book.say(row.user, t, row.gateway or row.lane, row.conn_id, lease)
                else:
                    book.renew(row.user, lease)
            case "presence_del" if row.ok:
                owner = book.owner(row.user)
                others = owner not in ("", row.conn_id) and row.conn_id != ""
                if not others or not (row.token or t < told.get(owner, -math.inf)):
                    book.forget(row.user, t)
            case "pttl":
                book.sample(row, t)
            case "crash" if row.lane == REDIS:
                book.forget_all(t)
    return book.closed()


class _Book:
    """The state of the entries, while a trace is read from its beginning to its end."""

    def __init__(self, scale: float, end: float) -> None:
        self._scale, self._end = scale, end
        self._now: dict[str, tuple[Stay, float]] = {}
        self._done: list[Stay] = []

    def knows(self, refresh: Any) -> bool:
        """Say whether a refresh found, or made, an entry that names a gateway."""
        return refresh.user in self._now or refresh.reason != "ok"

    def say(self, user: str, t: float, gateway: str, conn_id: str, lease: float) -> None:
        stay = self._now[user][0] if user in self._now else None
        if stay is None or stay.gateway != gateway:
            self.forget(user, t)
            stay = Stay(user, t, self._end, gateway, conn_id)
        self._now[user] = (stay._replace(conn_id=conn_id or stay.conn_id), lease)

    def owner(self, user: str) -> str:
        return self._now[user][0].conn_id if user in self._now else ""

    def renew(self, user: str, lease: float) -> None:
        if user in self._now:
            self._now[user] = (self._now[user][0], lease)

    def sample(self, row: Any, t: float) -> None:
        left_ms = row.ts_current
        if math.isnan(left_ms):
            return
        if left_ms > 0 and row.gateway:
            self.say(row.user, t, row.gateway, row.conn_id, t + left_ms / 1000 / self._scale)
        else:
            self.forget(row.user, t)

    def expire(self, user: str, t: float) -> None:
        known = self._now.get(user)
        if known is not None and known[1] <= t:
            self.forget(user, known[1])

    def forget(self, user: str, t: float) -> None:
        known = self._now.pop(user, None)
        if known is not None and t > known[0].start:
            self._done.append(known[0]._replace(end=t))

    def forget_all(self, t: float) -> None:
        for user in list(self._now):
            self.expire(user, t)
            self.forget(user, t)

    def closed(self) -> list[Stay]:
        for user, (_, lease) in list(self._now.items()):
            self.forget(user, min(lease, self._end))
        return sorted(self._done, key=lambda stay: (stay.user, stay.start))


def _told_at(trace: pd.DataFrame) -> dict[str, float]:
    """Return, for each connection, when its user was told that she is registered."""
    told = trace[(trace["kind"] == "registered") & (trace["conn_id"] != "")]
    return {str(row.conn_id): seen_at(row) for row in told.itertuples()}


def named_at(trace: pd.DataFrame) -> dict[str, float]:
    """Return, for each connection, when Redis first named it."""
    writes = (trace["kind"] == "presence_set") & trace["ok"]
    seen = trace[(writes | (trace["kind"] == "pttl")) & (trace["conn_id"] != "")]
    times = seen["t_recv"].where(seen["t_recv"].notna(), seen["t"])
    return {str(conn): float(t) for conn, t in times.groupby(seen["conn_id"]).min().items()}


def where(stays: Iterable[Stay], t: float) -> str:
    """Return the gateway at time t according to one user's stays; empty for none."""
    return next((stay.gateway for stay in stays if stay.start <= t < stay.end), "")
