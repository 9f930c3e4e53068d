"""Lesson 03: who forgets a user who left without a word, and whose entry may a clean-up take?"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from wsdemo.gateway.registry import Registry
from wsdemo.lab.lessons.question import Judgement, NotJudged, Question

QUESTION: Final = Question(
    "alice closes the lid of her laptop: no goodbye, no FIN, only silence. She sent a heartbeat "
    "every 30 s, her entry in Redis has a TTL of 90 s, the gateway looks every 60 s for users who "
    "were silent for 90 s, and after 20 s without a byte it pings, for an answer within 20 s. "
    "What ends her stay first?",
    {
        "the TTL": "The entry lives for 90 s after her last heartbeat, and the ping asks sooner. "
        "In the Go demo, which does not ping, it is the TTL: Redis forgets her before the "
        "gateway does.",
        "the scan": "It comes every 60 s and wants 90 s of silence: that takes 90 to 150 s. It is "
        "the last net, for a user whose machine answers pings and who says nothing herself.",
        "the ping": "At most 20 s to the ping and 20 s without an answer: about 40 s after the "
        "last byte the gateway drops her, and its release takes the entry with it.",
        "the connection": "A connection without traffic looks like a broken one, and TCP by "
        "itself asks after two hours, if it is told to ask at all.",
        "both at once": "They have clocks of their own: Redis counts from her last heartbeat, the "
        "gateway's ping from her last byte.",
    },
)

SEQUENCES: Final = 200
LONGEST: Final = 30
"""Events in a sequence, at most; short sequences make short counter-examples."""
USERS: Final = ("alice", "bob", "carol")

Maps = tuple[dict[str, str], dict[str, str]]
Cleanup = Callable[[str, dict[str, str], dict[str, str]], object]


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """What the real registry is told of; the reader's maps hold its `conn_id`."""

    user: str
    conn_id: str


class Fault(IntEnum):
    """What can go wrong, the gravest first."""

    LOST_OTHER = 0
    LOST_NEWER = 1
    STILL_REACHABLE = 2
    STILL_LISTED = 3
    OLD_STILL_LISTED = 4
    RAISED = 5
    UNKNOWN = 6


HINTS: Final = {
    Fault.LOST_NEWER: "An old connection closed, and a user with a newer one could not be found "
    "any more. Whose entry was that?",
    Fault.LOST_OTHER: "The maps of somebody who had nothing to do with this connection changed.",
    Fault.STILL_REACHABLE: "Her only connection has closed, and user_to_conn still leads to it: "
    "her messages go into a dead socket.",
    Fault.STILL_LISTED: "A closed connection is still in conn_to_user. There are two maps.",
    Fault.OLD_STILL_LISTED: "An old connection closed while a newer one was open, and stayed in "
    "conn_to_user. It closes once; who will remove it after that?",
    Fault.RAISED: "It raised {problem}.",
    Fault.UNKNOWN: "It raised {problem} for a connection that is not in the maps. One may end "
    "before anybody registered on it, or be cleaned up twice: for its silence, then for its end.",
}


class Finding(NamedTuple):
    """A fault, and the shortest story that shows it."""

    fault: Fault
    events: int
    story: str
    problem: str = ""


def judge_cleanup(cleanup: Cleanup) -> Judgement:
    """Drive the reader's `cleanup(conn, user_to_conn, conn_to_user)` and the real registry alike.

    `conn` is the id of a connection that has ended. `user_to_conn` maps each user to the id of
    her newest connection; `conn_to_user` maps every connection that has registered, and has not
    been cleaned up yet, to its user. A user who registers on a new connection is led to that one
    at once, and her old connection stays in `conn_to_user` until its own end. `cleanup` changes
    the two dictionaries in place; what it returns is not looked at. It may be called twice for a
    connection, and for one on which nobody has registered.
    """
    if not callable(cleanup):
        raise NotJudged(f"cleanup must be a function, not {type(cleanup).__name__}.")
    return judge_seeded(cleanup, random.randrange(2**32))


