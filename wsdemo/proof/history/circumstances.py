"""Circumstances: which fault, or which end of a session, can explain what happened?

A reason must be near in time. If a fault says where it was, it must be near in place as well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from wsdemo.proof.history.bounds import MACHINE, Near
from wsdemo.proof.history.records import (
    Closed,
    Fault,
    History,
    Late,
    Left,
    Phase,
    Registered,
    Sent,
)


class FaultSpan(NamedTuple):
    """A fault, from its begin to its end."""

    begin: float
    end: float
    name: str
    where: frozenset[str] | None


class Circumstances:
    """The faults, the sessions and the busy times of a history."""

    def __init__(self, history: History) -> None:
        self.ends_at = history[-1].t if history else 0.0
        self.faults = list(fault_spans(history))
        self.sessions: dict[str, Registered] = {}
        """By connection: when its client received `registered`."""
        self.ends: dict[str, list[Left | Closed]] = defaultdict(list)
        """By connection: what ended it, in order."""
        self.of_user: dict[str, list[str]] = defaultdict(list)
        """The connections of each user, in order."""
        self._asked: dict[str, str] = {}
        """By request of a backend: the gateway that was asked."""
        self._lates: list[tuple[float, float]] = []
        for record in history:
            match record:
                case Registered(phase=Phase.OK, user=user, conn=conn):
                    self.sessions[conn] = record
                    self.of_user[user].append(conn)
                case Left(conn=conn) | Closed(conn=conn):
                    self.ends[conn].append(record)
                case Sent(conn=conn, gateway=gateway) if gateway:
                    self._asked[conn] = gateway
                case Late(t=t, for_s=for_s):
                    self._lates.append((t - for_s, t))
                case _:
                    pass

    def due(self, t: float, within_s: float) -> float:
        """Return the deadline of what began at `t`. Time in which the machine was too busy is
        added to it.
        """
        deadline = t + within_s
        for begin, end in self._lates:
            if begin < deadline and end > t:
                deadline += end - max(begin, t)
        return deadline

    def at(self, *conns: str) -> set[str]:
        """Return the gateways of these sessions, or requests of a backend."""
        found = {self.sessions[conn].gateway for conn in conns if conn in self.sessions}
        return found | {self._asked[conn] for conn in conns if conn in self._asked}

    def fault(
        self,
        since: float,
        until: float,
        near: Near,
        places: set[str],
        names: frozenset[str] | None = None,
        *,
        machine: bool = True,
    ) -> bool:
        """Say whether a fault at one of these places was near.

        A busy machine counts as a fault too.

        Args:
            names: only these faults count; None: all of them.
            machine: whether a busy machine counts. With `names`, `MACHINE` must be among them too.
        """
        busy = machine and (names is None or MACHINE in names)
        return (busy and self.late(since, until)) or any(
            span.begin - near.before_s <= until
            and since <= span.end + near.after_s
            and (span.where is None or not places.isdisjoint(span.where))
            and (names is None or span.name in names)
            for span in self.faults
        )

    def late(self, since: float, until: float) -> bool:
        """Say whether the machine was too busy in this time."""
        return any(begin <= until and since <= end for begin, end in self._lates)

    def over(self, conn: str, by: float) -> bool:
        """Say whether a session had ended by then."""
        return any(record.t <= by for record in self.ends.get(conn, ()))


def fault_spans(history: History) -> Iterator[FaultSpan]:
    """Iterate over the faults of a history. One without an end in it lasts for ever."""
    open_since: dict[tuple[str, tuple[str, ...] | None], list[Fault]] = defaultdict(list)
    for record in history:
        if isinstance(record, Fault):
            same = open_since[record.name, record.where]
            if record.begins:
                same.append(record)
            elif same:
                yield _span(same.pop(0), record.t)
    for begins in open_since.values():
        for begin in begins:
            yield _span(begin, math.inf)


def _span(begin: Fault, end: float) -> FaultSpan:
    where = None if begin.where is None else frozenset(begin.where)
    return FaultSpan(begin.t, end, begin.name, where)


def session_spans(history: History) -> dict[str, list[tuple[float, float]]]:
    """Return the times (from, to) of each user's sessions, as the clients saw them."""
    began: dict[tuple[str, str], float] = {}
    spans: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for record in history:
        match record:
            case Registered(phase=Phase.OK, user=user, conn=conn, t=t):
                began[user, conn] = t
            case Closed(user=user, conn=conn, t=t) if (user, conn) in began:
                spans[user].append((began.pop((user, conn)), t))
            case _:
                pass
    for (user, _), t in began.items():
        spans[user].append((t, float("inf")))
    return spans
