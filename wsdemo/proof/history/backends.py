"""Backends: was what the server API answered what Redis had said, and did it come true? (A1)"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from wsdemo.proof.history.bounds import Bounds, Near
from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.devices import user_of_device
from wsdemo.proof.history.records import (
    REDIS,
    USERS,
    Disconnected,
    History,
    ObservationGap,
    Owner,
    Phase,
    PresenceTold,
)
from wsdemo.proof.history.violation import Violation

CLAIM = "A1"
GAP_S = 3.0
"""A change of an owner that nobody observed may be recorded so much later."""


@dataclass(slots=True)
class _Lease:
    """The time in which Redis named a session as the owner, as it was recorded."""

    user: str
    conn: str
    gateway: str
    begin: float
    end: float = math.inf


@dataclass(slots=True)
class _Leases:
    """All of them, and when nobody observed Redis."""

    of_user: dict[str, list[_Lease]] = field(default_factory=lambda: defaultdict(list))
    gaps: list[tuple[float, float]] = field(default_factory=list)

    def unobserved(self, since: float, until: float) -> bool:
        return any(a - GAP_S <= until and since <= b + GAP_S for a, b in self.gaps)


def backends(history: History, bounds: Bounds, lag_s: float = 0.0) -> list[Violation]:
    """Check what a backend was answered about sessions; a history without a backend is right.

    A session that was named had owned its user in Redis between the question and the answer. One
    that owned it all this time, far from any fault, was named. A session that was called `kicked`
    ends soon, unless a fault is near. (Messages of a backend are checked as those of users.)

    Args:
        lag_s: what Redis does is recorded so much later than what a backend is told.
    """
    leases, c = _leases(history), Circumstances(history)
    violations: list[Violation] = []
    for record in history:
        if isinstance(record, PresenceTold):
            violations += _presence(record, leases, c, bounds, lag_s)
        elif isinstance(record, Disconnected) and record.phase is Phase.OK:
            violations += _kicked(record, leases, c, bounds)
    return violations


def _leases(history: History) -> _Leases:
    leases = _Leases()
    current: dict[str, _Lease] = {}
    for record in history:
        if isinstance(record, ObservationGap):
            leases.gaps.append((record.t - record.for_s, record.t))
        if not isinstance(record, Owner):
            continue
        before = current.get(record.user)
        if before is not None and before.conn == record.conn:
            continue
        if before is not None:
            before.end = record.t
            del current[record.user]
        if record.conn:
            now = _Lease(record.user, record.conn, record.gateway, record.t)
            current[record.user] = now
            leases.of_user[user_of_device(record.user)].append(now)
    return leases


def _presence(
    told: PresenceTold, leases: _Leases, c: Circumstances, bounds: Bounds, lag_s: float
) -> Iterator[Violation]:
    since, until = told.since - lag_s, told.t + lag_s
    if leases.unobserved(since, until) or c.late(since, until):
        return
    mine = leases.of_user[told.user]
    owned = {one.conn for one in mine if one.begin <= until and since <= one.end}
    for conn in told.conns:
        if conn not in owned:
            text = f"{told.user} was said to be online as {conn}, which Redis did not say"
            yield Violation(CLAIM, told.t, text, (told,))
    near = Near(bounds.near.before_s, bounds.aftermath_s)
    for one in mine:
        stayed = one.begin <= since and until <= one.end and one.conn in c.sessions
        if not stayed or one.conn in told.conns or c.over(one.conn, until):
            continue
        places = {one.gateway, one.user, told.user, REDIS, USERS}
        if not c.fault(since, until, near, places):
            text = f"{one.user} was online as {one.conn}, and the answer did not say so"
            yield Violation(CLAIM, told.t, text, (told,))


def _kicked(
    told: Disconnected, leases: _Leases, c: Circumstances, bounds: Bounds
) -> Iterator[Violation]:
    near = Near(bounds.near.before_s, bounds.aftermath_s)
    for conn in told.conns:
        session = c.sessions.get(conn)
        if session is None:
            continue  # Its client has never been told that it is registered.
        if user_of_device(session.user) != told.user:
            text = f"{conn} of {session.user} was ended as a session of {told.user}"
            yield Violation(CLAIM, told.t, text, (told, session))
            continue
        deadline = c.due(told.t, bounds.arrive_s)
        if deadline > c.ends_at or c.over(conn, deadline):
            continue
        places = {session.gateway, session.user, told.user, REDIS, USERS}
        if not c.fault(told.t, deadline, near, places):
            text = f"{conn} of {session.user} was called kicked, and goes on"
            yield Violation(CLAIM, told.t, text, (told, session))


class EndedByBackend:
    """Which sessions has a backend ended?"""

    def __init__(self, history: History, bounds: Bounds) -> None:
        self._within_s = bounds.answer_s + bounds.aftermath_s
        self._told: set[tuple[str, int]] = set()
        self._unknown: list[Disconnected] = []
        for record in history:
            if isinstance(record, Disconnected):
                self._told |= {(conn, record.code) for conn in record.conns}
                if record.phase is Phase.UNKNOWN:
                    self._unknown.append(record)

    def explains(self, user: str, conn: str, code: int, t: float) -> bool:
        """Say whether a session was closed with this code because a backend wanted it."""
        return (conn, code) in self._told or any(
            one.user == user_of_device(user)
            and one.code == code
            and abs(t - one.t) <= self._within_s
            for one in self._unknown
        )