def judge_seeded(cleanup: Cleanup, seed: int) -> Judgement:
    """Judge by the sequences of one seed: the gravest fault, in its shortest story."""
    rng = random.Random(seed)
    plays = [_Play(cleanup, rng).run(rng.randint(1, LONGEST)) for _ in range(SEQUENCES)]
    findings = [finding for finding in plays if finding is not None]
    if not findings:
        return Judgement(True, f"{SEQUENCES} sequences, as the gateway's own registry has them.")
    worst = min(findings)
    hint = HINTS[worst.fault].format(problem=worst.problem)
    return Judgement(False, f"{hint} What had happened: {worst.story}.")


class _Play:
    """One sequence of events, applied to the reader's maps and to the real registry."""

    def __init__(self, cleanup: Cleanup, rng: random.Random) -> None:
        self._cleanup = cleanup
        self._rng = rng
        self._registry: Registry[Connection] = Registry()
        self._user_to_conn: dict[str, str] = {}
        self._conn_to_user: dict[str, str] = {}
        self._made: list[Connection] = []
        self._registered: set[str] = set()
        self._closed: set[str] = set()
        self._story: list[tuple[str, str]] = []

    def run(self, events: int) -> Finding | None:
        """Return what went wrong first, if anything did."""
        for _ in range(events):
            connection = self._choose()
            if connection.conn_id in self._closed or self._rng.random() < 0.5:
                finding = self._close(connection)
                if finding is not None:
                    return finding
            else:
                self._register(connection)
        return None

    def _choose(self) -> Connection:
        if not self._made or self._rng.random() < 0.5:
            user = self._rng.choice(USERS)
            self._made.append(Connection(user, f"conn-{len(self._made) + 1}"))
            return self._made[-1]
        return self._rng.choice(self._made)

    def _register(self, connection: Connection) -> None:
        """As a gateway does it: the newest connection of a user is the one that counts."""
        self._story.append(
            (connection.user, f"{connection.user} registers on {connection.conn_id}")
        )
        self._registered.add(connection.conn_id)
        self._registry.bind(connection)
        self._user_to_conn[connection.user] = connection.conn_id
        self._conn_to_user[connection.conn_id] = connection.user

    def _close(self, connection: Connection) -> Finding | None:
        conn_id = connection.conn_id
        self._story.append((connection.user, f"{conn_id} closes"))
        again = conn_id in self._closed
        self._closed.add(conn_id)
        was_newest = self._registry.remove(connection)
        try:
            self._cleanup(conn_id, self._user_to_conn, self._conn_to_user)
        except NotImplementedError:
            raise
        except Exception as problem:
            known = conn_id in self._registered and not again
            fault = Fault.RAISED if known else Fault.UNKNOWN
            return self._finding(fault, connection, type(problem).__name__)
        difference = self._compare(connection, was_newest)
        return None if difference is None else self._finding(difference, connection)

    def _compare(self, closed: Connection, was_newest: bool) -> Fault | None:
        """Compare where users are with the real registry, and which connections are listed."""
        people = {session.user: session.conn_id for session in self._registry}
        listed = {
            connection.conn_id: connection.user
            for connection in self._made
            if connection.conn_id in self._registered - self._closed
        }
        user, conn_id = closed.user, closed.conn_id
        if self._user_to_conn.get(user) != people.get(user):
            return Fault.LOST_NEWER if user in people else Fault.STILL_REACHABLE
        if conn_id in self._conn_to_user:
            return Fault.STILL_LISTED if was_newest else Fault.OLD_STILL_LISTED
        if self._user_to_conn != people or self._conn_to_user != listed:
            return Fault.LOST_OTHER
        return None

    def _finding(self, fault: Fault, closed: Connection, problem: str = "") -> Finding:
        whole = fault is Fault.LOST_OTHER
        told = [what for user, what in self._story if whole or user == closed.user]
        return Finding(fault, len(told), "; ".join(told), problem)
