"""Close codes: did each session that ended do so for a reason?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from wsdemo.proof.history.backends import EndedByBackend
from wsdemo.proof.history.bounds import NEAR, Bounds, Causes, Near
from wsdemo.proof.history.circumstances import Circumstances
from wsdemo.proof.history.records import (
    REDIS,
    USERS,
    Closed,
    History,
    Left,
    ObservationGap,
    Owner,
    Phase,
    Registered,
)
from wsdemo.proof.history.violation import Violation

OWN_DOING: Final = frozenset({0, 1000, 1005, 1006})
"""The close codes that a client may see when it has ended the session itself."""
SUPERSEDED: Final = 4509
STALE: Final = 4010


def closes(history: History, bounds: Bounds, causes: Causes) -> list[Violation]:
    """Check that each session that ended did so for a reason. There are four:

    The user ended it, so there is no close frame of the gateway, or an ordinary one. A newer
    session of the same user took its place (4509; 4010 for an attempt that came late). A backend
    wanted it to end, with this code. Or a fault near in time and place explains this very code
    (`causes`).
    """
    c = Circumstances(history)
    return [
        Violation(
            "close",
            end.t,
            f"{end.user} was closed with {end.code} ({end.conn}), for no reason",
            (end,),
        )
        for end in unexplained_ends(history, c, bounds, causes)
    ]


def unexplained_ends(
    history: History, c: Circumstances, bounds: Bounds, causes: Causes
) -> Iterator[Closed]:
    """Iterate over the ends of sessions that have no reason."""
    newer, wanted = NewerSessions(history, bounds), EndedByBackend(history, bounds)
    for record in history:
        if not isinstance(record, Closed) or record.conn not in c.sessions:
            continue
        code, conn, ends = record.code, record.conn, c.ends[record.conn]
        if code in OWN_DOING and any(isinstance(end, Left) for end in ends):
            continue
        if code in (SUPERSEDED, STALE) and newer.than(c.sessions[conn], record.t):
            continue
        if wanted.explains(record.user, conn, code, record.t):
            continue
        near = Near(bounds.near.before_s, bounds.aftermath_s)
        places = c.at(conn) | {record.user, REDIS, USERS}
        if code in causes and c.fault(record.t, record.t, near, places, causes[code]):
            continue
        yield record


class NewerSessions:
    """Which session of a user came after which other one."""

    def __init__(self, history: History, bounds: Bounds) -> None:
        self._register_s = bounds.register_s
        self._first: dict[str, Owner] = {}
        """When each session was first seen as the owner."""
        self._seen: dict[str, list[Owner | Registered]] = defaultdict(list)
        """By user: the sessions that were seen in Redis, or that received `registered`."""
        self._gaps: list[tuple[float, float]] = []
        for record in history:
            match record:
                case Owner(user=user, conn=conn) if conn:
                    self._first.setdefault(conn, record)
                    self._seen[user].append(record)
                case Registered(phase=Phase.OK, user=user):
                    self._seen[user].append(record)
                case ObservationGap(t=t, for_s=for_s):
                    self._gaps.append((t - for_s, t))
                case _:
                    pass

    def than(self, session: Registered, until: float) -> bool:
        """Say whether another session of this user came after this one, by that time. While nobody
        observed Redis, one may have come.
        """
        own = self._first.get(session.conn)
        since = session.t if own is None else min(own.t, session.t)
        return any(
            other.conn != session.conn
            and since < other.t <= until + self._late_by(other)
            and not self._is_older(other.conn, own)
            for other in self._seen[session.user]
        ) or any(begin <= until and since <= end for begin, end in self._gaps)

    def _late_by(self, other: Owner | Registered) -> float:
        """Return how much later than its effect a record may come (s)."""
        return NEAR.before_s if isinstance(other, Owner) else self._register_s

    def _is_older(self, conn: str, own: Owner | None) -> bool:
        """Say whether tokens show that a session is older and has only been refreshed."""
        other = self._first.get(conn)
        if other is None or own is None or other.token is None or own.token is None:
            return False
        return other.token < own.token
